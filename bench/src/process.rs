//! Processes, files and clocks: everything the benchmark takes from the machine.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark starts programs and reads /proc; no tenant is near"
)]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};

/// A child that ends with its owner.
pub(crate) struct Process {
    child: Child,
}

/// Clock ticks per second in `/proc`: fixed by the kernel's interface.
const TICKS_PER_SECOND: u64 = 100;
/// A child that ignores the signal to end is killed after this time.
const END_MAX: Duration = Duration::from_secs(40);

impl Process {
    /// Starts a program, on one core where one is named, with its output in `log`.
    pub(crate) fn start(
        core: Option<usize>,
        program: &Path,
        arguments: &[&str],
        env: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self> {
        let log = fs::File::create(log)?;
        let child = command(core, program, arguments)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!("cannot start {} (is taskset installed?)", program.display())
            })?;
        Ok(Self { child })
    }

    /// Starts this program with another subcommand and reads the address that it prints.
    pub(crate) fn start_self(core: usize, arguments: &[&str]) -> Result<(Self, SocketAddr)> {
        let program = std::env::current_exe()?;
        let (process, line) =
            Self::start_until_line(&mut command(Some(core), &program, arguments))?;
        let addr = line
            .parse()
            .with_context(|| format!("{arguments:?} printed '{line}' instead of its address"))?;
        Ok((process, addr))
    }

    /// Starts a program that lives no longer than its standard input, on any core, and reads the line that it prints.
    pub(crate) fn start_until_eof(program: &Path, arguments: &[&str]) -> Result<(Self, String)> {
        // The pipe stays with the child's record, and is closed with it.
        Self::start_until_line(command(None, program, arguments).stdin(Stdio::piped()))
            .with_context(|| format!("cannot start {}", program.display()))
    }

    fn start_until_line(command: &mut Command) -> Result<(Self, String)> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        Ok((Self { child }, line.trim().to_owned()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error when the process has ended on its own.
    pub(crate) fn alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the process ended early: {status}"),
            None => Ok(()),
        }
    }

    /// Asks the process to end and waits for it.
    pub(crate) fn end(mut self) -> Result<()> {
        self.stop()
    }

    /// Waits until the process ends by itself.
    pub(crate) fn finish(mut self, within: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < within {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the process failed: {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the process did not end within {within:?}");
    }

    fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let asked = Instant::now();
        while asked.elapsed() < END_MAX {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The run is over; a child that cannot be ended is the machine's to clean up.
        let _ = self.stop();
    }
}

/// Binds this process to one core.
pub(crate) fn pin_self(core: usize) -> Result<()> {
    let output = Command::new("taskset")
        .args([
            "-a",
            "-c",
            "-p",
            &core.to_string(),
            &std::process::id().to_string(),
        ])
        .output()
        .context("taskset is needed (package util-linux)")?;
    ensure!(
        output.status.success(),
        "taskset: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Runs a program to its end: what it printed.
pub(crate) fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} {}: {}",
        program.display(),
        arguments.join(" "),
        errors.trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Where a program lies, by `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// CPU time of a process and all below it since their start.
pub(crate) fn cpu_time(root: u32) -> Result<Duration> {
    let ticks: u64 = family(root)?.iter().map(|(_, ticks)| ticks).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// CPU time of one process since its start, without what it started.
pub(crate) fn own_cpu_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, ticks) = stat(&text).with_context(|| format!("/proc/{pid}/stat is not read"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Processes below this one.
pub(crate) fn descendants(root: u32) -> Result<usize> {
    Ok(family(root)?.len() - 1)
}

/// A process and all below it, each with its ticks.
fn family(root: u32) -> Result<Vec<(u32, u64)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process that ends while the list is read is not ours: ours are alive.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some((parent, ticks)) = stat(&text) {
            all.push((pid, parent, ticks));
        }
    }
    let mut family: Vec<(u32, u64)> = all
        .iter()
        .filter(|(pid, ..)| *pid == root)
        .map(|(pid, _, ticks)| (*pid, *ticks))
        .collect();
    ensure!(!family.is_empty(), "process {root} is gone");
    let mut at = 0;
    while at < family.len() {
        let (above, _) = family[at];
        let below = all.iter().filter(|(_, parent, _)| *parent == above);
        family.extend(below.map(|(pid, _, ticks)| (*pid, *ticks)));
        at += 1;
    }
    Ok(family)
}

/// Resident memory of one process in KiB: now and at its peak.
pub(crate) fn memory(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Ok((field("VmRSS:").unwrap_or(0), field("VmHWM:").unwrap_or(0)))
}

/// Name of the processor and version of the kernel.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// Durations of `fdatasync` after a small append in this folder, sorted.
pub(crate) fn sync_times(folder: &Path, count: usize) -> Result<Vec<Duration>> {
    let path = folder.join("sync-probe");
    let mut file = fs::File::create(&path)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        file.write_all(&[7; 4096])?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(began.elapsed());
    }
    fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times)
}

/// Microseconds since the epoch: the one clock that two processes share.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Writes a file, with the folders above it.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Lets this process open as many sockets as the system allows it.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(())
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// An empty folder for one run.
pub(crate) fn fresh_folder(under: &Path) -> Result<PathBuf> {
    let folder = under.join(format!("run-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(fs::canonicalize(folder)?)
}

/// Removes what [`fresh_folder`] made.
pub(crate) fn remove_folder(folder: &Path) -> io::Result<()> {
    fs::remove_dir_all(folder)
}

fn command(core: Option<usize>, program: &Path, arguments: &[&str]) -> Command {
    let mut command = match core {
        None => Command::new(program),
        Some(core) => {
            let mut pinned = Command::new("taskset");
            pinned.arg("-c").arg(core.to_string()).arg(program);
            pinned
        }
    };
    command.args(arguments);
    command
}

/// Parent and ticks of user and system time from `/proc/PID/stat`; the name in brackets may hold anything.
fn stat(text: &str) -> Option<(u32, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((u32::try_from(number(1)?).ok()?, number(11)? + number(12)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 0 0 0 250 50 1 1 20 0 1 0 5 1 1";
        assert_eq!(stat(line), Some((7, 300)));
    }

    #[test]
    fn own_process_has_memory_and_time() {
        let (now, peak) = memory(std::process::id()).unwrap();
        assert!(now > 0 && peak >= now);
        assert!(cpu_time(std::process::id()).is_ok());
    }
}
