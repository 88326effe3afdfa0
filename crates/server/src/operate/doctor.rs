//! What `doctor` looks at. Each check stands alone: a failed one does not hide the next.

use std::os::fd::OwnedFd;
use std::path::Path;

use base::{Clock, Timestamp};
use kernel::{DataRoot, DiskState, Operator, Room, SystemClock};
use rpc::{Check, CheckState, Doctor, Fault, FaultCode};
use sandbox::{Limit, Mechanism, Report, Sandbox, UidWall};

use super::Office;
use crate::assemble::{self, Place};
use crate::config::{Config, Environment};
use crate::{listen, process};

/// Descriptors for the 1,100 connections of one address, their upstream connections and 512 open databases.
const DESCRIPTORS_WANTED: u64 = 8_192;
/// First `SQLite` without the write-ahead-log reset fault that could corrupt a database.
const SQLITE_MIN: (u32, u32, u32) = (3, 51, 3);
/// A clock before this version was written is wrong.
const CLOCK_MIN: &str = "2026-01-01T00:00:00Z";
/// A clock so far ahead is wrong.
const CLOCK_MAX: &str = "2100-01-01T00:00:00Z";

impl Office {
    /// The checks of a kernel that is open.
    pub(super) async fn doctor(&self, operator: &Operator) -> Doctor {
        // What the journal holds damaged is told once its tenant is looked at. A gateway has done so at its start.
        self.kernel.open_recovered().await;
        let root = self.kernel.root();
        let mut checks = vec![
            ok(
                "data directory",
                format!(
                    "{}, mode 0700, locked by this process",
                    root.path().display()
                ),
            ),
            ok("master key", "opens the registry"),
            journal(root),
            disk(self.kernel.disk_state()),
            clock(self.kernel.now()),
            descriptors(),
        ];
        checks.extend(configuration(&self.config, &Environment::of_process()));
        checks.push(self.sqlite(operator).await);
        checks.extend(self.tenants_in_order(operator));
        checks.extend(sandbox(root).await);
        Doctor { checks }
    }

    async fn sqlite(&self, operator: &Operator) -> Check {
        let Some(tenant) = self
            .kernel
            .tenants(operator)
            .find(|tenant| tenant.quarantine().is_none())
        else {
            return ok("sqlite", "looked at when there is a tenant");
        };
        let asked = tenant
            .read(|tx| {
                tx.query_one("SELECT sqlite_version()", (), |row| {
                    Ok(row.get::<_, String>(0)?)
                })
            })
            .await;
        match asked {
            Ok(version) => sqlite_check(&version.unwrap_or_default()),
            Err(error) => fail("sqlite", error.to_string(), "see gateway.log"),
        }
    }

    fn tenants_in_order(&self, operator: &Operator) -> Vec<Check> {
        let mut checks: Vec<_> = self
            .kernel
            .tenants(operator)
            .filter_map(|tenant| {
                let found = tenant.quarantine()?;
                let (id, since) = (tenant.id(), found.since);
                let said = format!("quarantined since {since}: {}", found.why);
                let advice =
                    format!("partywall tenants repair {id} --dry-run says what can be rebuilt");
                Some(fail(&format!("tenant {id}"), said, &advice))
            })
            .collect();
        if checks.is_empty() {
            checks.push(ok("tenants", "none is quarantined"));
        }
        checks.extend(self.journal_records());
        checks
    }

    fn journal_records(&self) -> Option<Check> {
        let damage = self.kernel.journal_damage();
        let loses = damage.iter().any(|damage| damage.loses);
        let all: Vec<_> = damage.into_iter().map(|damage| damage.what).collect();
        match (all.is_empty(), loses) {
            (true, _) => None,
            (false, true) => Some(fail(
                "journal records",
                all.join("; "),
                "a call of the last run may be recorded as unknown: see to the disk, and compare with your providers",
            )),
            (false, false) => Some(warn(
                "journal records",
                all.join("; "),
                "no record is lost, but see to the disk",
            )),
        }
    }
}

