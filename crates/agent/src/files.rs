//! Files of a tenant's workspace, for its people and programs: what agents leave there, and what they are to work with.

use gateway::door;
use kernel::workspace::{FileError, Listing, Piece, Workspace, Written};
use kernel::{Admission, Deed, Trail};
use policy::{Act, Cap, Outcome};

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
        trail: &Trail,
        admission: &Admission,
        path: String,
        depth: usize,
    ) -> Result<Listing, AgentError> {
        let act = Act::ReadFile { path: plain(&path) };
        allowed(trail, admission, "read_files", act).await?;
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
        let act = Act::ReadFile { path: plain(&path) };
        let allowed = allowed(trail, admission, "read_file", act).await?;
        record(trail, admission, "read_file", &allowed.rules, &path).await?;
        let cap = allowed.bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let limit = limit.min(PIECE_BYTES).min(cap.unwrap_or(usize::MAX));
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
        let act = Act::WriteFile { path: plain(&path) };
        let allowed = allowed(trail, admission, "write_file", act).await?;
        if allowed.bytes.is_some_and(|cap| bytes.len() as u64 > cap) {
            let text = "is longer than a rule lets it be";
            return Err(AgentError::wrong("content", text));
        }
        record(trail, admission, "write_file", &allowed.rules, &path).await?;
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
        let act = Act::WriteFile { path: plain(&path) };
        let allowed = allowed(trail, admission, "remove_file", act).await?;
        record(trail, admission, "remove_file", &allowed.rules, &path).await?;
        work(admission, move |workspace| workspace.remove(&path)).await
    }
}

/// Whether the rules let a path be known without further ado.
pub(crate) fn sees(admission: &Admission, path: &str) -> bool {
    let decision = admission.decide(Act::ReadFile { path });
    matches!(&decision.outcome, Outcome::Allowed(obligations) if obligations.approvers().is_none())
}

/// What the rules leave of something that they allow.
pub(crate) struct Allowed {
    rules: String,
    bytes: Option<u64>,
}

/// Puts an act of a client to the rules; a refusal is recorded.
pub(crate) async fn allowed(
    trail: &Trail,
    admission: &Admission,
    action: &'static str,
    act: Act<'_>,
) -> Result<Allowed, AgentError> {
    let decision = admission.decide(act);
    if let Some(refusal) = gateway::policy::refusal(admission, &decision) {
        let recorded = door::denied(trail, admission, action, &refusal).await;
        recorded.map_err(|_| AgentError::refused("unavailable", "nothing can be recorded"))?;
        return Err(match &decision.outcome {
            Outcome::Absent => AgentError::NotFound,
            _ => AgentError::refused(refusal.code(), refusal.text()),
        });
    }
    let bytes = match &decision.outcome {
        Outcome::Allowed(obligations) => obligations.cap(Cap::Bytes),
        _ => None,
    };
    Ok(Allowed {
        rules: decision.rules.to_string(),
        bytes,
    })
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
