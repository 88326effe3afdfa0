//! The walls around a database: files, keys, owners, and what a statement may do.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "plants and reads files around the engine; a failure is a panic"
)]

mod support;

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::Arc;

use store::{Place, StoreError};

use crate::support::{A, B, Home, NOTES, NOTES_2, block_on, home, key};

#[test]
fn nothing_readable_lies_in_any_file() {
    let home = home();
    let place = home.notes();
    let canary = "canary-7f3a91";
    home.add(&place, canary).unwrap();
    home.bodies(&place).unwrap();
    let mut seen = 0;
    for name in ["tenant.db", "tenant.db-wal"] {
        let bytes = std::fs::read(home.file(name)).unwrap();
        assert!(!bytes.is_empty(), "{name}");
        assert!(!bytes.starts_with(b"SQLite format 3"), "{name}");
        for plain in [canary.as_bytes(), b"CREATE TABLE", b"partywall_meta"] {
            assert!(
                !bytes.windows(plain.len()).any(|window| window == plain),
                "{name}"
            );
        }
        assert_eq!(
            std::fs::metadata(home.file(name)).unwrap().mode() & 0o777,
            0o600,
            "{name}"
        );
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn a_stock_connection_cannot_read_it() {
    let home = home();
    home.add(&home.notes(), "x").unwrap();
    block_on(home.engine.close(&home.notes())).unwrap();
    let stock = rusqlite::Connection::open(home.file("tenant.db")).unwrap();
    let count = stock.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    });
    assert!(count.is_err());
}

#[test]
fn another_key_is_refused_closed_or_open() {
    let home = home();
    home.add(&home.notes(), "x").unwrap();
    let wrong = home.place(A, key(2), &NOTES);
    // Open under the right key on both threads: knowing the name is not enough.
    home.bodies(&home.notes()).unwrap();
    assert_eq!(home.bodies(&wrong), Err(StoreError::WrongKey));
    assert_eq!(home.add(&wrong, "y"), Err(StoreError::WrongKey));
    block_on(home.engine.close(&home.notes())).unwrap();
    assert_eq!(home.bodies(&wrong), Err(StoreError::WrongKey));
    assert_eq!(home.add(&wrong, "y"), Err(StoreError::WrongKey));
    assert_eq!(home.bodies(&home.notes()), Ok(vec!["x".to_owned()]));
}

#[test]
fn another_tenants_database_is_refused_even_under_its_key() {
    let home = home();
    home.add(&home.notes(), "x").unwrap();
    block_on(home.engine.close(&home.notes())).unwrap();
    let foreign = home.place(B, key(1), &NOTES);
    assert_eq!(home.bodies(&foreign), Err(StoreError::Foreign));
    assert_eq!(home.add(&foreign, "y"), Err(StoreError::Foreign));
}

#[test]
fn a_deleted_tenants_database_put_back_under_its_name_does_not_open() {
    let home = home();
    home.add(&home.notes(), "old").unwrap();
    block_on(home.engine.close(&home.notes())).unwrap();
    let copy = std::fs::read(home.file("tenant.db")).unwrap();
    std::fs::remove_file(home.file("tenant.db")).unwrap();
    // The name is taken again: new uid, new key.
    let taken = home.place(B, key(9), &NOTES);
    home.add(&taken, "new").unwrap();
    block_on(home.engine.close(&taken)).unwrap();
    std::fs::write(home.file("tenant.db"), copy).unwrap();
    assert_eq!(home.bodies(&taken), Err(StoreError::WrongKey));
    assert_eq!(home.add(&taken, "y"), Err(StoreError::WrongKey));
}

