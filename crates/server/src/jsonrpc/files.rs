//! What the methods of files do.

use agent::PIECE_BYTES;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rpc::file::{
    FileContent, FileEntry, FileList, FileWritten, FilesWish, NamedFile, ReadFile, WriteFile,
};
use rpc::jsonrpc::Failure;
use rpc::method::{self, Handle};
use rpc::params::Done;

use super::agents::failure;
use super::session::Turn;

type Told<T> = Result<T, Failure>;

impl Handle<method::FilesList> for Turn {
    async fn handle(&self, FilesWish { path, depth }: FilesWish) -> Told<FileList> {
        let depth = usize::try_from(depth.unwrap_or(1)).unwrap_or(usize::MAX);
        let found = self
            .agents()
            .list_files(
                &self.trail,
                &self.admission,
                path.unwrap_or_default(),
                depth,
            )
            .await
            .map_err(failure)?;
        let entries = found.entries.into_iter().map(|entry| FileEntry {
            path: entry.path,
            kind: entry.kind.as_str().to_owned(),
            bytes: entry.bytes,
            modified_ms: entry.modified_ms,
        });
        Ok(FileList {
            entries: entries.collect(),
            cut: found.cut,
        })
    }
}

impl Handle<method::FilesRead> for Turn {
    async fn handle(&self, wish: ReadFile) -> Told<FileContent> {
        let offset = wish.offset.unwrap_or_default();
        let limit = wish.limit.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(PIECE_BYTES);
        let piece = self
            .agents()
            .read_file(&self.trail, &self.admission, wish.path, offset, limit)
            .await
            .map_err(failure)?;
        let (text, base64) = match String::from_utf8(piece.bytes) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        Ok(FileContent {
            offset,
            total: piece.total,
            text,
            base64,
        })
    }
}

impl Handle<method::FilesWrite> for Turn {
    async fn handle(&self, wish: WriteFile) -> Told<FileWritten> {
        let bytes = match (wish.text, wish.base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => STANDARD
                .decode(base64)
                .map_err(|_| Failure::invalid_params("base64", "is not base64"))?,
            _ => return Err(Failure::invalid_params("text", "give text, or base64")),
        };
        let append = wish.append.unwrap_or(false);
        let written = self
            .agents()
            .write_file(&self.trail, &self.admission, wish.path, bytes, append)
            .await;
        written.map_err(failure).map(|written| FileWritten {
            bytes: written.bytes_total,
            created: written.created,
        })
    }
}

impl Handle<method::FilesDelete> for Turn {
    async fn handle(&self, NamedFile { path }: NamedFile) -> Told<Done> {
        let removed = self
            .agents()
            .remove_file(&self.trail, &self.admission, path)
            .await;
        removed.map(|()| Done { done: true }).map_err(failure)
    }
}