/// The checks where no kernel is open: it is opened if it can be.
pub(crate) async fn examine(place: &Place, environment: &Environment) -> Doctor {
    match assembled(place, environment).await {
        Ok((office, operator)) => {
            let doctor = office.doctor(&operator).await;
            office.kernel.close(assemble::CLOSE_WAIT).await;
            doctor
        }
        Err(fault) => Doctor {
            checks: without_kernel(place, environment, &fault),
        },
    }
}

async fn assembled(place: &Place, environment: &Environment) -> Result<(Office, Operator), Fault> {
    let config = assemble::load(&place.config_file())?;
    let root = assemble::locked_root(&place.data)?;
    let (kernel, operator) = assemble::open_kernel(root, environment, &config).await?;
    let closing = kernel.clone();
    match assemble::office(kernel, config, place) {
        Ok(office) => Ok((office, operator)),
        Err(fault) => {
            closing.close(assemble::CLOSE_WAIT).await;
            Err(fault)
        }
    }
}

fn without_kernel(place: &Place, environment: &Environment, why: &Fault) -> Vec<Check> {
    let mut checks = Vec::new();
    if why.code != FaultCode::BadConfig {
        checks.push(fail(
            "data directory",
            why.message.clone(),
            "put right what it says, then run doctor again",
        ));
    }
    checks.push(disk(room(&place.data, &place.config_file())));
    checks.push(clock(SystemClock.now()));
    checks.push(descriptors());
    checks.extend(configuration(&place.config_file(), environment));
    if why.code == FaultCode::BadConfig
        && checks.iter().all(|check| check.state != CheckState::Fail)
    {
        checks.push(fail(
            "rate cards",
            why.message.clone(),
            "correct the file that it names",
        ));
    }
    checks
}

fn journal(root: &DataRoot) -> Check {
    const PROBE: &str = "journal/.doctor";
    // What an interrupted look left.
    let _usually_absent = root.dir().remove_file(PROBE);
    let written = root.write_private_new(PROBE, b"written by doctor, may be removed\n");
    match written {
        Ok(()) => match root.dir().remove_file(PROBE) {
            Ok(()) => ok("journal", "can be written and synced"),
            Err(error) => fail(
                "journal",
                error.to_string(),
                "see to the disk under DATA/journal",
            ),
        },
        Err(error) => fail(
            "journal",
            error.to_string(),
            "see to the disk under DATA/journal",
        ),
    }
}

/// The room where no kernel is open to measure it.
fn room(path: &Path, config: &Path) -> std::io::Result<DiskState> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let limits = Config::load(config).map(|config| config.disk);
    let (free, size) = (bytes(stat.f_bavail), bytes(stat.f_blocks));
    Ok(limits.unwrap_or_default().judge(free, size, Room::Enough))
}

fn disk(state: std::io::Result<DiskState>) -> Check {
    let state = match state {
        Ok(state) => state,
        Err(error) => return fail("disk", error.to_string(), "see that the directory exists"),
    };
    let mib = |bytes: u64| bytes / (1024 * 1024);
    let (free, reserve, warn_at) = (mib(state.free), mib(state.reserve), mib(state.warn));
    match state.room {
        Room::Short => fail(
            "disk",
            format!("{free} MiB free, less than the reserve of {reserve} MiB"),
            "free some space: new calls are refused until there is more",
        ),
        Room::Low => warn(
            "disk",
            format!("{free} MiB free, less than {warn_at} MiB"),
            "free some space: below the reserve new calls are refused",
        ),
        Room::Enough => ok(
            "disk",
            format!("{free} MiB free, {reserve} MiB of them in reserve"),
        ),
    }
}

fn clock(now: Timestamp) -> Check {
    let bound = |text| Timestamp::parse(text).unwrap_or_default();
    if now < bound(CLOCK_MIN) || now > bound(CLOCK_MAX) {
        return fail(
            "clock",
            now.to_string(),
            "set the clock: quotas, expiries and the audit record depend on it",
        );
    }
    ok("clock", now.to_string())
}

