//! Reading a whole audit log and checking it on the way: every entry against the tree, the tree against its tiles, the root against
//! the signed checkpoint, and a checkpoint kept elsewhere against the log's past.

use std::fmt;

use serde::Deserialize;
use store::sql::params;
use store::{ReadTx, StoreError};
use vault::tlog::{
    Checkpoint, Edge, Hash, LogKey, NoteError, SignedCheckpoint, TILE_WIDTH, Tile, leaf_hash,
};

use crate::audit::content::{self, Found, Named};
use crate::audit::retention::RETENTION;
use crate::audit::tree::{self, signed, stored_edge, stored_head, stored_tile};
use crate::error::KernelError;
use crate::repair::REPAIR;
use crate::repair::ranges::Ranges;
use crate::tenant::Tenant;

/// What does not fit in a log. Places count from 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogFault {
    /// An entry is not there, and none says that it was dropped.
    Missing(u64),
    /// An entry is not the one that the tree was grown over.
    Altered(u64),
    /// An entry names another tenant or another place than it stands at.
    Misplaced(u64),
    /// A tile is not what its entries give.
    Tile {
        /// 0 over entries.
        level: u8,
        /// Place within the level.
        index: u64,
    },
    /// What is kept with an entry is not what the entry names.
    Content(u64),
    /// The hashes after the last full tile are not what the entries give.
    Edge,
    /// The checkpoint is over another number of entries or another root.
    Checkpoint,
    /// The checkpoint is not a note that this log's key signed.
    Note(NoteError),
    /// The checkpoint that was kept is no note of this log.
    KeptNote(NoteError),
    /// The log is shorter than when the kept checkpoint was signed.
    Cut {
        /// Entries then.
        kept: u64,
        /// Entries now.
        now: u64,
    },
    /// The log's first entries are not those of the kept checkpoint.
    Forked(u64),
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(place) => write!(
                f,
                "entry {place} is missing, and no entry says that it was dropped"
            ),
            Self::Altered(place) => write!(f, "entry {place} is not the one that was logged"),
            Self::Misplaced(place) => {
                write!(f, "entry {place} names another tenant or another place")
            }
            Self::Content(place) => write!(
                f,
                "the content kept with entry {place} is not what was logged"
            ),
            Self::Tile { level, index } => write!(
                f,
                "tile {index} of level {level} does not match the entries"
            ),
            Self::Edge => {
                f.write_str("the hashes after the last full tile do not match the entries")
            }
            Self::Checkpoint => f.write_str("the checkpoint is over other entries than the log's"),
            Self::Note(error) => write!(f, "{error}"),
            Self::KeptNote(error) => {
                write!(f, "the kept checkpoint is not one of this log: {error}")
            }
            Self::Cut { kept, now } => write!(
                f,
                "the log has {now} entries and had {kept} when the kept checkpoint was signed: it was cut or put back"
            ),
            Self::Forked(kept) => write!(
                f,
                "the first {kept} entries are not those of the kept checkpoint: the log was rewritten"
            ),
        }
    }
}

/// Why a log could not be read to its end.
#[derive(Debug)]
pub enum AuditError {
    /// The store, or the authority.
    Kernel(KernelError),
    /// The log itself.
    Log(LogFault),
}

impl From<KernelError> for AuditError {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

impl From<LogFault> for AuditError {
    fn from(fault: LogFault) -> Self {
        Self::Log(fault)
    }
}

/// The entries of one bundle, all checked, and the tiles that end with it.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Place of the bundle: its first entry's place divided by 256.
    pub index: u64,
    /// Canonical JSON of each, in order. Empty where retention dropped them; an entry that is lost, as the one about a repair
    /// says, is an empty text.
    pub entries: Vec<String>,
    /// Full tiles that end with the last entry, the lowest level first.
    pub tiles: Vec<Tile>,
}

