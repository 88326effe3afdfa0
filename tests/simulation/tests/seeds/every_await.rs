//! A client that leaves at every single await of its call, one after the other.

use base::Timestamp;

use crate::disk::DiskFaults;
use crate::plan::{CallPlan, Ends, Leaves, Plan, Speaks, When, Wrong};
use crate::world::Pace;
use crate::{outcome, say};

/// More polls than any call here takes.
const POLLS_MAX: u32 = 400;

fn one_call(speaks: Speaks, stream: bool, model: &'static str) -> Plan {
    Plan {
        seed: 77,
        pace: Pace::Mixed,
        faults: DiskFaults::default(),
        begins: Timestamp::parse("2026-11-22T12:00:00Z").unwrap(),
        maintains: false,
        gentle: true,
        miscounts: false,
        line: (3, 4),
        calls: vec![CallPlan {
            tenant: 0,
            at_ms: 0,
            speaks,
            stream,
            model,
            max_tokens: Some(12),
            wrong: Wrong::Nothing,
            leaves: None,
            uploads: vec![0, 5],
            upload_breaks: false,
            reads_slowly: 0,
            wants_cost: true,
            wants_checkpoint: true,
        }],
        deeds: Vec::new(),
        ends: Ends::Closed,
    }
}

fn scenarios() -> Vec<Plan> {
    let mut plans = Vec::new();
    for (speaks, stream) in [
        (Speaks::Chat, false),
        (Speaks::Chat, true),
        (Speaks::Messages, false),
        (Speaks::Messages, true),
    ] {
        for model in ["gamma", "beta", "delta"] {
            plans.push(one_call(speaks, stream, model));
        }
    }
    plans.push(one_call(Speaks::Embeddings, false, "alpha"));
    // Refused, by the model's name and by the quota.
    for wrong in [Wrong::Model, Wrong::TooDear] {
        let mut plan = one_call(Speaks::Chat, false, "beta");
        plan.calls[0].wrong = wrong;
        plans.push(plan);
    }
    // Retried and broken answers, and calls that wait in line behind others.
    for seed in 0..6 {
        let mut plan = one_call(Speaks::Chat, seed % 2 == 0, "alpha");
        plan.seed = 1_000 + seed;
        plan.gentle = false;
        plans.push(plan);
    }
    for stream in [false, true] {
        let mut plan = one_call(Speaks::Messages, stream, "beta");
        for other in 0..4 {
            let mut before = one_call(Speaks::Chat, true, "beta").calls.remove(0);
            before.tenant = other % 3;
            plan.calls.push(before);
        }
        // The one that leaves comes last into the line.
        plan.calls[0].at_ms = 1;
        plans.push(plan);
    }
    plans
}

#[test]
fn a_client_may_leave_at_every_await() {
    let mut runs = 0;
    for (index, mut plan) in scenarios().into_iter().enumerate() {
        let whole = outcome(&plan).unwrap_or_else(|failure| panic!("scenario {index}: {failure}"));
        let polls = whole.fates[0].as_ref().unwrap().polls;
        assert!(
            (2..POLLS_MAX).contains(&polls),
            "scenario {index} takes {polls} polls"
        );
        for left in 0..polls {
            for when_woken in [false, true] {
                // What was left behind is looked for at rest; what was written, after a power cut too.
                plan.ends = if when_woken {
                    Ends::PowerCut(When::AtRest)
                } else {
                    Ends::Closed
                };
                plan.calls[0].leaves = Some(Leaves {
                    polls: left,
                    when_woken,
                });
                let held = outcome(&plan);
                runs += 1;
                if let Err(failure) = held {
                    panic!(
                        "scenario {index}, left after {left} polls, when woken: {when_woken}: {failure}"
                    );
                }
            }
        }
    }
    say(&format!(
        "{runs} runs, one for each await at which a client can leave, before and after it wakes"
    ));
}

#[test]
fn the_process_may_die_at_every_event() {
    let mut runs = 0;
    for (index, mut plan) in scenarios().into_iter().enumerate() {
        plan.seed += 1;
        plan.ends = Ends::Killed(When::AtRest);
        let whole = outcome(&plan).unwrap_or_else(|failure| panic!("scenario {index}: {failure}"));
        for event in 1..=whole.events {
            for ends in [
                Ends::Killed(When::Event(event)),
                Ends::PowerCut(When::Event(event)),
            ] {
                // Either of them at every second event.
                if (event % 2 == 0) == ends.is_power_cut() {
                    plan.ends = ends;
                    runs += 1;
                    if let Err(failure) = outcome(&plan) {
                        panic!("scenario {index}, {ends:?}: {failure}");
                    }
                }
            }
        }
    }
    say(&format!(
        "{runs} runs, one for each event at which the process can die"
    ));
}
