//! Says early in a build what the machine lacks.
//!
//! SQLCipher and its OpenSSL are compiled from source, which takes perl, make and a C compiler. Without them the build
//! would fail minutes later, deep inside a build script of another crate. `base` is where every build begins, so the
//! question is asked here. Only a cold build asks: nothing reruns this script but a change of its own text.
#![expect(
    clippy::disallowed_methods,
    reason = "a build script reads the environment and tries programs; the product does neither here"
)]

use std::process::{Command, Stdio};

/// Modules of perl that configuring OpenSSL loads; small systems ship perl without them.
const PERL_MODULES: [&str; 4] = ["FindBin", "IPC::Cmd", "File::Compare", "File::Copy"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let missing = missing();
    if missing.is_empty() {
        return;
    }
    println!(
        "cargo::error=Partywall compiles SQLCipher and OpenSSL from source. Missing here: {}.",
        missing.join(", ")
    );
    println!("cargo::error=Install what is needed, then run the same command again:");
    for line in [
        "Debian, Ubuntu:  sudo apt-get install -y perl make gcc libc6-dev",
        "Fedora, RHEL:    sudo dnf install -y perl make gcc glibc-devel",
        "Arch:            sudo pacman -S --needed perl make gcc",
        "Alpine:          sudo apk add perl make gcc musl-dev linux-headers",
        "macOS:           xcode-select --install",
    ] {
        println!("cargo::error=    {line}");
    }
}

fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    let perl = named(&["OPENSSL_SRC_PERL", "PERL"]).unwrap_or_else(|| "perl".to_owned());
    if !runs(&perl, &["-e", "1"]) {
        missing.push("perl");
    } else if !runs(
        &perl,
        &PERL_MODULES
            .map(|module| format!("-M{module}"))
            .each_ref()
            .map(String::as_str),
    ) {
        missing.push("the standard modules of perl");
    }
    if !runs("make", &["--version"]) && !runs("gmake", &["--version"]) {
        missing.push("make");
    }
    let compiler = named(&["TARGET_CC", "CC"]).unwrap_or_else(|| "cc".to_owned());
    // `CC` may carry a wrapper and flags: `ccache gcc`.
    let mut words = compiler.split_whitespace();
    let program = words.next().unwrap_or("cc");
    let args: Vec<&str> = words.chain(["--version"]).collect();
    if !runs(program, &args) {
        missing.push("a C compiler");
    }
    missing
}

/// The first of these variables that is set to something.
fn named(variables: &[&str]) -> Option<String> {
    variables
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.trim().is_empty())
}

fn runs(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
