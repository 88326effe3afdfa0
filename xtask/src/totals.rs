//! Counting what the suites report: pure text in, numbers out.

use std::fmt;

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: Totals) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// A suite that did not succeed has at least one failure, whatever its text says: a suite that does not compile
    /// or that dies half-way prints no count.
    pub(crate) fn with_verdict(mut self, succeeded: bool) -> Totals {
        if !succeeded && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Reads one line of `cargo test`: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
pub(crate) fn cargo_line(line: &str, totals: &mut Totals) {
    let Some(result) = line.trim_start().strip_prefix("test result: ") else {
        return;
    };
    for (count, word) in counts(result) {
        match word {
            "passed" => totals.passed += count,
            "failed" => totals.failed += count,
            "ignored" => totals.skipped += count,
            _ => {}
        }
    }
}

/// Reads one line of pytest; only its last line (`=== 3 passed, 1 skipped in 0.05s ===`) counts.
pub(crate) fn pytest_line(line: &str, totals: &mut Totals) {
    let line = line.trim_matches(['=', ' ']);
    let Some((summary, duration)) = line.rsplit_once(" in ") else {
        return;
    };
    let timed = duration
        .split(' ')
        .next()
        .and_then(|seconds| seconds.strip_suffix('s'))
        .is_some_and(|seconds| seconds.parse::<f64>().is_ok());
    if !timed {
        return;
    }
    let mut found = Totals::default();
    for part in summary.split(", ") {
        // Any other part means that this is a sentence that happens to end in a duration.
        let Some((count, word)) = part.split_once(' ') else {
            return;
        };
        let Ok(count) = count.parse::<u64>() else {
            return;
        };
        match word {
            "passed" | "xpassed" => found.passed += count,
            "failed" | "error" | "errors" => found.failed += count,
            "skipped" | "xfailed" => found.skipped += count,
            _ => {}
        }
    }
    *totals = found;
}

/// Reads one line of `node --test` in TAP form: `# pass 3`, `# fail 0`, `# cancelled 0`, `# skipped 1`, `# todo 0`.
pub(crate) fn node_line(line: &str, totals: &mut Totals) {
    let Some((word, count)) = line
        .strip_prefix("# ")
        .and_then(|rest| rest.split_once(' '))
    else {
        return;
    };
    let Ok(count) = count.parse::<u64>() else {
        return;
    };
    match word {
        "pass" => totals.passed += count,
        "fail" | "cancelled" => totals.failed += count,
        "skipped" | "todo" => totals.skipped += count,
        _ => {}
    }
}

/// Each `NUMBER word` of a line, its punctuation cut off.
fn counts(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let words = text.split_whitespace();
    words
        .clone()
        .zip(words.skip(1))
        .filter_map(|(number, word)| {
            Some((number.parse().ok()?, word.trim_end_matches([';', ',', '.'])))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: fn(&str, &mut Totals), text: &str) -> Totals {
        let mut totals = Totals::default();
        for line in text.lines() {
            reader(line, &mut totals);
        }
        totals
    }

    fn totals(passed: u64, failed: u64, skipped: u64) -> Totals {
        Totals {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn cargo_results_of_all_crates_add_up() {
        let text = "running 2 tests\n\
            test a ... ok\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s\n";
        assert_eq!(read(cargo_line, text), totals(3, 3, 1));
    }

    #[test]
    fn pytest_counts_its_last_line_only() {
        let text = "a.py::test_waits PASSED\n\
            SKIPPED [1] a.py:3: no strace in 5 places\n\
            5 passed tests were seen in 3 places\n\
            ===== 1 failed, 4 passed, 2 skipped, 3 warnings, 1 error in 61.20s (0:01:01) =====\n";
        assert_eq!(read(pytest_line, text), totals(4, 2, 2));
        assert_eq!(read(pytest_line, "12 passed in 0.05s"), totals(12, 0, 0));
        assert_eq!(read(pytest_line, "no tests ran in 0.01s"), totals(0, 0, 0));
    }

    #[test]
    fn node_counts_in_tap_form() {
        let text = "ok 1 - chat\n# Subtest: pass\n# tests 4\n# pass 2\n# fail 1\n# cancelled 1\n# skipped 0\n# todo 0\n";
        assert_eq!(read(node_line, text), totals(2, 2, 0));
    }

    #[test]
    fn a_dead_suite_is_a_failure() {
        assert_eq!(totals(0, 0, 0).with_verdict(false), totals(0, 1, 0));
        assert_eq!(totals(4, 2, 0).with_verdict(false), totals(4, 2, 0));
        assert_eq!(totals(4, 0, 1).with_verdict(true), totals(4, 0, 1));
    }

    #[test]
    fn the_last_line_reads_as_documented() {
        assert_eq!(totals(3, 0, 2).to_string(), "3 passed, 0 failed, 2 skipped");
    }
}
