//! What was measured of the runs, and whether all of them took effect.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde::Serialize;

/// Everything that one run of the benchmark measured.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) machine: String,
    pub(super) runs: usize,
    pub(super) tenants: usize,
    pub(super) at_once: usize,
    pub(super) finished: usize,
    pub(super) failed: usize,
    pub(super) first_failure: Option<String>,
    pub(super) seconds: f64,
    /// From the message to the end of its run as the caller sees it, here and below.
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    /// Calls that the gateway refused for their rate and that were made again.
    pub(super) held_back: u64,
    /// User and system time of the gateway alone, without the programs that it started.
    pub(super) gateway_cpu_seconds: f64,
    /// The gateway's memory before the first run and at the end of each part.
    pub(super) memory: Vec<Mark>,
    pub(super) peak_kib: u64,
    /// Processes below the gateway after the last run.
    pub(super) left_behind: usize,
    pub(super) effects: Effects,
}

/// The gateway's memory after so many runs.
#[derive(Serialize)]
pub(super) struct Mark {
    pub(super) runs: usize,
    pub(super) rss_kib: u64,
}

/// What the runs left in the workspaces.
#[derive(Default, Serialize)]
pub(super) struct Effects {
    pub(super) lines: usize,
    /// Runs without a line.
    pub(super) missing: usize,
    /// Lines beyond the one of each run, and lines of no run of that tenant.
    pub(super) surplus: usize,
    pub(super) first_fault: Option<String>,
}

/// Cells of a full bar.
const BAR: u64 = 40;

impl Effects {
    /// Counts one tenant's file, which is to hold the numbers `due`, a line each.
    pub(super) fn count(&mut self, due: impl Iterator<Item = usize>, text: &str) {
        let mut seen = BTreeMap::<&str, usize>::new();
        for line in text.lines() {
            self.lines += 1;
            *seen.entry(line).or_default() += 1;
        }
        for number in due {
            match seen.remove(number.to_string().as_str()) {
                None => {
                    self.missing += 1;
                    self.fault(format!("run {number} left no line"));
                }
                Some(1) => {}
                Some(times) => {
                    self.surplus += times - 1;
                    self.fault(format!("run {number} left {times} lines"));
                }
            }
        }
        for (line, times) in seen {
            self.surplus += times;
            self.fault(format!("no run of this tenant leaves the line {line:?}"));
        }
    }

    /// Keeps the first.
    pub(super) fn fault(&mut self, text: String) {
        self.first_fault.get_or_insert(text);
    }
}

impl Report {
    /// The tables, as Markdown, and memory as bars.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "\n{}; {} runs with one call of `exec` each, {} tenants, {} at once.\n\n\
             | finished | failed | runs per s | p50 ms | p95 ms | p99 ms | max ms | gateway CPU ms/run |\n\
             |---:|---:|---:|---:|---:|---:|---:|---:|\n\
             | {} | {} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} |\n\n\
             CPU is the gateway's own; programs in the sandbox are not counted. {} calls were held back for their rate.\n\n",
            self.machine,
            self.runs,
            self.tenants,
            self.at_once,
            self.finished,
            self.failed,
            self.finished as f64 / self.seconds,
            self.p50_ms,
            self.p95_ms,
            self.p99_ms,
            self.max_ms,
            self.gateway_cpu_seconds * 1e3 / self.runs as f64,
            self.held_back,
        );
        text.push_str(&self.memory_table());
        let effects = &self.effects;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\nProcesses left behind: {}. Lines in the workspaces: {} of {} runs, {} missing, {} too many.",
            self.left_behind, effects.lines, self.runs, effects.missing, effects.surplus
        );
        text
    }

    fn memory_table(&self) -> String {
        let mut text = "| runs | gateway RSS MiB | |\n|---:|---:|---|\n".to_owned();
        for Mark { runs, rss_kib } in &self.memory {
            let bar =
                "#".repeat(usize::try_from(rss_kib * BAR / self.peak_kib.max(1)).unwrap_or(0));
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {runs} | {:.1} | {bar} |", mib(*rss_kib as f64));
        }
        let (kib, runs) = self.growth();
        let _ = writeln!(
            text,
            "\nPeak {:.1} MiB; growth over the last {runs} runs {:+.1} MiB, {:+.2} KiB per run.",
            mib(self.peak_kib as f64),
            mib(kib),
            kib / runs.max(1) as f64,
        );
        text
    }

    /// What memory grew by over the last half of the runs, in KiB, and how many runs these are.
    fn growth(&self) -> (f64, usize) {
        let half = self.memory.iter().find(|mark| mark.runs * 2 >= self.runs);
        match (half, self.memory.last()) {
            (Some(half), Some(last)) => (
                last.rss_kib as f64 - half.rss_kib as f64,
                last.runs - half.runs,
            ),
            _ => (0.0, 0),
        }
    }

    /// An error when a run did not finish, an effect is not there once, or a process was left behind.
    pub(super) fn verdict(&self) -> Result<()> {
        ensure!(
            self.failed == 0 && self.finished == self.runs,
            "{} of {} runs did not finish; the first: {}",
            self.runs - self.finished,
            self.runs,
            self.first_failure.as_deref().unwrap_or_default()
        );
        let effects = &self.effects;
        ensure!(
            effects.missing == 0 && effects.surplus == 0,
            "{} effects are missing, {} are too many; the first: {}",
            effects.missing,
            effects.surplus,
            effects.first_fault.as_deref().unwrap_or_default()
        );
        ensure!(
            self.left_behind == 0,
            "{} processes were left behind",
            self.left_behind
        );
        Ok(())
    }
}

