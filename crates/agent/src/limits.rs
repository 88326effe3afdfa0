//! What bounds agents, sessions and runs. Of a tenant, where nothing else is said.

use std::time::Duration;

/// Agents.
pub(crate) const AGENTS_MAX: usize = 100;
/// Bytes of an agent's instructions.
pub(crate) const INSTRUCTIONS_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Sessions of one owner.
pub(crate) const SESSIONS_PER_OWNER_MAX: i64 = 2_000;
/// Sessions.
pub(crate) const SESSIONS_MAX: i64 = 10_000;
/// Runs of one session, before it has to be reset or deleted.
pub(crate) const RUNS_PER_SESSION_MAX: i64 = 10_000;
/// Runs that work at once.
pub(crate) const RUNS_AT_ONCE: usize = 4;
/// Runs that work at once, of all tenants.
pub(crate) const RUNS_AT_ONCE_OF_ALL: usize = 64;
/// Runs that wait for their turn or for an approval.
pub(crate) const RUNS_WAITING_MAX: usize = 100;
/// How long a run waits for its turn at most.
pub(crate) const QUEUE_WAIT_MAX: Duration = Duration::from_secs(600);
/// How long an approval is waited for.
pub(crate) const APPROVAL_WAIT: Duration = Duration::from_secs(600);
/// Calls of tools in one answer of a model.
pub(crate) const CALLS_PER_STEP_MAX: usize = 16;
/// Bytes of one call's arguments.
pub(crate) const ARGUMENTS_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a tool's result as the model gets it.
pub(crate) const RESULT_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a model's answer.
pub(crate) const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a prompt: the oldest runs are left out before it grows further.
pub(crate) const PROMPT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a conversation from which on its older part is summed up.
pub(crate) const COMPACT_FROM_BYTES: usize = 192 * 1024;
/// Runs at the end of a conversation that stay as they are.
pub(crate) const COMPACT_KEEPS_RUNS: i64 = 4;
/// Messages of one run that clients may say to it while it works, and what all of its messages may come to then.
pub(crate) const STEERED_MESSAGES_MAX: usize = 500;
pub(crate) const STEERED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Messages of one run.
pub(crate) const MESSAGES_PER_RUN_MAX: usize = 4_000;
