//! Start-up: all segments that earlier processes left.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::journal::frame::SegmentHeader;
use crate::journal::live::Live;
use crate::journal::scan::{Scanned, scan};
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

// A segment before the one that is being read.
struct Before {
    header: SegmentHeader,
    chain: [u8; 32],
    surely_synced_to: u64,
    // Where its damage starts in the list of all.
    damaged_from: usize,
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
    let mut before = None;
    for number in list(dir)? {
        left.next_number = number.saturating_add(1);
        before = left.segment(dir, number, public, before)?;
    }
    left.ended(before.as_ref());
    Ok(left)
}

impl Left {
    fn segment(
        &mut self,
        dir: &OwnedFd,
        number: u64,
        public: &[u8; 32],
        before: Option<Before>,
    ) -> Result<Option<Before>, JournalError> {
        let (file, bytes) = load(dir, number)?;
        let Some(header) = SegmentHeader::decode(&bytes).filter(|header| header.number == number)
        else {
            self.ended(before.as_ref());
            if bytes.iter().all(|byte| *byte == 0) {
                // Named, but the process died before its first write.
                self.useless.push(number);
            } else {
                self.damage(number << 32, DamageCause::Header);
            }
            return Ok(None);
        };
        if before
            .as_ref()
            .is_none_or(|before| before.header.boot != header.boot)
        {
            self.ended(before.as_ref());
        }
        // A segment in between may have been folded and deleted.
        let adjacent = before.filter(|before| before.header.number + 1 == number);
        let linked = adjacent.is_none_or(|before| before.chain == header.chain);
        if !linked {
            self.damage(header.first_seq, DamageCause::Chain);
        }
        let damaged_from = self.damaged.len();
        let Scanned {
            records,
            damaged,
            chain,
            last_seq,
            surely_synced_to,
        } = scan(&bytes, header, public);
        let whole = linked && damaged.is_empty();
        if records.is_empty() && whole {
            self.useless.push(number);
        } else {
            // What a killed process wrote is in the system's memory only.
            file.sync_data()?;
            let segment = Arc::new(Segment::new(file, header, bytes.len() as u64));
            self.live
                .add_full(&segment, last_seq, records.len() as u64, !whole);
        }
        self.records.extend(records);
        self.damaged.extend(damaged);
        self.chain = chain;
        Ok(Some(Before {
            header,
            chain,
            surely_synced_to,
            damaged_from,
        }))
    }

    // The last segment of a process is known to be: what was not surely synced is marked so.
    fn ended(&mut self, last: Option<&Before>) {
        let Some(last) = last else { return };
        for damage in self.damaged.iter_mut().skip(last.damaged_from) {
            if damage.seq.number() > last.surely_synced_to {
                damage.cause = DamageCause::Tail;
            }
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
