//! The tables of the registry and of a tenant. Forward-only: a migration that shipped is never edited.

use store::Schema;

/// The deployment's own database.
pub(crate) static REGISTRY: Schema = Schema {
    name: "registry",
    migrations: &["
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
    "],
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
    "],
};
