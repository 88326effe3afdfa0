//! The first backend: bubblewrap, without privileges of its own.

pub(crate) mod argv;
pub(crate) mod lint;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use crate::start;

/// Where distributions install it. The search path is not asked: who sets it would choose the program.
const PATHS: [&str; 2] = ["/usr/bin/bwrap", "/usr/local/bin/bwrap"];
/// First version with several filters and with namespaces of users switched off inside.
const VERSION_MIN: (u32, u32) = (0, 8);

/// A bubblewrap that may be used.
#[derive(Clone, Debug)]
pub(crate) struct Bubblewrap {
    pub(crate) path: &'static str,
    pub(crate) version: String,
}

/// Looks for the program and at its rights and version; says what is wrong otherwise.
pub(crate) fn find() -> Result<Bubblewrap, String> {
    let there = |path: &&'static str| rustix::fs::stat(*path).is_ok();
    let path = PATHS
        .iter()
        .copied()
        .find(|path| there(path))
        .ok_or("bubblewrap is not installed (Debian and Ubuntu: apt-get install bubblewrap)")?;
    rights(path)?;
    let said =
        start::version(path).map_err(|error| format!("{path} --version cannot be run: {error}"))?;
    let version = said.trim().strip_prefix("bubblewrap ").unwrap_or_default();
    if number(version).is_none_or(|version| version < VERSION_MIN) {
        return Err(format!("{path} is {said:?}; 0.8 or newer is needed"));
    }
    Ok(Bubblewrap {
        path,
        version: version.to_owned(),
    })
}

/// A program that runs with its owner's rights gives them to whoever finds a hole in it (CVE-2026-41163); one that others may
/// write is not the program that it was.
fn rights(path: &str) -> Result<(), String> {
    let stat = rustix::fs::stat(path).map_err(|error| format!("{path}: {error}"))?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(format!("{path} is no file"));
    }
    if mode.intersects(Mode::SUID | Mode::SGID) {
        return Err(format!(
            "{path} is setuid: take that from it (chmod u-s,g-s {path})"
        ));
    }
    if stat.st_uid != 0 || mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err(format!("{path} can be written by others than root"));
    }
    match rustix::fs::getxattr_query(path, "security.capability") {
        Ok(0) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        _ => Err(format!(
            "{path} has capabilities of its own: take them from it (setcap -r {path})"
        )),
    }
}

fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(number("0.8.0").unwrap() >= VERSION_MIN);
        assert!(number("0.11").unwrap() >= VERSION_MIN);
        assert!(number("0.4.1").unwrap() < VERSION_MIN);
        assert_eq!(number("now"), None);
    }

    #[test]
    fn a_program_with_rights_of_its_own_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bwrap");
        let path = path.to_str().unwrap();
        for (mode, held) in [
            (0o755, true),
            (0o4755, false),
            (0o2755, false),
            (0o757, false),
            (0o775, false),
        ] {
            let file = std::fs::OpenOptions::new();
            let file = make(file, path);
            file.set_permissions(std::fs::Permissions::from_mode(mode))
                .unwrap();
            assert_eq!(rights(path).is_ok(), held, "{mode:o}");
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a file of a test")]
    fn make(mut options: std::fs::OpenOptions, path: &str) -> std::fs::File {
        options.create(true).append(true).open(path).unwrap()
    }
}
