//! The database engine: transactions, versions, damage, bounds.
#![expect(
    clippy::disallowed_methods,
    reason = "plants and reads files around the engine; a failure is a panic"
)]

mod support;

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use base::TenantUid;
use store::{Engine, EngineConfig, Schema, StoreError};

use crate::support::{
    A, Home, IDLE_MAX, NOTES, NOTES_2, OTHER, at, block_on, home, home_with, key,
};

#[test]
fn a_write_is_read_back_by_the_other_thread() {
    let home = home();
    let place = home.notes();
    assert_eq!(home.add(&place, "one"), Ok(1));
    assert_eq!(home.bodies(&place), Ok(vec!["one".to_owned()]));
    let read = block_on(async {
        let write = home.engine.write(&place, |tx| {
            tx.execute("INSERT INTO notes (body) VALUES ('two')", [])?;
            Ok(tx.last_insert_id())
        });
        assert_eq!(write.await, Ok(2));
        home.engine
            .read(&place, |tx| {
                tx.query_one("SELECT count(*) FROM notes", [], |row| {
                    Ok(row.get::<_, i64>(0)?)
                })
            })
            .await
    });
    assert_eq!(read, Ok(Some(2)));
}

#[test]
fn a_read_may_come_first() {
    let home = home();
    assert_eq!(home.bodies(&home.notes()), Ok(Vec::new()));
}

#[test]
fn data_outlives_the_engine_and_leaves_no_log() {
    let home = home();
    home.add(&home.notes(), "kept").unwrap();
    let Home { dir, path, engine } = home;
    drop(engine);
    assert!(!path.join("tenant.db-wal").exists());
    let engine = Engine::start(EngineConfig {
        writers: 1,
        readers: 1,
        open_max: 1,
        idle_max: IDLE_MAX,
    })
    .unwrap();
    let home = Home { dir, path, engine };
    let again = Arc::new(at(&home.path, A, key(1), &NOTES).existing());
    assert_eq!(home.bodies(&again), Ok(vec!["kept".to_owned()]));
}

#[test]
fn a_lost_or_emptied_database_is_damage_not_a_new_one() {
    let home = home();
    let existing = Arc::new(at(&home.path, A, key(1), &NOTES).existing());
    assert_eq!(home.bodies(&existing), Err(StoreError::Damaged));
    home.add(&home.notes(), "x").unwrap();
    block_on(home.engine.close(&home.notes())).unwrap();
    assert_eq!(home.add(&existing, "y"), Ok(1));
    block_on(home.engine.close(&existing)).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(home.file("tenant.db"))
        .unwrap()
        .set_len(0)
        .unwrap();
    assert_eq!(home.add(&existing, "z"), Err(StoreError::Damaged));
    assert_eq!(home.bodies(&existing), Err(StoreError::Damaged));
}

#[test]
fn flipped_bits_are_noticed_and_never_served() {
    let home = home();
    let place = home.notes();
    for _ in 0..200 {
        home.add(&place, &"body ".repeat(40)).unwrap();
    }
    block_on(home.engine.close(&place)).unwrap();
    let good = std::fs::read(home.file("tenant.db")).unwrap();
    // The first page is the key's test; the others carry rows.
    for at in (0..good.len()).step_by(4096).map(|page| page + 100) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(home.file("tenant.db"), &bad).unwrap();
        let read = home.bodies(&place);
        let noticed = matches!(read, Err(StoreError::Damaged | StoreError::WrongKey));
        // A page that this query does not need is not read.
        let unneeded = read.as_ref().is_ok_and(|rows| {
            rows.iter().all(|row| *row == "body ".repeat(40)) && rows.len() == 200
        });
        assert!(noticed || unneeded, "byte {at}: {read:?}");
        assert!(noticed || at > 4096, "byte {at}");
        block_on(home.engine.close(&place)).unwrap();
    }
    std::fs::write(home.file("tenant.db"), &good).unwrap();
    assert_eq!(home.bodies(&place).unwrap().len(), 200);
}

#[test]
fn migrations_run_forward_and_a_newer_database_is_refused() {
    let home = home();
    home.add(&home.notes(), "before").unwrap();
    block_on(home.engine.close(&home.notes())).unwrap();
    let newer = home.place(A, key(1), &NOTES_2);
    // The reader comes first and has the writer migrate.
    let author = home.engine.read_blocking(&newer, |tx| {
        tx.query_one("SELECT author FROM notes", [], |row| {
            Ok(row.get::<_, String>(0)?)
        })
    });
    assert_eq!(author, Ok(Some("nobody".to_owned())));
    block_on(home.engine.close(&newer)).unwrap();
    assert_eq!(home.add(&home.notes(), "x"), Err(StoreError::Schema));
    assert_eq!(home.bodies(&home.notes()), Err(StoreError::Schema));
    assert_eq!(
        home.bodies(&home.place(A, key(1), &OTHER)),
        Err(StoreError::Schema)
    );
}

