//! Reading one segment of an earlier process: what is whole, what is lost, what can be believed.

use std::ops::Range;

use base::TenantUid;
use vault::verify;

use crate::journal::frame::{
    FRAME_HEADER, Frame, FrameKind, GROUP_SIGNATURE, Group, GroupSeal, SEGMENT_HEADER,
    SegmentHeader, mend_seal,
};
use crate::journal::segment::has_room;
use crate::journal::{Damage, DamageCause, RecordKind, RecordRef, Seq};

/// What one segment holds.
pub(super) struct Scanned {
    pub(super) records: Vec<RecordRef>,
    pub(super) damaged: Vec<Damage>,
    /// The chain after the last whole record.
    pub(super) chain: [u8; 32],
    /// Last number seen; the number before the first where there is none.
    pub(super) last_seq: u64,
    /// Records that are missing.
    pub(super) lost: Vec<u64>,
    /// The groups, for telling what was surely on disk.
    pub(super) groups: Groups,
}

/// Where the groups of a segment begin.
pub(super) struct Groups {
    /// The segment's first number.
    pub(super) first_seq: u64,
    /// The first number of each whole group.
    pub(super) starts: Vec<u64>,
    /// Whether the last group may have been ended because the segment was full, not by a round of the sync thread.
    pub(super) full: bool,
}

/// Reads a segment whose header is whole.
/// One flipped bit of a frame is put right in memory, and told.
pub(super) fn scan(bytes: &mut [u8], header: SegmentHeader, public: &[u8; 32]) -> Scanned {
    let mut scan = Scan {
        bytes,
        header,
        salt: header.salt(),
        expected: header.first_seq,
        chain: header.chain,
        open: Vec::new(),
        broken: false,
        unsigned: None,
        signed: None,
        end: SEGMENT_HEADER,
        starts: Vec::new(),
        lost: Vec::new(),
        unverified: Vec::new(),
        records: Vec::new(),
        damaged: Vec::new(),
    };
    scan.frames();
    scan.finish(public)
}

struct Scan<'a> {
    bytes: &'a mut [u8],
    header: SegmentHeader,
    salt: u32,
    expected: u64,
    chain: [u8; 32],
    /// Whole records since the last group.
    open: Vec<(u64, Range<usize>)>,
    /// Something was lost since the last group.
    broken: bool,
    /// Last record of the first group without a signature: none may be signed after it.
    unsigned: Option<u64>,
    /// The last signed group. Its digest covers all before it, so that its signature is enough as
    /// long as the chain is unbroken.
    signed: Option<(Group, [u8; 64])>,
    /// Where the last whole frame ends.
    end: usize,
    /// The first number of each whole group.
    starts: Vec<u64>,
    /// Records that are missing.
    lost: Vec<u64>,
    /// Signed groups before a break.
    unverified: Vec<(Group, [u8; 64])>,
    records: Vec<RecordRef>,
    damaged: Vec<Damage>,
}

