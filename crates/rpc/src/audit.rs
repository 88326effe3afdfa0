//! What verifying, exporting and signing an audit log answers.

use base::TenantId;
use serde::{Deserialize, Serialize};

use crate::text;

/// A log that was verified from its first entry to its latest checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerified {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The log's name, the same for its whole life.
    pub origin: String,
    /// Entries that the checkpoint is over.
    pub entries: u64,
    /// The first entry that is still there: those before it were dropped by retention, by an entry that says so.
    pub first: u64,
    /// Root of the tree, in base64.
    pub root: String,
    /// Entries of the kept checkpoint that this log was proven to begin with, where one was given.
    pub since: Option<u64>,
    /// The key that verifies the checkpoint, in the signed-note form `name+hash+key`.
    pub vkey: String,
    /// Keys from before, the latest first.
    pub retired_vkeys: Vec<String>,
    /// The checkpoint: a signed note.
    pub checkpoint: String,
}

/// A checkpoint, to be kept where the operator cannot reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCheckpoint {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The key that verifies it.
    pub vkey: String,
    /// A signed note.
    pub checkpoint: String,
}

/// A piece of a file of an export. Pieces of one file follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePiece {
    /// Path below the export's directory: `tile/0/000`.
    pub name: String,
    /// Bytes in base64, at most 256 KiB of them.
    pub data: String,
}

/// One side of a call, as far as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentPart {
    /// `request` or `answer`.
    pub part: String,
    /// Bytes of the whole; what stands below is its beginning.
    pub bytes: u64,
    /// What was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The same in base64, where it is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// How far a long command has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Done so far.
    pub done: u64,
    /// Of so many.
    pub of: u64,
}
