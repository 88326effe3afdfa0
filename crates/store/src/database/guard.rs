//! What a statement may do: SQLite asks for every action while it compiles a statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// On whose behalf the connection runs statements just now.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mode {
    /// The engine's own: settings, migrations, BEGIN and COMMIT.
    Engine = 0,
    /// Inside a `ReadTx`.
    Read = 1,
    /// Inside a `WriteTx`.
    Write = 2,
}

/// The switch between the modes of one connection, and the time its statements may take.
///
/// Statements compiled in [`Mode::Engine`] are never cached: a feature that sends the same text
/// would get them without being asked about.
pub(super) struct Guard {
    state: Arc<State>,
    started: Instant,
}

struct State {
    mode: AtomicU8,
    // Milliseconds after `started`; u64::MAX when there is no limit.
    deadline_ms: AtomicU64,
}

/// The engine's table in every database: owner, kind, version.
pub(super) const META: &str = "partywall_meta";

// About 0.1 ms of work between two looks at the clock.
const OPS_PER_LOOK: i32 = 10_000;

impl Guard {
    /// Puts a guard on the connection, in engine mode.
    pub(super) fn install(conn: &mut Connection) -> rusqlite::Result<Self> {
        let started = Instant::now();
        let state = Arc::new(State {
            mode: AtomicU8::new(Mode::Engine as u8),
            deadline_ms: AtomicU64::new(u64::MAX),
        });
        let asked = Arc::clone(&state);
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            if allows(asked.mode.load(Ordering::Relaxed), &context) {
                Authorization::Allow
            } else {
                Authorization::Deny
            }
        }))?;
        let timed = Arc::clone(&state);
        conn.progress_handler(
            OPS_PER_LOOK,
            Some(move || millis(started.elapsed()) > timed.deadline_ms.load(Ordering::Relaxed)),
        )?;
        Ok(Self { state, started })
    }

    /// From now on statements are a feature's, and stop after `limit`.
    pub(super) fn enter(&self, mode: Mode, limit: Duration) {
        self.state
            .deadline_ms
            .store(millis(self.started.elapsed() + limit), Ordering::Relaxed);
        self.state.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// From now on statements are the engine's.
    pub(super) fn leave(&self) {
        self.state.mode.store(Mode::Engine as u8, Ordering::Relaxed);
        self.state.deadline_ms.store(u64::MAX, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn allows(mode: u8, context: &AuthContext<'_>) -> bool {
    if mode == Mode::Engine as u8 {
        return true;
    }
    let write = mode == Mode::Write as u8;
    let here = context.database_name.is_none_or(|name| name == "main");
    here && match context.action {
        AuthAction::Select | AuthAction::Recursive | AuthAction::Read { .. } => true,
        AuthAction::Function { function_name } => !is_forbidden_function(function_name),
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => write && !is_engine_table(table_name),
        // Full-text search asks it to notice changes; it tells a counter and changes nothing.
        AuthAction::Pragma {
            pragma_name,
            pragma_value,
        } => pragma_value.is_none() && pragma_name.eq_ignore_ascii_case("data_version"),
        _ => false,
    }
}

fn is_engine_table(name: &str) -> bool {
    let sqlite = name
        .get(..7)
        .is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"));
    sqlite || name.eq_ignore_ascii_case(META)
}

fn is_forbidden_function(name: &str) -> bool {
    let cipher = name
        .get(..10)
        .is_some_and(|start| start.eq_ignore_ascii_case("sqlcipher_"));
    cipher
        || name.eq_ignore_ascii_case("load_extension")
        || name.eq_ignore_ascii_case("fts3_tokenizer")
}
