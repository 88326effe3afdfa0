//! Conversations of somebody who is forgotten.

use base::Role;

use super::*;
use crate::tokens::NewToken;

/// What stands in every text of a conversation of hers.
const SECRET: &str = "Ann-said-so";
/// Tables with texts of conversations.
const TABLES: [&str; 6] = [
    "session",
    "message",
    "run",
    "tool_call",
    "session_event",
    "summary",
];

/// Lays conversations: two each of a person, of another whose name begins the same, and of a token of the person's name, by its name and
/// by its credential. The last of each has a run that is under way.
async fn converse(tenant: &Tenant) {
    let laid = tenant.write(|tx| {
        for (at, (owner, text)) in [
            ("person:ann", SECRET),
            ("person:anna", "other"),
            ("token:ann", "other"),
            ("person:ann", SECRET),
            ("person:anna", "other"),
            ("token:ann#00ff", "other"),
        ]
        .into_iter()
        .enumerate()
        {
            lay(tx, i64::try_from(at).unwrap() + 1, owner, text)?;
        }
        Ok(())
    });
    laid.await.unwrap();
}

fn lay(tx: &mut WriteTx<'_>, at: i64, owner: &str, text: &str) -> Result<(), StoreError> {
    let ended = (at < 4).then_some(9);
    let id = format!("{owner}{at}");
    tx.execute(
        "INSERT INTO session VALUES (?1, ?2, ?3, 'a', 'm', 'api', ?4, 0, 5, 5)",
        params![at, id, owner, text],
    )?;
    tx.execute(
        "INSERT INTO run VALUES (?1, ?2, ?1, 1, x'00', 't', 'working', ?3, 0, 0, 1, 2, ?4)",
        params![at, id, text, ended],
    )?;
    let call = "INSERT INTO tool_call VALUES (?1, ?2, 1, ?3, 'c', 'look', ?4, 'ended', NULL, NULL, NULL, 1, 2)";
    tx.execute(call, params![at, at, id, text])?;
    for part in 0..50_i64 {
        let (number, long) = (at * 100 + part, text.repeat(usize::try_from(part).unwrap()));
        for sql in [
            "INSERT INTO message VALUES (?1, ?2, ?2, ?3, ?1, NULL, 1)",
            "INSERT INTO session_event VALUES (?1, ?2, ?3, 1)",
            "INSERT INTO summary VALUES (?1, ?2, 1, ?3, 1)",
        ] {
            tx.execute(sql, params![number, at, long])?;
        }
    }
    Ok(())
}

/// A row of a conversation that is gone, as a run leaves it that does not know so yet.
const LATE: &str =
    "INSERT INTO message (session, run, body, created_ms) VALUES (1, 1, 'Ann-said-so late', 1)";

/// Rows of each table, and whether one of them has the text.
async fn left(tenant: &Tenant) -> (Vec<i64>, bool) {
    let read = tenant.read(|tx| {
        let (mut counts, mut said) = (Vec::new(), false);
        for table in TABLES {
            let mut count = 0;
            tx.for_each(&format!("SELECT * FROM {table}"), params![], |row| {
                count += 1;
                let width = row.as_ref().column_count();
                for at in 0..width {
                    if let store::sql::Value::Text(text) = row.get(at)? {
                        said |= text.contains(SECRET);
                    }
                }
                Ok(())
            })?;
            counts.push(count);
        }
        Ok((counts, said))
    });
    read.await.unwrap()
}

const ALL: [i64; 6] = [6, 300, 6, 6, 300, 300];
const OTHERS: [i64; 6] = [4, 200, 4, 4, 200, 200];

async fn erasures(tenant: &Tenant) -> Vec<String> {
    let rows = tenant.audit_page(0).await.unwrap();
    let entries = rows.into_iter().map(|row| row.entry);
    entries
        .filter(|entry| entry.contains("person.erase"))
        .collect()
}

fn ann() -> Whose {
    Whose::Person("ann".to_owned())
}

