//! What happens in one run, decided by its seed before it begins.

use base::Timestamp;

use crate::disk::DiskFaults;
use crate::rng::Rng;
use crate::world::Pace;

/// How a client is asked to speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Speaks {
    Chat,
    Messages,
    Embeddings,
}

/// What is wrong with a call from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrong {
    Nothing,
    Token,
    Model,
    Body,
    TooDear,
}

/// When a client goes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leaves {
    /// After so many polls of its future.
    pub(crate) polls: u32,
    /// At once after that poll, or when it would be polled again: whatever woke it is ready then.
    pub(crate) when_woken: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct CallPlan {
    pub(crate) tenant: usize,
    pub(crate) at_ms: u64,
    pub(crate) speaks: Speaks,
    pub(crate) stream: bool,
    pub(crate) model: &'static str,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) wrong: Wrong,
    pub(crate) leaves: Option<Leaves>,
    /// Milliseconds before each piece of the request's body; at least one piece.
    pub(crate) uploads: Vec<u64>,
    /// The upload breaks off behind its last piece.
    pub(crate) upload_breaks: bool,
    /// Milliseconds before each piece that the client takes.
    pub(crate) reads_slowly: u64,
    pub(crate) wants_cost: bool,
    pub(crate) wants_checkpoint: bool,
}

/// What the operator or the clock does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    Suspend(usize),
    Freeze(usize),
    Resume(usize),
    ReadUsage(usize),
    ReadAudit(usize),
    Limit(usize),
    ClockJumps(i64),
}

/// How the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    /// Everything has come to rest and the kernel is closed.
    Closed,
    /// It is killed: what was written is there.
    Killed(When),
    /// The power fails: what was not synced may be gone.
    PowerCut(When),
}

/// The moment of a violent end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// Nothing is under way any more.
    AtRest,
    /// So many milliseconds after the start.
    Time(u64),
    /// At this event of the trace, in the middle of whatever it stands in; at rest where there are fewer.
    Event(u64),
}

impl Ends {
    /// When, of a violent end.
    pub(crate) fn when(self) -> Option<When> {
        match self {
            Self::Closed => None,
            Self::Killed(when) | Self::PowerCut(when) => Some(when),
        }
    }

    pub(crate) fn is_power_cut(self) -> bool {
        matches!(self, Self::PowerCut(_))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) pace: Pace,
    pub(crate) faults: DiskFaults,
    pub(crate) begins: Timestamp,
    pub(crate) maintains: bool,
    /// Providers make no mistake.
    pub(crate) gentle: bool,
    /// The simulated provider's own ledger is wrong: the control that must be caught.
    pub(crate) miscounts: bool,
    /// Calls that a provider answers at once, and that wait for it.
    pub(crate) line: (u32, u32),
    pub(crate) calls: Vec<CallPlan>,
    pub(crate) deeds: Vec<(u64, Deed)>,
    pub(crate) ends: Ends,
}

/// The models of the catalog. The last is read to its end when its client leaves.
pub(crate) const MODELS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
pub(crate) const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// Of a hundred disks, those that may lose a write and keep a later one.
const REORDERS: u64 = 50;

