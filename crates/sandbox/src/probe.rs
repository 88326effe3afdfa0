//! Attempts to escape, as data: each has a name, a program, and the refusal that it must meet. The quick ones are the
//! self-test of [`crate::Sandbox::open`]; the tests run all of them, and run them without walls as well, where each must show
//! that it would have got out.

mod files;
mod kernel;
mod limits;
mod network;
mod processes;

use std::time::Duration;

use crate::grant::{Ceilings, Program};
use crate::outcome::{Ceiling, End, Outcome};

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// What is attempted.
    pub name: &'static str,
    /// How.
    pub script: Script,
    /// Programs that the script calls. Where one is missing it is not tried: what such a script says shows nothing.
    pub needs: &'static [&'static str],
    /// What must happen: one of these.
    pub held: &'static [Held],
    /// Whether the same script gets through where there are no walls.
    pub outside: Outside,
    /// Whether it is part of the self-test.
    pub quick: bool,
    /// Whether it must be ended by the clock.
    pub endless: bool,
    /// Whether only a control group can hold it, since it is a matter of all processes together.
    pub of_all: bool,
}

/// What is run. It writes `ESCAPED` where it got through, `held:` and the refusal where it did not, `untried:` and the reason
/// where it could not try.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    /// For `sh`.
    Shell(&'static str),
    /// For `python3`, after [`PRELUDE`].
    Python(&'static str),
}

/// How a probe may be held.
#[derive(Clone, Copy, Debug)]
pub enum Held {
    /// It ends by itself with code 0 and writes this after `held:`.
    Says(&'static str),
    /// The sandbox ends it.
    Ends(End),
}

/// How a probe fares without walls, which shows that it can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// It gets through as any user.
    Escapes,
    /// It gets through as root.
    EscapesAsRoot,
    /// It is not tried, for this reason.
    Untried(&'static str),
}

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It met a refusal that it must meet.
    Held,
    /// It got through.
    Escaped(String),
    /// It could not be tried, for this reason: something that it needs is missing.
    Untried(String),
    /// Neither: the walls may stand, and nothing shows it.
    Unclear(String),
}

/// What the scripts are told of the world outside, which they must not reach.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The path of a file of somebody else, which this user could read.
    pub sibling: String,
    /// The number of the process that runs the sandbox.
    pub pid: u32,
    /// When that process was born, as the kernel tells it in `/proc`: in there another one may have the same number, and in a
    /// container the gateway's is often 1.
    pub born: String,
    /// A port on 127.0.0.1 that somebody listens at; 0 where nobody does.
    pub port: u16,
    /// The name of an abstract socket that somebody listens at.
    pub abstract_socket: String,
    /// The namespaces of this process, as `/proc/self/ns` names them.
    pub namespaces: String,
}

/// All probes, by topic.
pub const PROBES: [&[Probe]; 5] = [
    files::PROBES,
    processes::PROBES,
    kernel::PROBES,
    network::PROBES,
    limits::PROBES,
];

/// What the Python scripts begin with: calls by number, and a line that says how one went.
pub const PRELUDE: &str = include_str!("probe/prelude.py");

/// What the scripts of the shell do for each program that they need.
const MISSING: &str =
    r#"command -v "$need" >/dev/null || { echo "untried: there is no $need"; exit 0; }"#;

/// All probes in order.
pub fn all() -> impl Iterator<Item = &'static Probe> {
    PROBES.into_iter().flatten()
}

impl Probe {
    const fn shell(name: &'static str, script: &'static str, held: &'static [Held]) -> Self {
        Self {
            name,
            script: Script::Shell(script),
            needs: &[],
            held,
            outside: Outside::Escapes,
            quick: false,
            endless: false,
            of_all: false,
        }
    }

    const fn python(name: &'static str, script: &'static str, held: &'static [Held]) -> Self {
        Self {
            script: Script::Python(script),
            ..Self::shell(name, "", held)
        }
    }