fn mib(kib: f64) -> f64 {
    kib / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let rss = [1_024, 4_096, 6_144, 6_144, 7_168];
        let memory = rss.iter().enumerate().map(|(part, rss_kib)| Mark {
            runs: part,
            rss_kib: *rss_kib,
        });
        let mut effects = Effects::default();
        effects.count([0, 2].into_iter(), "0\n2\n");
        effects.count([1, 3].into_iter(), "3\n1\n");
        Report {
            machine: "machine".to_owned(),
            runs: 4,
            tenants: 2,
            at_once: 2,
            finished: 4,
            failed: 0,
            first_failure: None,
            seconds: 2.0,
            p50_ms: 100.0,
            p95_ms: 100.0,
            p99_ms: 100.0,
            max_ms: 100.0,
            held_back: 0,
            gateway_cpu_seconds: 0.1,
            memory: memory.collect(),
            peak_kib: 8_192,
            left_behind: 0,
            effects,
        }
    }

    #[test]
    fn a_whole_run_is_printed_and_passes() {
        let report = report();
        report.verdict().unwrap();
        let table = report.table();
        assert!(table.contains("| 4 | 0 | 2.0 | 100 | 100 | 100 | 100 | 25.0 |"));
        assert!(table.contains(&format!("| 1 | 4.0 | {} |\n", "#".repeat(20))));
        assert!(table.contains("Peak 8.0 MiB; growth over the last 2 runs +1.0 MiB, +512.00 KiB"));
        assert!(table.contains("4 of 4 runs, 0 missing, 0 too many"));
    }

    #[test]
    fn a_missing_and_a_doubled_effect_do_not_make_up_for_each_other() {
        let mut effects = Effects::default();
        effects.count([0, 2].into_iter(), "0\n0\n");
        assert_eq!((effects.lines, effects.missing, effects.surplus), (2, 1, 1));
        let mut foreign = Effects::default();
        foreign.count([0, 2].into_iter(), "0\n2\n1\n");
        assert_eq!((foreign.missing, foreign.surplus), (0, 1));
        for effects in [effects, foreign] {
            let spoilt = Report {
                effects,
                ..report()
            };
            assert!(spoilt.verdict().is_err());
        }
    }

    #[test]
    fn what_failed_and_what_stays_fails_the_run() {
        let failed = Report {
            finished: 3,
            failed: 1,
            first_failure: Some("run 2: failed".to_owned()),
            ..report()
        };
        assert!(failed.verdict().unwrap_err().to_string().contains("run 2"));
        let left = Report {
            left_behind: 1,
            ..report()
        };
        assert!(left.verdict().is_err());
    }
}
