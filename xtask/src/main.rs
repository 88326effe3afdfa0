//! The project's own build tool, run as `cargo xtask …`.
//!
//! **Invariant:** it links no C library, so it starts on a machine that has only Rust and can then say, or install,
//! what the rest of the build needs.
#![expect(
    clippy::disallowed_methods,
    reason = "a build tool reads files, reads the environment and starts programs; no tenant data comes near it"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing to the terminal is what this program is for"
)]

mod check;
mod crash;
mod layers;
mod provision;
mod shell;
mod test;
mod tidy;
mod totals;
mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use shell::Seconds;

const HELP: &str = "\
Partywall's build tool.

Usage: cargo xtask COMMAND

Commands:
  test [--quick]  install what the tests need, build, run every suite and print the totals
                  --quick  only the Rust tests: nothing is installed, no Python, no JavaScript
  check           everything that must hold before a commit: formatting, clippy, house rules,
                  cargo-deny, then `test`
  tidy            only the house rules (also run by `cargo test`, as the tests of this tool)
  bench [ARGS]    the benchmarks, in release mode: `bench run` against a bare pass-through, `bench neighbour` for what one
                  tenant's load does to another, `bench runs` for runs of agents over many tenants (it builds gateway and
                  simulator first); `cargo xtask bench --help` lists what they take
  crash [SUITE] [--count N] [--seed S]
                  take the gateway down N times at random moments, in release mode, and compare its books with what clients
                  and the provider saw: `kills` (default), `faults`, `power`, `flips`. What was found: docs/crash.md
  help            this text

With CI=true in the environment a missing tool is an error; otherwise it is a skip with its reason.
Guide: CONTRIBUTING.md
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<ExitCode> {
    let Some((command, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(ExitCode::from(2));
    };
    match (*command, rest) {
        ("help" | "--help" | "-h", _) => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        ("test" | "check" | "tidy" | "crash", ["--help" | "-h"]) => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        ("test", []) => test::run(&House::find()?, test::Scope::Full),
        ("test", ["--quick"]) => test::run(&House::find()?, test::Scope::Quick),
        ("check", []) => check::run(&House::find()?),
        ("tidy", []) => tidy::run(&House::find()?),
        ("crash", words) => crash::run(&House::find()?, words),
        ("bench", rest) => bench(&House::find()?, rest),
        _ => {
            eprintln!("xtask: unknown command `{}`\n", args.join(" "));
            eprint!("{HELP}");
            Ok(ExitCode::from(2))
        }
    }
}

/// Where the project stands and how this run must behave.
pub(crate) struct House {
    root: PathBuf,
    target: PathBuf,
    ci: bool,
}

impl House {
    /// Asks cargo, so that `CARGO_TARGET_DIR` and the config files are honoured.
    fn find() -> Result<House> {
        let metadata = cargo_metadata::MetadataCommand::new()
            .no_deps()
            .exec()
            .context("`cargo metadata` failed; run this inside the project")?;
        Ok(House {
            root: metadata.workspace_root.into(),
            target: metadata.target_directory.into(),
            ci: std::env::var("CI").is_ok_and(|value| value == "true"),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Whether what is missing is an error.
    pub(crate) fn ci(&self) -> bool {
        self.ci
    }

    /// A command that runs at the root of the project.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        shell::forget_cargo(&mut command);
        command
    }

    /// The cargo that started this tool.
    pub(crate) fn cargo(&self) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        self.command(cargo)
    }
}

fn bench(house: &House, args: &[&str]) -> Result<ExitCode> {
    let wants_help = args.iter().any(|arg| ["--help", "-h"].contains(arg));
    if args.first() == Some(&"runs") && !wants_help {
        build_programs(house)?;
    }
    let started = Seconds::start();
    let ok = house
        .cargo()
        .args(["run", "--release", "--package", "bench", "--"])
        .args(args)
        .status()
        .context("cannot start cargo")?
        .success();
    eprintln!("xtask: bench took {started}");
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds the gateway and the simulator in release mode.
pub(crate) fn build_programs(house: &House) -> Result<()> {
    let programs = ["--package", "partywall", "--package", "simulator"];
    let mut build = house.cargo();
    build.args(["build", "--release", "--bins"]).args(programs);
    ensure!(
        shell::stream(&mut build, |_| {})?,
        "the programs do not build"
    );
    Ok(())
}
