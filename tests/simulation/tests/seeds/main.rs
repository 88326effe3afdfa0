//! Kernel and pipeline, simulated: one thread, and a seed that decides about the clock, the disk, the network and when each client
//! leaves. docs/crash-simulation.md says what is real in it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail loudly"
)]

mod check;
mod client;
mod controls;
mod disk;
mod every_await;
mod home;
mod network;
mod plan;
mod provider;
mod rng;
mod run;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use plan::Plan;
use run::{Outcome, run};

/// Seeds of one run of the tests, unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 10_000;

/// Seeds of them that run twice.
const TWICE: u64 = 200;

#[expect(
    clippy::disallowed_methods,
    reason = "a test takes its size from outside"
)]
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[expect(clippy::print_stderr, reason = "seeds are printed")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Runs one plan; a panic is a problem like any other.
fn outcome(plan: &Plan) -> Result<Outcome, String> {
    let ran = catch_unwind(AssertUnwindSafe(|| run(plan)));
    let seed = plan.seed;
    let alone = format!(
        "alone: SIM_FIRST_SEED={seed} SIM_SEEDS=1 cargo test -p simulation --test seeds seeds_hold -- --nocapture"
    );
    match ran {
        Ok(outcome) if outcome.problems.is_empty() => Ok(outcome),
        Ok(outcome) => {
            let (problems, tail) = (outcome.problems.join("\n  "), outcome.tail);
            Err(format!(
                "seed {seed} fails:\n  {problems}\nthe end of its trace:\n{tail}{alone}\n{plan:#?}"
            ))
        }
        Err(_) => Err(format!("seed {seed} panics\n{alone}")),
    }
}

#[test]
fn seeds_hold() {
    let (first, count) = (number("SIM_FIRST_SEED", 0), number("SIM_SEEDS", SEEDS));
    say(&format!("seeds {first} to {} ({count})", first + count - 1));
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let sums = [const { AtomicU64::new(0) }; 5];
    let threads = std::thread::available_parallelism().map_or(1, |all| all.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || failures.lock().unwrap().len() > 5 {
                        return;
                    }
                    match outcome(&Plan::of(first + seed)) {
                        Ok(done) => {
                            let polls = done
                                .fates
                                .iter()
                                .flatten()
                                .map(|fate| u64::from(fate.polls))
                                .sum();
                            let left = done
                                .fates
                                .iter()
                                .flatten()
                                .filter(|fate| fate.seen.is_none())
                                .count();
                            for (sum, more) in sums.iter().zip([
                                done.events,
                                done.sightings as u64,
                                done.rows as u64,
                                polls,
                                left as u64,
                            ]) {
                                sum.fetch_add(more, Ordering::Relaxed);
                            }
                        }
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    let [events, met, rows, polls, left] = sums.map(AtomicU64::into_inner);
    let took = begun.elapsed().as_secs_f64();
    say(&format!(
        "{count} seeds in {took:.1} s: {events} events, {met} requests met by providers, {rows} rows, {polls} polls of clients, {left} clients left"
    ));
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn seeds_that_failed_once_hold() {
    let lines = include_str!("../../regressions.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let seed = line.split_whitespace().next().unwrap().parse().unwrap();
        let held = outcome(&Plan::of(seed)).map(|_| ());
        assert_eq!(held, Ok(()), "{line}");
    }
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    let (first, count) = (
        number("SIM_FIRST_SEED", 0),
        number("SIM_SEEDS", SEEDS).min(TWICE),
    );
    say(&format!(
        "seeds {first} to {} twice ({count})",
        first + count - 1
    ));
    for seed in first..first + count {
        let plan = Plan::of(seed);
        let (one, two) = (run(&plan), run(&plan));
        let (traces, tails) = (
            [&one, &two].map(|ran| (ran.events, ran.digest, ran.rows)),
            [&one.tail, &two.tail],
        );
        assert_eq!(
            traces[0], traces[1],
            "seed {seed}\n{}\n---\n{}",
            tails[0], tails[1]
        );
    }
}