#[test]
fn a_failed_migration_leaves_the_version_before_it() {
    static BROKEN: Schema = Schema {
        name: "notes",
        migrations: &[
            NOTES.migrations[0],
            "CREATE TABLE more (id INTEGER); SELECT nonsense",
        ],
    };
    let home = home();
    home.add(&home.notes(), "kept").unwrap();
    block_on(home.engine.close(&home.notes())).unwrap();
    let broken = home.place(A, key(1), &BROKEN);
    assert!(matches!(
        home.bodies(&broken),
        Err(StoreError::Query { .. })
    ));
    assert_eq!(home.bodies(&home.notes()), Ok(vec!["kept".to_owned()]));
    let tables = home.engine.read_blocking(&home.notes(), |tx| {
        tx.query_one(
            "SELECT count(*) FROM sqlite_schema WHERE name = 'more'",
            [],
            |row| Ok(row.get::<_, i64>(0)?),
        )
    });
    assert_eq!(tables, Ok(Some(0)));
}

#[test]
fn an_error_or_a_panic_rolls_back_and_the_thread_goes_on() {
    let home = home();
    let place = home.notes();
    let refused: Result<(), _> = home.engine.write_blocking(&place, |tx| {
        tx.execute("INSERT INTO notes (body) VALUES ('x')", [])?;
        Err(StoreError::Busy)
    });
    assert_eq!(refused, Err(StoreError::Busy));
    let panicked: Result<(), _> = home.engine.write_blocking(&place, |tx| {
        tx.execute("INSERT INTO notes (body) VALUES ('x')", [])?;
        panic!("a tenant's closure")
    });
    assert!(matches!(panicked, Err(StoreError::Query { .. })));
    assert_eq!(home.bodies(&place), Ok(Vec::new()));
    assert_eq!(home.add(&place, "after"), Ok(1));
}

#[test]
fn a_constraint_that_rolls_back_is_not_taken_for_a_commit() {
    let home = home();
    let place = home.notes();
    let swallowed = home.engine.write_blocking(&place, |tx| {
        tx.execute("INSERT INTO notes (id, body) VALUES (1, 'x')", [])?;
        drop(tx.execute(
            "INSERT OR ROLLBACK INTO notes (id, body) VALUES (1, 'y')",
            [],
        ));
        Ok(())
    });
    assert!(
        matches!(swallowed, Err(StoreError::Query { .. })),
        "{swallowed:?}"
    );
    assert_eq!(home.bodies(&place), Ok(Vec::new()));
}

#[test]
fn too_many_rows_are_an_error() {
    let home = home();
    let place = home.notes();
    for body in ["a", "b", "c"] {
        home.add(&place, body).unwrap();
    }
    let rows = |rows_max| {
        home.engine.read_blocking(&place, move |tx| {
            tx.query("SELECT body FROM notes", [], rows_max, |row| {
                Ok(row.get::<_, String>(0)?)
            })
        })
    };
    assert_eq!(rows(3).map(|all| all.len()), Ok(3));
    assert!(matches!(rows(2), Err(StoreError::Query { .. })));
}

#[test]
fn open_databases_are_bounded() {
    let home = home_with(EngineConfig {
        writers: 2,
        readers: 2,
        open_max: 4,
        idle_max: IDLE_MAX,
    });
    for number in 0..20_u8 {
        let folder = home.file(&format!("tenant-{number}"));
        std::fs::create_dir(&folder).unwrap();
        let uid = TenantUid::from_bytes([number; 16]);
        let place = Arc::new(at(&folder, uid, key(number), &NOTES));
        home.add(&place, "x").unwrap();
        home.bodies(&place).unwrap();
        assert!(home.engine.open_connections() <= 8);
    }
    assert_eq!(home.engine.open_connections(), 8);
    let first = Arc::new(
        at(
            &home.file("tenant-0"),
            TenantUid::from_bytes([0; 16]),
            key(0),
            &NOTES,
        )
        .existing(),
    );
    assert_eq!(home.bodies(&first), Ok(vec!["x".to_owned()]));
}

#[test]
fn a_database_that_nobody_uses_is_closed_and_opens_again() {
    let home = home_with(EngineConfig {
        writers: 1,
        readers: 1,
        open_max: 4,
        idle_max: Duration::from_millis(80),
    });
    let place = home.notes();
    home.add(&place, "x").unwrap();
    assert_eq!(home.engine.open_connections(), 1);
    for _ in 0..10 {
        // What is used stays open.
        assert_eq!(home.bodies(&place), Ok(vec!["x".to_owned()]));
        assert!(home.engine.open_connections() >= 1);
        std::thread::sleep(Duration::from_millis(10));
    }
    let closed = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        home.engine.open_connections() == 0
    });
    assert!(closed, "{} are open", home.engine.open_connections());
    assert_eq!(home.bodies(&place), Ok(vec!["x".to_owned()]));
}

