//! The tables of the registry and of a tenant. Forward-only: a migration that shipped is never edited.

use store::Schema;

/// The deployment's own database.
pub(crate) static REGISTRY: Schema = Schema {
    name: "registry",
    migrations: &[
        "
        CREATE TABLE tenants (
            uid BLOB PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL,
            tier TEXT NOT NULL,
            limits TEXT NOT NULL,
            created_ms INTEGER NOT NULL,
            wrapped_root BLOB,
            sealed_keys BLOB,
            audit_key BLOB NOT NULL
        ) STRICT;
        CREATE TABLE tokens (
            hash BLOB PRIMARY KEY,
            uid BLOB NOT NULL REFERENCES tenants(uid) ON DELETE CASCADE,
            name TEXT NOT NULL,
            role TEXT NOT NULL,
            created_ms INTEGER NOT NULL,
            expires_ms INTEGER,
            revoked_ms INTEGER,
            last_used_day INTEGER
        ) STRICT;
        CREATE INDEX tokens_by_tenant ON tokens(uid, name);
        CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    ",
        "
        -- The keys of a rotation that is under way.
        ALTER TABLE tenants ADD COLUMN next_root BLOB;
        ALTER TABLE tenants ADD COLUMN next_keys BLOB;
        -- Tenants whose outbox holds something: they are opened at start.
        CREATE TABLE outbox_waits (
            uid BLOB PRIMARY KEY REFERENCES tenants(uid) ON DELETE CASCADE
        ) STRICT;
        -- The operator's own alerts.
        CREATE TABLE outbox (
            id TEXT PRIMARY KEY,
            mark TEXT NOT NULL UNIQUE,
            body TEXT NOT NULL,
            created_ms INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            next_ms INTEGER,
            ended TEXT
        ) STRICT;
        CREATE INDEX outbox_due ON outbox(next_ms) WHERE next_ms IS NOT NULL;
    ",
        "
        -- How far each tenant's audit log has come: an older or another database in its place is noticed.
        CREATE TABLE audit_heads (
            uid BLOB PRIMARY KEY REFERENCES tenants(uid) ON DELETE CASCADE,
            size INTEGER NOT NULL,
            root BLOB NOT NULL
        ) STRICT;
    ",
        "
        -- Tenants that are out of service, and why.
        CREATE TABLE quarantines (
            uid BLOB PRIMARY KEY REFERENCES tenants(uid) ON DELETE CASCADE,
            since_ms INTEGER NOT NULL,
            why TEXT NOT NULL,
            -- A new database was built and is to be put in place.
            ready INTEGER NOT NULL DEFAULT 0
        ) STRICT;
        -- Damaged records of the journal that a repair has accounted for: their segments are kept.
        CREATE TABLE journal_losses (
            uid BLOB NOT NULL REFERENCES tenants(uid) ON DELETE CASCADE,
            seq INTEGER NOT NULL,
            PRIMARY KEY (uid, seq)
        ) STRICT, WITHOUT ROWID;
    ",
        "
        -- The natural person that a token stands for.
        ALTER TABLE tokens ADD COLUMN person TEXT;
    ",
        "
        -- Tenants that have runs under way: they are taken up at start.
        CREATE TABLE run_waits (
            uid BLOB PRIMARY KEY REFERENCES tenants(uid) ON DELETE CASCADE
        ) STRICT;
        -- The number of the user that a tenant's programs run as, once it ran one.
        ALTER TABLE tenants ADD COLUMN os_number INTEGER;
        CREATE UNIQUE INDEX tenants_by_os_number ON tenants(os_number);
        -- What a token shares with those that it was rotated from, and with no other of its tenant. Of rows from before: each name has one.
        ALTER TABLE tokens ADD COLUMN serial INTEGER NOT NULL DEFAULT 0;
        UPDATE tokens SET serial = (SELECT MIN(first.rowid) FROM tokens AS first
            WHERE first.uid = tokens.uid AND first.name = tokens.name);
    ",
    ],
};

