//! `cargo xtask check`: all that must hold before a commit.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::shell::Seconds;
use crate::{House, provision, test, tidy};

/// Runs every check even when one fails, then the tests; the totals of the tests are the last line.
pub(crate) fn run(house: &House) -> Result<ExitCode> {
    let mut failed = Vec::new();
    let mut step = |name: &'static str, ok: bool| {
        if !ok {
            failed.push(name);
        }
    };
    step(
        "formatting",
        shown(
            "formatting",
            house.cargo().args(["fmt", "--all", "--check"]),
        )?,
    );
    let mut clippy = house.cargo();
    clippy.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    step("clippy", shown("clippy", &mut clippy)?);
    println!("\n== house rules");
    step("house rules", tidy::run(house)? == ExitCode::SUCCESS);
    println!("\n== dependencies: bans, licences, sources");
    match provision::cargo_deny(house) {
        Ok(()) => {
            let mut deny = house.cargo();
            deny.args([
                "deny",
                "--workspace",
                "check",
                "bans",
                "licenses",
                "sources",
            ]);
            step("cargo-deny", shown("cargo-deny", &mut deny)?);
        }
        Err(reason) => {
            println!(
                "{} cargo-deny: {reason}",
                if house.ci() {
                    "ERROR (CI=true):"
                } else {
                    "SKIP:"
                }
            );
            step("cargo-deny", !house.ci());
        }
    }
    let tests = test::run(house, test::Scope::Full)?;
    if failed.is_empty() {
        return Ok(tests);
    }
    eprintln!("xtask: not in order: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Runs a step with its output on the terminal.
fn shown(name: &str, command: &mut Command) -> Result<bool> {
    println!("\n== {name}");
    let started = Seconds::start();
    let ok = command
        .status()
        .with_context(|| format!("cannot start {name}"))?
        .success();
    println!("{} {name}, in {started}", if ok { "ok  " } else { "FAIL" });
    Ok(ok)
}