/// Days and months end soon after these.
const BEGINNINGS: [&str; 4] = [
    "2026-11-22T12:00:00Z",
    "2026-11-22T23:59:58Z",
    "2026-11-30T23:59:59Z",
    "2028-02-28T23:59:50Z",
];

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, 7);
        let begins = BEGINNINGS[rng.weighted(&[5, 2, 1, 1])];
        let crowd =
            [rng.within(1, 3), rng.within(3, 9), rng.within(9, 16)][rng.weighted(&[4, 5, 1])];
        let bustle = [0, 40, 800, 8_000][rng.weighted(&[3, 3, 2, 1])];
        let calls = (0..crowd).map(|_| call(rng, bustle)).collect();
        let faults = match rng.below(10) {
            0 => DiskFaults {
                failing_write: Some(rng.within(3, 20)),
                ..DiskFaults::default()
            },
            1 => DiskFaults {
                failing_sync: Some(rng.within(2, 8)),
                ..DiskFaults::default()
            },
            _ => DiskFaults::default(),
        };
        let faults = DiskFaults {
            reorders: rng.percent(REORDERS),
            ..faults
        };
        let span = [60, 2_000, 12_000][rng.index(3)];
        let when = match rng.below(10) {
            0..3 => When::AtRest,
            3..5 => When::Time(rng.within(0, span)),
            _ => When::Event(rng.within(8, 40 + 16 * crowd)),
        };
        let ends = match rng.below(10) {
            0..3 => Ends::Closed,
            3..6 => Ends::Killed(when),
            _ => Ends::PowerCut(when),
        };
        let slots = [1, 2, 3][rng.index(3)];
        Self {
            seed,
            pace: [Pace::Prompt, Pace::Mixed][rng.index(2)],
            faults,
            begins: Timestamp::parse(begins).unwrap(),
            maintains: rng.percent(50),
            gentle: rng.percent(15),
            miscounts: false,
            line: (slots, [1, 4][rng.index(2)]),
            calls,
            deeds: deeds(rng),
            ends,
        }
    }
}

fn call(rng: &mut Rng, bustle: u64) -> CallPlan {
    let speaks = [Speaks::Chat, Speaks::Messages, Speaks::Embeddings][rng.weighted(&[6, 5, 1])];
    let wrong = [
        Wrong::Nothing,
        Wrong::Token,
        Wrong::Model,
        Wrong::Body,
        Wrong::TooDear,
    ][rng.weighted(&[40, 1, 1, 1, 1])];
    let leaves = rng.percent(35).then(|| Leaves {
        polls: u32::try_from([rng.within(0, 6), rng.within(0, 60)][rng.index(2)]).unwrap(),
        when_woken: rng.percent(60),
    });
    let pieces = [1, rng.within(1, 4)][rng.weighted(&[4, 1])];
    CallPlan {
        tenant: rng.weighted(&[5, 3, 2]),
        at_ms: rng.within(0, bustle),
        stream: speaks != Speaks::Embeddings && rng.percent(60),
        model: match speaks {
            Speaks::Embeddings => "alpha",
            _ => MODELS[rng.index(MODELS.len())],
        },
        speaks,
        max_tokens: (speaks == Speaks::Messages || rng.percent(60)).then(|| rng.within(1, 40)),
        wrong,
        leaves,
        uploads: (0..pieces)
            .map(|_| [0, rng.within(0, 300)][rng.weighted(&[6, 1])])
            .collect(),
        upload_breaks: rng.percent(2),
        reads_slowly: [0, rng.within(1, 50), 3_000][rng.weighted(&[16, 3, 1])],
        wants_cost: rng.percent(20),
        wants_checkpoint: rng.percent(8),
    }
}

fn deeds(rng: &mut Rng) -> Vec<(u64, Deed)> {
    let mut deeds = Vec::new();
    for _ in 0..[0, 0, 1, 3][rng.index(4)] {
        let (tenant, at) = (rng.index(TENANTS.len()), rng.within(0, 4_000));
        match rng.index(7) {
            0 => deeds.extend([
                (at, Deed::Suspend(tenant)),
                (at + rng.within(1, 500), Deed::Resume(tenant)),
            ]),
            1 => deeds.extend([
                (at, Deed::Freeze(tenant)),
                (at + rng.within(1, 500), Deed::Resume(tenant)),
            ]),
            2 => deeds.push((at, Deed::ReadUsage(tenant))),
            3 => deeds.push((at, Deed::ReadAudit(tenant))),
            4 => deeds.push((at, Deed::Limit(tenant))),
            5 => deeds.push((
                at,
                Deed::ClockJumps(i64::try_from(rng.within(1, 4_000_000)).unwrap()),
            )),
            _ => deeds.push((
                at,
                Deed::ClockJumps(-i64::try_from(rng.within(1, 30_000)).unwrap()),
            )),
        }
    }
    deeds
}
