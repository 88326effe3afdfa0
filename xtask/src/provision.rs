//! What the tests need from the machine: programs of the system, Python packages, JavaScript packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{House, shell};

const REQUIREMENTS: &str = "tests/e2e/requirements.txt";
const NODE_DIR: &str = "tests/e2e/js";

/// The oldest Python and Node.js that the official packages of the suites run on.
const PYTHON_MIN: (u32, u32) = (3, 11);
const NODE_MIN: u32 = 20;

/// A program of the system with the Debian package that holds it.
struct Tool {
    program: &'static str,
    package: &'static str,
    /// What is lost without it.
    need: Need,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing can be built.
    Build,
    /// A whole suite cannot run, and says so itself.
    Suite,
    /// Some tests cannot run; this is what they look at.
    Tests(&'static str),
}

const TOOLS: &[Tool] = &[
    Tool {
        program: "perl",
        package: "perl",
        need: Need::Build,
    },
    Tool {
        program: "make",
        package: "make",
        need: Need::Build,
    },
    Tool {
        program: "cc",
        package: "gcc libc6-dev",
        need: Need::Build,
    },
    Tool {
        program: "python3",
        package: "python3 python3-venv",
        need: Need::Suite,
    },
    Tool {
        program: "node",
        package: "nodejs npm",
        need: Need::Suite,
    },
    Tool {
        program: "npm",
        package: "npm",
        need: Need::Suite,
    },
    Tool {
        program: "openssl",
        package: "openssl",
        need: Need::Tests("TLS"),
    },
    Tool {
        program: "curl",
        package: "curl",
        need: Need::Tests("HTTP/2"),
    },
    Tool {
        program: "strace",
        package: "strace",
        need: Need::Tests("the order of sync and answer"),
    },
    Tool {
        program: "bwrap",
        package: "bubblewrap",
        need: Need::Tests("programs in the sandbox"),
    },
    Tool {
        program: "sqlite3",
        package: "sqlite3",
        need: Need::Tests("databases opened with the stock program"),
    },
];

/// Installs the missing programs where this user may; otherwise says how. Answers what stays missing and only costs
/// tests; fails where the build itself is impossible.
pub(crate) fn system(house: &House) -> Result<Vec<String>> {
    let mut missing = missing_tools();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|tool| tool.package.split(' '))
        .collect();
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    let has_apt = shell::find("apt-get").is_some();
    if has_apt && shell::first_line("id", &["-u"]).as_deref() == Some("0") {
        println!("xtask: installing {} ({line})", packages.join(", "));
        if let Err(printed) = apt(house, &packages) {
            println!("{printed}");
        }
        missing = missing_tools();
    } else if has_apt {
        println!(
            "xtask: some programs are missing. To install them:\n\n    sudo apt-get update && sudo {line}\n"
        );
    } else {
        let names: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
        println!(
            "xtask: some programs are missing: {}. Install them with this system's package manager.",
            names.join(", ")
        );
    }
    let lost: Vec<&str> = missing
        .iter()
        .filter(|tool| tool.need == Need::Build)
        .map(|tool| tool.program)
        .collect();
    if !lost.is_empty() {
        bail!("cannot build without {}", lost.join(", "));
    }
    Ok(missing
        .iter()
        .filter_map(|tool| match tool.need {
            Need::Build | Need::Suite => None,
            Need::Tests(what) => Some(format!("{} is not installed: {what}", tool.program)),
        })
        .collect())
}

/// A virtual environment that holds exactly the locked list; made once per list. Answers its interpreter, or why there
/// is none.
pub(crate) fn python(house: &House) -> Result<PathBuf, String> {
    let version = shell::first_line(
        "python3",
        &["-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
    )
    .ok_or("python3 is not installed")?;
    let found = version
        .split_once('.')
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    if found.is_none_or(|found: (u32, u32)| found < PYTHON_MIN) {
        return Err(format!(
            "python3 is {version}; {}.{} or newer is needed",
            PYTHON_MIN.0, PYTHON_MIN.1
        ));
    }
    let requirements = house.root().join(REQUIREMENTS);
    let list = std::fs::read(&requirements).map_err(|error| format!("{REQUIREMENTS}: {error}"))?;
    let dir = house
        .target()
        .join("venv")
        .join(format!("py{version}-{:016x}", fingerprint(&list)));
    let (interpreter, done) = (dir.join("bin/python"), dir.join("complete"));
    if done.exists() {
        return Ok(interpreter);
    }
    // What an interrupted run left behind is not trusted.
    if dir.exists() {
        std::fs::remove_dir_all(&dir)
            .map_err(|error| format!("cannot clear {}: {error}", dir.display()))?;
    }
    shell::collect(house.command("python3").args(["-m", "venv"]).arg(&dir))?;
    let mut pip = house.command(&interpreter);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ])
    .args(["--require-hashes", "--only-binary=:all:", "--requirement"])
    .arg(&requirements);
    shell::collect(&mut pip)?;
    std::fs::write(&done, b"")
        .map_err(|error| format!("cannot write {}: {error}", done.display()))?;
    Ok(interpreter)
}

