//! Removal of a directory that programs wrote in: as deep and as wide as they liked.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Removes `name` in `at` with everything below it, and follows no link. Absent is removed.
///
/// It neither descends nor holds a descriptor per level: what is deep is moved up to `name` first. Who made a tree of ten thousand
/// levels would otherwise end the process that removes it, and each one that goes on with that after a restart.
pub(crate) fn remove_tree(at: impl AsFd, name: &str) -> std::io::Result<()> {
    let top = match open(at.as_fd(), name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        // A file or a link stands there.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Ok(rustix::fs::unlinkat(&at, name, AtFlags::empty())?);
        }
        Err(error) => return Err(error.into()),
    };
    let mut moved = 0_u64;
    loop {
        let mut seen = false;
        each(&top, |name| {
            seen = true;
            empty_into(&top, name, &mut moved)
        })?;
        if !seen {
            break;
        }
    }
    Ok(rustix::fs::unlinkat(&at, name, AtFlags::REMOVEDIR)?)
}

/// Removes what stands under a name in `top`; the directories right below it are moved to `top` for a later turn.
fn empty_into(top: &OwnedFd, name: &CStr, moved: &mut u64) -> Result<(), Errno> {
    if !unlink(top, name)? {
        return Ok(());
    }
    let dir = open(top.as_fd(), name)?;
    each(&dir, |below| {
        if !unlink(&dir, below)? {
            return Ok(());
        }
        // To move a directory is to write in it.
        drop(open(dir.as_fd(), below)?);
        loop {
            *moved += 1;
            // A directory of that name may be the program's own.
            let place = format!("{moved:x}.moved");
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&dir, below, top, &place, flags) {
                Err(Errno::EXIST) => {}
                done => return done,
            }
        }
    })?;
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)
}

/// Removes a name that is no directory. Whether it is one.
fn unlink(dir: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::ISDIR) => Ok(true),
        Err(error) => Err(error),
    }
}

fn each(dir: &OwnedFd, mut visit: impl FnMut(&CStr) -> Result<(), Errno>) -> Result<(), Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            visit(entry.file_name())?;
        }
    }
    Ok(())
}

/// Opens a directory, and opens it to its owner: what is read-only is neither emptied nor moved where this process is not root.
fn open(at: BorrowedFd<'_>, name: impl rustix::path::Arg + Copy) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir = match rustix::fs::openat(at, name, flags, Mode::empty()) {
        // No link answers so. Should one take its place now, what it leads to is closed to others, no more.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(at, name, flags, Mode::empty())?
        }
        opened => opened?,
    };
    rustix::fs::fchmod(&dir, Mode::RWXU)?;
    Ok(dir)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test plants a tree")]
mod tests {
    use super::*;
    use rustix::fs::{mkdirat, open as open_path};

    #[test]
    fn a_tree_goes_however_deep_it_is_and_nothing_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let at = open_path(home.path(), flags, Mode::empty()).unwrap();
        mkdirat(&at, "tree", Mode::RWXU).unwrap();
        let mut here = open(at.as_fd(), "tree").unwrap();
        for level in 0..5_000 {
            mkdirat(&here, "d", Mode::RWXU).unwrap();
            mkdirat(&here, "1.moved", Mode::RWXU).unwrap();
            if level % 100 == 0 {
                rustix::fs::symlinkat(&outside, &here, "link").unwrap();
            }
            if level % 100 == 1 {
                mkdirat(&here, "closed", Mode::RWXU).unwrap();
                let closed = open(here.as_fd(), "closed").unwrap();
                mkdirat(&closed, "below", Mode::empty()).unwrap();
                mkdirat(&closed, "read-only", Mode::RUSR | Mode::XUSR).unwrap();
                rustix::fs::fchmod(&closed, Mode::RUSR).unwrap();
            }
            here = open(here.as_fd(), "d").unwrap();
        }
        remove_tree(&at, "tree").unwrap();
        remove_tree(&at, "tree").unwrap();
        assert!(!home.path().join("tree").exists());
        std::os::unix::fs::symlink(&outside, home.path().join("link")).unwrap();
        remove_tree(&at, "link").unwrap();
        assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "x");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
