//! The files of an exported audit log, in the layout of C2SP `tlog-tiles`.

use base::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kernel::audit::verify::Bundle;
use kernel::digest::sha256;
use kernel::tlog::{Edge, TILE_WIDTH, bundle_path, push_entry, tile_path};
use rpc::{AuditVerified, Fault, FilePiece, Row};
use serde_json::json;

use crate::fault::internal;
use crate::feed::Feed;

/// Bytes of a file that travel in one row.
const PIECE_BYTES: usize = 256 * 1024;

/// Hands files over, and remembers what each of them was.
pub(super) struct Files<'a> {
    to: &'a Feed,
    /// Name, bytes and digest of each, as lines of the manifest.
    listed: Vec<serde_json::Value>,
}

impl<'a> Files<'a> {
    pub(super) fn new(to: &'a Feed) -> Self {
        Self {
            to,
            listed: Vec::new(),
        }
    }

    /// The entries of a bundle, where they are still there, and the tiles that end with it.
    pub(super) async fn bundle(&mut self, bundle: &Bundle) -> Result<(), Fault> {
        if !bundle.entries.is_empty() {
            let mut bytes = Vec::new();
            for entry in &bundle.entries {
                push_entry(&mut bytes, entry.as_bytes())
                    .ok_or_else(|| internal("an audit entry is too long for a bundle"))?;
            }
            let name = bundle_path(bundle.index, bundle.entries.len());
            self.file(name, &bytes).await?;
        }
        for tile in &bundle.tiles {
            let name = tile_path(tile.level, tile.index, TILE_WIDTH);
            self.file(name, &tile.hashes).await?;
        }
        Ok(())
    }

    /// Partial tiles, keys, what an auditor is told, and last the checkpoint: an export without one is not whole.
    pub(super) async fn end(
        mut self,
        edge: &Edge,
        log: &AuditVerified,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let mut index = edge.size();
        for (level, hashes) in (0_u8..).zip(edge.levels()) {
            index /= TILE_WIDTH as u64;
            if !hashes.is_empty() {
                let name = tile_path(level, index, hashes.len());
                self.file(name, &hashes.concat()).await?;
            }
        }
        let mut keys = format!("{}\n", log.vkey);
        for key in &log.retired_vkeys {
            keys.push_str(&format!("{key}\n"));
        }
        self.file("vkey".to_owned(), keys.as_bytes()).await?;
        self.file("README".to_owned(), readme(log).as_bytes())
            .await?;
        let manifest = json!({
            "tenant": log.tenant.as_str(),
            "origin": log.origin,
            "entries": log.entries,
            "first_entry": log.first,
            "root": log.root,
            "exported_at": now.to_string(),
            "files": self.listed,
        });
        let manifest =
            serde_json::to_vec_pretty(&manifest).map_err(|error| internal(error.to_string()))?;
        self.file("manifest.json".to_owned(), &manifest).await?;
        self.file("checkpoint".to_owned(), log.checkpoint.as_bytes())
            .await
    }

    async fn file(&mut self, name: String, bytes: &[u8]) -> Result<(), Fault> {
        for piece in bytes.chunks(PIECE_BYTES) {
            let data = STANDARD.encode(piece);
            let name = name.clone();
            self.to.push(Row::File(FilePiece { name, data })).await?;
        }
        let digest: String = sha256(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.listed
            .push(json!({ "name": name, "bytes": bytes.len(), "sha256": digest }));
        Ok(())
    }
}

fn readme(log: &AuditVerified) -> String {
    let AuditVerified {
        tenant,
        origin,
        entries,
        first,
        vkey,
        ..
    } = log;
    let dropped = if *first == 0 {
        String::new()
    } else {
        format!(
            "The first {first} entries were dropped by retention; entries with the action\n\
             audit.retention say so. Their hashes are still in the tiles.\n\n"
        )
    };
    format!(
        "Audit log of tenant {tenant}: {entries} entries\n\
         \n\
         checkpoint          how many entries there are and the root over them, signed (C2SP signed-note)\n\
         tile/entries/...    the entries: 256 to a file, each after its length in two bytes\n\
         tile/0/... 1/...    the hash tree over them (RFC 6962, C2SP tlog-tiles)\n\
         vkey                the key that the checkpoint verifies with; earlier keys below it\n\
         manifest.json       every file but itself and the checkpoint, with its size and SHA-256\n\
         \n\
         Each entry is one canonical JSON object (RFC 8785). Numbers called seq count from 0.\n\
         \n\
         {dropped}\
         To verify, take the key from somewhere else than this directory: from the operator, or from\n\
         the tenant's own earlier copy. As this directory says, it is\n\
         \n\
         \x20   {vkey}\n\
         \n\
         With the public tool of the Tessera project (needs Go):\n\
         \n\
         \x20   go run github.com/transparency-dev/tessera/cmd/fsck@latest \\\n\
         \x20       --storage_url=file://$PWD/ --origin={origin} --public_key=vkey\n\
         \n\
         With the verifier in Partywall's source, which is one file of Python:\n\
         \n\
         \x20   python3 tests/audit_verifier/verify.py DIRECTORY --vkey '{vkey}'\n\
         \n\
         A checkpoint that was kept from before proves that the log only grew since:\n\
         \n\
         \x20   python3 tests/audit_verifier/verify.py DIRECTORY --vkey '{vkey}' --checkpoint KEPT\n\
         \n\
         Without a checkpoint that was kept outside, a log proves that it is consistent, not that it was\n\
         never written anew.\n"
    )
}
