//! What a tenant's directory takes on disk. Measured at opening, when somebody asks, and every ten seconds where it is limited.

use cap_std::fs::{Dir, DirEntry};
use std::io;

use super::Quota;
use crate::open::Kernel;
use crate::resident::Resident;
use crate::tenant::Tenant;

/// Entries that one measurement looks at; what is behind them counts with the next one that finds fewer.
const ENTRIES_MAX: usize = 200_000;
const DEPTH_MAX: usize = 32;

/// Bytes of a tenant's directory by what they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// The database, with what waits to be merged into it.
    pub database: u64,
    /// Everything that is none of the others.
    pub files: u64,
    /// The cache.
    pub cache: u64,
    /// Logs and exported audit records.
    pub logs: u64,
}

impl Stored {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.database, self.files, self.cache, self.logs]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    fn part(&mut self, name: &str) -> &mut u64 {
        match name {
            _ if name.starts_with("tenant.db") => &mut self.database,
            "cache" => &mut self.cache,
            "audit" | "logs" => &mut self.logs,
            _ => &mut self.files,
        }
    }
}

fn measure(dir: &Dir) -> io::Result<Stored> {
    let mut stored = Stored::default();
    let mut budget = ENTRIES_MAX;
    for entry in dir.entries()? {
        let entry = entry?;
        if is_operators(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let bytes = weight(&entry, &mut budget, DEPTH_MAX)?;
        let part = stored.part(&entry.file_name().to_string_lossy());
        *part = part.saturating_add(bytes);
    }
    Ok(stored)
}

/// Copies and evidence of the database are kept for the operator: no tenant pays for them.
fn is_operators(name: &str) -> bool {
    name.starts_with("tenant.db.")
}

/// The bytes of a file, or of all files below a directory. Links are not followed.
fn weight(entry: &DirEntry, budget: &mut usize, depth: usize) -> io::Result<u64> {
    if *budget == 0 || depth == 0 {
        return Ok(0);
    }
    *budget -= 1;
    let meta = match entry.metadata() {
        Ok(meta) => meta,
        // It was deleted since the directory was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut sum = 0_u64;
    for inner in entry.open_dir()?.entries()? {
        sum = sum.saturating_add(weight(&inner?, budget, depth - 1)?);
    }
    Ok(sum)
}

impl Kernel {
    /// Measures one tenant. What cannot be measured leaves the last measurement in force.
    pub(crate) async fn measure_storage(&self, resident: &Resident) -> Option<Stored> {
        let dir = self.root().tenant_dir(&resident.id).ok()?;
        let before = resident.books().unwritten();
        let read = if self.ground().stage().is_some() {
            measure(&dir)
        } else {
            // A directory may be large: those that serve do not wait for it.
            let read = tokio::task::spawn_blocking(move || measure(&dir)).await;
            read.ok()?
        };
        let stored = read.ok()?;
        let mut books = resident.books();
        // Records that are folded while the directory is read count twice until the next measurement, never not at all.
        let records = before.max(books.unwritten());
        books.counters.measured(stored.total(), records);
        Some(stored)
    }

    /// Measures the tenants that are open and whose storage is limited.
    pub(crate) async fn measure_limited(&self) {
        for resident in self.directory().all() {
            let limit = resident.limits.load().for_all.tenant;
            let limited = limit.limit(Quota::StorageBytes).is_some();
            if limited && resident.loaded.get().is_some() {
                self.measure_storage(&resident).await;
            }
        }
    }
}

impl Tenant {
    /// What the tenant's directory takes now; `None` when it cannot be read.
    pub async fn stored(&self) -> Option<Stored> {
        self.kernel().measure_storage(self.resident()).await
    }
}
