//! `cargo xtask crash`: the suites that take the gateway down at random moments, for as long as one likes, in release mode.
//!
//! `cargo xtask test` runs the same files as ordinary tests, with debug programs and the few rounds that each file names.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};

use crate::shell::{self, Seconds};
use crate::totals::{self, Totals};
use crate::{House, build_programs, provision};

/// Where the suites stand.
const SUITES_DIR: &str = "tests/e2e/python";
/// The name of each suite on the command line, its file, and what it does.
const SUITES: [(&str, &str, &str); 4] = [
    ("kills", "test_crash.py", "kill -9 under mixed load"),
    ("faults", "test_faults.py", "a disk that is full or fails"),
    (
        "power",
        "test_power_cut.py",
        "what a power cut leaves of files",
    ),
    ("flips", "test_bit_flips.py", "bits that turn over in files"),
];
/// Tenants of the restart that `kills` times; fewer where the suite is an ordinary test.
const TENANTS: &str = "1000";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    file: &'static str,
    suite: &'static str,
    /// Rounds; the suite's own number where `None`.
    count: Option<u32>,
    /// What the rounds are drawn from; drawn here where `None`.
    seed: Option<u32>,
}

/// Builds, installs, runs one suite and prints what to write down about it.
///
/// # Errors
/// Where the words are wrong, the suite's file is missing, or something cannot be built or installed.
pub(crate) fn run(house: &House, words: &[&str]) -> Result<ExitCode> {
    let order = parse(words)?;
    let file = Path::new(SUITES_DIR).join(order.file);
    if !house.root().join(&file).is_file() {
        bail!(
            "the suite `{}` is not there: {} is missing",
            order.suite,
            file.display()
        );
    }
    let interpreter = provision::python(house).map_err(|reason| anyhow!(reason))?;
    build_programs(house)?;
    let seed = order.seed.map_or_else(draw, Ok)?;
    let mut command = pytest(house, &interpreter, &file);
    command
        .env("PARTYWALL_BIN", program(house, "partywall")?)
        .env("SIMULATOR_BIN", program(house, "simulator")?)
        .env("CRASH_SEED", seed.to_string())
        .env("CRASH_TENANTS", TENANTS);
    if let Some(count) = order.count {
        command.env("CRASH_COUNT", count.to_string());
    }
    let (started, mut seen) = (Seconds::start(), Totals::default());
    let ok = shell::stream(&mut command, |line| totals::pytest_line(line, &mut seen))?;
    let seen = seen.with_verdict(ok);
    let count = order
        .count
        .map_or_else(String::new, |count| format!(" --count {count}"));
    let commit = shell::first_line("git", &["describe", "--always", "--dirty"])
        .unwrap_or_else(|| "unknown".to_owned());
    println!(
        "\nto record, with the lines above:\n  cargo xtask crash {}{count} --seed {seed}\n  commit {commit}, release, {started}: {seen}",
        order.suite
    );
    Ok(if seen.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn pytest(house: &House, interpreter: &Path, file: &Path) -> Command {
    let mut command = house.command(interpreter);
    command
        .args(["-m", "pytest", "-v", "-s", "-rs", "--color=no"])
        // Each long test has a bound of its own, by its rounds; and what failed is to be told at once.
        .args(["-p", "no:cacheprovider", "--timeout=0", "--exitfirst"])
        .arg(file)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1");
    command
}

fn program(house: &House, name: &str) -> Result<PathBuf> {
    let path = house.target().join("release").join(name);
    path.canonicalize()
        .with_context(|| format!("{} was not built", path.display()))
}

/// Any number but 0, which the suites take for none.
fn draw() -> Result<u32> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(since.subsec_nanos() | 1)
}

fn parse(words: &[&str]) -> Result<Order> {
    let (&(suite, file, _), mut rest) = match words {
        [name, rest @ ..] if !name.starts_with('-') => (known(name)?, rest),
        rest => (known("kills")?, rest),
    };
    let mut order = Order {
        file,
        suite,
        count: None,
        seed: None,
    };
    while let [flag, more @ ..] = rest {
        let slot = match *flag {
            "--count" => &mut order.count,
            "--seed" => &mut order.seed,
            other => bail!("unknown argument `{other}`; known: --count N, --seed S"),
        };
        let [value, more @ ..] = more else {
            bail!("{flag} takes a number");
        };
        let number = value.parse().ok().filter(|number| *number > 0);
        *slot =
            Some(number.with_context(|| format!("{flag} takes a number from 1, not `{value}`"))?);
        rest = more;
    }
    Ok(order)
}

fn known(name: &str) -> Result<&'static (&'static str, &'static str, &'static str)> {
    SUITES
        .iter()
        .find(|(known, ..)| *known == name)
        .with_context(|| {
            let all: Vec<String> = SUITES
                .iter()
                .map(|(name, _, what)| format!("{name} ({what})"))
                .collect();
            format!("unknown suite `{name}`; known: {}", all.join(", "))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_say_which_suite_how_often_and_from_what() {
        let order = parse(&["faults", "--seed", "7", "--count", "1000"]).unwrap();
        assert_eq!(order.file, "test_faults.py");
        assert_eq!((order.count, order.seed), (Some(1000), Some(7)));
        assert_eq!(parse(&[]).unwrap().suite, "kills");
        assert_eq!(parse(&["--count", "3"]).unwrap().count, Some(3));
    }

    #[test]
    fn wrong_words_are_refused_by_name() {
        for (words, named) in [
            (&["nonsense"][..], "power"),
            (&["kills", "--count"], "--count"),
            (&["--seed", "0"], "--seed"),
            (&["--count", "many"], "many"),
            (&["flips", "--fast"], "--fast"),
        ] {
            let refused = parse(words).unwrap_err().to_string();
            assert!(refused.contains(named), "{words:?}: {refused}");
        }
    }
}
