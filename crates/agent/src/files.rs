//! Files of a tenant's workspace, for its people and programs: what agents leave there, and what they are to work with.

use kernel::workspace::{FileError, Listing, Piece, Workspace, Written};
use kernel::{Admission, Deed, Trail};
use policy::{Act, Outcome};

use crate::agents::Agents;
use crate::error::AgentError;
use crate::tools::files::{ROOM, plain};

/// Bytes of one piece that is read or written.
pub const PIECE_BYTES: usize = 256 * 1024;
/// Entries of one listing.
const ENTRIES_MAX: usize = 1_000;

impl Agents {
    /// What is in a directory of the workspace.
    ///
    /// # Errors
    /// What is wrong with the path, that it is not there, or that a rule forbids it.
    pub async fn list_files(
        &self,
        admission: &Admission,
        path: String,
        depth: usize,
    ) -> Result<Listing, AgentError> {
        allowed(admission, Act::ReadFile { path: plain(&path) })?;
        let asks = admission.clone();
        work(admission, move |workspace| {
            workspace.list(&path, depth, ENTRIES_MAX, &|path| sees(&asks, path))
        })
        .await
    }

    /// A piece of a file, at most [`PIECE_BYTES`].
    ///
    /// # Errors
    /// As [`Agents::list_files`].
    pub async fn read_file(
        &self,
        trail: &Trail,
        admission: &Admission,
        path: String,
        offset: u64,
        limit: usize,
    ) -> Result<Piece, AgentError> {
        let rules = allowed(admission, Act::ReadFile { path: plain(&path) })?;
        record(trail, admission, "read_file", &rules, &path).await?;
        let limit = limit.min(PIECE_BYTES);
        work(admission, move |workspace| {
            workspace.read(&path, offset, limit)
        })
        .await
    }

    /// Writes a file, in place of one that is there or at its end; at most [`PIECE_BYTES`] at once.
    ///
    /// # Errors
    /// As [`Agents::list_files`], and where there is no room.
    pub async fn write_file(
        &self,
        trail: &Trail,
        admission: &Admission,
        path: String,
        bytes: Vec<u8>,
        append: bool,
    ) -> Result<Written, AgentError> {
        if bytes.len() > PIECE_BYTES {
            let text = format!("is longer than {PIECE_BYTES} bytes; append the rest");
            return Err(AgentError::wrong("content", text));
        }
        let rules = allowed(admission, Act::WriteFile { path: plain(&path) })?;
        record(trail, admission, "write_file", &rules, &path).await?;
        work(admission, move |workspace| {
            workspace.write(&path, &bytes, append, &ROOM)
        })
        .await
    }

    /// Removes a file, or a directory that is empty.
    ///
    /// # Errors
    /// As [`Agents::list_files`].
    pub async fn remove_file(
        &self,
        trail: &Trail,
        admission: &Admission,
        path: String,
    ) -> Result<(), AgentError> {
        let rules = allowed(admission, Act::WriteFile { path: plain(&path) })?;
        record(trail, admission, "remove_file", &rules, &path).await?;
        work(admission, move |workspace| workspace.remove(&path)).await
    }
}

/// Whether the rules let a path be known without further ado.
pub(crate) fn sees(admission: &Admission, path: &str) -> bool {
    let decision = admission.decide(Act::ReadFile { path });
    matches!(&decision.outcome, Outcome::Allowed(obligations) if obligations.approvers().is_none())
}

/// The rules that allow it.
pub(crate) fn allowed(admission: &Admission, act: Act<'_>) -> Result<String, AgentError> {
    let decision = admission.decide(act);
    match &decision.outcome {
        Outcome::Allowed(obligations) if obligations.is_empty() => Ok(decision.rules.to_string()),
        Outcome::Absent => Err(AgentError::NotFound),
        Outcome::Allowed(_) => Err(AgentError::refused(
            "approval_required",
            format!(
                "a rule lets this be done by an approved call of an agent only: {}",
                decision.rules
            ),
        )),
        Outcome::NotPermitted => Err(AgentError::refused("forbidden", "no rule permits this")),
        Outcome::Forbidden | Outcome::Broken => {
            let text = format!("a rule forbids this: {}", decision.rules);
            Err(AgentError::refused("policy_denied", text))
        }
    }
}

async fn record(
    trail: &Trail,
    admission: &Admission,
    action: &'static str,
    rules: &str,
    path: &str,
) -> Result<(), AgentError> {
    let deed = Deed {
        action,
        rule: Some(rules),
        detail: [("name", path.chars().take(256).collect())].into(),
        ..Deed::default()
    };
    Ok(trail.record(admission, deed).await?)
}

async fn work<T: Send + 'static>(
    admission: &Admission,
    job: impl FnOnce(&Workspace) -> Result<T, FileError> + Send + 'static,
) -> Result<T, AgentError> {
    let workspace = admission.tenant().workspace()?;
    let done = tokio::task::spawn_blocking(move || job(&workspace)).await;
    let done = done.map_err(|_panicked| {
        AgentError::refused("unavailable", "the file could not be worked on")
    })?;
    done.map_err(|error| match error {
        FileError::NotFound => AgentError::NotFound,
        error => AgentError::wrong("path", error.to_string()),
    })
}
