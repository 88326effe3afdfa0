//! The tree over what is left of an audit log. The hash of an entry that is lost stands in for it where it is known; where it is
//! not, another entry says so, and the tree is another one than the checkpoints of before were over.

use std::sync::Arc;

use base::Timestamp;
use store::sql::params;
use store::{Place, ReadTx, StoreError, WriteTx};
use vault::tlog::{Edge, Hash, TILE_WIDTH, Tile, hashes_of, leaf_hash};

use super::ranges::Ranges;
use crate::audit::Entry;
use crate::audit::retention::RETENTION;
use crate::audit::seen::Seen as Head;
use crate::audit::tree::{Signer, signed};
use crate::error::KernelError;
use crate::open::Kernel;
use crate::resident::Resident;

/// The action of an entry that stands where one was lost with its hash.
const LOST: &str = "audit.lost";

/// Where an entry and its known hash differ, which of them is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trusted {
    Entries,
    Hashes,
}

/// What is known of a log beside its entries and full tiles.
pub(super) struct Log<'a> {
    pub(super) size: u64,
    /// The bundle that `edge` has the first hashes of.
    pub(super) edge_bundle: u64,
    pub(super) edge: &'a [Hash],
}

/// A tree that was grown anew.
#[derive(Default)]
pub(super) struct Regrown {
    edge: Edge,
    tiles: Vec<Tile>,
    /// Entries that are lost and whose hash is not.
    pub(super) lost: Ranges,
    /// Entries that are lost with their hash: others stand there.
    pub(super) replaced: Ranges,
    /// Heads from before that the tree goes through.
    pub(super) matched: usize,
    heads: Vec<Head>,
}

/// What is known of one bundle.
struct Known {
    entries: Vec<(u64, String)>,
    hashes: Vec<Hash>,
}

impl Kernel {
    /// Grows the tree of a log's entries in `place`, and compares it with each of `heads`.
    pub(super) async fn regrow(
        &self,
        resident: &Resident,
        place: &Arc<Place>,
        log: &Log<'_>,
        heads: &[Head],
        trusted: Trusted,
    ) -> Result<Regrown, KernelError> {
        let width = TILE_WIDTH as u64;
        let mut grown = Regrown {
            heads: heads.to_vec(),
            ..Regrown::default()
        };
        let dropped = self.engine().read(place, dropped).await?;
        for index in 0..log.size.div_ceil(width) {
            let to = log.size.min((index + 1) * width);
            let mut known = self
                .engine()
                .read(place, move |tx| known(tx, index, to))
                .await?;
            if known.hashes.is_empty() && index == log.edge_bundle {
                known.hashes = log.edge.to_vec();
            }
            let stands = Stands {
                tenant: resident.id.as_str(),
                now: self.now(),
            };
            let fresh = grown.bundle((index * width, to), &known, dropped, trusted, &stands);
            if !fresh.is_empty() {
                self.engine()
                    .write(place, move |tx| put(tx, &fresh))
                    .await?;
            }
        }
        Ok(grown)
    }

    /// Writes the tree down, with the entry about the repair as its last one and a checkpoint over all.
    pub(super) async fn write_log(
        &self,
        place: &Arc<Place>,
        mut grown: Regrown,
        about: String,
        signer: Arc<Signer>,
    ) -> Result<Head, KernelError> {
        let seq = grown.edge.size();
        grown.append(leaf_hash(about.as_bytes()));
        let head = Head {
            size: grown.edge.size(),
            root: grown.edge.root(),
        };
        let written = self.engine().write(place, move |tx| {
            put(tx, &[(seq, Some(about))])?;
            tx.execute("DELETE FROM audit_tile", params![])?;
            tx.execute("DELETE FROM audit_edge", params![])?;
            crate::audit::tree::write_down(tx, &grown.tiles, &grown.edge)?;
            let head = signer.sign(&grown.edge);
            crate::audit::tree::write_head(tx, &head)
        });
        written.await?;
        Ok(head)
    }
}

struct Stands<'a> {
    tenant: &'a str,
    now: Timestamp,
}

