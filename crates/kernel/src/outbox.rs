//! Messages that are to leave: durable, each said once, tried again at growing distances until it is taken or given up.
//!
//! A tenant's outbox lies in its own database, the operator's in the registry: the same table in both.

use std::time::Duration;

use base::{Timestamp, limits};
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};

/// From one failed attempt to the next: what the Standard Webhooks specification proposes, over three days in all.
const WAITS_S: [u64; 9] = [
    5,
    5 * 60,
    30 * 60,
    2 * 3_600,
    5 * 3_600,
    10 * 3_600,
    14 * 3_600,
    20 * 3_600,
    24 * 3_600,
];
/// What ended is kept for so long: its mark keeps it from being said again. No window that marks name is longer than a month.
const KEPT: Duration = Duration::from_secs(70 * 24 * 3_600);

/// A message to be put into an outbox.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Stays the same over all attempts.
    pub(crate) id: String,
    /// What it says: a second message with this mark is not taken.
    pub(crate) mark: String,
    pub(crate) body: String,
}

/// A message whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) id: String,
    pub(crate) body: String,
    /// Attempts so far.
    pub(crate) attempts: u32,
}

/// What became of a message that was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is to be delivered.
    New,
    /// It was said already.
    Known,
    /// Too many wait: it is not taken.
    Full,
}

/// How an attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is tried again at that moment.
    At(Timestamp),
    /// It has ended, as the word says.
    Ended(&'static str),
}

pub(crate) fn put(
    tx: &mut WriteTx<'_>,
    message: &Message,
    now: Timestamp,
) -> Result<Taken, StoreError> {
    let before = now.unix_ms() - i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
    tx.execute(
        "DELETE FROM outbox WHERE next_ms IS NULL AND created_ms < ?1",
        params![before],
    )?;
    let waiting: i64 = tx
        .query_one(
            "SELECT COUNT(*) FROM outbox WHERE next_ms IS NOT NULL",
            params![],
            |row| Ok(row.get(0)?),
        )?
        .unwrap_or_default();
    if waiting >= limits::OUTBOX_MAX {
        return Ok(Taken::Full);
    }
    let put = tx.execute(
        "INSERT INTO outbox (id, mark, body, created_ms, attempts, next_ms) VALUES (?1, ?2, ?3, ?4, 0, ?4)
         ON CONFLICT (mark) DO NOTHING",
        params![message.id, message.mark, message.body, now.unix_ms()],
    )?;
    Ok(if put == 0 { Taken::Known } else { Taken::New })
}

/// The message that has waited longest past its time.
pub(crate) fn due(tx: &ReadTx<'_>, now: Timestamp) -> Result<Option<Due>, StoreError> {
    tx.query_one(
        "SELECT id, body, attempts FROM outbox WHERE next_ms <= ?1 ORDER BY next_ms LIMIT 1",
        params![now.unix_ms()],
        |row| {
            Ok(Due {
                id: row.get(0)?,
                body: row.get(1)?,
                attempts: row.get(2)?,
            })
        },
    )
}

/// When the next message is due, in unix milliseconds; `None` when nothing waits.
pub(crate) fn next_due(tx: &ReadTx<'_>) -> Result<Option<i64>, StoreError> {
    let next = tx.query_one(
        "SELECT MIN(next_ms) FROM outbox WHERE next_ms IS NOT NULL",
        params![],
        |row| Ok(row.get::<_, Option<i64>>(0)?),
    )?;
    Ok(next.flatten())
}

pub(crate) fn attempted(
    tx: &mut WriteTx<'_>,
    id: &str,
    attempts: u32,
    next: Next,
) -> Result<(), StoreError> {
    let (at, ended) = match next {
        Next::At(at) => (Some(at.unix_ms()), None),
        Next::Ended(how) => (None, Some(how)),
    };
    tx.execute(
        "UPDATE outbox SET attempts = ?2, next_ms = ?3, ended = ?4 WHERE id = ?1",
        params![id, attempts, at, ended],
    )
    .map(|_| ())
}

/// How long to wait after the `attempts`-th failed attempt; `None`: it is given up. Up to a tenth more by `draw`, so that what
/// failed together is not tried together. A receiver's own wish is heard where it is longer, up to a day.
pub(crate) fn wait_after(attempts: u32, wish: Option<u64>, draw: u64) -> Option<Duration> {
    let index = usize::try_from(attempts).ok()?.checked_sub(1)?;
    let wait_s = *WAITS_S.get(index)?;
    let wait_s = wish.map_or(wait_s, |wish| wish.min(24 * 3_600).max(wait_s));
    Some(Duration::from_millis(
        wait_s * 1_000 + draw % (wait_s * 100),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let at = |attempts, wish| wait_after(attempts, wish, 0).map(|wait| wait.as_secs());
        assert_eq!(at(0, None), None);
        assert_eq!(at(1, None), Some(5));
        assert_eq!(at(2, None), Some(300));
        assert_eq!(at(9, None), Some(86_400));
        assert_eq!(at(10, None), None);
        assert_eq!(at(1, Some(60)), Some(60));
        assert_eq!(at(2, Some(60)), Some(300));
        assert_eq!(at(1, Some(u64::MAX)), Some(86_400));
        for draw in [0, 1, 499, 500, u64::MAX] {
            let wait = wait_after(1, None, draw).unwrap();
            assert!((5_000..5_500).contains(&wait.as_millis()), "{wait:?}");
        }
        let all: u64 = (1..=9).filter_map(|n| at(n, None)).sum();
        assert!(all > 72 * 3_600);
    }
}
