//! Users that the machine has promised to somebody else: the subordinate ranges of its accounts.

use std::fs::File;
use std::io::Read;

use rustix::fs::{Mode, OFlags};

use crate::grant::OsUser;

/// A list longer than this is not read to its end.
const BYTES_MAX: u64 = 1024 * 1024;

/// The accounts whose ranges hold a user that a tenant may get, with these ranges.
pub(crate) fn overlapping() -> Vec<String> {
    let mut text = String::new();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    if let Ok(file) = rustix::fs::open("/etc/subuid", flags, Mode::empty()) {
        // Where there is no list, nobody was promised anything.
        let _unread = File::from(file).take(BYTES_MAX).read_to_string(&mut text);
    }
    among(&text)
}

fn among(text: &str) -> Vec<String> {
    let overlap = |line: &str| {
        let mut parts = line.trim().split(':');
        let (account, first) = (parts.next()?, parts.next()?.parse::<u64>().ok()?);
        let count: u64 = parts.next()?.parse().ok()?;
        let users = OsUser::range();
        let end = first.saturating_add(count);
        let meets = first < u64::from(users.end) && end > u64::from(users.start);
        (count > 0 && meets).then(|| format!("{account} ({first} to {})", end - 1))
    };
    text.lines().filter_map(overlap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ranges_that_meet_the_tenants_are_told() {
        // As Debian gives them to the first four accounts.
        let text = "\
ann:100000:65536
ben:165536:65536
cleo:231072:65536
dora:296608:65536
# a comment: none
edge:199000:1000
past:300000:65536
empty:250000:0
odd:x:y
";
        assert_eq!(
            among(text),
            [
                "ben (165536 to 231071)",
                "cleo (231072 to 296607)",
                "dora (296608 to 362143)",
            ]
        );
        assert!(among("").is_empty());
    }
}
