//! A directory, an engine, and a small schema.
#![expect(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![expect(
    clippy::unwrap_used,
    reason = "opens the directory of a test; a failure is a panic"
)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::TenantUid;
use rustix::fs::{Mode, OFlags};
use store::sql::params;
use store::{Engine, EngineConfig, Place, Schema, StoreError};
use vault::Key;

pub static NOTES: Schema = Schema {
    name: "notes",
    migrations: &["CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT"],
};
pub static NOTES_2: Schema = Schema {
    name: "notes",
    migrations: &[
        NOTES.migrations[0],
        "ALTER TABLE notes ADD COLUMN author TEXT; UPDATE notes SET author = 'nobody'",
        "CREATE VIRTUAL TABLE found USING fts5(body)",
    ],
};
pub static OTHER: Schema = Schema {
    name: "other",
    migrations: NOTES.migrations,
};

pub const A: TenantUid = TenantUid::from_bytes([0xa; 16]);
pub const B: TenantUid = TenantUid::from_bytes([0xb; 16]);

pub struct Home {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
    pub engine: Engine,
}

/// Longer than any test.
pub const IDLE_MAX: Duration = Duration::from_secs(3_600);

pub fn home() -> Home {
    home_with(EngineConfig {
        writers: 2,
        readers: 2,
        open_max: 8,
        idle_max: IDLE_MAX,
    })
}

pub fn home_with(config: EngineConfig) -> Home {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    Home {
        dir,
        path,
        engine: Engine::start(config).unwrap(),
    }
}

pub fn key(byte: u8) -> Arc<Key> {
    Arc::new(Key::from_bytes([byte; 32]))
}

/// A handle that only names the directory, as those of capability libraries are.
pub fn handle(folder: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty()).unwrap()
}

pub fn at(folder: &Path, uid: TenantUid, key: Arc<Key>, schema: &'static Schema) -> Place {
    Place::new(
        handle(folder),
        folder.to_owned(),
        "tenant.db",
        key,
        uid,
        schema,
    )
}

impl Home {
    pub fn place(&self, uid: TenantUid, key: Arc<Key>, schema: &'static Schema) -> Arc<Place> {
        Arc::new(at(&self.path, uid, key, schema))
    }

    pub fn notes(&self) -> Arc<Place> {
        self.place(A, key(1), &NOTES)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn add(&self, place: &Arc<Place>, body: &str) -> Result<usize, StoreError> {
        let body = body.to_owned();
        self.engine.write_blocking(place, move |tx| {
            tx.execute("INSERT INTO notes (body) VALUES (?1)", params![body])
        })
    }

    pub fn bodies(&self, place: &Arc<Place>) -> Result<Vec<String>, StoreError> {
        self.engine.read_blocking(place, |tx| {
            tx.query("SELECT body FROM notes ORDER BY id", [], 1000, |row| {
                Ok(row.get(0)?)
            })
        })
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}
