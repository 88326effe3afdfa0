//! Reads the arguments of bubblewrap before each start, and refuses what would leave a gap. It knows nothing of how they came
//! about: a mistake in [`super::argv`] is found here.

use super::argv::{HELPERS, WORKSPACE};

/// Options that take no value.
const PLAIN: [&str; 6] = [
    "--unshare-all",
    "--unshare-user",
    "--disable-userns",
    "--die-with-parent",
    "--new-session",
    "--clearenv",
];
/// Options with one value that mount nothing.
const ONE_VALUE: [&str; 7] = [
    "--uid",
    "--gid",
    "--hostname",
    "--chdir",
    "--add-seccomp-fd",
    "--json-status-fd",
    "--size",
];
/// What may be mounted, where, and how often at most. Nothing else may be.
const MOUNTS: &[(&str, &str)] = &[
    ("--ro-bind", "/"),
    ("--ro-bind-fd", "/"),
    ("--proc", "/proc"),
    ("--dev", "/dev"),
    ("--tmpfs", "/dev/shm"),
    ("--remount-ro", "/dev"),
    ("--tmpfs", "/tmp"),
    ("--bind", WORKSPACE),
    ("--bind-fd", WORKSPACE),
];
/// What every sandbox has of its own.
const OWN: &[(&str, &str)] = &[
    ("--proc", "/proc"),
    ("--dev", "/dev"),
    ("--tmpfs", "/dev/shm"),
    ("--remount-ro", "/dev"),
    ("--tmpfs", "/tmp"),
];

/// Whether the walls stand with these arguments; says what is wrong.
pub(crate) fn lint(argv: &[String]) -> Result<(), String> {
    let mut words = argv.iter().map(String::as_str);
    let mut plain = Vec::new();
    let mut mounts: Vec<(&str, &str)> = Vec::new();
    let mut filters = 0;
    let mut drops_all = false;
    let mut sized = false;
    loop {
        let option = words.next().ok_or("no program after the options")?;
        let mut value = || words.next().ok_or(format!("{option} lacks a value"));
        match option {
            "--" => break,
            "--cap-drop" => drops_all |= value()? == "ALL",
            "--tmpfs" if !sized => return Err("a file system in memory has no bound".to_owned()),
            "--proc" | "--dev" | "--tmpfs" | "--remount-ro" => mounts.push((option, value()?)),
            "--ro-bind" | "--ro-bind-fd" | "--bind" | "--bind-fd" => {
                value()?;
                mounts.push((option, value()?));
            }
            _ if ONE_VALUE.contains(&option) => {
                filters += usize::from(option == "--add-seccomp-fd");
                value()?;
            }
            _ if PLAIN.contains(&option) => plain.push(option),
            _ => return Err(format!("{option} is not an option that we use")),
        }
        // It holds for the next option alone.
        sized = option == "--size";
    }
    // A variable would be told to them by an option, which is none that we use.
    if !words.next().is_some_and(|first| HELPERS.contains(&first)) {
        return Err("the program is not started by a helper of the runtime".to_owned());
    }
    if let Some(lacking) = PLAIN.iter().find(|option| !plain.contains(option)) {
        return Err(format!("{lacking} is missing"));
    }
    if !drops_all || filters != 2 {
        return Err("capabilities or system calls are left open".to_owned());
    }
    mounted(&mounts)
}