impl Stands<'_> {
    fn entry(&self, seq: u64) -> String {
        Entry {
            action: LOST,
            actor: Some("partywall"),
            decision: "allow",
            seq,
            tenant: self.tenant,
            time: self.now.to_string(),
            ..Entry::default()
        }
        .canonical()
    }
}

impl Regrown {
    /// Entries of the log.
    pub(super) fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Whether every head from before is one that this tree went through.
    pub(super) fn fits(&self) -> bool {
        self.matched == self.heads.len()
    }

    /// Takes one bundle in. Returns the entries that stand for others, and those that are not the ones that were logged.
    fn bundle(
        &mut self,
        (from, to): (u64, u64),
        known: &Known,
        dropped: u64,
        trusted: Trusted,
        stands: &Stands<'_>,
    ) -> Vec<(u64, Option<String>)> {
        let mut fresh = Vec::new();
        let mut entries = known.entries.iter().peekable();
        for place in from..to {
            let own = entries.next_if(|(seq, _)| *seq == place);
            let own = own.map(|(_, entry)| leaf_hash(entry.as_bytes()));
            let at = usize::try_from(place - from).unwrap_or(usize::MAX);
            let kept = known.hashes.get(at).copied();
            let hash = match (own, kept) {
                (Some(own), Some(kept)) if own != kept && trusted == Trusted::Hashes => {
                    self.lost.push(place);
                    fresh.push((place, None));
                    kept
                }
                (Some(own), _) => own,
                (None, Some(kept)) => {
                    if place >= dropped {
                        self.lost.push(place);
                    }
                    kept
                }
                (None, None) => {
                    let entry = stands.entry(place);
                    let hash = leaf_hash(entry.as_bytes());
                    self.replaced.push(place);
                    fresh.push((place, Some(entry)));
                    hash
                }
            };
            self.append(hash);
        }
        fresh
    }

    fn append(&mut self, hash: Hash) {
        self.tiles.extend(self.edge.append(hash));
        let size = self.edge.size();
        // Only the few sizes that are asked about cost a root.
        for head in &self.heads {
            self.matched += usize::from(head.size == size && head.root == self.edge.root());
        }
    }
}

/// Entries before this place were dropped by retention, as an entry says.
fn dropped(tx: &ReadTx<'_>) -> Result<u64, StoreError> {
    let sql = "SELECT COALESCE(MAX(CAST(json_extract(entry, '$.detail.entries_before') AS INTEGER)), 0) FROM audit
        WHERE json_extract(entry, '$.action') = ?1";
    let before = tx.query_one(sql, params![RETENTION], |row| Ok(row.get::<_, i64>(0)?))?;
    Ok(before
        .and_then(|before| u64::try_from(before).ok())
        .unwrap_or_default())
}

fn known(tx: &ReadTx<'_>, index: u64, to: u64) -> Result<Known, StoreError> {
    let from = signed(index * TILE_WIDTH as u64);
    let sql = "SELECT seq, entry FROM audit WHERE seq >= ?1 AND seq < ?2 ORDER BY seq";
    let entries = tx.query(sql, params![from, signed(to)], TILE_WIDTH, |row| {
        let seq: i64 = row.get(0)?;
        Ok((u64::try_from(seq).unwrap_or_default(), row.get(1)?))
    })?;
    let sql = "SELECT hashes FROM audit_tile WHERE level = 0 AND place = ?1";
    let hashes = tx.query_one(sql, params![signed(index)], |row| {
        Ok(row.get::<_, Vec<u8>>(0)?)
    })?;
    let hashes = hashes
        .and_then(|bytes| hashes_of(&bytes))
        .unwrap_or_default();
    Ok(Known { entries, hashes })
}

fn put(tx: &mut WriteTx<'_>, entries: &[(u64, Option<String>)]) -> Result<(), StoreError> {
    for (seq, entry) in entries {
        let seq = signed(*seq);
        // It never was in the journal.
        let insert = "INSERT INTO audit (seq, journal_seq, entry) VALUES (?1, 0, ?2)";
        match entry {
            Some(entry) => tx.execute(insert, params![seq, entry])?,
            None => tx.execute("DELETE FROM audit WHERE seq = ?1", params![seq])?,
        };
    }
    Ok(())
}