#[tokio::test]
async fn conversations_of_a_forgotten_person_are_deleted_and_counted() {
    for level in [Level::Basic, Level::Full] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        let (kernel, operator, _) = house(&path, level).await;
        let tenant = tenant(&kernel, &operator);
        let hers = NewToken {
            role: Role::App,
            person: Some("ann".parse().unwrap()),
            ..app_token("hers")
        };
        let issued = kernel.issue_token(&operator, &tenant, hers).await.unwrap();
        let text = String::from_utf8(issued.text.expose().to_vec()).unwrap();
        let caller = kernel.admit(Caller::from_token(&text)).await.ok().unwrap();
        say(&kernel, &caller, ASKED, SAID).await;
        converse(&tenant).await;
        assert_eq!(left(&tenant).await, (ALL.to_vec(), true));
        let deleted = kernel.forget_person(&operator, &tenant, ann());
        assert_eq!(deleted.await.unwrap(), 2);
        assert_eq!(left(&tenant).await, (OTHERS.to_vec(), false));
        let told = erasures(&tenant).await;
        let detail = r#""detail":{"conversations":"2","kind":"person","name":"ann"}"#;
        assert!(told.len() == 1 && told[0].contains(detail), "{told:?}");
        let again = kernel.forget_person(&operator, &tenant, ann());
        assert!(matches!(again.await, Err(KernelError::NotFound(_))));
        // Who talked in it goes on: what comes after is another conversation, and has another key.
        say(&kernel, &caller, ASKED, SAID).await;
        let token = Whose::Token("ann".parse().unwrap());
        let deleted = kernel.forget_person(&operator, &tenant, token);
        assert_eq!(deleted.await.unwrap(), 2);
        verified(&tenant).await.unwrap();
        kernel.check_tenant(&operator, &tenant).await.unwrap();
    }
}

#[tokio::test]
async fn an_erasure_that_was_cut_short_deletes_the_rest_and_says_the_whole_number() {
    // By a crash, and by asking again.
    for crashed in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        let (kernel, operator, _) = house(&path, Level::Basic).await;
        let tenant = self::tenant(&kernel, &operator);
        converse(&tenant).await;
        let resident = kernel.directory().tenant(&acme()).unwrap();
        kernel.destroy_person_key(&resident, &ann()).await.unwrap();
        assert_eq!(left(&tenant).await, (OTHERS.to_vec(), false));
        assert!(erasures(&tenant).await.is_empty());
        alter(&tenant, LATE).await;
        let (kernel, operator) = if crashed {
            drop((kernel, operator, tenant, resident));
            open(&path).await
        } else {
            let deleted = kernel.forget_person(&operator, &tenant, ann());
            assert_eq!(deleted.await.unwrap(), 2);
            (kernel, operator)
        };
        let tenant = self::tenant(&kernel, &operator);
        for _ in 0..2 {
            let told = erasures(&tenant).await;
            assert!(told.len() == 1 && told[0].contains(r#""conversations":"2""#));
            assert_eq!(left(&tenant).await, (OTHERS.to_vec(), false));
        }
    }
}

#[tokio::test]
async fn what_was_begun_after_an_erasure_stays_when_the_erasure_is_told() {
    let home = tempfile::tempdir().unwrap();
    let (kernel, operator, _) = house(&home.path().join("data"), Level::Basic).await;
    let tenant = tenant(&kernel, &operator);
    converse(&tenant).await;
    let resident = kernel.directory().tenant(&acme()).unwrap();
    kernel.destroy_person_key(&resident, &ann()).await.unwrap();
    let later = kernel.now().unix_ms() + 60_000;
    let begun = tenant.write(move |tx| {
        lay(tx, 9, "person:ann", "begun anew")?;
        tx.execute(
            "UPDATE session SET created_ms = ?1 WHERE number = 9",
            params![later],
        )
    });
    begun.await.unwrap();
    kernel.tell_erased(&resident).await.unwrap();
    let (counts, said) = left(&tenant).await;
    assert_eq!((counts[0], said), (5, false));
    assert!(erasures(&tenant).await[0].contains(r#""conversations":"2""#));
}