/// A walk through a log up to the checkpoint that was the latest when it began.
pub struct LogWalk {
    tenant: Tenant,
    head: SignedCheckpoint,
    kept: Option<Checkpoint>,
    keys: Vec<LogKey>,
    stored: Edge,
    grown: Edge,
    /// The first entry that is there.
    first: u64,
    /// Up to where entries say that retention dropped others.
    dropped_to: u64,
    /// Entries that are not there although later ones of their bundle, or earlier ones of the log, are.
    missing: Ranges,
    /// Entries that are lost, as entries about repairs say.
    lost: Vec<Ranges>,
    next: u64,
}

/// What the walk looks at in an entry.
#[derive(Deserialize)]
struct Seen {
    action: String,
    seq: u64,
    tenant: String,
    #[serde(default)]
    detail: Detail,
    #[serde(default)]
    content: Vec<Named>,
}

#[derive(Default, Deserialize)]
struct Detail {
    entries_before: Option<String>,
    lost_entries: Option<String>,
}

struct State {
    edge: Edge,
    head: Option<String>,
    first: Option<u64>,
}

impl Tenant {
    /// The key that signs this tenant's log.
    ///
    /// # Errors
    /// None in practice: the log's name is made of a uid.
    pub fn audit_key(&self) -> Result<LogKey, KernelError> {
        tree::log_key(self.resident(), self.account().audit_key)
    }

    /// The keys that sign this tenant's log: the one in force first, then earlier ones, the latest first.
    ///
    /// # Errors
    /// As [`Tenant::read`].
    pub async fn audit_keys(&self) -> Result<Vec<LogKey>, KernelError> {
        let current = self.audit_key()?;
        let retired = self.read(crate::audit::rekey::retired).await?;
        Ok(std::iter::once(current).chain(retired).collect())
    }

    /// The latest checkpoint over everything that has happened so far.
    ///
    /// # Errors
    /// As [`Tenant::read`]; [`KernelError::NotFound`] before the first entry.
    pub async fn audit_checkpoint(&self) -> Result<String, KernelError> {
        self.read(stored_head)
            .await?
            .ok_or_else(|| KernelError::NotFound("the log has no entries yet".to_owned()))
    }

    /// Begins a walk through the log. `kept` is a checkpoint of this log that somebody kept outside: the walk proves that the log
    /// only grew since.
    ///
    /// # Errors
    /// [`LogFault`]s of the checkpoints; otherwise as [`Tenant::read`].
    pub async fn audit_walk(&self, kept: Option<&str>) -> Result<LogWalk, AuditError> {
        let state = self.read(state).await?;
        let keys = self.audit_keys().await?;
        let note = state.head.ok_or(LogFault::Note(NoteError::Malformed))?;
        // The latest checkpoint is by the key in force; a kept one may be older than that key.
        let head = Checkpoint::open(&note, &keys[..1]).map_err(LogFault::Note)?;
        let kept = match kept {
            None => None,
            Some(note) => Some(self.kept(note, &keys).await?),
        };
        let (size, root) = (state.edge.size(), state.edge.root());
        if (head.checkpoint.size, head.checkpoint.root) != (size, root) {
            return Err(LogFault::Checkpoint.into());
        }
        if let Some(kept) = &kept
            && kept.size > size
        {
            let (kept, now) = (kept.size, size);
            return Err(LogFault::Cut { kept, now }.into());
        }
        Ok(LogWalk {
            tenant: self.clone(),
            head,
            kept,
            keys,
            stored: state.edge,
            grown: Edge::default(),
            first: state.first.unwrap_or(size),
            dropped_to: 0,
            missing: Ranges::default(),
            lost: Vec::new(),
            next: 0,
        })
    }

    // A retired key signs nothing more: the note is by the key that was in force at its size.
    async fn kept(&self, note: &str, keys: &[LogKey]) -> Result<Checkpoint, AuditError> {
        let kept = Checkpoint::open(note, keys).map_err(LogFault::KeptNote)?;
        let size = kept.checkpoint.size;
        let then = self
            .read(move |tx| crate::audit::rekey::in_force_at(tx, size))
            .await?;
        if let Some(key) = then {
            Checkpoint::open(note, &[key]).map_err(LogFault::KeptNote)?;
        }
        Ok(kept.checkpoint)
    }
}

