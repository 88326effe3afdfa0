//! What must be found: a simulation that finds nothing proves nothing.

use crate::disk::DiskFaults;
use crate::plan::{Ends, Plan, When};
use crate::run::run;

/// Seeds within which each control must be caught.
const SEEDS: u64 = 40;

fn caught(alter: impl Fn(&mut Plan), problem: &str) -> u64 {
    let finds = |seed: &u64| {
        let mut plan = Plan::of(*seed);
        alter(&mut plan);
        run(&plan)
            .problems
            .iter()
            .any(|found| found.contains(problem))
    };
    (0..SEEDS).filter(finds).count() as u64
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_found() {
    let lies = |plan: &mut Plan| {
        plan.faults = DiskFaults {
            lies: true,
            ..DiskFaults::default()
        };
        plan.ends = Ends::PowerCut(When::AtRest);
    };
    let found = caught(lies, "a finished answer has 0 finished rows");
    assert!(found > SEEDS / 4, "found in {found} of {SEEDS} seeds");
}

#[test]
fn a_provider_that_counts_otherwise_than_the_ledger_is_found() {
    let found = caught(|plan| plan.miscounts = true, "the provider said");
    assert!(found > SEEDS / 4, "found in {found} of {SEEDS} seeds");
}