fn plant(home: &Home, name: &str, how: &str) {
    let outside = home.file("outside");
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&outside)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"outside"))
        .unwrap();
    let name = home.file(name);
    match how {
        "symlink" => std::os::unix::fs::symlink(&outside, &name).unwrap(),
        "hard link" => std::fs::hard_link(&outside, &name).unwrap(),
        "directory" => std::fs::create_dir(&name).unwrap(),
        "open mode" => {
            std::fs::copy(&outside, &name).unwrap();
            std::fs::set_permissions(&name, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        _ => panic!("{how}"),
    }
}

#[test]
fn planted_files_are_refused_and_untouched() {
    for name in [
        "tenant.db",
        "tenant.db-wal",
        "tenant.db-shm",
        "tenant.db-journal",
    ] {
        for how in ["symlink", "hard link", "directory", "open mode"] {
            let home = home();
            plant(&home, name, how);
            assert_eq!(
                home.add(&home.notes(), "x"),
                Err(StoreError::Foreign),
                "{how} at {name}"
            );
            assert_eq!(
                home.bodies(&home.notes()),
                Err(StoreError::Foreign),
                "{how} at {name}"
            );
            assert_eq!(std::fs::read(home.file("outside")).unwrap(), b"outside");
        }
    }
}

#[test]
fn a_dangling_symlink_makes_no_file_elsewhere() {
    let home = home();
    std::os::unix::fs::symlink(home.file("made"), home.file("tenant.db")).unwrap();
    assert_eq!(home.add(&home.notes(), "x"), Err(StoreError::Foreign));
    assert!(!home.file("made").exists());
}

#[test]
fn a_handle_and_a_path_that_differ_are_refused() {
    let (home, other) = (home(), home());
    let dir = OwnedFd::from(std::fs::File::open(&home.path).unwrap());
    let place = Place::new(dir, other.path.clone(), "tenant.db", key(1), A, &NOTES);
    assert_eq!(home.add(&Arc::new(place), "x"), Err(StoreError::Foreign));
    let link = other.path.join("link");
    std::os::unix::fs::symlink(&home.path, &link).unwrap();
    let dir = OwnedFd::from(std::fs::File::open(&home.path).unwrap());
    let place = Place::new(dir, link, "tenant.db", key(1), A, &NOTES);
    assert_eq!(home.add(&Arc::new(place), "x"), Err(StoreError::Foreign));
}

/// Statements that must fail in a read and in a write transaction.
const FORBIDDEN: &[&str] = &[
    "ATTACH DATABASE 'PATH/outside.db' AS other",
    "ATTACH DATABASE ':memory:' AS other KEY ''",
    "DETACH DATABASE main",
    "PRAGMA key = 'x'",
    "PRAGMA rekey = 'x'",
    "PRAGMA query_only = OFF",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA trusted_schema = ON",
    "PRAGMA writable_schema = ON",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA synchronous = OFF",
    "PRAGMA user_version",
    "PRAGMA data_version = 3",
    "PRAGMA cipher_settings",
    "PRAGMA temp_store_directory = '/tmp'",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_table_info('notes')",
    "SELECT load_extension('PATH/evil.so')",
    "SELECT sqlcipher_export('main')",
    "SELECT fts3_tokenizer('simple')",
    "VACUUM",
    "VACUUM INTO 'PATH/outside.db'",
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT s",
    "CREATE TABLE t (x)",
    "CREATE TEMP TABLE t (x)",
    "CREATE TEMP TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes; END",
    "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes; END",
    "CREATE VIEW v AS SELECT 1",
    "CREATE TEMP VIEW v AS SELECT 1",
    "CREATE INDEX i ON notes(body)",
    "CREATE VIRTUAL TABLE v USING fts5(x)",
    "DROP TABLE notes",
    "ALTER TABLE notes ADD COLUMN x",
    "ANALYZE",
    "REINDEX",
    "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x (y)')",
    "UPDATE sqlite_schema SET sql = ''",
    "UPDATE main.sqlite_master SET sql = ''",
    "DELETE FROM sqlite_schema",
    "UPDATE partywall_meta SET value = 9",
    "DELETE FROM partywall_meta",
    "INSERT INTO Partywall_Meta VALUES ('a', 'b')",
    "SELECT 1; SELECT 2",
    "INSERT INTO notes (body) VALUES (\"text in double quotes\")",
];

#[test]
fn forbidden_statements_fail_and_harm_nothing() {
    let home = home();
    let place = home.notes();
    home.add(&place, "kept").unwrap();
    for text in FORBIDDEN {
        let sql = text.replace("PATH", home.path.to_str().unwrap());
        let (reading, writing) = (sql.clone(), sql);
        let read = home
            .engine
            .read_blocking(&place, move |tx| tx.for_each(&reading, [], |_| Ok(())));
        assert!(
            matches!(read, Err(StoreError::Query { .. })),
            "read: {text}: {read:?}"
        );
        let write = home.engine.write_blocking(&place, move |tx| {
            // By both doors of a write transaction.
            let queried = tx.for_each(&writing, [], |_| Ok(()));
            tx.execute(&writing, []).and(queried)
        });
        assert!(
            matches!(write, Err(StoreError::Query { .. })),
            "write: {text}: {write:?}"
        );
        assert_eq!(home.bodies(&place), Ok(vec!["kept".to_owned()]), "{text}");
    }
    assert!(!home.file("outside.db").exists());
    assert_eq!(home.add(&place, "works"), Ok(1));
}

#[test]
fn a_read_transaction_cannot_write() {
    let home = home();
    let place = home.notes();
    home.add(&place, "kept").unwrap();
    for sql in [
        "INSERT INTO notes (body) VALUES ('x')",
        "UPDATE notes SET body = 'x'",
        "DELETE FROM notes",
        "INSERT INTO notes (body) VALUES ('x') RETURNING id",
    ] {
        let read = home
            .engine
            .read_blocking(&place, |tx| tx.for_each(sql, [], |_| Ok(())));
        assert!(
            matches!(read, Err(StoreError::Query { .. })),
            "{sql}: {read:?}"
        );
    }
    assert_eq!(home.bodies(&place), Ok(vec!["kept".to_owned()]));
}

#[test]
fn full_text_search_works_inside_the_walls() {
    let home = home();
    let place = home.place(A, key(1), &NOTES_2);
    home.engine
        .write_blocking(&place, |tx| {
            tx.execute(
                "INSERT INTO found (body) VALUES ('a quick fox'), ('a slow dog')",
                [],
            )
        })
        .unwrap();
    let hits = home.engine.read_blocking(&place, |tx| {
        tx.query(
            "SELECT body FROM found WHERE found MATCH ?1",
            ["fox"],
            9,
            |row| Ok(row.get::<_, String>(0)?),
        )
    });
    assert_eq!(hits, Ok(vec!["a quick fox".to_owned()]));
    // The tables behind the index are not for direct writing.
    let write = home
        .engine
        .write_blocking(&place, |tx| tx.execute("DELETE FROM found_data", []));
    assert!(matches!(write, Err(StoreError::Query { .. })), "{write:?}");
}