/// One tenant's database.
pub(crate) static TENANT: Schema = Schema {
    name: "tenant",
    migrations: &["
        CREATE TABLE ledger (
            sent_seq INTEGER PRIMARY KEY,
            request_id TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            person TEXT,
            token TEXT NOT NULL,
            model TEXT NOT NULL,
            provider TEXT NOT NULL,
            provider_model TEXT NOT NULL,
            input INTEGER, cache_read INTEGER, cache_write INTEGER, cache_write_1h INTEGER,
            audio_in INTEGER, image_in INTEGER, output INTEGER, reasoning INTEGER, audio_out INTEGER,
            server_tool_calls INTEGER,
            cost_pico INTEGER,
            hold_pico INTEGER NOT NULL,
            charged_pico INTEGER NOT NULL,
            ratecard_version TEXT NOT NULL,
            usage_source TEXT NOT NULL,
            outcome TEXT NOT NULL,
            started_ms INTEGER NOT NULL,
            finished_ms INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX ledger_by_time ON ledger(finished_ms);
        CREATE TABLE rollup (
            day INTEGER NOT NULL,
            model TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            tokens_in INTEGER NOT NULL,
            tokens_out INTEGER NOT NULL,
            cost_pico INTEGER NOT NULL,
            charged_pico INTEGER NOT NULL,
            charged_tokens INTEGER NOT NULL,
            requests INTEGER NOT NULL,
            PRIMARY KEY (day, model)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE audit (
            seq INTEGER PRIMARY KEY,
            journal_seq INTEGER NOT NULL UNIQUE,
            entry TEXT NOT NULL,
            -- The attempt that was recorded as sent and never left: it has no ledger row.
            unsent_seq INTEGER
        ) STRICT;
        CREATE INDEX audit_unsent ON audit(unsent_seq) WHERE unsent_seq IS NOT NULL;
        CREATE TABLE secrets (
            name TEXT PRIMARY KEY,
            sealed BLOB NOT NULL,
            created_ms INTEGER NOT NULL
        ) STRICT;
    ", "
        -- What is to be delivered to the tenant. `mark` says for what: nothing is said twice. `next_ms` is empty once it has
        -- ended, delivered or given up.
        CREATE TABLE outbox (
            id TEXT PRIMARY KEY,
            mark TEXT NOT NULL UNIQUE,
            body TEXT NOT NULL,
            created_ms INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            next_ms INTEGER,
            ended TEXT
        ) STRICT;
        CREATE INDEX outbox_due ON outbox(next_ms) WHERE next_ms IS NOT NULL;
    ", "
        -- What persons and tokens used by day. Of rows from before: the requests, and the tokens that providers counted.
        ALTER TABLE ledger ADD COLUMN charged_tokens INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE ledger ADD COLUMN requests INTEGER NOT NULL DEFAULT 0;
        UPDATE ledger SET requests = (attempt = 1), charged_tokens =
            MIN(COALESCE(input, 0), 1000000000) + MIN(COALESCE(cache_read, 0), 1000000000)
            + MIN(COALESCE(cache_write, 0), 1000000000) + MIN(COALESCE(cache_write_1h, 0), 1000000000)
            + MIN(COALESCE(audio_in, 0), 1000000000) + MIN(COALESCE(image_in, 0), 1000000000)
            + MIN(COALESCE(output, 0), 1000000000) + MIN(COALESCE(reasoning, 0), 1000000000)
            + MIN(COALESCE(audio_out, 0), 1000000000);
        CREATE TABLE party_rollup (
            day INTEGER NOT NULL,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            requests INTEGER NOT NULL,
            charged_tokens INTEGER NOT NULL,
            charged_pico INTEGER NOT NULL,
            PRIMARY KEY (day, kind, name)
        ) STRICT, WITHOUT ROWID;
        INSERT INTO party_rollup (day, kind, name, requests, charged_tokens, charged_pico)
            SELECT started_ms / 86400000, 'token', token, SUM(requests), SUM(charged_tokens),
                CAST(MIN(TOTAL(charged_pico), 9.2e18) AS INTEGER)
            FROM ledger GROUP BY 1, 3;
        INSERT INTO party_rollup (day, kind, name, requests, charged_tokens, charged_pico)
            SELECT started_ms / 86400000, 'person', person, SUM(requests), SUM(charged_tokens),
                CAST(MIN(TOTAL(charged_pico), 9.2e18) AS INTEGER)
            FROM ledger WHERE person IS NOT NULL GROUP BY 1, 3;
    ", "
        -- The tree over the audit entries: full tiles, the hashes after them, the latest signed checkpoint. It is grown over
        -- entries from before by the next fold. An entry's place tells whether it is there: no second index.
        CREATE TABLE audit_tile (
            level INTEGER NOT NULL,
            place INTEGER NOT NULL,
            hashes BLOB NOT NULL,
            PRIMARY KEY (level, place)
        ) STRICT;
        CREATE TABLE audit_edge (level INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT;
        CREATE TABLE audit_head (one INTEGER PRIMARY KEY CHECK (one = 1), checkpoint TEXT NOT NULL) STRICT;
        -- The keys that signed checkpoints, where the first one is not the only one. `place` is that of the entry by which a key came
        -- into force, empty until it is; `sealed` is empty once it is retired; its entry stands at `after` or later.
        CREATE TABLE audit_key (
            number INTEGER PRIMARY KEY,
            vkey TEXT NOT NULL,
            sealed BLOB,
            after INTEGER NOT NULL,
            place INTEGER
        ) STRICT;
        CREATE TABLE audit_entry (
            seq INTEGER PRIMARY KEY,
            journal_seq INTEGER NOT NULL,
            entry TEXT NOT NULL,
            -- The attempt that was recorded as sent and never left: it has no ledger row.
            unsent_seq INTEGER
        ) STRICT;
        INSERT INTO audit_entry SELECT seq, journal_seq, entry, unsent_seq FROM audit;
        DROP TABLE audit;
        ALTER TABLE audit_entry RENAME TO audit;
        CREATE INDEX audit_unsent ON audit(unsent_seq) WHERE unsent_seq IS NOT NULL;
    ", "
        -- What of the operator's the log said last: the configuration's hash, the rate card's version.
        CREATE TABLE in_force (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    ", "
        -- Keys of persons and tokens, each sealed. `sealed` is empty once the key is destroyed, and `name` once the log says so. Rows
        -- stay: no number comes again.
        CREATE TABLE person_key (
            number INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,
            name TEXT,
            sealed BLOB,
            created_ms INTEGER NOT NULL,
            erased_ms INTEGER
        ) STRICT;
        CREATE UNIQUE INDEX person_key_in_force ON person_key(kind, name) WHERE sealed IS NOT NULL;
        CREATE INDEX person_key_untold ON person_key(number) WHERE sealed IS NULL AND name IS NOT NULL;
        -- What was said in calls, sealed under those keys; the entry at `seq` names digest and length.
        CREATE TABLE audit_content (
            seq INTEGER NOT NULL,
            part TEXT NOT NULL,
            key INTEGER NOT NULL,
            sent_seq INTEGER NOT NULL,
            sealed BLOB NOT NULL,
            PRIMARY KEY (seq, part)
        ) STRICT;
    ", "
        -- The tenant's own rules, each version that was set; the last one in force holds. `version` is the document's SHA-256. One
        -- that is not marked was in force all the same if the log has its entry, at `after` or later.
        CREATE TABLE policy (
            number INTEGER PRIMARY KEY,
            document TEXT NOT NULL,
            version TEXT NOT NULL,
            set_ms INTEGER NOT NULL,
            after INTEGER NOT NULL,
            in_force INTEGER NOT NULL
        ) STRICT;
    ", "
        -- Agents: each change is a version of its own.
        CREATE TABLE agent (
            number INTEGER PRIMARY KEY,
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            body TEXT NOT NULL,
            set_ms INTEGER NOT NULL,
            UNIQUE (name, version)
        ) STRICT;
        -- Conversations. `begins` is the first run that is shown after a reset. Here and below no number comes again: what is kept
        -- elsewhere by a number is never another row's.
        CREATE TABLE session (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            agent TEXT NOT NULL,
            model TEXT NOT NULL,
            channel TEXT NOT NULL,
            title TEXT NOT NULL,
            begins INTEGER NOT NULL,
            created_ms INTEGER NOT NULL,
            used_ms INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX session_by_owner ON session(owner, used_ms);
        -- Append-only; a run's messages follow those of the runs before it.
        CREATE TABLE message (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            session INTEGER NOT NULL,
            run INTEGER NOT NULL,
            body TEXT NOT NULL,
            -- What its client sends it again by, and a digest of what it was.
            client_key TEXT,
            client_digest BLOB,
            created_ms INTEGER NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX message_by_key ON message(session, client_key) WHERE client_key IS NOT NULL;
        CREATE INDEX message_in_order ON message(session, run, number);
        -- `caller` is what the credential is verified anew by at each step; it opens nothing without the registry.
        CREATE TABLE run (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            session INTEGER NOT NULL,
            agent_version INTEGER NOT NULL,
            caller BLOB NOT NULL,
            token TEXT NOT NULL,
            state TEXT NOT NULL,
            why TEXT,
            steps INTEGER NOT NULL,
            cost_pico INTEGER NOT NULL,
            created_ms INTEGER NOT NULL,
            started_ms INTEGER,
            ended_ms INTEGER
        ) STRICT;
        CREATE INDEX run_in_order ON run(session, number);
        CREATE INDEX run_open ON run(state) WHERE ended_ms IS NULL;
        -- Calls of tools: an effect happens between `begun` and `ended`, once.
        CREATE TABLE tool_call (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            run INTEGER NOT NULL,
            step INTEGER NOT NULL,
            id TEXT NOT NULL UNIQUE,
            call TEXT NOT NULL,
            tool TEXT NOT NULL,
            arguments TEXT NOT NULL,
            state TEXT NOT NULL,
            approvers TEXT,
            decided_by TEXT,
            until_ms INTEGER,
            begun_ms INTEGER,
            ended_ms INTEGER
        ) STRICT;
        CREATE INDEX tool_call_in_order ON tool_call(run, number);
        -- What somebody who watches a session is told, in order.
        CREATE TABLE session_event (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            session INTEGER NOT NULL,
            body TEXT NOT NULL,
            created_ms INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX session_event_in_order ON session_event(session, number);
        -- What stands in a prompt for all runs up to `upto`; the messages stay.
        CREATE TABLE summary (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            session INTEGER NOT NULL,
            upto INTEGER NOT NULL,
            body TEXT NOT NULL,
            created_ms INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX summary_in_order ON summary(session, number);
        -- The trace that a row belongs to; of a run, its number.
        ALTER TABLE ledger ADD COLUMN trace TEXT;
        -- How many conversations went with a key, until the log says so.
        ALTER TABLE person_key ADD COLUMN conversations INTEGER NOT NULL DEFAULT 0;
    "],
};

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::TenantUid;
    use cap_std::ambient_authority;
    use cap_std::fs::Dir;
    use store::sql::params;
    use store::{Engine, EngineConfig, Place};
    use vault::Key;

    use super::*;

    /// The tables as the first version made them.
    static FIRST: Schema = Schema {
        name: TENANT.name,
        migrations: &[TENANT.migrations[0]],
    };

    const ROW: &str = "INSERT INTO ledger (sent_seq, request_id, attempt, person, token, model, provider, provider_model,
        input, cache_read, output, hold_pico, charged_pico, ratecard_version, usage_source, outcome, started_ms, finished_ms)
        VALUES (?1, 'r', ?2, ?3, ?4, 'm', 'p', 'pm', ?5, 1, 2, 100, ?6, 'v', 'provider', 'finished', ?7, ?7)";

    /// The registry before tokens had a serial.
    static NO_SERIAL: Schema = Schema {
        name: REGISTRY.name,
        migrations: REGISTRY.migrations.split_at(5).0,
    };

    fn engine() -> Engine {
        Engine::start(EngineConfig {
            writers: 1,
            readers: 1,
            open_max: 2,
            idle_max: base::limits::DATABASE_IDLE_MAX,
        })
        .unwrap()
    }

    fn place(home: &std::path::Path, schema: &'static Schema) -> Arc<Place> {
        let dir = Dir::open_ambient_dir(home, ambient_authority()).unwrap();
        let handle = crate::root::syncable(&dir, home).unwrap();
        let (key, uid) = (
            Arc::new(Key::from_bytes([7; 32])),
            TenantUid::from_bytes([1; 16]),
        );
        let place = Place::new(handle, home.to_owned(), "tenant.db", key, uid, schema);
        Arc::new(place)
    }

    #[tokio::test]
    async fn tokens_of_before_have_one_serial_by_name() {
        let home = tempfile::tempdir().unwrap();
        let engine = engine();
        let before = place(home.path(), &NO_SERIAL);
        let laid = engine.write(&before, |tx| {
            for tenant in [1_u8, 2] {
                let sql = "INSERT INTO tenants (uid, id, status, tier, limits, created_ms, audit_key)
                    VALUES (?1, ?2, 'active', 't', '', 0, x'')";
                tx.execute(sql, params![[tenant; 16], tenant.to_string()])?;
                for (at, name) in [(1_u8, "ci"), (2, "web"), (3, "ci")] {
                    let sql = "INSERT INTO tokens (hash, uid, name, role, created_ms) VALUES (?1, ?2, ?3, 'app', ?4)";
                    tx.execute(sql, params![[tenant, at], [tenant; 16], name, at])?;
                }
            }
            Ok(())
        });
        laid.await.unwrap();
        engine.close(&before).await.unwrap();
        let now = place(home.path(), &REGISTRY);
        engine.write(&now, |_tx| Ok(())).await.unwrap();
        let sql = "SELECT serial FROM tokens ORDER BY hash";
        let read = engine.read(&now, move |tx| {
            tx.query(sql, params![], 10, |row| Ok(row.get::<_, i64>(0)?))
        });
        let serials = read.await.unwrap();
        assert_eq!(serials, [1, 2, 1, 4, 5, 4]);
    }

    #[tokio::test]
    async fn what_was_used_before_parties_were_counted_counts_for_them() {
        let home = tempfile::tempdir().unwrap();
        let engine = engine();
        let place = |schema| place(home.path(), schema);
        let first = place(&FIRST);
        let day = 86_400_000_i64;
        engine
            .write(&first, move |tx| {
                for (seq, attempt, person, token, input, pico, at) in [
                    (1, 1, None, "ci", Some(10), 5, 20_000 * day),
                    (2, 2, None, "ci", Some(20), i64::MAX, 20_000 * day + 1),
                    (3, 1, Some("ann"), "web", None, 7, 20_001 * day),
                ] {
                    tx.execute(ROW, params![seq, attempt, person, token, input, pico, at])?;
                }
                Ok(())
            })
            .await
            .unwrap();
        engine.close(&first).await.unwrap();
        let now = place(&TENANT);
        engine.write(&now, |_tx| Ok(())).await.unwrap();
        let sql = "SELECT day, kind, name, requests, charged_tokens, charged_pico FROM party_rollup ORDER BY 1, 2, 3";
        let rows = engine.read(&now, move |tx| {
            tx.query(sql, params![], 10, |row| {
                let (kind, name): (String, String) = (row.get(1)?, row.get(2)?);
                let (day, requests): (i32, i64) = (row.get(0)?, row.get(3)?);
                let (tokens, pico): (i64, i64) = (row.get(4)?, row.get(5)?);
                Ok((day, format!("{kind}:{name}"), requests, tokens, pico))
            })
        });
        let saturated = 9_200_000_000_000_000_000;
        assert_eq!(
            rows.await.unwrap(),
            [
                (20_000, "token:ci".to_owned(), 1, 36, saturated),
                (20_001, "person:ann".to_owned(), 1, 3, 7),
                (20_001, "token:web".to_owned(), 1, 3, 7),
            ]
        );
    }
}