fn state(tx: &ReadTx<'_>) -> Result<State, StoreError> {
    let first = tx.query_one("SELECT MIN(seq) FROM audit", params![], |row| {
        Ok(row.get::<_, Option<i64>>(0)?)
    })?;
    Ok(State {
        edge: stored_edge(tx)?,
        head: stored_head(tx)?,
        first: first.flatten().and_then(|first| u64::try_from(first).ok()),
    })
}

/// Entries of a full bundle.
pub const BUNDLE: u64 = TILE_WIDTH as u64;

impl LogWalk {
    /// Entries of the kept checkpoint that the log was asked to begin with.
    #[must_use]
    pub fn kept(&self) -> Option<u64> {
        self.kept.as_ref().map(|kept| kept.size)
    }

    /// The checkpoint that the walk ends at.
    #[must_use]
    pub fn head(&self) -> &SignedCheckpoint {
        &self.head
    }

    /// The log's keys: the one in force first.
    #[must_use]
    pub fn keys(&self) -> &[LogKey] {
        &self.keys
    }

    /// The first entry that is there: those before it were dropped by retention.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Entries that are lost, as entries about repairs say. Known once the walk has ended.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.iter().map(Ranges::count).sum()
    }

    /// The hashes after the last full tile, level by level.
    #[must_use]
    pub fn edge(&self) -> &Edge {
        &self.stored
    }

    /// The next bundle, checked; `None` when the whole log is.
    ///
    /// # Errors
    /// The first [`LogFault`]; otherwise as [`Tenant::read`].
    pub async fn next(&mut self) -> Result<Option<Bundle>, AuditError> {
        let size = self.head.checkpoint.size;
        let width = TILE_WIDTH as u64;
        let from = self.next * width;
        if from >= size {
            self.finish()?;
            return Ok(None);
        }
        let (index, to) = (self.next, size.min(from + width));
        let read = move |tx: &ReadTx<'_>| bundle(tx, index, to);
        let (entries, tiles, contents) = self.tenant.read(read).await?;
        let dropped = to <= self.first;
        let entries = if dropped {
            self.take_hashes(&tiles)?;
            Vec::new()
        } else {
            self.take_entries((from, to), entries, &tiles, &contents)?
        };
        self.next += 1;
        Ok(Some(Bundle {
            index,
            entries,
            tiles,
        }))
    }

    fn take_hashes(&mut self, tiles: &[Tile]) -> Result<(), LogFault> {
        let place = self.grown.size();
        let hashes = tiles
            .first()
            .and_then(|tile| vault::tlog::hashes_of(&tile.hashes));
        let hashes = hashes
            .filter(|hashes| hashes.len() == TILE_WIDTH)
            .ok_or(LogFault::Missing(place))?;
        let mut filled = Vec::new();
        for hash in hashes {
            filled.extend(self.append(hash)?);
        }
        same_tiles(&filled, tiles)
    }

    fn take_entries(
        &mut self,
        (from, to): (u64, u64),
        entries: Vec<(u64, String)>,
        tiles: &[Tile],
        contents: &[Found],
    ) -> Result<Vec<String>, LogFault> {
        let (mut filled, mut taken) = (Vec::new(), Vec::with_capacity(entries.len()));
        // A bundle that is not full has its hashes at the right edge.
        let leaves = match tiles.first() {
            Some(tile) => vault::tlog::hashes_of(&tile.hashes),
            None => self.stored.levels().first().cloned(),
        };
        let mut rows = entries.into_iter().peekable();
        for place in from..to {
            let offset = usize::try_from(place - from).unwrap_or(usize::MAX);
            let leaf = leaves.as_ref().and_then(|leaves| leaves.get(offset));
            let Some((_, entry)) = rows.next_if(|(seq, _)| *seq == place) else {
                // Whether an entry says that it was lost is known at the end.
                self.missing.push(place);
                let leaf = *leaf.ok_or(LogFault::Missing(place))?;
                filled.extend(self.append(leaf)?);
                taken.push(String::new());
                continue;
            };
            let hash = leaf_hash(entry.as_bytes());
            if leaves.is_some() && leaf != Some(&hash) {
                return Err(LogFault::Altered(place));
            }
            self.look_at(place, &entry, contents)?;
            filled.extend(self.append(hash)?);
            taken.push(entry);
        }
        same_tiles(&filled, tiles)?;
        Ok(taken)
    }

    fn look_at(&mut self, place: u64, entry: &str, contents: &[Found]) -> Result<(), LogFault> {
        let seen: Seen = serde_json::from_str(entry).map_err(|_| LogFault::Altered(place))?;
        if seen.seq != place || seen.tenant != self.tenant.id().as_str() {
            return Err(LogFault::Misplaced(place));
        }
        content::compare(place, &seen.content, contents)?;
        if seen.action == RETENTION
            && let Some(before) = seen.detail.entries_before
        {
            let before: u64 = before.parse().map_err(|_| LogFault::Altered(place))?;
            if before > place {
                return Err(LogFault::Altered(place));
            }
            self.dropped_to = self.dropped_to.max(before);
        }
        if seen.action == REPAIR
            && let Some(lost) = seen.detail.lost_entries
        {
            let lost = Ranges::parse(&lost).ok_or(LogFault::Altered(place))?;
            self.lost.push(lost);
        }
        Ok(())
    }

    fn append(&mut self, hash: Hash) -> Result<Vec<Tile>, LogFault> {
        self.check_kept()?;
        Ok(self.grown.append(hash))
    }

    // Where the log had as many entries as the kept checkpoint says.
    fn check_kept(&self) -> Result<(), LogFault> {
        match &self.kept {
            Some(kept) if kept.size == self.grown.size() && kept.root != self.grown.root() => {
                Err(LogFault::Forked(kept.size))
            }
            _ => Ok(()),
        }
    }

    fn finish(&self) -> Result<(), LogFault> {
        self.check_kept()?;
        let lost = |place: &u64| self.lost.iter().any(|lost| lost.contains(*place));
        // Of the first bundle that is there, the entries that are not are in both.
        let before = self.dropped_to..self.first;
        if let Some(place) = before
            .rev()
            .chain(self.missing.places())
            .find(|place| !lost(place))
        {
            return Err(LogFault::Missing(place));
        }
        if self.grown != self.stored {
            return Err(LogFault::Edge);
        }
        Ok(())
    }
}

