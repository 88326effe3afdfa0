//! Whether a write-ahead log lost commits: looked at before the engine reads it.
//!
//! SQLite ends such a log at the first frame whose checksum does not match and says nothing. After a power cut that is right: the
//! last transaction was not synced. After a flipped bit it takes synced commits back. The two differ: behind a frame that was never
//! synced no later transaction follows, and one flipped bit does not explain it.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::StoreError;
use crate::files::{FileFault, open};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;
/// A log is cut back at 4 MiB; one large transaction may make it longer.
const LOG_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Looks at the log of the database `file` in `dir`; none is in order.
///
/// # Errors
/// [`StoreError::Damaged`] when synced commits are behind damage.
pub(super) fn check(dir: &OwnedFd, file: &str) -> Result<(), StoreError> {
    let log = match open(dir, &format!("{file}-wal"), OFlags::RDONLY) {
        Ok(log) => std::fs::File::from(log),
        Err(FileFault::Io(Errno::NOENT)) => return Ok(()),
        Err(FileFault::Foreign) => return Err(StoreError::Foreign),
        Err(FileFault::Io(errno)) => return Err(errno.into()),
    };
    let len = log.metadata().map_err(|_| StoreError::Io)?.len();
    if len > LOG_BYTES_MAX {
        return Ok(());
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| StoreError::Io)?];
    std::os::unix::fs::FileExt::read_exact_at(&log, &mut bytes, 0).map_err(|_| StoreError::Io)?;
    if lost_commits(&bytes) {
        Err(StoreError::Damaged)
    } else {
        Ok(())
    }
}

/// Whether commits that were synced are not read back from this log.
fn lost_commits(log: &[u8]) -> bool {
    let Some((header, frames)) = log.split_first_chunk::<HEADER>() else {
        return false;
    };
    if frames.is_empty() {
        return false;
    }
    let Some(Header {
        page,
        salts,
        mut sums,
        big,
    }) = Header::read(header)
    else {
        // One sector is written as a whole: a header that does not check is no torn one.
        return true;
    };
    let mut rest = frames.chunks_exact(FRAME_HEADER + page);
    let torn = loop {
        let Some(frame) = rest.next() else {
            return false;
        };
        match checked(frame, salts, sums, big) {
            Some(next) => sums = next,
            None => break frame,
        }
    };
    if one_bit_explains(torn, salts, sums, big) {
        return true;
    }
    // A later transaction was written behind a commit only when that one was synced.
    let mut committed = false;
    for frame in std::iter::once(torn).chain(rest) {
        if frame.get(8..16) != Some(&salts[..]) {
            continue;
        }
        if committed {
            return true;
        }
        committed = word(frame, 4) != 0;
    }
    false
}

struct Header {
    page: usize,
    salts: [u8; 8],
    sums: (u32, u32),
    big: bool,
}

impl Header {
    fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let big = match word(bytes, 0) {
            MAGIC => false,
            magic if magic == MAGIC + 1 => true,
            _ => return None,
        };
        let sums = summed((0, 0), &bytes[..24], big);
        let page = usize::try_from(word(bytes, 8)).ok()?;
        let whole = sums == (word(bytes, 24), word(bytes, 28)) && page >= 512;
        whole.then_some(Self {
            page,
            salts: *bytes[16..].first_chunk()?,
            sums,
            big,
        })
    }
}

/// The sums after a frame that is whole and of this log.
fn checked(frame: &[u8], salts: [u8; 8], sums: (u32, u32), big: bool) -> Option<(u32, u32)> {
    let next = over_frame(frame, sums, big);
    let whole = frame.get(8..16) == Some(&salts[..])
        && next == (word(frame, 16), word(frame, 20))
        && word(frame, 0) != 0;
    whole.then_some(next)
}

fn over_frame(frame: &[u8], sums: (u32, u32), big: bool) -> (u32, u32) {
    let sums = summed(sums, frame.get(..8).unwrap_or_default(), big);
    summed(sums, frame.get(FRAME_HEADER..).unwrap_or_default(), big)
}

fn one_bit_explains(frame: &[u8], salts: [u8; 8], sums: (u32, u32), big: bool) -> bool {
    let found = over_frame(frame, sums, big);
    let said = (word(frame, 16), word(frame, 20));
    let off_by =
        |a: &[u8], b: &[u8]| -> u32 { a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum() };
    let salt = off_by(frame.get(8..16).unwrap_or_default(), &salts);
    let sum = (found.0 ^ said.0).count_ones() + (found.1 ^ said.1).count_ones();
    if salt + sum == 1 {
        return true;
    }
    let missing = (said.0.wrapping_sub(found.0), said.1.wrapping_sub(found.1));
    salt == 0 && one_bit_of_the_data(frame, missing, big)
}

