//! Which records of which segments are still needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::journal::Seq;
use crate::journal::segment::Segment;

/// The segments on disk, by first sequence number.
#[derive(Default)]
pub(super) struct Live {
    segments: BTreeMap<u64, Life>,
}

/// One segment and what of it is folded.
struct Life {
    segment: Arc<Segment>,
    /// Last number and count of whole records; `None` while records are still appended.
    full: Option<Full>,
    /// Evidence of damage is kept.
    damaged: bool,
    /// One bit per record, by its distance from the first.
    folded: Vec<u64>,
    folded_count: u64,
}

#[derive(Clone, Copy)]
struct Full {
    last: u64,
    records: u64,
}

// A record takes at least 48 bytes of at most 64 MiB: no honest number is further from the first.
const DISTANCE_MAX: u64 = 64 * 1024 * 1024 / 48;

impl Live {
    /// The segment that records are appended to.
    pub(super) fn add(&mut self, segment: &Arc<Segment>) {
        self.insert(segment, None, false);
    }

    /// A segment of an earlier process.
    pub(super) fn add_full(
        &mut self,
        segment: &Arc<Segment>,
        last: u64,
        records: u64,
        damaged: bool,
    ) {
        self.insert(segment, Some(Full { last, records }), damaged);
    }

    /// The segment before is full, its last record is `last`. Returns its number if it is done
    /// with.
    pub(super) fn roll(&mut self, last: u64, next: &Arc<Segment>) -> Option<u64> {
        let mut done = None;
        if let Some((first, life)) = self.segments.iter_mut().next_back() {
            let first = *first;
            life.full = Some(Full {
                last,
                records: (last + 1).saturating_sub(first),
            });
            done = life.is_done().then_some(first);
        }
        let number = done.and_then(|first| self.segments.remove(&first));
        self.insert(next, None, false);
        number.map(|life| life.segment.header.number)
    }

    /// Marks records up to `appended` as folded. Returns the numbers of segments that are done
    /// with.
    pub(super) fn fold(&mut self, seqs: &[Seq], appended: u64) -> Vec<u64> {
        let mut done = Vec::new();
        for seq in seqs
            .iter()
            .map(|seq| seq.number())
            .filter(|seq| *seq <= appended)
        {
            let Some((first, life)) = self.segments.range_mut(..=seq).next_back() else {
                continue;
            };
            let first = *first;
            if life.mark(seq, seq - first) && life.is_done() {
                done.extend(
                    self.segments
                        .remove(&first)
                        .map(|life| life.segment.header.number),
                );
            }
        }
        done
    }

    /// The segment that holds the record.
    pub(super) fn segment(&self, seq: Seq) -> Option<Arc<Segment>> {
        let (_, life) = self.segments.range(..=seq.number()).next_back()?;
        Some(Arc::clone(&life.segment))
    }

    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    fn insert(&mut self, segment: &Arc<Segment>, full: Option<Full>, damaged: bool) {
        let segment = Arc::clone(segment);
        let life = Life {
            full,
            damaged,
            folded: Vec::new(),
            folded_count: 0,
            segment,
        };
        self.segments.insert(life.segment.header.first_seq, life);
    }
}

impl Life {
    // False for a number that is not in this segment or was marked before.
    fn mark(&mut self, seq: u64, distance: u64) -> bool {
        if distance > DISTANCE_MAX || self.full.is_some_and(|full| seq > full.last) {
            return false;
        }
        let Ok(word) = usize::try_from(distance / 64) else {
            return false;
        };
        if self.folded.len() <= word {
            self.folded.resize(word + 1, 0);
        }
        let bit = 1 << (distance % 64);
        let new = self.folded[word] & bit == 0;
        self.folded[word] |= bit;
        self.folded_count += u64::from(new);
        new
    }

    fn is_done(&self) -> bool {
        !self.damaged
            && self
                .full
                .is_some_and(|full| self.folded_count >= full.records)
    }
}