    const fn needs(self, needs: &'static [&'static str]) -> Self {
        Self { needs, ..self }
    }

    const fn quick(self) -> Self {
        Self {
            quick: true,
            ..self
        }
    }

    const fn endless(self) -> Self {
        Self {
            endless: true,
            ..self
        }
    }

    const fn of_all(self) -> Self {
        Self {
            of_all: true,
            ..self
        }
    }

    const fn outside(self, outside: Outside) -> Self {
        Self { outside, ..self }
    }

    /// Whether it can only run where there is a Python.
    #[must_use]
    pub const fn needs_python(&self) -> bool {
        matches!(self.script, Script::Python(_))
    }

    /// The ceilings of an attempt: low, so that those that try to exceed them harm nobody.
    #[must_use]
    pub fn ceilings(&self) -> Ceilings {
        const MIB: u64 = 1024 * 1024;
        Ceilings {
            // A slow machine must not look like a broken wall.
            wall: Duration::from_secs(if self.endless { 1 } else { 30 }),
            cpu: Duration::from_secs(2),
            cpu_rate_milli: 1_000,
            memory_bytes: 128 * MIB,
            processes: 24,
            disk_bytes: 16 * MIB,
            file_bytes: 8 * MIB,
            files: 500,
            temporary_bytes: 4 * MIB,
            output_bytes: MIB,
            kept_bytes: 64 * 1024,
            descriptors: 64,
        }
    }

    /// Program and arguments, as they are run behind walls and without.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        match self.script {
            Script::Shell(script) => {
                let needs = self.needs.join(" ");
                let all = format!("for need in {needs}; do {MISSING}; done\n{script}");
                ["sh", "-c", &all].map(str::to_owned).to_vec()
            }
            Script::Python(script) => {
                let all = format!("{PRELUDE}\n{script}");
                ["python3", "-I", "-S", "-c", &all]
                    .map(str::to_owned)
                    .to_vec()
            }
        }
    }

    /// The same as a program of the sandbox.
    #[must_use]
    pub fn program(&self, setting: &Setting) -> Program {
        let mut argv = self.argv().into_iter();
        let mut program = Program::new(argv.next().unwrap_or_default()).args(argv);
        for (name, value) in setting.env() {
            program = program.env(name, value);
        }
        program
    }

    /// What an attempt behind walls came to.
    #[must_use]
    pub fn judge(&self, outcome: &Outcome) -> Verdict {
        let said = outcome.stdout.text();
        if said.contains("ESCAPED") {
            return Verdict::Escaped(said.trim().to_owned());
        }
        let after = |word: &str| said.lines().find_map(|line| line.strip_prefix(word));
        if let Some(why) = after("untried:").filter(|_| outcome.end == End::Exited(0)) {
            return Verdict::Untried(why.trim().to_owned());
        }
        let met = |held: &Held| match held {
            Held::Says(text) => {
                let line = after("held:");
                outcome.end == End::Exited(0) && line.is_some_and(|line| line.contains(text))
            }
            Held::Ends(end) => outcome.end == *end,
        };
        if self.held.iter().any(met) {
            return Verdict::Held;
        }
        let error = outcome.stderr.text();
        let error: String = error.trim().chars().take(300).collect();
        Verdict::Unclear(format!("{:?}, {:?}, {error:?}", outcome.end, said.trim()))
    }
}

impl Setting {
    /// The variables that the scripts read.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PROBE_SIBLING", self.sibling.clone()),
            ("PROBE_PID", self.pid.to_string()),
            ("PROBE_BORN", self.born.clone()),
            ("PROBE_PORT", self.port.to_string()),
            ("PROBE_ABSTRACT", self.abstract_socket.clone()),
            ("PROBE_NAMESPACES", self.namespaces.clone()),
        ]
    }

    /// The setting of this process with a file that is somebody else's, and with nobody who listens.
    #[must_use]
    pub fn of_this_process(sibling: String) -> Self {
        let names = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
        let namespaces = names.iter().filter_map(|name| {
            let link = rustix::fs::readlink(format!("/proc/self/ns/{name}"), Vec::new()).ok()?;
            Some(link.to_string_lossy().into_owned())
        });
        Self {
            sibling,
            pid: std::process::id(),
            born: born().unwrap_or_default(),
            port: 0,
            abstract_socket: String::new(),
            namespaces: namespaces.collect::<Vec<_>>().join(" "),
        }
    }
}

