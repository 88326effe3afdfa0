//! Removes what earlier starts left in the place of the runtimes: those of programs and libraries that the machine has no
//! longer, and what a killed process had not finished.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, FlockOperation};
use rustix::io::Errno;

use super::install::remove;
use super::{BESIDE, NAME, fresh_dir, open_dir};

/// Directories that one start removes at most: each has thousands of files.
const REMOVED_MAX: usize = 8;
/// Names of the place that one start looks at.
const NAMES_MAX: usize = 1_000;
/// What is not whole is somebody's who works on it at this moment, unless it is older than this.
const UNFINISHED: Duration = Duration::from_secs(60 * 60);

/// Removes all runtimes but `current` that nobody uses, and what is left of unfinished ones. As far as that goes: what cannot
/// be removed costs room, and nothing else.
pub(super) fn remove_others(place: BorrowedFd<'_>, current: &str) {
    let Ok(entries) = Dir::read_from(place) else {
        return;
    };
    let names = entries.flatten().take(NAMES_MAX);
    let names: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let others = names.iter().filter(|name| *name != current);
    let mut removed = 0;
    for name in others {
        let gone = if is_runtime(name) {
            retire(place, name).is_ok()
        } else if is_unfinished(place, name) {
            remove(place, name);
            true
        } else {
            false
        };
        removed += usize::from(gone);
        if removed == REMOVED_MAX {
            return;
        }
    }
}

/// Removes a runtime that nobody has marked as used. Under another name: half of one must not be taken for a whole.
fn retire(place: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let directory = open_dir(place, name)?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    let (beside, _) = fresh_dir(place, BESIDE)?;
    let renamed = rustix::fs::renameat(place, name, place, beside.as_str());
    remove(place, &beside);
    renamed
}

fn is_runtime(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|digits| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        digits.len() == 16 && digits.bytes().all(is_digit)
    })
}

/// Whether it has a name as [`fresh_dir`] gives, and is old.
fn is_unfinished(place: BorrowedFd<'_>, name: &str) -> bool {
    let numbers = |rest: &str| {
        rest.split('-').count() == 2
            && rest
                .split('-')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let ours = [BESIDE, "selftest"].iter().any(|what| {
        let rest = name.strip_prefix(what);
        rest.and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(numbers)
    });
    ours && open_dir(place, name).is_ok_and(|directory| is_old(directory.as_fd()))
}

fn is_old(directory: BorrowedFd<'_>) -> bool {
    #[expect(
        clippy::disallowed_methods,
        reason = "the age of a directory, by the clock that its time was taken from"
    )]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let (Ok(now), Ok(stat)) = (now, rustix::fs::fstat(directory)) else {
        return false;
    };
    let written = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    now.checked_sub(written).is_some_and(|age| age > UNFINISHED)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "directories of tests")]
mod tests {
    use super::*;
    use std::fs;

    fn there(place: &std::path::Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_runtimes_that_nobody_uses_are_removed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), b"x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [
            "runtime-0000000000000001",
            "runtime-0000000000000002",
            "runtime-00000000000000ff",
            "runtime-other",
            "runtime-0000000000000001-kept",
            "building-1-0",
            "building-2-0",
            "building-2-0-kept",
            "tenants",
        ] {
            fs::create_dir_all(at(name).join("usr/lib")).unwrap();
            fs::write(at(name).join("usr/lib/file"), b"x").unwrap();
            std::os::unix::fs::symlink(outside.path(), at(name).join("usr/out")).unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), at("runtime-0000000000000003")).unwrap();
        let old = SystemTime::now() - UNFINISHED * 2;
        for name in ["building-2-0", "building-2-0-kept", "tenants"] {
            fs::File::open(at(name)).unwrap().set_modified(old).unwrap();
        }
        let place = fs::File::open(dir.path()).unwrap();
        let used = super::super::take(place.as_fd(), "runtime-0000000000000002").unwrap();
        remove_others(place.as_fd(), "runtime-00000000000000ff");
        let mut kept = vec![
            "building-1-0",
            "building-2-0-kept",
            "runtime-0000000000000001-kept",
            "runtime-0000000000000002",
            "runtime-0000000000000003",
            "runtime-00000000000000ff",
            "runtime-other",
            "tenants",
        ];
        assert_eq!(there(dir.path()), kept);
        assert!(at("runtime-0000000000000002/usr/lib/file").exists());
        drop(used);
        remove_others(place.as_fd(), "runtime-00000000000000ff");
        kept.retain(|name| *name != "runtime-0000000000000002");
        assert_eq!(there(dir.path()), kept);
        assert!(outside.path().join("precious").exists());
    }
}
