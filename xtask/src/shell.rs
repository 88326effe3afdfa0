//! Starting programs: found or not, streamed or collected, timed.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

/// A running stopwatch; shows itself as `12.3 s` or `4 min 05 s`.
pub(crate) struct Seconds(Instant);

impl Seconds {
    pub(crate) fn start() -> Seconds {
        Seconds(Instant::now())
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = self.0.elapsed();
        if elapsed.as_secs() < 60 {
            return write!(
                out,
                "{}.{} s",
                elapsed.as_secs(),
                elapsed.subsec_millis() / 100
            );
        }
        write!(
            out,
            "{} min {:02} s",
            elapsed.as_secs() / 60,
            elapsed.as_secs() % 60
        )
    }
}

/// Runs `command`, shows each line of its standard output as it comes and hands it to `each`.
/// Standard error goes straight to the terminal. Answers whether the program succeeded.
pub(crate) fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    let name = display(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    let stdout = child
        .stdout
        .take()
        .context("standard output was not captured")?;
    let mut lines = BufReader::new(stdout);
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes)? > 0 {
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end_matches(['\n', '\r']);
        println!("{line}");
        each(line);
        bytes.clear();
    }
    Ok(child.wait()?.success())
}

/// Runs `command` in silence. `Err` holds all it printed, so that the caller can show it in one piece.
pub(crate) fn collect(command: &mut Command) -> Result<(), String> {
    let name = display(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start `{name}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    Err(format!(
        "`{name}` failed:\n{}",
        String::from_utf8_lossy(&printed).trim_end()
    ))
}

/// The first line that `program args` prints, or `None` where it is missing or fails.
pub(crate) fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Where `program` stands on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| executable(file))
}

/// Removes what `cargo run` told this process about itself: build scripts that watch these variables would otherwise
/// run again each time one changes between `cargo build` and `cargo xtask`.
pub(crate) fn forget_cargo(command: &mut Command) {
    let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    for (name, _) in std::env::vars_os() {
        if own
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
}

fn executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn display(command: &Command) -> String {
    let mut text = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_the_search_path_only() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }

    #[test]
    fn a_stream_hands_over_lines_and_the_verdict() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'one\\ntwo'; exit 3"]);
        let ok = stream(&mut command, |line| seen.push(line.to_owned())).unwrap();
        assert!(!ok);
        assert_eq!(seen, ["one", "two"]);
    }

    #[test]
    fn a_failed_collection_keeps_what_was_printed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 1"]);
        let printed = collect(&mut command).unwrap_err();
        assert!(
            printed.contains("out") && printed.contains("err"),
            "{printed}"
        );
    }
}
