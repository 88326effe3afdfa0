//! Conversations of somebody who is forgotten: they lie open in the tenant's database, so they go with the key of what was sealed.

use store::sql::params;
use store::{StoreError, WriteTx};

/// What a conversation is made of: the table, its text, the column that says what a row belongs to, and the table of that.
const PARTS: [(&str, &str, &str, &str); 5] = [
    ("run", "why", "session", "session"),
    ("message", "body", "session", "session"),
    ("session_event", "body", "session", "session"),
    ("summary", "body", "session", "session"),
    ("tool_call", "arguments", "run", "run"),
];

/// Deletes the conversations that a person or token began until then, runs that are under way among them. Returns how many.
///
/// What belongs to no conversation goes too: nobody can say whose it was. A run that did not know yet that it is gone leaves such rows,
/// and so does damage.
pub(super) fn delete(
    tx: &mut WriteTx<'_>,
    (kind, name): (&str, &str),
    until_ms: i64,
) -> Result<i64, StoreError> {
    let owner = format!("{kind}:{name}");
    // A token's name comes again, so its conversations name the credential too: `token:NAME#ID`. A person's name may have a `#` in it.
    let (from, to) = match kind {
        "token" => (format!("{owner}#"), format!("{owner}$")),
        _ => (String::new(), String::new()),
    };
    let own = "(owner = ?1 OR (owner >= ?2 AND owner < ?3)) AND created_ms <= ?4";
    let whose = params![owner, from, to, until_ms];
    let sql = format!("UPDATE session SET title = {} WHERE {own}", blank("title"));
    tx.execute(&sql, whose)?;
    let deleted = tx.execute(&format!("DELETE FROM session WHERE {own}"), whose)?;
    for (table, text, of, parent) in PARTS {
        let strays =
            format!("{of} IN (SELECT {of} FROM {table} EXCEPT SELECT number FROM {parent})");
        let blank = blank(text);
        tx.execute(
            &format!("UPDATE {table} SET {text} = {blank} WHERE {strays}"),
            params![],
        )?;
        tx.execute(&format!("DELETE FROM {table} WHERE {strays}"), params![])?;
    }
    Ok(i64::try_from(deleted).unwrap_or(i64::MAX))
}

// Overwritten in its place before the row goes. A row that goes makes its neighbours move from page to page, and where they lay in a page
// that stays in use nothing is overwritten: what moves is to say nothing.
fn blank(text: &str) -> String {
    format!(
        "CASE WHEN {text} IS NOT NULL THEN CAST(zeroblob(length(CAST({text} AS BLOB))) AS TEXT) END"
    )
}
