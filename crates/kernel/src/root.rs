//! The data directory: who holds it, what lies in it, how its files are reached.
//!
//! Everything below it is opened beneath one directory handle; nothing outside this file joins paths.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use base::TenantId;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, OpenOptions, OpenOptionsExt};
use rustix::fs::FlockOperation;
use vault::{MasterKey, Secret};

use crate::error::KernelError;

/// Topic directories of each tenant, created with it.
pub(crate) const TOPICS: [&str; 7] = [
    "sessions", "memory", "plugins", "sandbox", "cron", "channels", "audit",
];

/// Where the master key lies when no other place is configured.
pub const MASTER_KEY_FILE: &str = "master.key";

/// The data directory, locked by this process.
pub struct DataRoot {
    dir: Dir,
    path: PathBuf,
    /// Held for the life of the process: a second gateway or an offline command is refused by it.
    _lock: OwnedFd,
}

impl DataRoot {
    /// Creates the directory where it is missing, mode 0700.
    ///
    /// # Errors
    /// When it cannot be created or is open to others.
    pub fn create(path: &Path) -> Result<(), KernelError> {
        Dir::create_ambient_dir_all(path, ambient_authority())
            .map_err(|e| io_error(path, "create", &e))?;
        let dir = Dir::open_ambient_dir(path, ambient_authority())
            .map_err(|e| io_error(path, "open", &e))?;
        rustix::fs::chmodat(
            &dir,
            ".",
            rustix::fs::Mode::from_raw_mode(0o700),
            rustix::fs::AtFlags::empty(),
        )
        .map_err(|e| io_error(path, "protect", &e.into()))?;
        for name in ["tenants", "journal"] {
            if !dir.is_dir(name) {
                dir.create_dir_with(name, &private_dir())
                    .map_err(|e| io_error(path, "create", &e))?;
            }
        }
        Ok(())
    }

    /// Opens and locks the directory.
    ///
    /// # Errors
    /// [`KernelError::Root`] when it is missing, open to other users, or held by another process.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let dir = open_root(path).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                let shown = path.display();
                KernelError::Root(format!(
                    "no data directory at {shown}; run: partywall init --data {shown}"
                ))
            } else {
                io_error(path, "open", &e)
            }
        })?;
        let mode = rustix::fs::fstat(&dir)
            .map_err(|e| io_error(path, "inspect", &e.into()))?
            .st_mode;
        if mode & 0o077 != 0 {
            let shown = path.display();
            return Err(KernelError::Root(format!(
                "{shown} is open to other users; run: chmod 700 {shown}"
            )));
        }
        let resolved = rustix::fs::readlink(proc_path(&dir), Vec::new())
            .ok()
            .and_then(|text| text.into_string().ok())
            .map_or_else(|| path.to_owned(), PathBuf::from);
        let lock = lock(&dir, path)?;
        Ok(Self {
            dir,
            path: resolved,
            _lock: lock,
        })
    }

    /// Whether another process holds the directory at `path`.
    #[must_use]
    pub fn is_held(path: &Path) -> bool {
        let Ok(dir) = open_root(path) else {
            return false;
        };
        lock(&dir, path).is_err()
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Its resolved path, for the engine, which takes paths.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn sub(&self, name: &str) -> Result<Dir, KernelError> {
        open_sub(&self.dir, name).map_err(|e| io_error(&self.path.join(name), "open", &e))
    }

    pub(crate) fn tenant_dir(&self, id: &TenantId) -> Result<Dir, KernelError> {
        open_sub(&self.sub("tenants")?, id.as_str())
            .map_err(|e| io_error(&self.tenant_path(id), "open", &e))
    }

    pub(crate) fn tenant_path(&self, id: &TenantId) -> PathBuf {
        self.path.join("tenants").join(id.as_str())
    }

    /// A small private file, read whole; `None` when it does not exist.
    ///
    /// # Errors
    /// When it cannot be read, is larger than `max` or readable by others.
    pub fn read_private(&self, name: &str, max: usize) -> Result<Option<Vec<u8>>, KernelError> {
        let shown = self.path.join(name);
        let file = match self.dir.open(name) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(&shown, "open", &e)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| io_error(&shown, "inspect", &e.into()))?;
        if stat.st_mode & 0o077 != 0 {
            let shown = shown.display();
            return Err(KernelError::Root(format!(
                "{shown} is readable by other users; run: chmod 600 {shown}"
            )));
        }
        let mut bytes = Vec::new();
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(|e| io_error(&shown, "read", &e))?;
        if bytes.len() > max {
            return Err(KernelError::Root(format!(
                "{} is larger than {max} bytes",
                shown.display()
            )));
        }
        Ok(Some(bytes))
    }

    /// Writes a new private file (0600) and syncs it; refuses to replace one.
    ///
    /// # Errors
    /// When it exists or cannot be written.
    pub fn write_private_new(&self, name: &str, bytes: &[u8]) -> Result<(), KernelError> {
        let shown = self.path.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = self
            .dir
            .open_with(name, &options)
            .map_err(|e| io_error(&shown, "create", &e))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|e| io_error(&shown, "write", &e))?;
        sync_dir(&self.dir).map_err(|e| io_error(&self.path, "sync", &e))
    }

    /// The master key from its file in the data directory.
    ///
    /// # Errors
    /// When the file is missing, readable by others, or not a key.
    pub fn master_key(&self) -> Result<MasterKey, KernelError> {
        let missing = || {
            KernelError::Root(format!(
                "no {MASTER_KEY_FILE} in {}; restore it from your safe copy",
                self.path.display()
            ))
        };
        let bytes = self
            .read_private(MASTER_KEY_FILE, 4096)?
            .ok_or_else(missing)?;
        parse_master_key(bytes)
    }

    /// Makes a new master key and writes its file.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub fn new_master_key(&self) -> Result<(), KernelError> {
        let text = MasterKey::generate().to_hex();
        self.write_private_new(MASTER_KEY_FILE, text.as_bytes())
    }
}

