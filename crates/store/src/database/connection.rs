//! Opening one database: the file, the key, the settings, the owner, the version.

use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use zeroize::Zeroizing;

use crate::database::guard::{Guard, META};
use crate::database::place::Place;
use crate::error::StoreError;

/// What the thread that opens a database may do with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// One open database. Stays on the thread that opened it.
pub(super) struct Open {
    pub(super) conn: Connection,
    pub(super) guard: Guard,
    pub(super) place: Arc<Place>,
}

/// Why a reader could not open a database.
pub(super) enum NotOpen {
    /// It has still to be made or migrated, which only a writer does.
    NeedsWriter,
    Failed(StoreError),
}

// Pages of one connection kept decrypted.
const CACHE_KIB: u32 = 1024;
// The log is cut back to this after a checkpoint, so that one large write does not keep the space.
const WAL_BYTES: u32 = 4 * 1024 * 1024;
// One writer per database: a lock is only ever held for a checkpoint or a recovery.
const LOCK_WAIT: Duration = Duration::from_secs(2);
// Compiled statements kept per connection.
const STATEMENTS: usize = 64;
// One text or blob, and one row.
const VALUE_BYTES: i32 = 64 * 1024 * 1024;
const SQL_BYTES: i32 = 1024 * 1024;

impl Open {
    /// Opens for reading and writing; makes and migrates the database where that is due.
    pub(super) fn writer(place: &Arc<Place>) -> Result<Self, StoreError> {
        // No other connection writes now, so that the log stands still.
        place.check_log()?;
        let mut open = Self::raw(place, Access::Write)?;
        let version = open.claim()?;
        open.migrate(version)?;
        // What a crash tore off the log's end is not to be found behind later commits. A reader in the way leaves it for later.
        let _readers_may_be_in_the_way = open.checkpoint();
        Ok(open)
    }

    /// Opens for reading only.
    pub(super) fn reader(place: &Arc<Place>) -> Result<Self, NotOpen> {
        if place
            .find()
            .map_err(NotOpen::Failed)?
            .is_none_or(|found| found.len == 0)
        {
            return Err(NotOpen::NeedsWriter);
        }
        let open = Self::raw(place, Access::Read).map_err(NotOpen::Failed)?;
        match open.version().map_err(NotOpen::Failed)? {
            Some(version) if version == place.schema.migrations.len() => Ok(open),
            _ => Err(NotOpen::NeedsWriter),
        }
    }

    /// Closes, and leaves file and log as they are.
    pub(super) fn abandon(self) {
        // Where this fails the log is moved into the file, which changes what is read of neither.
        let _best_effort = self
            .conn
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        drop(self.conn.close());
    }

    /// Looks at every page in use.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let found: String = self
            .conn
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found == "ok" {
            Ok(())
        } else {
            Err(StoreError::Damaged)
        }
    }

    /// Moves the log into the database and cuts it to nothing, on the disk as well: what it held does not come back.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        let pragma = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy: i64 = self.conn.query_row(pragma, [], |row| row.get(0))?;
        if busy == 0 {
            // SQLite cuts the log and does not sync it: after a power cut the old length and the old pages may be back.
            self.place.sync_log()
        } else {
            Err(StoreError::Busy)
        }
    }

    fn raw(place: &Arc<Place>, access: Access) -> Result<Self, StoreError> {
        let before = match place.find()? {
            Some(found) => found,
            None => place.create()?,
        };
        let rights = match access {
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        // NO_MUTEX: a connection stays on one thread.
        let flags = rights | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let mut conn = Connection::open_with_flags(place.path(), flags)?;
        configure(&mut conn, place, access)?;
        // The name must still lead to the file it led to before, also now that it is open.
        match place.find()? {
            Some(after) if after.is_same_file(&before) => {}
            _ => return Err(StoreError::Foreign),
        }
        let guard = Guard::install(&mut conn)?;
        Ok(Self {
            conn,
            guard,
            place: Arc::clone(place),
        })
    }

    // Writes owner and kind into a new database, or checks those of an old one.
    fn claim(&mut self) -> Result<usize, StoreError> {
        if let Some(version) = self.version()? {
            return Ok(version);
        }
        let tables: i64 = self
            .conn
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables != 0 {
            return Err(StoreError::Foreign);
        }
        let tx = self.conn.transaction()?;
        tx.execute_batch(&format!(
            "CREATE TABLE {META} (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID"
        ))?;
        let mut insert =
            tx.prepare(&format!("INSERT INTO {META} (name, value) VALUES (?1, ?2)"))?;
        insert.execute(("uid", self.place.uid.as_bytes()))?;
        insert.execute(("schema", self.place.schema.name))?;
        insert.execute(("version", 0))?;
        drop(insert);
        tx.commit()?;
        Ok(0)
    }

    // The version of a claimed database; `None` before it is claimed.
    fn version(&self) -> Result<Option<usize>, StoreError> {
        let exists = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
        if self
            .conn
            .query_row(exists, [META], |_| Ok(()))
            .optional()?
            .is_none()
        {
            return Ok(None);
        }
        let value = format!("SELECT value FROM {META} WHERE name = ?1");
        let uid: Option<Vec<u8>> = self
            .conn
            .query_row(&value, ["uid"], |row| row.get(0))
            .optional()?;
        if uid.as_deref() != Some(self.place.uid.as_bytes()) {
            return Err(StoreError::Foreign);
        }
        let schema: String = self.conn.query_row(&value, ["schema"], |row| row.get(0))?;
        let version: i64 = self.conn.query_row(&value, ["version"], |row| row.get(0))?;
        match usize::try_from(version) {
            Ok(version)
                if schema == self.place.schema.name
                    && version <= self.place.schema.migrations.len() =>
            {
                Ok(Some(version))
            }
            _ => Err(StoreError::Schema),
        }
    }

    fn migrate(&mut self, from: usize) -> Result<(), StoreError> {
        for (index, migration) in self.place.schema.migrations.iter().enumerate().skip(from) {
            let tx = self.conn.transaction()?;
            tx.execute_batch(migration)?;
            let version = i64::try_from(index + 1).map_err(|_| StoreError::Schema)?;
            tx.execute(
                &format!("UPDATE {META} SET value = ?1 WHERE name = 'version'"),
                [version],
            )?;
            tx.commit()?;
        }
        Ok(())
    }
}