/// When this process was born: the twentieth field after the name, which may hold anything.
fn born() -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a file of the kernel's about this process"
    )]
    let line = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after) = line.rsplit_once(')')?;
    after.split_whitespace().nth(19).map(ToOwned::to_owned)
}

/// Refusals that the tables name often.
mod refusal {
    use super::{Ceiling, End, Held};

    pub(super) const PERMISSION: &[Held] = &[Held::Says("EPERM")];
    pub(super) const ABSENT: &[Held] = &[Held::Says("No such file or directory")];
    pub(super) const READ_ONLY: &[Held] = &[Held::Says("Read-only file system")];
    pub(super) const NO_ROUTE: &[Held] = &[Held::Says("ENETUNREACH")];
    pub(super) const YES: &[Held] = &[Held::Says("yes")];

    pub(super) const fn ends(ceiling: Ceiling) -> Held {
        Held::Ends(End::Limited(ceiling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Captured;

    fn outcome(end: End, stdout: &str) -> Outcome {
        Outcome {
            end,
            stdout: Captured {
                bytes: stdout.as_bytes().to_vec(),
                cut: 0,
            },
            stderr: Captured::default(),
            changes: Vec::new(),
            changes_cut: 0,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
        }
    }

    #[test]
    fn there_are_enough_and_each_has_a_name_of_its_own() {
        let mut names: Vec<_> = all().map(|probe| probe.name).collect();
        assert!(names.len() >= 40, "{}", names.len());
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(all().filter(|probe| probe.quick).count() >= 12);
    }

    /// One that is not named would not be missed, and the script might take its silence for a wall.
    #[cfg(target_os = "linux")]
    #[test]
    fn each_script_of_the_shell_names_what_it_calls() {
        const OF_THE_SHELL: [&str; 7] = ["[", "echo", "false", "kill", "printf", "test", "true"];
        for probe in all() {
            let Script::Shell(script) = probe.script else {
                continue;
            };
            let mut called = vec![script.to_owned()];
            for before in ["\n", "$(", "|", ";", "&&", "then ", "if ", "else ", "do "] {
                let parts = called.iter().flat_map(|text| text.split(before));
                called = parts.map(|text| text.trim().to_owned()).collect();
            }
            for part in called {
                let word = part.split_whitespace().next().unwrap_or_default();
                let outside = crate::runtime::PROGRAMS.contains(&word);
                if outside && !OF_THE_SHELL.contains(&word) {
                    assert!(probe.needs.contains(&word), "{}: {word}", probe.name);
                }
            }
        }
    }

    /// Whatever is not the expected refusal is no success: a program that is missing, a script that breaks.
    #[test]
    fn only_the_expected_refusal_counts() {
        let probe = Probe::shell("x", "", refusal::PERMISSION);
        let judge = |end, said| probe.judge(&outcome(end, said));
        assert_eq!(judge(End::Exited(0), "held: EPERM\n"), Verdict::Held);
        assert!(matches!(
            judge(End::Exited(0), "ESCAPED: ok\n"),
            Verdict::Escaped(_)
        ));
        assert!(matches!(
            judge(End::Exited(0), "held: EPERM\nESCAPED\n"),
            Verdict::Escaped(_)
        ));
        assert_eq!(
            judge(End::Exited(0), "untried: there is no ls\nheld: EPERM\n"),
            Verdict::Untried("there is no ls".to_owned())
        );
        for (end, said) in [
            (End::Exited(127), ""),
            (End::Exited(0), ""),
            (End::Exited(1), "held: EPERM\n"),
            (End::Exited(0), "held: ENOSYS\n"),
            (End::Limited(Ceiling::Wall), "held: EPERM\n"),
        ] {
            assert!(
                matches!(judge(end, said), Verdict::Unclear(_)),
                "{end:?} {said}"
            );
        }
    }
}
