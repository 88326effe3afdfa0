//! An auditor of an exported log that is built on another project's implementation of C2SP's signed notes and tiled logs, and on
//! nothing of ours: what it accepts, others accept.
//!
//! `tlog_auditor DIRECTORY VKEY [KEPT_CHECKPOINT]` prints one line and exits with 0, or says what is wrong and exits with 1. Formats:
//! <https://c2sp.org/signed-note>, <https://c2sp.org/tlog-checkpoint>, <https://c2sp.org/tlog-tiles>.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{
    Checkpoint, Error, HashReader as _, Tile, TileHashReader, TileReader, check_tree, prove_tree,
    record_hash, stored_hash_index,
};

/// Hashes of a full tile are 2 to this power.
const TILE_HEIGHT: u8 = 8;
const TILE_WIDTH: u64 = 1 << TILE_HEIGHT;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (line, code) = match arguments.as_slice() {
        [directory, vkey] => outcome(audit(directory, vkey, None)),
        [directory, vkey, kept] => outcome(audit(directory, vkey, Some(kept))),
        _ => (
            "usage: tlog_auditor DIRECTORY VKEY [KEPT_CHECKPOINT]".to_owned(),
            2,
        ),
    };
    let _nobody_reads = writeln!(std::io::stdout(), "{line}");
    ExitCode::from(code)
}

fn outcome(audited: Result<u64>) -> (String, u8) {
    match audited {
        Ok(entries) => (format!("verified {entries} entries"), 0),
        Err(error) => (format!("does not verify: {error:#}"), 1),
    }
}

/// Checks the checkpoint's signature, every entry against the tree, and a kept checkpoint's tree as the beginning of this one.
fn audit(directory: &Path, vkey: &Path, kept: Option<&Path>) -> Result<u64> {
    let vkey = vkey.to_str().context("the key is not text")?;
    let head = checkpoint(&directory.join("checkpoint"), vkey)?;
    let tiles = Tiles(directory);
    let tree = TileHashReader::new(head.size(), *head.hash(), &tiles);
    let mut first = 0;
    while first < head.size() {
        let width = TILE_WIDTH.min(head.size() - first);
        let entries = bundle(directory, first / TILE_WIDTH, width)?;
        let indexes: Vec<u64> = (first..first + width)
            .map(|number| stored_hash_index(0, number))
            .collect();
        let hashes = tree.read_hashes(&indexes).map_err(fault)?;
        for (number, (entry, hash)) in (first..).zip(entries.iter().zip(hashes)) {
            ensure!(
                record_hash(entry) == hash,
                "entry {number} is not the tree's"
            );
        }
        first += width;
    }
    if let Some(kept) = kept {
        let kept = checkpoint(kept, vkey)?;
        ensure!(kept.size() <= head.size(), "the log has become shorter");
        if kept.size() > 0 {
            let proof = prove_tree(head.size(), kept.size(), &tree).map_err(fault)?;
            check_tree(&proof, head.size(), *head.hash(), kept.size(), *kept.hash())
                .map_err(fault)?;
        }
    }
    Ok(head.size())
}

fn checkpoint(path: &Path, vkey: &str) -> Result<Checkpoint> {
    let note = Note::from_bytes(&read(path)?).context("the checkpoint is no signed note")?;
    let verifier = StandardVerifier::new(vkey).context("the key cannot be read")?;
    note.verify(&VerifierList::new(vec![Box::new(verifier)]))
        .context("the checkpoint's signature")?;
    Checkpoint::from_bytes(note.text())
        .ok()
        .context("the note is no checkpoint")
}

/// The entries of one bundle, each behind its length in two bytes.
fn bundle(directory: &Path, number: u64, width: u64) -> Result<Vec<Vec<u8>>> {
    let width = u32::try_from(width).context("a bundle is too wide")?;
    let mut tile = Tile::new(TILE_HEIGHT, 0, number, width, false);
    tile.set_is_data();
    let path = tile.path().replacen("tile/8/data/", "tile/entries/", 1);
    let bytes = read(&directory.join(path))?;
    let mut rest = bytes.as_slice();
    let mut entries = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, after) = after
            .split_at_checked(length)
            .context("a bundle is cut off")?;
        entries.push(entry.to_vec());
        rest = after;
    }
    ensure!(
        rest.is_empty() && entries.len() == width as usize,
        "a bundle has {} entries instead of {width}",
        entries.len()
    );
    Ok(entries)
}

/// The tiles of an export. Its paths leave out the height, which is always the same.
struct Tiles<'a>(&'a Path);

impl TileReader for Tiles<'_> {
    fn height(&self) -> u8 {
        TILE_HEIGHT
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        tiles
            .iter()
            .map(|tile| {
                let path = tile.path().replacen("tile/8/", "tile/", 1);
                read(&self.0.join(path)).map_err(|_| Error::InvalidTile)
            })
            .collect()
    }

    fn save_tiles(&self, _tiles: &[Tile], _data: &[Vec<u8>]) {}
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program of its own, which reads what it is told to"
)]
fn read(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) => bail!("{}: {error}", path.display()),
    }
}

fn fault(error: Error) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}