fn configure(conn: &mut Connection, place: &Place, access: Access) -> Result<(), StoreError> {
    conn.busy_timeout(LOCK_WAIT)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    unlock(conn, place)?;
    harden(conn)?;
    let pragmas = format!(
        "PRAGMA mmap_size = 0;
         PRAGMA cache_size = -{CACHE_KIB};
         PRAGMA temp_store = MEMORY;
         PRAGMA cell_size_check = ON;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;"
    );
    conn.execute_batch(&pragmas)?;
    match access {
        Access::Read => {
            // The writer checkpoints, nobody else.
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            conn.execute_batch("PRAGMA query_only = ON; PRAGMA synchronous = NORMAL;")?;
        }
        Access::Write => {
            if conn.is_readonly("main")? {
                return Err(StoreError::Busy);
            }
            // Before the first table. VACUUM needs ATTACH, which is off.
            // It writes to a database that is there already, and so tells whether that can be done.
            conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL;")
                .map_err(for_writing)?;
            let wal: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
            if !wal.eq_ignore_ascii_case("wal") {
                return Err(StoreError::Io);
            }
            conn.execute_batch(&format!(
                "PRAGMA journal_size_limit = {WAL_BYTES}; PRAGMA synchronous = FULL;"
            ))?;
            if place.secure_delete {
                conn.execute_batch("PRAGMA secure_delete = ON;")?;
            }
        }
    }
    Ok(())
}

// The engine opens for reading what it cannot open for writing, the log too, also where only a descriptor was lacking.
fn for_writing(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly) => StoreError::Busy,
        _ => error.into(),
    }
}

/// The cipher library sets itself up at its first key. Two threads that come first at the same time can make one of them fail, so
/// the first key of the process is given alone, to a database in memory.
fn start_cipher() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        if let Ok(conn) = Connection::open_in_memory() {
            let key =
                "PRAGMA cipher_log_level = NONE; PRAGMA key = 'start'; CREATE TABLE started (x);";
            // If it fails, so does the first real key, which says why.
            let _the_first_key_tells = conn.execute_batch(key);
        }
    });
}

/// How often a key is given when the cipher's context cannot be made, and how long it rests in between.
const KEY_TRIES: u32 = 3;
const KEY_PAUSE: Duration = Duration::from_millis(10);

// The key before everything else, then the shape of a new file, then the first read, which fails
// with any other key.
fn unlock(conn: &Connection, place: &Place) -> Result<(), StoreError> {
    start_cipher();
    // The cipher's own log would write to stderr, around the gateway's.
    conn.execute_batch("PRAGMA cipher_log_level = NONE;")?;
    let digits = Zeroizing::new(hex::encode(place.key.expose()));
    // A raw key: a passphrase would cost 200 ms at every open. With room for the whole text, so
    // that no reallocation leaves a copy behind.
    let mut pragma = Zeroizing::new(String::with_capacity(128));
    pragma.push_str("PRAGMA key = \"x'");
    pragma.push_str(&digits);
    pragma.push_str("'\";");
    let mut keyed = conn.execute_batch(&pragma);
    for _ in 1..KEY_TRIES {
        if keyed.is_ok() {
            break;
        }
        std::thread::sleep(KEY_PAUSE);
        keyed = conn.execute_batch(&pragma);
    }
    // The cipher's context could not be made: nothing was said about the file.
    keyed.map_err(|_| StoreError::Busy)?;
    // Memory security stays off: locking and wiping every page costs a third of the speed, and the
    // process is not dumpable anyway.
    conn.execute_batch(
        "PRAGMA cipher_memory_security = OFF;
         PRAGMA cipher_page_size = 4096;",
    )?;
    match conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())) {
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
            Err(StoreError::WrongKey)
        }
        other => Ok(other?),
    }
}

fn harden(conn: &Connection) -> Result<(), StoreError> {
    for (option, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
    ] {
        conn.set_db_config(option, on)?;
    }
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    conn.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES)?;
    conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES)?;
    Ok(())
}