/// The rows of one bundle, the tiles that end with its last entry, and what is kept with its entries.
type Rows = (Vec<(u64, String)>, Vec<Tile>, Vec<Found>);

fn bundle(tx: &ReadTx<'_>, index: u64, to: u64) -> Result<Rows, StoreError> {
    let width = TILE_WIDTH as u64;
    let sql = "SELECT seq, entry FROM audit WHERE seq >= ?1 AND seq < ?2 ORDER BY seq";
    let entries = tx.query(
        sql,
        params![signed(index * width), signed(to)],
        TILE_WIDTH,
        |row| {
            let seq: i64 = row.get(0)?;
            Ok((u64::try_from(seq).unwrap_or_default(), row.get(1)?))
        },
    )?;
    let mut tiles = Vec::new();
    let mut end = to;
    for level in 0_u8.. {
        if end == 0 || !end.is_multiple_of(width) {
            break;
        }
        end /= width;
        let hashes = stored_tile(tx, level, end - 1)?.concat();
        tiles.push(Tile {
            level,
            index: end - 1,
            hashes,
        });
    }
    let contents = content::digests(tx, index * width, to)?;
    Ok((entries, tiles, contents))
}

fn same_tiles(grown: &[Tile], stored: &[Tile]) -> Result<(), LogFault> {
    for (place, tile) in grown.iter().enumerate() {
        if stored.get(place) != Some(tile) {
            let (level, index) = (tile.level, tile.index);
            return Err(LogFault::Tile { level, index });
        }
    }
    Ok(())
}

/// The root that the log had at `size` entries, from its tiles alone. `None` when it never had so many.
pub(crate) fn root_at(tx: &ReadTx<'_>, size: u64) -> Result<Option<Hash>, StoreError> {
    let edge = stored_edge(tx)?;
    let earlier = edge.at(size, |level, index| stored_tile(tx, level, index))?;
    Ok(earlier.map(|edge| edge.root()))
}
