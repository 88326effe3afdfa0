//! Damage that nobody reads is found all the same: each tenant is read through once a day, one after another, and after a clean
//! reading its last good copy is brought up to date.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use store::sql::{Value, params, params_from_iter};
use store::{Place, StoreError, WriteTx};

use crate::audit::verify::AuditError;
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::repair::COPY;
use crate::repair::salvage::{
    AUDIT, IN_FORCE, KEYS, LEDGER, OUTBOX, POLICY, SECRETS, TILES, Table,
};
use crate::resident::Resident;
use crate::sweep::Operator;
use crate::tenant::Tenant;

/// After the start of a process others come first.
const FIRST_AFTER: Duration = Duration::from_secs(600);
/// Between two tenants.
const EVERY: Duration = Duration::from_secs(1);
/// Between two pages of one tenant, so that a reading in the background takes a small part of a reader's time.
const PAUSE: Duration = Duration::from_millis(20);
/// Rows of a small table.
const SMALL_MAX: usize = 1_000_000;

impl Kernel {
    /// Begins to read each tenant through once a UTC day, until the process stops.
    pub fn start_checks(&self, operator: Arc<Operator>) {
        let (kernel, stopping) = (self.clone(), self.tasks().stopping());
        self.tasks().spawn(async move {
            let checks = async {
                tokio::time::sleep(FIRST_AFTER).await;
                loop {
                    kernel.check_next(&operator).await;
                    tokio::time::sleep(EVERY).await;
                }
            };
            tokio::select! {
                () = checks => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn check_next(&self, operator: &Operator) {
        let today = self.now().day().number();
        let due = |resident: &Arc<Resident>| {
            resident.checked.load(Ordering::Relaxed) != today
                && resident.quarantine.load().is_none()
                && !resident.is_dead()
        };
        let Some(resident) = self.directory().all().into_iter().find(due) else {
            return;
        };
        resident.checked.store(today, Ordering::Relaxed);
        let Ok(tenant) = self.tenant(operator, &resident.id) else {
            return;
        };
        // Damage quarantines the tenant inside, and is in the log; what was busy is looked at tomorrow.
        let _reported = self.checked_and_copied(&tenant, PAUSE).await;
    }

    /// Reads everything of a tenant, verifies its log, and brings its last good copy up to date.
    ///
    /// # Errors
    /// [`KernelError::Quarantined`] when something is not as it was written: the tenant is quarantined then.
    pub async fn check_tenant(
        &self,
        _operator: &Operator,
        tenant: &Tenant,
    ) -> Result<(), KernelError> {
        self.checked_and_copied(tenant, Duration::ZERO).await
    }

    async fn checked_and_copied(
        &self,
        tenant: &Tenant,
        pause: Duration,
    ) -> Result<(), KernelError> {
        tenant.live()?;
        if let Err(error) = self.read_through(tenant, pause).await {
            if let KernelError::Quarantined(why) = &error {
                self.quarantine(tenant.resident(), why);
            }
            return Err(error);
        }
        let copied = self.renew_copy(tenant.resident()).await;
        if let Err(error) = copied {
            let text = error.to_string();
            let fields = [("error", Field::Text(&text))];
            self.log().event(
                self.now(),
                Some(tenant.id()),
                "last good copy not renewed",
                &fields,
            );
        }
        Ok(())
    }

    /// Reads everything of a tenant once: its ledger, its whole log, what else it has.
    pub(crate) async fn read_through(
        &self,
        tenant: &Tenant,
        pause: Duration,
    ) -> Result<(), KernelError> {
        let mut after = None;
        loop {
            let page = tenant.ledger_page(None, None, after).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.place);
            rest_for(pause).await;
        }
        tenant.daily_usage(None, None).await?;
        tenant.read(others).await?;
        if tenant.audit_length().await? == 0 {
            return Ok(());
        }
        let log = |error| match error {
            AuditError::Kernel(error) => error,
            AuditError::Log(fault) => {
                KernelError::Quarantined(format!("its audit log does not verify: {fault}"))
            }
        };
        let mut walk = tenant.audit_walk(None).await.map_err(log)?;
        while walk.next().await.map_err(log)?.is_some() {
            rest_for(pause).await;
        }
        Ok(())
    }

    /// Brings the copy up to date: what only grows by what is new, the rest as a whole.
    async fn renew_copy(&self, resident: &Arc<Resident>) -> Result<(), KernelError> {
        let from = self.place(resident)?;
        let keys = self.keys(resident)?;
        let to = self.tenant_place_named(&resident.id, resident.uid, &keys, COPY)?;
        let to = Arc::new(to);
        let renewed = self.copy_over(&from, &to).await;
        let closed = self.engine().close(&to).await;
        if let Err(KernelError::Store(StoreError::Damaged | StoreError::WrongKey)) = renewed {
            // The copy itself rotted: the next one begins anew.
            let dir = self.root().tenant_dir(&resident.id)?;
            self.take_away(&dir, &resident.id, COPY)?;
        }
        renewed.and(Ok(closed?))
    }

    async fn copy_over(&self, from: &Arc<Place>, to: &Arc<Place>) -> Result<(), KernelError> {
        self.engine().write(to, |_tx| Ok(())).await?;
        for table in [&LEDGER, &AUDIT, &TILES] {
            let sql = format!(
                "SELECT COALESCE(MAX({}), -1) FROM {}",
                table.key, table.name
            );
            let read = self.engine().read(to, move |tx| {
                tx.query_one(&sql, params![], |row| Ok(row.get::<_, i64>(0)?))
            });
            let after = read.await?.unwrap_or(-1);
            // A call that took long has a number below those of calls that ended before it; tiles are few.
            let first = if table.name == AUDIT.name {
                after + 1
            } else {
                0
            };
            if !self.salvage_from(table, first, from, to).await? {
                return Err(StoreError::Damaged.into());
            }
        }
        for table in [&KEYS, &SECRETS, &POLICY, &OUTBOX, &IN_FORCE] {
            let rows = self.engine().read(from, move |tx| whole(tx, table)).await?;
            self.engine()
                .write(to, move |tx| in_its_place(tx, table, rows))
                .await?;
        }
        if !self.carry_numbers(from, to).await? {
            return Err(StoreError::Damaged.into());
        }
        let sql = "SELECT COALESCE(MIN(seq), 0) FROM audit";
        let read = self.engine().read(from, move |tx| {
            tx.query_one(sql, params![], |row| Ok(row.get::<_, i64>(0)?))
        });
        let first = read.await?.unwrap_or_default();
        // What retention has dropped is not kept by a copy.
        let dropped = self.engine().write(to, move |tx| {
            tx.execute("DELETE FROM audit WHERE seq < ?1", params![first])
        });
        dropped.await?;
        Ok(())
    }
}

async fn rest_for(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

/// The tables and indexes that nothing else reads through.
const OTHERS: [&str; 36] = [
    "SELECT * FROM party_rollup",
    "SELECT * FROM secrets",
    "SELECT * FROM policy",
    "SELECT * FROM agent",
    "SELECT * FROM session",
    "SELECT * FROM message",
    "SELECT * FROM run",
    "SELECT * FROM tool_call",
    "SELECT * FROM session_event",
    "SELECT * FROM summary",
    "SELECT * FROM sqlite_sequence",
    "SELECT * FROM outbox",
    "SELECT * FROM audit_key",
    "SELECT * FROM person_key",
    "SELECT * FROM in_force",
    "SELECT finished_ms FROM ledger INDEXED BY ledger_by_time",
    "SELECT unsent_seq FROM audit INDEXED BY audit_unsent WHERE unsent_seq IS NOT NULL",
    "SELECT next_ms FROM outbox INDEXED BY outbox_due WHERE next_ms IS NOT NULL",
    "SELECT kind, name FROM person_key INDEXED BY person_key_in_force WHERE sealed IS NOT NULL",
    "SELECT number FROM person_key INDEXED BY person_key_untold WHERE sealed IS NULL AND name IS NOT NULL",
    // Those of the UNIQUE columns have the names that the engine gives them.
    "SELECT name, version FROM agent INDEXED BY sqlite_autoindex_agent_1",
    "SELECT id FROM session INDEXED BY sqlite_autoindex_session_1",
    "SELECT owner, used_ms FROM session INDEXED BY session_by_owner",
    "SELECT session, client_key FROM message INDEXED BY message_by_key WHERE client_key IS NOT NULL",
    "SELECT session, run, number FROM message INDEXED BY message_in_order",
    "SELECT id FROM run INDEXED BY sqlite_autoindex_run_1",
    "SELECT session, number FROM run INDEXED BY run_in_order",
    "SELECT state FROM run INDEXED BY run_open WHERE ended_ms IS NULL",
    "SELECT id FROM tool_call INDEXED BY sqlite_autoindex_tool_call_1",
    "SELECT run, number FROM tool_call INDEXED BY tool_call_in_order",
    "SELECT session, number FROM session_event INDEXED BY session_event_in_order",
    "SELECT session, number FROM summary INDEXED BY summary_in_order",
    "SELECT name FROM secrets INDEXED BY sqlite_autoindex_secrets_1",
    "SELECT name FROM in_force INDEXED BY sqlite_autoindex_in_force_1",
    "SELECT id FROM outbox INDEXED BY sqlite_autoindex_outbox_1",
    "SELECT mark FROM outbox INDEXED BY sqlite_autoindex_outbox_2",
];

fn others(tx: &store::ReadTx<'_>) -> Result<(), StoreError> {
    for sql in OTHERS {
        tx.for_each(sql, params![], |_row| Ok(()))?;
    }
    Ok(())
}

fn whole(tx: &store::ReadTx<'_>, table: &Table) -> Result<Vec<Vec<Value>>, StoreError> {
    let sql = format!("SELECT {} FROM {}", table.columns.join(", "), table.name);
    let width = table.columns.len();
    tx.query(&sql, params![], SMALL_MAX, |row| {
        Ok((0..width)
            .map(|at| row.get(at))
            .collect::<Result<Vec<Value>, _>>()?)
    })
}

fn in_its_place(
    tx: &mut WriteTx<'_>,
    table: &Table,
    rows: Vec<Vec<Value>>,
) -> Result<(), StoreError> {
    tx.execute(&format!("DELETE FROM {}", table.name), params![])?;
    let sql = table.insertion();
    for row in rows {
        tx.execute(&sql, params_from_iter(row))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{acme, begun};

    /// What the walks through the ledger, the log and the sums read.
    const ELSEWHERE: [&str; 7] = [
        "ledger",
        "rollup",
        "audit",
        "audit_tile",
        "audit_edge",
        "audit_head",
        "audit_content",
    ];

    /// How the engine carries a statement out.
    fn plan(tx: &store::ReadTx<'_>, sql: &str) -> String {
        let steps = tx.query(&format!("EXPLAIN QUERY PLAN {sql}"), params![], 9, |row| {
            Ok(row.get::<_, String>(3)?)
        });
        steps.unwrap().join(", ")
    }

    #[tokio::test]
    async fn every_table_and_index_is_read_through() {
        let home = tempfile::tempdir().unwrap();
        let (kernel, operator) = begun(&home.path().join("data")).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let missed = tenant.read(|tx| {
            let sql =
                "SELECT type, name, tbl_name FROM sqlite_schema WHERE type IN ('table', 'index')";
            let there = tx.query(sql, params![], 1_000, |row| {
                let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
                Ok((kind, name, row.get::<_, String>(2)?))
            })?;
            let plans: Vec<_> = OTHERS.iter().map(|sql| plan(tx, sql)).collect();
            let read = |(kind, name, _): &(String, String, String)| {
                let (table, index) = (format!("SCAN {name}"), format!("INDEX {name}"));
                plans.iter().any(|plan| match kind.as_str() {
                    "table" => *plan == table,
                    _ => plan.split(" (").any(|step| step.ends_with(&index)),
                })
            };
            others(tx)?;
            let missed = there.into_iter().filter(|thing| !read(thing));
            Ok(missed.collect::<Vec<_>>())
        });
        let mut missed = missed.await.unwrap();
        missed.retain(|(_, _, table)| {
            !table.starts_with("partywall_") && !ELSEWHERE.contains(&table.as_str())
        });
        assert_eq!(missed, []);
    }
}