fn descriptors() -> Check {
    // A gateway raises its limit to the hard one when it starts.
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let now = process::descriptor_limit();
    let shown = |limit: Option<u64>| {
        limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
    };
    let found = format!("{} open files, at most {}", shown(now), shown(hard));
    if hard.is_some_and(|hard| hard < DESCRIPTORS_WANTED) {
        return warn(
            "open files",
            found,
            "raise the hard limit: LimitNOFILE=65536 in systemd, or ulimit -Hn 65536",
        );
    }
    ok("open files", found)
}

fn configuration(path: &Path, environment: &Environment) -> Vec<Check> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            let advice = "correct the file; partywall config check says when it is right";
            return vec![fail(
                "configuration",
                format!("{}: {error}", path.display()),
                advice,
            )];
        }
    };
    let mut checks = Vec::new();
    match config.warnings.as_slice() {
        [] => checks.push(ok("configuration", path.display().to_string())),
        [first, ..] => checks.push(warn(
            "configuration",
            first.to_string(),
            "partywall config check lists all",
        )),
    }
    checks.push(match config.keyring(environment) {
        Ok(_) => ok(
            "provider keys",
            format!("{} providers", config.catalog.providers().len()),
        ),
        Err(error) => fail(
            "provider keys",
            error.to_string(),
            "set what the reference names",
        ),
    });
    let tls = config
        .tls_pem(environment)
        .map_err(|error| error.to_string());
    let tls = tls.and_then(|pem| {
        let accepts = pem.map(|(cert, key)| listen::tls(&cert, &key));
        accepts.transpose().map_err(|fault| fault.message)
    });
    match tls {
        Ok(None) => {}
        Ok(Some(_)) => checks.push(ok("tls", "certificate and key are there")),
        Err(error) => checks.push(fail("tls", error, "set what the reference names")),
    }
    match config.operator_receiver(environment) {
        Ok(None) => {}
        Ok(Some(_)) => checks.push(ok("alerts", "the signing secret is there")),
        Err(error) => checks.push(fail(
            "alerts",
            error.to_string(),
            "set what the reference names",
        )),
    }
    checks
}

fn sqlite_check(version: &str) -> Check {
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or_default());
    let mut next = || numbers.next().unwrap_or_default();
    let found = (next(), next(), next());
    if found < SQLITE_MIN {
        return fail(
            "sqlite",
            version,
            "build with SQLite 3.51.3 or later: earlier ones can corrupt a database",
        );
    }
    ok("sqlite", version)
}

/// Where the sandbox keeps its runtime.
pub(crate) fn sandbox_place(root: &DataRoot) -> Result<OwnedFd, String> {
    const PLACE: &str = "sandbox";
    // There already, but for the first time.
    let _usually_there = root.dir().create_dir(PLACE);
    let place = root.dir().open_dir(PLACE);
    place
        .map(|place| place.into_std_file().into())
        .map_err(|error| error.to_string())
}

/// What the sandbox finds out about itself. Without one no agent executes code, and everything else works.
async fn sandbox(root: &DataRoot) -> Vec<Check> {
    let place = match sandbox_place(root) {
        Ok(place) => place,
        Err(error) => {
            let advice = "see to the directory DATA/sandbox";
            return vec![warn("sandbox", error, advice)];
        }
    };
    sandbox_checks(Box::pin(Sandbox::open(place)).await.report())
}