impl Scan<'_> {
    fn frames(&mut self) {
        let mut at = SEGMENT_HEADER;
        loop {
            let mended = match self.whole_at(at) {
                true => None,
                false => Frame::mend(self.bytes, at, self.salt),
            };
            let Some((start, frame)) = self.find(at) else {
                return;
            };
            if start != at {
                self.lost(&frame, start - at);
            }
            at = frame.end(start);
            self.end = at.min(self.bytes.len());
            match frame.payload(self.bytes, start).map(<[u8]>::to_vec) {
                Some(payload) => self.whole(&frame, start, &payload, mended),
                // Nothing follows: the process died while it wrote this one.
                None if self.find(at).is_none() => return,
                None => self.broken_content(&frame),
            }
        }
    }

    fn whole_at(&self, at: usize) -> bool {
        let frame = Frame::decode(self.bytes, at, self.salt);
        frame.is_some_and(|frame| frame.payload(self.bytes, at).is_some())
    }

    // The next frame with a whole header. Frames start at multiples of 8, and their first 8 bytes
    // hold their kind: they are never zero.
    fn find(&self, from: usize) -> Option<(usize, Frame)> {
        let rest = self.bytes.get(from..)?;
        let (words, _) = rest.as_chunks::<8>();
        words
            .iter()
            .enumerate()
            .filter(|(_, word)| **word != [0; 8])
            .find_map(|(index, _)| {
                let at = from + index * 8;
                Frame::decode(self.bytes, at, self.salt).map(|frame| (at, frame))
            })
    }

    // `hole` unreadable bytes lie before `next`.
    fn lost(&mut self, next: &Frame, hole: usize) {
        self.broken = true;
        let until = match next.kind {
            FrameKind::Record(_) => next.seq,
            FrameKind::Group => next.seq.saturating_add(1),
        };
        let count = until.saturating_sub(self.expected);
        if count == 0 || count > (hole / FRAME_HEADER) as u64 {
            // A group's own frame, or a number that no such hole explains.
            self.lost.extend((count > 0).then_some(self.expected));
            self.damage(
                None,
                self.expected.saturating_sub(u64::from(count == 0)),
                DamageCause::Header,
            );
        } else {
            for seq in self.expected..until {
                self.lost.push(seq);
                self.damage(None, seq, DamageCause::Header);
            }
        }
        self.expected = self.expected.max(until);
    }

    fn broken_content(&mut self, frame: &Frame) {
        self.broken = true;
        match frame.kind {
            FrameKind::Record(_) => {
                self.lost.push(frame.seq);
                self.damage(Some(frame.uid), frame.seq, DamageCause::Content);
                self.expected = self.expected.max(frame.seq.saturating_add(1));
            }
            FrameKind::Group => self.damage(None, frame.seq, DamageCause::Content),
        }
    }

    fn whole(&mut self, frame: &Frame, start: usize, payload: &[u8], mended: Option<usize>) {
        if mended.is_some() {
            let record = matches!(frame.kind, FrameKind::Record(_));
            self.damage(record.then_some(frame.uid), frame.seq, DamageCause::Bit);
        }
        match frame.kind {
            FrameKind::Record(kind) => self.record(frame, kind, start, mended),
            FrameKind::Group => {
                if let Some(group) = frame.group(payload) {
                    self.group(group, frame.end(start));
                }
            }
        }
    }

    fn record(&mut self, frame: &Frame, kind: RecordKind, start: usize, mended: Option<usize>) {
        if frame.seq != self.expected {
            self.broken = true;
            self.damage(Some(frame.uid), frame.seq, DamageCause::Order);
            if frame.seq < self.expected {
                return;
            }
            self.lost.push(self.expected);
        }
        self.expected = frame.seq.saturating_add(1);
        self.open.push((frame.seq, start..frame.end(start)));
        self.records.push(RecordRef {
            seq: Seq::from_number(frame.seq),
            kind,
            uid: frame.uid,
            reference: (frame.reference != 0).then_some(Seq::from_number(frame.reference)),
            offset: start as u64,
            mended: mended.map(|bit| bit - start * 8),
        });
    }

    fn group(&mut self, group: Group, end: usize) {
        let mine = self
            .open
            .iter()
            .filter(|(seq, _)| (group.from..=group.to).contains(seq));
        let mut hasher = Group::hasher(&group.chain);
        let mut count = 0_u64;
        for (_, range) in mine {
            hasher.update(&self.bytes[range.clone()]);
            count += 1;
        }
        let complete = count.checked_sub(1) == group.to.checked_sub(group.from);
        let hashed = !complete || hasher.finish() == group.digest;
        let linked = self.broken || group.chain == self.chain;
        if !(hashed && linked) || (!complete && !self.broken) {
            self.damage(None, group.to, DamageCause::Chain);
        }
        if self.broken || !linked {
            self.unverified.extend(self.signed.take());
        }
        self.seal(group, end - GROUP_SIGNATURE..end);
        self.open.clear();
        self.broken = false;
        self.chain = group.digest;
        self.starts.push(group.from);
    }

    fn seal(&mut self, group: Group, area: Range<usize>) {
        let area = &mut self.bytes[area];
        let mut seal = GroupSeal::decode(area, self.salt);
        if seal == GroupSeal::Damaged && mend_seal(area, self.salt) {
            seal = GroupSeal::decode(area, self.salt);
            self.damage(None, group.to, DamageCause::Bit);
        }
        match seal {
            GroupSeal::Unsigned => {
                self.unsigned.get_or_insert(group.to);
            }
            GroupSeal::Signed(signature) => {
                if let Some(before) = self.unsigned.take() {
                    self.damage(None, before, DamageCause::Signature);
                }
                self.signed = Some((group, signature));
            }
            GroupSeal::Damaged => self.damage(None, group.to, DamageCause::Signature),
        }
    }

    fn finish(mut self, public: &[u8; 32]) -> Scanned {
        let mut unverified = std::mem::take(&mut self.unverified);
        unverified.extend(self.signed.take());
        for (group, signature) in unverified {
            if verify(public, &self.header.signed_text(&group), &signature).is_err() {
                self.damage(None, group.to, DamageCause::Signature);
            }
        }
        let mut hasher = Group::hasher(&self.chain);
        for (_, range) in &self.open {
            hasher.update(&self.bytes[range.clone()]);
        }
        Scanned {
            chain: if self.open.is_empty() {
                self.chain
            } else {
                hasher.finish()
            },
            last_seq: self.expected.saturating_sub(1),
            lost: self.lost,
            groups: Groups {
                first_seq: self.header.first_seq,
                starts: self.starts,
                full: !has_room(self.end as u64, self.bytes.len() as u64),
            },
            records: self.records,
            damaged: self.damaged,
        }
    }

    fn damage(&mut self, uid: Option<TenantUid>, seq: u64, cause: DamageCause) {
        self.damaged.push(Damage {
            uid,
            seq: Seq::from_number(seq),
            cause,
        });
    }
}