/// A master key from the text of a file or variable: 64 hex digits.
///
/// # Errors
/// When the text is not that.
pub fn parse_master_key(mut bytes: Vec<u8>) -> Result<MasterKey, KernelError> {
    while bytes.last().is_some_and(u8::is_ascii_whitespace) {
        bytes.pop();
    }
    let malformed = || KernelError::Root("the master key is not 64 hexadecimal digits".to_owned());
    let secret = Secret::new(bytes).map_err(|_| malformed())?;
    MasterKey::from_hex_text(&secret).map_err(|_| malformed())
}

/// The data directory itself: the one place where an outside path is opened. A handle for reading, which can be synced and changed.
fn open_root(path: &Path) -> std::io::Result<Dir> {
    use rustix::fs::{Mode, OFlags};
    let handle = rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
        Mode::empty(),
    )?;
    Ok(Dir::from_std_file(handle.into()))
}

/// A direct subdirectory, never through a symbolic link: one tenant's name must not lead to another's directory.
pub(crate) fn open_sub(dir: &Dir, name: &str) -> std::io::Result<Dir> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    Ok(Dir::from_std_file(handle.into()))
}

pub(crate) fn private_dir() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

pub(crate) fn sync_dir(dir: &Dir) -> std::io::Result<()> {
    // A directory handle of cap-std may be O_PATH, which cannot be synced: open "." for reading.
    dir.open(".").and_then(|handle| handle.sync_all())
}

/// A handle of the directory for the engine, which syncs it. A handle of cap-std may be O_PATH, which cannot be synced.
pub(crate) fn syncable(dir: &Dir, shown: &Path) -> Result<OwnedFd, KernelError> {
    let handle = dir.open(".").map_err(|e| io_error(shown, "open", &e))?;
    Ok(handle.into_std().into())
}

pub(crate) fn io_error(path: &Path, verb: &str, error: &std::io::Error) -> KernelError {
    KernelError::Root(format!("cannot {verb} {}: {error}", path.display()))
}

fn proc_path(dir: &Dir) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", dir.as_raw_fd())
}

fn lock(dir: &Dir, path: &Path) -> Result<OwnedFd, KernelError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = dir
        .open_with("lock", &options)
        .map_err(|e| io_error(path, "lock", &e))?;
    let handle = OwnedFd::from(file.into_std());
    rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        KernelError::Root(format!(
            "{} is in use by a running gateway or command",
            path.display()
        ))
    })?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_nobody_else_may_look() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        assert!(
            matches!(DataRoot::open(&path), Err(KernelError::Root(text)) if text.contains("partywall init"))
        );
        DataRoot::create(&path).unwrap();
        let root = DataRoot::open(&path).unwrap();
        assert!(DataRoot::is_held(&path));
        assert!(
            matches!(DataRoot::open(&path), Err(KernelError::Root(text)) if text.contains("in use"))
        );
        root.write_private_new("a", b"secret").unwrap();
        assert!(root.write_private_new("a", b"again").is_err());
        assert_eq!(root.read_private("a", 6).unwrap().unwrap(), b"secret");
        assert!(root.read_private("a", 5).is_err());
        drop(root);
        assert!(!DataRoot::is_held(&path));
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        assert!(
            matches!(DataRoot::open(&path), Err(KernelError::Root(text)) if text.contains("chmod 700"))
        );
    }
}
