//! A transparency log: the Merkle tree of RFC 6962 section 2.1 in the tiles of C2SP `tlog-tiles`, and signed checkpoints
//! (C2SP `tlog-checkpoint`, `signed-note`).
//!
//! A log only grows. Its state is the *right edge*: at each level the hashes that are in no full tile yet. Full tiles never
//! change and are the caller's to keep.

mod note;
mod path;

pub use note::{Checkpoint, LogKey, NoteError, SignedCheckpoint};
pub use path::{bundle_path, tile_path};

use crate::digest::{Sha256, sha256};

/// A hash of the tree: SHA-256.
pub type Hash = [u8; 32];

/// Hashes of a full tile, and entries of a full bundle.
pub const TILE_WIDTH: usize = 256;

/// Bytes of one entry at most: its length in a bundle is a 16-bit number.
pub const ENTRY_MAX: usize = 65_535;

/// Levels that a log of 2^64 entries has.
const LEVELS_MAX: usize = 8;

/// The hash of an entry (RFC 6962: a zero byte goes before it).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(&[0]);
    hasher.update(entry);
    hasher.finish()
}

/// The hash over two subtrees (RFC 6962: a one byte goes before them).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    sha256(&bytes)
}

/// A tile that is full.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tile {
    /// 0 over entries, 1 over tiles of level 0, and so on.
    pub level: u8,
    /// Place within the level, from 0.
    pub index: u64,
    /// 256 hashes of 32 bytes, one after another.
    pub hashes: Vec<u8>,
}

/// The state of a log: how many entries it has, and per level the hashes after the last full tile.
///
/// ```
/// use vault::tlog::{Edge, leaf_hash};
/// let mut edge = Edge::default();
/// for entry in ["a", "b", "c"] {
///     assert!(edge.append(leaf_hash(entry.as_bytes())).is_empty());
/// }
/// assert_eq!(edge.size(), 3);
/// let again = Edge::from_levels(edge.levels()).unwrap();
/// assert_eq!(again.root(), edge.root());
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// The state that [`Edge::levels`] wrote down. `None` when it is not one.
    #[must_use]
    pub fn from_levels(levels: &[Vec<Hash>]) -> Option<Self> {
        if levels.len() > LEVELS_MAX || levels.last().is_some_and(Vec::is_empty) {
            return None;
        }
        let mut size: u64 = 0;
        for level in levels.iter().rev() {
            if level.len() >= TILE_WIDTH {
                return None;
            }
            size = size.checked_mul(TILE_WIDTH as u64)? + level.len() as u64;
        }
        Some(Self {
            size,
            levels: levels.to_vec(),
        })
    }

    /// Entries of the log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes after the last full tile, level by level from 0. The last level has some.
    #[must_use]
    pub fn levels(&self) -> &[Vec<Hash>] {
        &self.levels
    }

    /// Takes one entry's hash in. Returns the tiles that it filled, the lowest level first: nearly always none.
    pub fn append(&mut self, leaf: Hash) -> Vec<Tile> {
        let mut filled = Vec::new();
        let mut hash = leaf;
        // Index of the hash within its level.
        let mut index = self.size;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let hashes = &mut self.levels[level];
            hashes.push(hash);
            if hashes.len() < TILE_WIDTH {
                break;
            }
            let full = std::mem::take(hashes);
            hash = perfect_root(&full);
            index /= TILE_WIDTH as u64;
            filled.push(Tile {
                level: u8::try_from(level).unwrap_or(u8::MAX),
                index,
                hashes: full.concat(),
            });
        }
        self.size += 1;
        filled
    }

    /// The root of the whole tree; of an empty log the hash of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        // Perfect subtrees from the right to the left: the smaller is the deeper one.
        let mut root: Option<Hash> = None;
        for level in &self.levels {
            let mut end = level.len();
            while end > 0 {
                let width = 1 << end.trailing_zeros();
                let subtree = perfect_root(&level[end - width..end]);
                root = Some(match root {
                    None => subtree,
                    Some(right) => node_hash(&subtree, &right),
                });
                end -= width;
            }
        }
        root.unwrap_or_else(|| sha256(&[]))
    }

    /// The log as it was when it had `size` entries, or `None` when it never had so many. `tile` gives a full tile's hashes by
    /// level and index.
    ///
    /// # Errors
    /// Those of `tile`.
    pub fn at<E>(
        &self,
        size: u64,
        mut tile: impl FnMut(u8, u64) -> Result<Vec<Hash>, E>,
    ) -> Result<Option<Self>, E> {
        if size > self.size {
            return Ok(None);
        }
        let width = TILE_WIDTH as u64;
        let mut levels = Vec::new();
        let (mut then, mut now) = (size, self.size);
        for level in 0_u8.. {
            if then == 0 {
                break;
            }
            let keep = usize::try_from(then % width).unwrap_or_default();
            let mut hashes = match self.levels.get(usize::from(level)) {
                _ if keep == 0 => Vec::new(),
                Some(open) if then / width == now / width => open.clone(),
                _ => tile(level, then / width)?,
            };
            if hashes.len() < keep {
                return Ok(None);
            }
            hashes.truncate(keep);
            levels.push(hashes);
            then /= width;
            now /= width;
        }
        Ok(Self::from_levels(&levels))
    }
}

/// The root of a perfect subtree: the number of hashes is a power of two, and at least one.
#[must_use]
pub fn perfect_root(hashes: &[Hash]) -> Hash {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => node_hash(left, right),
                [odd, ..] => *odd,
                [] => Hash::default(),
            })
            .collect();
    }
    row.first().copied().unwrap_or_default()
}

/// Splits a tile's bytes into hashes. `None` where they are no multiple of 32.
#[must_use]
pub fn hashes_of(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}

/// Appends an entry to a bundle: its length as two bytes, the higher first, then the entry. `None` above [`ENTRY_MAX`].
#[must_use]
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Option<()> {
    let length = u16::try_from(entry.len()).ok()?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Some(())
}

#[cfg(test)]
mod tests;