/// The workspace last, once, with nothing at it or below it; everything else in its one place.
fn mounted(mounts: &[(&str, &str)]) -> Result<(), String> {
    for (option, place) in mounts {
        if !MOUNTS.contains(&(option, place)) {
            return Err(format!("{option} may not mount at {place}"));
        }
        let again = |(other, there): &&(&str, &str)| there == place && *other != "--remount-ro";
        if *option != "--remount-ro" && mounts.iter().filter(again).count() > 1 {
            return Err(format!("{place} is mounted twice"));
        }
    }
    let first = mounts.first().map(|(_, place)| *place);
    let last = mounts.last().map(|(_, place)| *place);
    if first != Some("/") || last != Some(WORKSPACE) {
        return Err("the workspace must be bound last, the runtime first".to_owned());
    }
    for needed in OWN {
        if !mounts.contains(needed) {
            return Err(format!("{} is not the sandbox's own", needed.1));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::argv::{Shape, Sources, argv};
    use super::*;
    use crate::grant::Program;

    const HANDED: Sources = Sources::Handed {
        runtime: 7,
        workspace: 8,
    };

    fn shape(sources: Sources) -> Shape {
        Shape {
            sources,
            filters: [3, 4],
            status: 5,
            temporary_bytes: 1 << 20,
            processes: Some(10),
        }
    }

    fn good() -> Vec<String> {
        let program = Program::new("sh")
            .args(["-c", "--bind / /"])
            .env("A", "--share-net");
        argv(&shape(HANDED), &program)
    }

    #[test]
    fn what_we_build_passes_in_both_forms() {
        lint(&good()).unwrap();
        let staged = Sources::Staged {
            runtime: "/tmp/runtime",
            workspace: "/tmp/workspace",
        };
        lint(&argv(&shape(staged), &Program::new("--share-net").dir("a"))).unwrap();
    }

    /// The attack of CVE-2026-87766 needs a mount whose path leads through the workspace.
    #[test]
    fn nothing_is_mounted_at_or_below_the_workspace_or_after_it() {
        for more in [
            &["--ro-bind", "/skills", "/box/skills"][..],
            &["--dir", "/box/a"],
            &["--tmpfs", "/box/link/x"],
            &["--tmpfs", "/box"],
            &["--tmpfs", "/tmp"],
            &["--ro-bind-data", "9", "/box/settings"],
            &["--symlink", "a", "/box/b"],
            &["--file", "9", "/box/f"],
            &["--remount-ro", "/box"],
            &["--bind-fd", "8", "/box"],
            &["--proc", "/box/../proc"],
        ] {
            let mut argv = good();
            let end = argv.iter().position(|word| word == "--").unwrap();
            argv.splice(end..end, more.iter().map(|word| (*word).to_owned()));
            assert!(lint(&argv).is_err(), "{more:?}");
        }
    }

    #[test]
    fn every_wall_is_missed_when_it_is_taken_away() {
        let argv = good();
        let end = argv.iter().position(|word| word == "--").unwrap();
        for wall in PLAIN {
            let without: Vec<_> = argv.iter().filter(|word| *word != wall).cloned().collect();
            assert!(lint(&without).is_err(), "{wall}");
        }
        for (option, values) in [
            ("--cap-drop", 1),
            ("--add-seccomp-fd", 1),
            ("--proc", 1),
            ("--dev", 1),
            ("--tmpfs", 1),
            ("--size", 1),
            ("--remount-ro", 1),
            ("--ro-bind-fd", 2),
            ("--bind-fd", 2),
        ] {
            let at = argv
                .iter()
                .take(end)
                .position(|word| word == option)
                .unwrap();
            let mut without = argv.clone();
            without.drain(at..=at + values);
            assert!(lint(&without).is_err(), "{option}");
        }
    }

    #[test]
    fn options_that_open_a_wall_are_not_known() {
        for more in [
            &["--share-net"][..],
            &["--dev-bind", "/dev", "/dev"],
            &["--bind", "/", "/"],
            &["--bind-try", "/etc", "/etc"],
            &["--cap-add", "CAP_SYS_ADMIN"],
            &["--unshare-user-try"],
            &["--as-pid-1"],
            &["--args", "9"],
            &["--setenv", "LD_PRELOAD", "/box/evil.so"],
            &["--overlay-src", "/"],
        ] {
            let mut argv = good();
            argv.splice(0..0, more.iter().map(|word| (*word).to_owned()));
            assert!(lint(&argv).is_err(), "{more:?}");
        }
    }

    #[test]
    fn a_program_is_no_option() {
        assert!(lint(&["--unshare-all".to_owned()]).is_err());
        let mut argv = good();
        argv.truncate(argv.iter().position(|word| word == "--").unwrap() + 1);
        assert!(lint(&argv).is_err());
        argv.push("/box/tool".to_owned());
        assert!(lint(&argv).is_err());
    }
}