fn sandbox_checks(report: &Report) -> Vec<Check> {
    let Some(offer) = report.offered.first() else {
        let advice =
            "code cannot be executed until this is mended; docs/sandbox.md says what it needs";
        return vec![warn("sandbox", report.refused.join("; "), advice)];
    };
    let found = format!(
        "{} {}, {} escape probes held in {} ms; interpreters: sh {}",
        offer.name,
        offer.version,
        offer.probes,
        offer.tested_in.as_millis(),
        report.interpreters.join(" ")
    );
    let untried = offer.untried.iter();
    let untried: Vec<_> = untried
        .map(|(name, why)| format!("`{name}` ({why})"))
        .collect();
    let limits: Vec<_> = report
        .limits
        .iter()
        .map(|(limit, mechanism)| format!("{limit}: {mechanism}"))
        .collect();
    let limits = limits.join(", ");
    let whole = !report
        .limits
        .contains(&(Limit::Memory, Mechanism::EachProcess));
    let wall = format!("uid wall: {}", report.uid_wall);
    vec![
        if untried.is_empty() {
            ok("sandbox", found)
        } else {
            let found = format!("{found}; not tried: {}", untried.join(", "));
            let advice = "nothing shows that these walls stand: install what the probes need, then restart the gateway";
            warn("sandbox", found, advice)
        },
        if whole {
            ok("sandbox limits", limits)
        } else {
            let advice = "memory of a program is bounded for each of its processes only: docs/sandbox.md says which control groups the gateway can use (Delegate=yes is not enough)";
            warn("sandbox limits", limits, advice)
        },
        match report.uid_wall {
            UidWall::PerTenant if !report.promised.is_empty() => {
                let promised = report.promised.join(", ");
                warn(
                    "sandbox users",
                    format!("{wall}, but /etc/subuid gives some of them to {promised}"),
                    "containers of that account may be a tenant's user: move the range (docs/sandbox.md)",
                )
            }
            UidWall::PerTenant => ok("sandbox users", wall),
            UidWall::Absent => warn(
                "sandbox users",
                wall,
                "all tenants' programs run as this user: started as root, each tenant would have its own",
            ),
        },
    ]
}

fn ok(name: &str, found: impl Into<String>) -> Check {
    Check {
        name: name.to_owned(),
        state: CheckState::Ok,
        found: found.into(),
        advice: None,
    }
}

fn warn(name: &str, found: impl Into<String>, advice: &str) -> Check {
    Check {
        name: name.to_owned(),
        state: CheckState::Warn,
        found: found.into(),
        advice: Some(advice.to_owned()),
    }
}

fn fail(name: &str, found: impl Into<String>, advice: &str) -> Check {
    Check {
        name: name.to_owned(),
        state: CheckState::Fail,
        found: found.into(),
        advice: Some(advice.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_judged_by_the_amounts_in_force() {
        let judged = |free: u64| {
            let limits = kernel::DiskLimits::default();
            disk(Ok(limits.judge(free << 20, 100 << 30, Room::Enough)))
        };
        for (free, state, said) in [
            (
                2_000,
                CheckState::Ok,
                "2000 MiB free, 256 MiB of them in reserve",
            ),
            (1_000, CheckState::Warn, "1000 MiB free, less than 1024 MiB"),
            (
                100,
                CheckState::Fail,
                "100 MiB free, less than the reserve of 256 MiB",
            ),
        ] {
            let check = judged(free);
            assert_eq!((check.state, check.found.as_str()), (state, said));
        }
    }

    #[test]
    fn a_sandbox_that_is_not_offered_says_why_and_fails_nothing() {
        let report = Report {
            refused: vec!["bubblewrap is not installed".to_owned()],
            ..Report::default()
        };
        let [check] = &sandbox_checks(&report)[..] else {
            panic!()
        };
        assert_eq!(check.state, CheckState::Warn);
        assert_eq!(check.found, "bubblewrap is not installed");
    }

    #[test]
    fn versions_and_clocks_are_judged() {
        for (version, state) in [
            ("3.53.4", CheckState::Ok),
            ("3.51.3", CheckState::Ok),
            ("3.51.2", CheckState::Fail),
            ("", CheckState::Fail),
        ] {
            assert_eq!(sqlite_check(version).state, state, "{version}");
        }
        assert_eq!(clock(Timestamp::default()).state, CheckState::Fail);
        assert_eq!(
            clock(Timestamp::parse("2026-11-22").unwrap()).state,
            CheckState::Ok
        );
    }
}
