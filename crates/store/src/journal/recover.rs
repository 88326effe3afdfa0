//! Start-up: all segments that earlier processes left.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::journal::frame::{SegmentHeader, mend_segment_header};
use crate::journal::live::Live;
use crate::journal::scan::{Groups, Scanned, scan};
use crate::journal::segment::{Segment, list, load};
use crate::journal::{Damage, DamageCause, JournalError, RecordRef, Seq};

/// What was left, and where to go on.
pub(super) struct Left {
    pub(super) records: Vec<RecordRef>,
    pub(super) damaged: Vec<Damage>,
    pub(super) live: Live,
    /// Segments without a record.
    pub(super) useless: Vec<u64>,
    pub(super) next_number: u64,
    pub(super) chain: [u8; 32],
}

/// The segments of one process, as far as they are read.
struct Boot {
    /// Of its last segment.
    header: SegmentHeader,
    chain: [u8; 32],
    last_seq: u64,
    /// Of each segment, the oldest first.
    groups: Vec<Groups>,
    /// Records that are missing.
    lost: Vec<u64>,
    /// Where its damage and its records start in the lists of all.
    damaged_from: usize,
    records_from: usize,
}

pub(super) fn recover(dir: &OwnedFd, public: &[u8; 32]) -> Result<Left, JournalError> {
    let mut left = Left {
        records: Vec::new(),
        damaged: Vec::new(),
        live: Live::default(),
        useless: Vec::new(),
        next_number: 1,
        chain: [0; 32],
    };
    let mut boot = None;
    for number in list(dir)? {
        left.next_number = number.saturating_add(1);
        boot = left.segment(dir, number, public, boot)?;
    }
    left.ended(boot);
    Ok(left)
}

impl Left {
    fn segment(
        &mut self,
        dir: &OwnedFd,
        number: u64,
        public: &[u8; 32],
        before: Option<Boot>,
    ) -> Result<Option<Boot>, JournalError> {
        let (file, mut bytes) = load(dir, number)?;
        let empty = bytes.iter().all(|byte| *byte == 0);
        let mended =
            !empty && SegmentHeader::decode(&bytes).is_none() && mend_segment_header(&mut bytes);
        let Some(header) = SegmentHeader::decode(&bytes).filter(|header| header.number == number)
        else {
            self.ended(before);
            if empty {
                // Named, but the process died before its first write.
                self.useless.push(number);
            } else {
                self.damage(number << 32, DamageCause::Header);
            }
            return Ok(None);
        };
        // A segment in between may have been folded and deleted.
        let linked = before
            .as_ref()
            .is_none_or(|boot| boot.header.number + 1 != number || boot.chain == header.chain);
        let mut boot = self.boot(before, header, linked);
        if mended {
            self.damage(header.first_seq, DamageCause::Bit);
        }
        let scanned = scan(&mut bytes, header, public);
        let whole = linked && !mended && scanned.damaged.is_empty();
        if scanned.records.is_empty() && whole {
            self.useless.push(number);
        } else {
            // What a killed process wrote is in the system's memory only.
            file.sync_data()?;
            let segment = Arc::new(Segment::new(file, header, bytes.len() as u64));
            self.live.add_full(
                &segment,
                scanned.last_seq,
                scanned.records.len() as u64,
                !whole,
            );
        }
        self.chain = scanned.chain;
        boot.take(header, &scanned);
        self.records.extend(scanned.records);
        self.damaged.extend(scanned.damaged);
        boot.groups.push(scanned.groups);
        Ok(Some(boot))
    }

    // The process that the segment is of: the one before it, or the next.
    fn boot(&mut self, before: Option<Boot>, header: SegmentHeader, linked: bool) -> Boot {
        let unlinked = |left: &mut Self| {
            if !linked {
                left.damage(header.first_seq, DamageCause::Chain);
            }
        };
        match before {
            Some(boot) if boot.header.boot == header.boot => {
                unlinked(self);
                boot
            }
            other => {
                self.ended(other);
                // What an earlier process left was synced before this one began: no power cut explains it.
                unlinked(self);
                Boot {
                    header,
                    chain: header.chain,
                    last_seq: header.first_seq.saturating_sub(1),
                    groups: Vec::new(),
                    lost: Vec::new(),
                    damaged_from: self.damaged.len(),
                    records_from: self.records.len(),
                }
            }
        }
    }

    // All segments of a process are read: what was not surely synced is marked so, and ends at its first loss. A power cut keeps
    // any of its records, and of one tenant's a later one without an earlier one: such a record has no place in the tenant's log.
    fn ended(&mut self, boot: Option<Boot>) {
        let Some(boot) = boot else { return };
        let synced_to = surely_synced_to(&boot.groups);
        for damage in self.damaged.iter_mut().skip(boot.damaged_from) {
            // No power cut leaves one flipped bit.
            if damage.cause != DamageCause::Bit && damage.seq.number() > synced_to {
                damage.cause = DamageCause::Tail;
            }
        }
        if let Some(first) = boot.lost.into_iter().filter(|seq| *seq > synced_to).min() {
            let own = self.records.split_off(boot.records_from);
            let kept = own.into_iter().filter(|record| record.seq.number() < first);
            self.records.extend(kept);
        }
    }

    fn damage(&mut self, seq: u64, cause: DamageCause) {
        self.damaged.push(Damage {
            uid: None,
            seq: Seq::from_number(seq),
            cause,
        });
    }
}

impl Boot {
    fn take(&mut self, header: SegmentHeader, scanned: &Scanned) {
        let adjacent = self.header.number + 1 == header.number;
        if adjacent && header.first_seq > self.last_seq + 1 {
            // The end of the segment before is missing.
            self.lost.push(self.last_seq + 1);
        }
        self.lost.extend(&scanned.lost);
        self.header = header;
        self.chain = scanned.chain;
        self.last_seq = scanned.last_seq;
    }
}

/// Up to where the records of a process were on disk before its last group was begun. The sync thread begins a group when all that
/// was ended before its last one is synced; a group that ends because its segment is full is begun and ended at any time.
fn surely_synced_to(segments: &[Groups]) -> u64 {
    let last = segments.len().saturating_sub(1);
    for (index, segment) in segments.iter().enumerate().rev() {
        let certain = if index < last || segment.full {
            segment.starts.len().checked_sub(2)
        } else {
            segment.starts.len().checked_sub(1)
        };
        if let Some(from) = certain.and_then(|at| segment.starts.get(at)) {
            return synced_before(&segments[..=index], *from);
        }
    }
    before(segments.first().map_or(0, |segment| segment.first_seq))
}

// What was synced when the group from `from` on was begun, which is in the last of the segments.
fn synced_before(segments: &[Groups], from: u64) -> u64 {
    let mut from = from;
    for (index, segment) in segments.iter().enumerate().rev() {
        let earlier = index.checked_sub(1).and_then(|index| segments.get(index));
        match earlier {
            // The last group of the segment before may have ended with that segment, after the last sync began.
            Some(earlier) if from <= segment.first_seq => {
                from = earlier.starts.last().copied().unwrap_or(earlier.first_seq);
            }
            _ => break,
        }
    }
    before(from)
}

fn before(seq: u64) -> u64 {
    seq.saturating_sub(1)
}
