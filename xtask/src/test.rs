//! `cargo xtask test`: prepare, build once, run every suite, add up.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::shell::{self, Seconds};
use crate::totals::{self, Totals};
use crate::{House, provision};

/// A program without ours first: it takes half a minute.
const PYTHON_SUITES: [&str; 2] = ["tests/audit_verifier", "tests/e2e/python"];
const NODE_SUITE: &str = "tests/e2e/js";

/// One Python test may take this long: a backstop against a hang, far above what any test needs.
const PYTEST_TIMEOUT_S: &str = "300";

/// How much of the tests to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Full,
    /// The Rust tests; nothing is installed.
    Quick,
}

/// Runs the tests. The last line printed is `N passed, N failed, N skipped`.
pub(crate) fn run(house: &House, scope: Scope) -> Result<ExitCode> {
    let started = Seconds::start();
    let mut tally = Tally {
        house,
        totals: Totals::default(),
        notes: Vec::new(),
    };
    suites(house, scope, &mut tally)?;
    println!("\nxtask: all of it took {started}");
    for note in &tally.notes {
        println!("{note}");
    }
    println!("{}", tally.totals);
    Ok(if tally.totals.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The running sum, and what must be said before it.
struct Tally<'a> {
    house: &'a House,
    totals: Totals,
    notes: Vec<String>,
}

impl Tally<'_> {
    /// Something could not run at all.
    fn missing(&mut self, reason: &str) {
        if self.house.ci() {
            self.totals.failed += 1;
            self.notes.push(format!("ERROR (CI=true): {reason}"));
        } else {
            self.totals.skipped += 1;
            self.notes.push(format!("SKIP: {reason}"));
        }
    }

    fn broken(&mut self, reason: &str) {
        self.totals.failed += 1;
        self.notes.push(format!("FAILED: {reason}"));
    }
}

fn suites(house: &House, scope: Scope, tally: &mut Tally<'_>) -> Result<()> {
    if scope == Scope::Quick {
        title("Rust tests (quick: no Python, no JavaScript)");
        if build(house)? {
            rust_suite(house, tally)?;
        } else {
            tally.broken("the workspace does not build");
        }
        return Ok(());
    }
    title("programs of the system");
    match provision::system(house) {
        Ok(missing) => missing.iter().for_each(|reason| tally.missing(reason)),
        Err(error) => {
            tally.broken(&format!("{error:#}"));
            return Ok(());
        }
    }
    // Downloads wait for the network while the compiler has the processor.
    title("build, with the Python and JavaScript packages fetched beside it");
    let (built, python, node) = std::thread::scope(|scope| {
        let python = scope.spawn(|| provision::python(house));
        let node = scope.spawn(|| provision::node(house));
        let gone = || "the installation broke off".to_owned();
        let built = build(house);
        (
            built,
            python.join().unwrap_or_else(|_| Err(gone())),
            node.join().unwrap_or_else(|_| Err(gone())),
        )
    });
    if !built? {
        tally.broken("the workspace does not build; no suite was run");
        return Ok(());
    }
    title("Rust tests");
    rust_suite(house, tally)?;
    let binary = provision::binary(house)?;
    title(
        "Python: the verifier of exported logs, and the official packages against the real program",
    );
    match python {
        Ok(interpreter) => {
            for suite in PYTHON_SUITES {
                python_suite(house, &interpreter, &binary, suite, tally)?;
            }
        }
        Err(reason) => tally.missing(&format!("Python suites: {reason}")),
    }
    title("JavaScript: the official packages against the real program");
    match node {
        Ok(()) => node_suite(house, &binary, tally)?,
        Err(reason) => tally.missing(&format!("JavaScript suite: {reason}")),
    }
    Ok(())
}

/// Builds programs and tests in one go, so that features are unified once and nothing is compiled twice.
fn build(house: &House) -> Result<bool> {
    let started = Seconds::start();
    let ok = shell::stream(
        house
            .cargo()
            .args(["build", "--workspace", "--bins", "--tests"]),
        |_| {},
    )?;
    println!("xtask: build took {started}");
    Ok(ok)
}

fn rust_suite(house: &House, tally: &mut Tally<'_>) -> Result<()> {
    let mut command = house.cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .env("PARTYWALL_BIN", provision::binary(house)?);
    count("Rust tests", &mut command, totals::cargo_line, tally)
}

fn python_suite(
    house: &House,
    interpreter: &Path,
    binary: &Path,
    suite: &str,
    tally: &mut Tally<'_>,
) -> Result<()> {
    if !house.root().join(suite).is_dir() {
        tally.missing(&format!("{suite} is missing"));
        return Ok(());
    }
    let mut command = house.command(interpreter);
    command
        .args([
            "-m",
            "pytest",
            suite,
            "-v",
            "-rs",
            "--color=no",
            "-p",
            "no:cacheprovider",
        ])
        .arg(format!("--timeout={PYTEST_TIMEOUT_S}"))
        .env("PARTYWALL_BIN", binary)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // A test is shown when it ends, not when a buffer is full.
        .env("PYTHONUNBUFFERED", "1");
    count(suite, &mut command, totals::pytest_line, tally)
}

fn node_suite(house: &House, binary: &Path, tally: &mut Tally<'_>) -> Result<()> {
    let dir = house.root().join(NODE_SUITE);
    let tests: Vec<String> = std::fs::read_dir(&dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".test.mjs") || name.ends_with(".test.js"))
        .collect();
    if tests.is_empty() {
        tally.missing(&format!("{NODE_SUITE} holds no *.test.mjs"));
        return Ok(());
    }
    let mut command = house.command("node");
    command
        .current_dir(dir)
        .args(["--test", "--test-reporter=tap"])
        .args(tests)
        .env("PARTYWALL_BIN", binary);
    count("JavaScript suite", &mut command, totals::node_line, tally)
}

/// Runs one suite, shows it, and adds what its lines say.
fn count(
    name: &str,
    command: &mut std::process::Command,
    read: fn(&str, &mut Totals),
    tally: &mut Tally<'_>,
) -> Result<()> {
    let started = Seconds::start();
    let mut seen = Totals::default();
    let ok = shell::stream(command, |line| read(line, &mut seen))?;
    let seen = seen.with_verdict(ok);
    println!("xtask: {name}: {seen}, in {started}");
    if seen.failed > 0 {
        tally
            .notes
            .push(format!("FAILED: {name} ({} failed)", seen.failed));
    }
    tally.totals.add(seen);
    Ok(())
}

fn title(text: &str) {
    println!("\n== {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing_where(ci: bool) -> (Totals, Vec<String>) {
        let house = House {
            root: "/".into(),
            target: "/".into(),
            ci,
        };
        let mut tally = Tally {
            house: &house,
            totals: Totals::default(),
            notes: Vec::new(),
        };
        tally.missing("no node");
        (tally.totals, tally.notes)
    }

    #[test]
    fn what_is_missing_is_a_skip_at_home_and_an_error_in_ci() {
        let (totals, notes) = missing_where(false);
        assert_eq!((totals.failed, totals.skipped), (0, 1));
        assert_eq!(notes, ["SKIP: no node"]);
        let (totals, notes) = missing_where(true);
        assert_eq!((totals.failed, totals.skipped), (1, 0));
        assert_eq!(notes, ["ERROR (CI=true): no node"]);
    }
}
