//! Paths as models and tenants write them: one reader, and nothing behind it looks at a path again.

use std::fmt;

/// Bytes of a whole path.
pub const PATH_BYTES_MAX: usize = 1_024;
/// Bytes of one part of a path: what file systems take.
pub const PART_BYTES_MAX: usize = 255;
/// Parts of a path.
pub const PARTS_MAX: usize = 32;
/// Where programs see the workspace: what they print is understood.
const SHOWN_AS: &str = "/box";

/// A path below the workspace that was read: parts joined by `/`, none of them empty, `.` or `..`. The empty one is the workspace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct WorkPath(String);

/// What is wrong with a path. `Display` is for whoever wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathFault {
    /// It begins at the root of a file system.
    Absolute,
    /// Two slashes in a row, or one at the end.
    EmptyPart,
    /// A part is `.` or `..`.
    Dots,
    /// NUL, a line break or another control character.
    Control,
    /// A backslash.
    Backslash,
    /// A part of more than [`PART_BYTES_MAX`] bytes.
    LongPart,
    /// More than [`PATH_BYTES_MAX`] bytes.
    Long,
    /// More than [`PARTS_MAX`] parts.
    Deep,
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute => write!(
                f,
                "a path begins in the workspace: write `a/b` or `{SHOWN_AS}/a/b`"
            ),
            Self::EmptyPart => f.write_str("a path has no empty part: no `//`, no `/` at its end"),
            Self::Dots => f.write_str("a path has no part `.` or `..`; an empty path is the whole"),
            Self::Control => f.write_str("a path has no control characters"),
            Self::Backslash => f.write_str("a path has no backslash; parts are separated by `/`"),
            Self::LongPart => write!(f, "a part of a path has at most {PART_BYTES_MAX} bytes"),
            Self::Long => write!(f, "a path has at most {PATH_BYTES_MAX} bytes"),
            Self::Deep => write!(f, "a path has at most {PARTS_MAX} parts"),
        }
    }
}

impl std::error::Error for PathFault {}

/// Reads a path. A leading `/box` is taken off; nothing else is changed, decoded or normalised: `%2e%2e` is a name like others.
///
/// # Errors
/// The first fault of it.
pub fn parse(path: &str) -> Result<WorkPath, PathFault> {
    let inner = match path.strip_prefix(SHOWN_AS) {
        Some("") => "",
        Some(rest) if rest.starts_with('/') => &rest[1..],
        // `/boxes` among them.
        _ if path.starts_with('/') => return Err(PathFault::Absolute),
        _ => path,
    };
    if inner.len() > PATH_BYTES_MAX {
        return Err(PathFault::Long);
    }
    if inner.is_empty() {
        return Ok(WorkPath::default());
    }
    for (before, part) in inner.split('/').enumerate() {
        check(part)?;
        if before == PARTS_MAX {
            return Err(PathFault::Deep);
        }
    }
    Ok(WorkPath(inner.to_owned()))
}

fn check(part: &str) -> Result<(), PathFault> {
    match part {
        "" => Err(PathFault::EmptyPart),
        "." | ".." => Err(PathFault::Dots),
        _ if part.len() > PART_BYTES_MAX => Err(PathFault::LongPart),
        _ if part.contains('\\') => Err(PathFault::Backslash),
        _ if part.contains(char::is_control) => Err(PathFault::Control),
        _ => Ok(()),
    }
}

impl WorkPath {
    /// The path as it is shown and as [`parse`] reads it again; empty for the workspace itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that it stands in, and its name there; `None` for the workspace itself.
    pub(super) fn split(&self) -> Option<(Self, &str)> {
        if self.0.is_empty() {
            return None;
        }
        let (parent, name) = self.0.rsplit_once('/').unwrap_or(("", &self.0));
        Some((Self(parent.to_owned()), name))
    }