#[test]
fn a_full_queue_refuses() {
    let home = home_with(EngineConfig {
        writers: 1,
        readers: 1,
        open_max: 1,
        idle_max: IDLE_MAX,
    });
    let place = home.notes();
    home.bodies(&place).unwrap();
    let (started, has_started) = sync_channel(1);
    let (release, released) = sync_channel::<()>(1);
    block_on(async {
        let first = home.engine.read(&place, move |_| {
            started.send(()).unwrap();
            released.recv().unwrap();
            Ok(())
        });
        has_started.recv().unwrap();
        let queued: Vec<_> = (0..1024)
            .map(|_| home.engine.read(&place, |_| Ok(())))
            .collect();
        assert_eq!(
            home.engine.read(&place, |_| Ok(())).await,
            Err(StoreError::Busy)
        );
        release.send(()).unwrap();
        assert_eq!(first.await, Ok(()));
        for read in queued {
            assert_eq!(read.await, Ok(()));
        }
        assert_eq!(home.engine.read(&place, |_| Ok(())).await, Ok(()));
    });
}

#[test]
fn a_write_whose_future_is_dropped_is_still_done() {
    let home = home();
    let place = home.notes();
    drop(home.engine.write(&place, |tx| {
        tx.execute("INSERT INTO notes (body) VALUES ('x')", [])
    }));
    // Queued behind it on the same thread.
    assert_eq!(home.add(&place, "y"), Ok(1));
    assert_eq!(
        home.bodies(&place),
        Ok(vec!["x".to_owned(), "y".to_owned()])
    );
}

#[test]
fn close_empties_the_log_on_every_thread() {
    let home = home();
    let place = home.notes();
    home.add(&place, "x").unwrap();
    home.bodies(&place).unwrap();
    assert_eq!(home.engine.open_connections(), 2);
    block_on(home.engine.close(&place)).unwrap();
    assert_eq!(home.engine.open_connections(), 0);
    assert!(!home.file("tenant.db-wal").exists());
    assert!(!home.file("tenant.db-shm").exists());
    home.engine.close_blocking(&place).unwrap();
}

#[test]
fn checkpoint_cuts_the_log_to_nothing() {
    let home = home();
    let place = Arc::new(at(&home.path, A, key(1), &NOTES).with_secure_delete());
    home.add(&place, "x").unwrap();
    home.bodies(&place).unwrap();
    assert!(std::fs::metadata(home.file("tenant.db-wal")).unwrap().len() > 0);
    home.engine.checkpoint_blocking(&place).unwrap();
    assert_eq!(
        std::fs::metadata(home.file("tenant.db-wal")).unwrap().len(),
        0
    );
    block_on(home.engine.checkpoint(&place)).unwrap();
    assert_eq!(home.bodies(&place), Ok(vec!["x".to_owned()]));
}

#[test]
fn settings_are_as_documented() {
    let home = home();
    home.add(&home.notes(), "x").unwrap();
    block_on(home.engine.close(&home.notes())).unwrap();
    let conn = rusqlite::Connection::open(home.file("tenant.db")).unwrap();
    conn.execute_batch(&format!("PRAGMA key = \"x'{}'\"", "01".repeat(32)))
        .unwrap();
    let text = |name: &str| {
        conn.query_row(&format!("PRAGMA {name}"), [], |row| {
            row.get::<_, rusqlite::types::Value>(0)
        })
        .unwrap()
    };
    assert_eq!(
        text("journal_mode"),
        rusqlite::types::Value::Text("wal".to_owned())
    );
    assert_eq!(text("auto_vacuum"), rusqlite::types::Value::Integer(2));
    assert_eq!(
        text("page_size"),
        rusqlite::types::Value::Text("4096".to_owned())
    );
    let version: String = conn
        .query_row("SELECT sqlite_version()", [], |row| row.get(0))
        .unwrap();
    let parts: Vec<u32> = version
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect();
    assert!(parts >= vec![3, 51, 3], "{version}");
}

#[test]
fn a_statement_that_runs_too_long_is_stopped() {
    let home = home();
    let place = home.notes();
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let begun = std::time::Instant::now();
    let read = home
        .engine
        .read_blocking(&place, |tx| tx.for_each(endless, [], |_| Ok(())));
    // Nobody's data is to blame: it may be tried again.
    assert_eq!(read, Err(StoreError::Busy));
    assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    assert_eq!(home.bodies(&place), Ok(Vec::new()));
}