/// The packages of the lock file in `tests/e2e/js`; installed once per lock. Answers why not where that failed.
pub(crate) fn node(house: &House) -> Result<(), String> {
    let version = shell::first_line("node", &["--version"]).ok_or("node is not installed")?;
    let major = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < NODE_MIN) {
        return Err(format!("node is {version}; {NODE_MIN} or newer is needed"));
    }
    let dir = house.root().join(NODE_DIR);
    let lock = std::fs::read(dir.join("package-lock.json"))
        .map_err(|error| format!("{NODE_DIR}: {error}"))?;
    let done = dir.join(format!(
        "node_modules/.installed-{:016x}",
        fingerprint(&lock)
    ));
    if done.exists() {
        return Ok(());
    }
    let mut npm = house.command("npm");
    npm.current_dir(&dir)
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    shell::collect(&mut npm)?;
    std::fs::write(&done, b"").map_err(|error| format!("cannot write {}: {error}", done.display()))
}

/// The path of `cargo deny`, installed from source where it is missing.
pub(crate) fn cargo_deny(house: &House) -> Result<(), String> {
    if shell::find("cargo-deny").is_some() {
        return Ok(());
    }
    println!(
        "xtask: cargo-deny is missing; running `cargo install --locked cargo-deny` (takes some minutes, once)"
    );
    shell::collect(house.cargo().args(["install", "--locked", "cargo-deny"]))
}

fn missing_tools() -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| !present(tool.program)).collect()
}

fn present(program: &str) -> bool {
    match program {
        "cc" => std::env::var_os("CC").is_some() || shell::find("cc").is_some(),
        // Debian's `perl-base` has the program without the modules that building OpenSSL needs.
        "perl" => shell::first_line(
            "perl",
            &["-MFindBin", "-MIPC::Cmd", "-MFile::Compare", "-e", "1"],
        )
        .is_some(),
        // Debian ships Python without what makes virtual environments.
        "python3" => shell::first_line("python3", &["-c", "import venv, ensurepip"]).is_some(),
        _ => shell::find(program).is_some(),
    }
}

fn apt(house: &House, packages: &[&str]) -> Result<(), String> {
    let apt_get = |args: &[&str]| -> Command {
        let mut command = house.command("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        command
    };
    shell::collect(&mut apt_get(&["update"]))?;
    shell::collect(apt_get(&["install", "-y", "--no-install-recommends"]).args(packages))
}

/// Names a list so that another list gets another directory. FNV-1a: no secret depends on it.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Where the built program stands.
pub(crate) fn binary(house: &House) -> Result<PathBuf> {
    let path = house.target().join("debug/partywall");
    let known = |path: &Path| path.is_file();
    if !known(&path) {
        bail!("{} was not built", path.display());
    }
    path.canonicalize()
        .context("the built program has no absolute path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_list_gets_another_name() {
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_ne!(fingerprint(b"openai==1"), fingerprint(b"openai==2"));
    }

    #[test]
    fn a_program_that_is_there_is_not_missing() {
        assert!(present("sh"));
        assert!(!present("no-such-program-here"));
    }

    /// The lock files must install anywhere: no address of a private registry stands in them.
    #[test]
    fn lock_files_name_no_host() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for file in [REQUIREMENTS, "tests/e2e/js/package-lock.json"] {
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            assert!(
                !text.contains("http://") && !text.contains("https://"),
                "{file} names a host"
            );
        }
        let requirements = std::fs::read_to_string(root.join(REQUIREMENTS)).unwrap();
        let pinned = requirements
            .lines()
            .filter(|line| line.contains("=="))
            .count();
        assert!(pinned > 0 && requirements.matches("--hash=sha256:").count() >= pinned);
    }
}