    /// The path as the operating system takes it from the workspace on.
    pub(super) fn beneath(&self) -> &str {
        if self.0.is_empty() { "." } else { &self.0 }
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// A name in this directory as programs made it, if it can be written as a path.
    pub(super) fn join(&self, name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        if name.contains('/') || check(name).is_err() {
            return None;
        }
        let whole = match self.0.as_str() {
            "" => name.to_owned(),
            parent => format!("{parent}/{name}"),
        };
        let fits = whole.len() <= PATH_BYTES_MAX && whole.split('/').count() <= PARTS_MAX;
        fits.then_some(Self(whole))
    }

    /// The same for eyes only: what is no text, and what would move a cursor, is replaced.
    pub(super) fn shown_with(&self, name: &[u8]) -> String {
        let name = String::from_utf8_lossy(name).replace(char::is_control, "\u{fffd}");
        match self.0.as_str() {
            "" => name,
            parent => format!("{parent}/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_paths_are_read_as_they_stand() {
        for (path, read) in [
            ("a", "a"),
            ("a/b.txt", "a/b.txt"),
            ("/box/a/b", "a/b"),
            ("/box", ""),
            ("/box/", ""),
            ("", ""),
            ("box/a", "box/a"),
            ("/box/box", "box"),
            (".hidden", ".hidden"),
            ("...", "..."),
            ("a b ", "a b "),
            ("a.", "a."),
            ("größe/文.md", "größe/文.md"),
            // Composed and decomposed: two names, both harmless.
            ("\u{e9}", "\u{e9}"),
            ("e\u{301}", "e\u{301}"),
            ("CON", "CON"),
            ("nul.txt:stream", "nul.txt:stream"),
            ("~/a", "~/a"),
            ("$HOME", "$HOME"),
            // Nothing is decoded.
            ("%2e%2e/%2fetc", "%2e%2e/%2fetc"),
            ("%252e%252e", "%252e%252e"),
            ("..;/a", "..;/a"),
            ("\u{ff0e}\u{ff0e}/a", "\u{ff0e}\u{ff0e}/a"),
            ("\u{2024}\u{2024}\u{2215}a", "\u{2024}\u{2024}\u{2215}a"),
        ] {
            assert_eq!(parse(path).unwrap().as_str(), read, "{path:?}");
        }
        assert!(parse(&"x".repeat(255)).is_ok());
        assert!(parse(&["d"; 32].join("/")).is_ok());
        assert!(parse(&format!("/box/{}", vec!["x".repeat(204); 5].join("/"))).is_ok());
    }

    #[test]
    fn every_other_path_is_refused_for_its_fault() {
        use PathFault::{Absolute, Backslash, Control, Deep, Dots, EmptyPart, Long, LongPart};
        for (path, fault) in [
            ("/", Absolute),
            ("/etc/passwd", Absolute),
            ("//box/a", Absolute),
            ("/boxes/a", Absolute),
            ("/box.", Absolute),
            ("/proc/self/root/etc/passwd", Absolute),
            ("/box//a", EmptyPart),
            ("/box//", EmptyPart),
            ("a//b", EmptyPart),
            ("a/", EmptyPart),
            (".", Dots),
            ("..", Dots),
            ("../a", Dots),
            ("a/..", Dots),
            ("a/../../b", Dots),
            ("a/./b", Dots),
            ("/box/..", Dots),
            ("/box/../etc/passwd", Dots),
            ("....//....//etc/passwd", EmptyPart),
            ("..\\..\\etc", Backslash),
            ("\\\\?\\C:\\a", Backslash),
            ("C:\\a", Backslash),
            ("a\0b", Control),
            ("a\n", Control),
            ("a\r\nb", Control),
            ("\u{1b}[31m", Control),
            ("a\u{7f}", Control),
            ("a\u{85}", Control),
        ] {
            assert_eq!(parse(path), Err(fault), "{path:?}");
        }
        assert_eq!(parse(&"x".repeat(256)), Err(LongPart));
        assert_eq!(parse(&"é".repeat(128)), Err(LongPart));
        assert_eq!(parse(&["d"; 33].join("/")), Err(Deep));
        assert_eq!(parse(&vec!["x".repeat(205); 5].join("/")), Err(Long));
        assert_eq!(parse(&"../".repeat(10_000)), Err(Long));
    }

    /// The traversal patterns of the usual lists, by their parts: each climbs by 1 to 12 steps.
    #[test]
    fn no_pattern_of_the_known_lists_climbs() {
        let ups = [
            "..",
            "...",
            "....",
            "..;",
            "%2e%2e",
            "%252e%252e",
            "%c0%ae%c0%ae",
            "%uff0e%uff0e",
            "0x2e0x2e",
            ".%00.",
            "..%00",
            "..%0d",
            ".?",
            "??",
            "..\u{0}",
            "\u{2025}",
            "..%01",
        ];
        let slashes = [
            "/", "//", "///", "\\", "\\/", "/\\", "%2f", "%5c", "%252f", "%255c", "%c0%af",
            "%c1%9c", "0x2f", "\u{2215}", "\u{2044}", "/./", "/?/", "%u2215",
        ];
        let ends = [
            "etc/passwd",
            "etc/shadow\0.png",
            "",
            "boot.ini",
            "proc/self/root",
        ];
        for up in ups {
            for slash in slashes {
                for end in ends {
                    for steps in 1..=12 {
                        for start in ["", "/", "/box/", "/box", "a/"] {
                            harmless(&format!(
                                "{start}{}{end}",
                                [up, slash].concat().repeat(steps)
                            ));
                        }
                    }
                }
            }
        }
    }

    /// What is read has only parts that lead down.
    fn harmless(path: &str) {
        let Ok(read) = parse(path) else { return };
        assert!(read.as_str().len() <= PATH_BYTES_MAX && !read.as_str().starts_with('/'));
        assert!(read.parts().count() <= PARTS_MAX);
        let joined: Vec<_> = read.parts().collect();
        assert_eq!(joined.join("/"), read.as_str());
        for part in joined {
            assert!(!matches!(part, "" | "." | ".."), "{path:?}");
            assert!(part.len() <= PART_BYTES_MAX && !part.contains(['\0', '/', '\\', '\n']));
        }
        assert_eq!(parse(read.as_str()), Ok(read.clone()));
        assert_eq!(parse(&format!("/box/{}", read.as_str())), Ok(read));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_written_leads_down_or_is_refused(
            any in ".{0,60}",
            pieces in proptest::collection::vec(
                proptest::sample::select(vec!["/", "/box", "box", "..", ".", "a", "\\", "\0", "é", "%2e", "\u{202e}"]), 0..24),
        ) {
            harmless(&any);
            harmless(&pieces.concat());
        }

        #[test]
        fn what_a_listing_shows_as_addressable_is_read_as_itself(
            names in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 1..40),
        ) {
            let mut at = WorkPath::default();
            for name in names {
                if let Some(below) = at.join(&name) {
                    prop_assert_eq!(parse(below.as_str()), Ok(below.clone()));
                    let (parent, leaf) = below.split().unwrap();
                    prop_assert_eq!((parent, leaf.as_bytes()), (at, name.as_slice()));
                    at = below;
                }
            }
        }
    }
}
