//! Files of an agent: all through the kernel's one way into a tenant's workspace.

use std::time::{Duration, Instant};

use kernel::Admission;
use kernel::workspace::{FileError, Reach, Room, Workspace};
use serde_json::json;

use super::arguments::Arguments;
use super::{Caps, Done, Kind};
use crate::files::sees;
use crate::limits::RESULT_BYTES_MAX;

/// Entries of one listing.
const ENTRIES_MAX: usize = 500;
/// Lines that a search finds at most.
const HITS_MAX: usize = 100;
/// Bytes that a search reads of one file, and of all.
const SEARCH_FILE_BYTES: u64 = 8 * 1024 * 1024;
const SEARCH_BYTES: u64 = 64 * 1024 * 1024;
/// How long a search takes at most.
const SEARCH_TIME: Duration = Duration::from_secs(5);
/// What a workspace may hold: as much as a program may leave in it.
pub(crate) const ROOM: Room = Room {
    bytes_max: 256 * 1024 * 1024,
    files_max: 20_000,
    file_bytes_max: 128 * 1024 * 1024,
};

/// The path as rules know it: below the workspace, without what the sandbox shows before it.
pub(crate) fn plain(path: &str) -> &str {
    match path.strip_prefix("/box") {
        Some("") => "",
        Some(rest) => rest.strip_prefix('/').unwrap_or(path),
        None => path,
    }
}

/// What a call asks for, taken along to a thread that may block.
struct Touch {
    kind: Kind,
    path: String,
    text: String,
    offset: u64,
    limit: usize,
    depth: usize,
    append: bool,
    /// Who asks: each path that is shown or looked into is put to the rules.
    asks: Admission,
}

/// Carries a file tool out.
pub(super) async fn touch(
    admission: &Admission,
    kind: Kind,
    arguments: &Arguments,
    caps: Caps,
) -> Done {
    let workspace = match admission.tenant().workspace() {
        Ok(workspace) => workspace,
        Err(_) => return Done::failed("the workspace cannot be used"),
    };
    let text = match kind {
        Kind::Search => arguments.text("text"),
        _ => arguments.text("content"),
    };
    let text = text.unwrap_or_default().to_owned();
    if kind == Kind::Write && caps.bytes.is_some_and(|cap| text.len() as u64 > cap) {
        return Done::failed("a rule lets fewer bytes be written at once");
    }
    let limit = arguments
        .number("limit")
        .and_then(|limit| usize::try_from(limit).ok());
    let touch = Touch {
        kind,
        path: arguments.text("path").unwrap_or_default().to_owned(),
        text,
        offset: arguments.number("offset").unwrap_or_default(),
        limit: limit.unwrap_or(RESULT_BYTES_MAX).min(RESULT_BYTES_MAX),
        depth: arguments
            .number("depth")
            .and_then(|depth| usize::try_from(depth).ok())
            .unwrap_or(2),
        append: arguments.flag("append"),
        asks: admission.clone(),
    };
    let work = tokio::task::spawn_blocking(move || touch.carry_out(&workspace));
    match work.await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Done::failed(error.to_string()),
        Err(_panicked) => Done::failed("the file could not be worked on"),
    }
}

impl Touch {
    fn carry_out(&self, workspace: &Workspace) -> Result<Done, FileError> {
        let (text, bytes) = match self.kind {
            Kind::Write => {
                let written =
                    workspace.write(&self.path, self.text.as_bytes(), self.append, &ROOM)?;
                let total = written.bytes_total;
                (json!({ "path": plain(&self.path), "bytes": total, "created": written.created }).to_string(), self.text.len())
            }
            Kind::List => self.list(workspace)?,
            Kind::Search => self.search(workspace)?,
            _ => {
                let piece = workspace.read(&self.path, self.offset, self.limit)?;
                let end = self.offset + piece.bytes.len() as u64;
                let mut text = String::from_utf8_lossy(&piece.bytes).into_owned();
                if end < piece.total {
                    text.push_str(&format!(
                        "\n[{} of {} bytes; go on at offset {end}]",
                        piece.bytes.len(),
                        piece.total
                    ));
                }
                (text, piece.bytes.len())
            }
        };
        Ok(Done {
            text,
            outcome: "ok",
            facts: [("bytes", bytes.to_string())].into(),
        })
    }

    fn list(&self, workspace: &Workspace) -> Result<(String, usize), FileError> {
        let listing = workspace.list(&self.path, self.depth.max(1), ENTRIES_MAX, &|path| {
            sees(&self.asks, path)
        })?;
        let count = listing.entries.len();
        let mut text = String::new();
        for entry in &listing.entries {
            let kind = entry.kind.as_str();
            text.push_str(&format!("{kind}\t{}\t{}\n", entry.bytes, entry.path));
        }
        if count == 0 {
            text.push_str("nothing is there\n");
        }
        if listing.cut {
            text.push_str("[more is there]\n");
        }
        Ok((text, count))
    }

    fn search(&self, workspace: &Workspace) -> Result<(String, usize), FileError> {
        let reach = Reach {
            hits_max: HITS_MAX,
            file_bytes_max: SEARCH_FILE_BYTES,
            bytes_max: SEARCH_BYTES,
            deadline: Instant::now() + SEARCH_TIME,
        };
        let found = workspace.search(&self.text, &self.path, &reach, &|path| {
            sees(&self.asks, path)
        })?;
        let count = found.hits.len();
        let mut text = String::new();
        for hit in &found.hits {
            text.push_str(&format!("{}:{}: {}\n", hit.path, hit.line, hit.text));
        }
        if count == 0 {
            text.push_str("no line has it\n");
        }
        if found.cut {
            text.push_str("[not everything was looked through]\n");
        }
        Ok((text, count))
    }
}
