//! Numbers that rows had, also where the rows are gone: none is given out again by a database that was built anew.

use std::sync::Arc;

use store::sql::params;
use store::{Place, ReadTx, StoreError, WriteTx};

use crate::error::KernelError;
use crate::open::Kernel;

/// The tables that count their rows, each with the statement that puts a row of a number in.
const COUNTED: [(&str, &str); 6] = [
    (
        "session",
        "INSERT INTO session (number, id, owner, agent, model, channel, title, begins, created_ms, used_ms)
            VALUES (?1, '', '', '', '', '', '', 0, 0, 0)",
    ),
    (
        "message",
        "INSERT INTO message (number, session, run, body, created_ms) VALUES (?1, 0, 0, '', 0)",
    ),
    (
        "run",
        "INSERT INTO run (number, id, session, agent_version, caller, token, state, steps, cost_pico, created_ms, ended_ms)
            VALUES (?1, '', 0, 0, x'', '', '', 0, 0, 0, 0)",
    ),
    (
        "tool_call",
        "INSERT INTO tool_call (number, run, step, id, call, tool, arguments, state) VALUES (?1, 0, 0, '', '', '', '', '')",
    ),
    (
        "session_event",
        "INSERT INTO session_event (number, session, body, created_ms) VALUES (?1, 0, '', 0)",
    ),
    (
        "summary",
        "INSERT INTO summary (number, session, upto, body, created_ms) VALUES (?1, 0, 0, '', 0)",
    ),
];

impl Kernel {
    /// Makes the numbers that `from` gave out given out in `to`. Whether they could be read.
    ///
    /// # Errors
    /// When `to` cannot be written, or `from` cannot be read just now.
    pub(crate) async fn carry_numbers(
        &self,
        from: &Arc<Place>,
        to: &Arc<Place>,
    ) -> Result<bool, KernelError> {
        let numbers = match self.engine().read(from, given_out).await {
            Ok(numbers) => numbers,
            Err(error @ (StoreError::Busy | StoreError::Closed)) => return Err(error.into()),
            Err(_) => return Ok(false),
        };
        self.engine()
            .write(to, move |tx| raise(tx, &numbers))
            .await?;
        Ok(true)
    }
}

fn given_out(tx: &ReadTx<'_>) -> Result<[i64; COUNTED.len()], StoreError> {
    let mut numbers = [0; COUNTED.len()];
    for (number, (table, _)) in numbers.iter_mut().zip(COUNTED) {
        let sql = "SELECT MAX(seq) FROM sqlite_sequence WHERE name = ?1";
        let last = tx.query_one(sql, params![table], |row| Ok(row.get::<_, Option<i64>>(0)?))?;
        *number = last.flatten().unwrap_or_default();
    }
    Ok(numbers)
}

/// The engine alone writes how far a table has counted: by a row of that number, which goes at once.
fn raise(tx: &mut WriteTx<'_>, numbers: &[i64; COUNTED.len()]) -> Result<(), StoreError> {
    let here = given_out(tx)?;
    for (((table, put), number), here) in COUNTED.iter().zip(numbers).zip(here) {
        if *number > here {
            tx.execute(put, params![number])?;
            let sql = format!("DELETE FROM {table} WHERE number = ?1");
            tx.execute(&sql, params![number])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{acme, begun};
    use crate::repair::Extent;
    use crate::tenant::Tenant;

    /// Puts a row in everywhere, takes it away again, and tells its numbers.
    async fn put_and_gone(tenant: &Tenant, number: Option<i64>) -> Vec<i64> {
        let done = tenant.write(move |tx| {
            let mut numbers = Vec::new();
            for (table, put) in COUNTED {
                tx.execute(put, params![number])?;
                let sql = format!("SELECT number FROM {table}");
                numbers.push(
                    tx.query_one(&sql, params![], |row| Ok(row.get(0)?))?
                        .unwrap(),
                );
                tx.execute(&format!("DELETE FROM {table}"), params![])?;
            }
            Ok(numbers)
        });
        done.await.unwrap()
    }

    #[tokio::test]
    async fn a_number_whose_row_is_gone_is_never_given_out_again() {
        // Not even where nothing but the copy can be read.
        for lost in [false, true] {
            let home = tempfile::tempdir().unwrap();
            let (kernel, operator) = begun(&home.path().join("data")).await;
            let tenant = kernel.tenant(&operator, &acme()).unwrap();
            put_and_gone(&tenant, Some(41)).await;
            assert_eq!(put_and_gone(&tenant, None).await, [42; 6]);
            kernel.check_tenant(&operator, &tenant).await.unwrap();
            let resident = tenant.resident();
            kernel.quarantine(resident, "a test");
            while kernel.set_ready(resident, false).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            if lost {
                let place = Arc::new(kernel.named_place(resident, "tenant.db").unwrap());
                kernel.engine().abandon(&place).await.unwrap();
                let dir = kernel.root().tenant_dir(&acme()).unwrap();
                kernel.take_away(&dir, &acme(), "tenant.db").unwrap();
            }
            let kept = kernel.repair_tenant(&operator, &tenant, Extent::Repair);
            let kept = kept.await.unwrap();
            assert!(kept.in_place && kept.damaged_tables().is_empty());
            let tenant = kernel.tenant(&operator, &acme()).unwrap();
            assert_eq!(put_and_gone(&tenant, None).await, [43; 6], "{lost}");
        }
    }
}