// The sums are linear: a word that is too small by `d` makes them too small by `d` times a factor that depends on its place alone.
fn one_bit_of_the_data(frame: &[u8], missing: (u32, u32), big: bool) -> bool {
    let data = frame.get(..8).into_iter().chain(frame.get(FRAME_HEADER..));
    let words: Vec<u32> = data.flat_map(|part| words(part, big)).collect();
    let (mut first, mut second) = ((1_u32, 1_u32), (0_u32, 1_u32));
    for pair in words.rchunks_exact(2) {
        for (factor, value) in [(first, pair[0]), (second, pair[1])] {
            for bit in 0..32 {
                let one = 1_u32 << bit;
                // A bit that is set now was not, and the other way round.
                let by = if value & one == 0 {
                    one
                } else {
                    one.wrapping_neg()
                };
                if (factor.0.wrapping_mul(by), factor.1.wrapping_mul(by)) == missing {
                    return true;
                }
            }
        }
        (first, second) = (onward(first), onward(second));
    }
    false
}

fn onward((a, b): (u32, u32)) -> (u32, u32) {
    let a = a.wrapping_add(b);
    (a, b.wrapping_add(a))
}

fn summed((mut a, mut b): (u32, u32), bytes: &[u8], big: bool) -> (u32, u32) {
    let mut all = words(bytes, big);
    while let (Some(x), Some(y)) = (all.next(), all.next()) {
        a = a.wrapping_add(x).wrapping_add(b);
        b = b.wrapping_add(y).wrapping_add(a);
    }
    (a, b)
}

fn words(bytes: &[u8], big: bool) -> impl Iterator<Item = u32> + '_ {
    let (fours, _) = bytes.as_chunks::<4>();
    fours.iter().map(move |four| match big {
        true => u32::from_be_bytes(*four),
        false => u32::from_le_bytes(*four),
    })
}

/// A number of the format, which is big-endian everywhere; 0 behind the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    four.map_or(0, |four| u32::from_be_bytes(*four))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    const FRAME: usize = FRAME_HEADER + 4096;

    /// The log of a database with so many commits, as a killed process leaves it.
    #[expect(clippy::disallowed_methods, reason = "the directory of a test")]
    fn log(commits: u32) -> Vec<u8> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
            .unwrap();
        for _ in 0..commits {
            conn.execute_batch("INSERT INTO t (b) VALUES (randomblob(6000))")
                .unwrap();
        }
        std::fs::read(home.path().join("a.db-wal")).unwrap()
    }

    #[test]
    fn every_flipped_bit_of_a_log_is_noticed() {
        let whole = log(4);
        assert!(!lost_commits(&whole));
        let mut step = 0;
        let mut at = 0;
        while at < whole.len() * 8 {
            let mut bad = whole.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(lost_commits(&bad), "bit {at} of {}", whole.len() * 8);
            // Every bit of the headers, and of the pages ever other ones.
            let inside = (at / 8).saturating_sub(HEADER) % FRAME;
            step = (step + 37) % 211;
            at += if at / 8 < HEADER || inside < FRAME_HEADER {
                1
            } else {
                1 + step
            };
        }
    }

    #[test]
    fn a_log_that_a_power_cut_tore_is_in_order() {
        let whole = log(4);
        for cut in [
            0,
            7,
            HEADER,
            HEADER + 5,
            whole.len() - FRAME,
            whole.len() - 1,
        ] {
            assert!(!lost_commits(&whole[..cut]), "{cut}");
        }
        // The last transaction has several frames; blocks of it never came to the disk.
        let last = whole.len() - FRAME;
        for from in [last, last - FRAME, last + 512] {
            let mut torn = whole.clone();
            torn[from..from + 512].fill(0);
            assert!(!lost_commits(&torn), "{from}");
        }
        // The same in a transaction that was followed by others.
        let mut damaged = whole.clone();
        damaged[HEADER + FRAME..HEADER + FRAME + 512].fill(0);
        assert!(lost_commits(&damaged));
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        for len in 0..200 {
            let _either = lost_commits(&vec![0x37; len]);
        }
        assert!(!lost_commits(&[]));
    }
}
