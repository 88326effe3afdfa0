//! The hot path: one record, one lock, no write. Records gather in a buffer, which goes to the file in one write: when somebody
//! needs a record to outlive the process, when a group ends, or when the buffer is full.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use vault::Sha256;

use crate::journal::frame::{Frame, GROUP_SIGNATURE, Group, SEGMENT_HEADER, SegmentHeader};
use crate::journal::keeper::Task;
use crate::journal::segment::{Segment, has_room};
use crate::journal::sync::Waiter;
use crate::journal::{JournalError, RecordHead, Seq, Shared, lock};

/// The end of the journal.
pub(super) struct Tail {
    segment: Arc<Segment>,
    offset: u64,
    first_seq: u64,
    next_seq: u64,
    /// First record after the last cut.
    group_from: u64,
    /// Digest of the last cut.
    chain: [u8; 32],
    /// The chain and every frame since.
    hasher: Sha256,
    /// Groups that are written but not yet signed and synced, oldest first.
    pub(super) cuts: Vec<Cut>,
    /// When the oldest unsynced record was appended.
    pub(super) unsynced_since: Option<Instant>,
    pub(super) synced_to: u64,
    pub(super) waiters: Vec<(u64, Waiter)>,
    /// The sync thread waits and has to be woken.
    pub(super) sleeping: bool,
    payload: Vec<u8>,
    frame: Vec<u8>,
    /// Frames that the file does not have yet; they end at `offset`.
    buffer: Vec<u8>,
    /// Last record that the file has.
    written_to: u64,
}

// Bytes that gather before they are written without being asked for.
const BUFFER_MAX: usize = 256 * 1024;

/// A group on its way to disk.
pub(super) struct Cut {
    pub(super) segment: Arc<Segment>,
    pub(super) group: Group,
    /// Where its signature belongs.
    pub(super) seal_at: u64,
}

impl Shared {
    pub(super) fn append(
        &self,
        head: &RecordHead,
        seal: impl FnOnce(Seq, &mut Vec<u8>),
    ) -> Result<Seq, JournalError> {
        let mut guard = lock(&self.tail);
        let tail = &mut *guard;
        if self.poisoned.load(Ordering::Acquire) {
            return Err(JournalError::Poisoned);
        }
        if !tail.has_room() {
            tail.roll(self)?;
        }
        let seq = tail.next_seq;
        tail.payload.clear();
        seal(Seq::from_number(seq), &mut tail.payload);
        if tail.payload.len() > tail.segment.record_bytes_max() {
            return Err(JournalError::TooLarge);
        }
        Frame::write_record(head, seq, &tail.payload, tail.segment.salt, &mut tail.frame);
        tail.hasher.update(&tail.frame);
        tail.buffer_frame();
        tail.next_seq += 1;
        if tail.buffer.len() >= BUFFER_MAX {
            tail.flush(self)?;
        }
        if tail.unsynced_since.is_none() {
            tail.unsynced_since = Some(Instant::now());
            self.stage_late_group();
        }
        Ok(Seq::from_number(seq))
    }

    pub(super) fn write_out(&self, seq: Seq) -> Result<(), JournalError> {
        let mut tail = lock(&self.tail);
        if seq.number() <= tail.written_to {
            return Ok(());
        }
        if self.poisoned.load(Ordering::Acquire) {
            return Err(JournalError::Poisoned);
        }
        tail.flush(self)
    }

    /// Nothing is accepted from here on. The sync thread tells those who wait.
    pub(super) fn poison(&self) -> JournalError {
        self.poisoned.store(true, Ordering::Release);
        self.rouse();
        JournalError::Poisoned
    }
}

impl Tail {
    pub(super) fn new(first: Arc<Segment>) -> Self {
        let header = first.header;
        Self {
            segment: first,
            offset: SEGMENT_HEADER as u64,
            first_seq: header.first_seq,
            next_seq: header.first_seq,
            group_from: header.first_seq,
            chain: header.chain,
            hasher: Group::hasher(&header.chain),
            cuts: Vec::new(),
            unsynced_since: None,
            // What earlier processes wrote is not this one's to sync.
            synced_to: header.first_seq.saturating_sub(1),
            waiters: Vec::new(),
            sleeping: false,
            payload: Vec::new(),
            frame: Vec::new(),
            buffer: Vec::new(),
            written_to: header.first_seq.saturating_sub(1),
        }
    }

    pub(super) fn appended_records(&self) -> u64 {
        self.next_seq - self.first_seq
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// Ends the open group: writes what is left of it and its frame, with room for the signature.
    pub(super) fn cut(&mut self, shared: &Shared) -> Result<(), JournalError> {
        if self.group_from == self.next_seq {
            return Ok(());
        }
        let digest = self.hasher.clone().finish();
        let group = Group {
            from: self.group_from,
            to: self.last_seq(),
            chain: self.chain,
            digest,
        };
        Frame::write_group(&group, self.segment.salt, &mut self.frame);
        self.buffer_frame();
        self.flush(shared)?;
        let seal_at = self.offset - GROUP_SIGNATURE as u64;
        self.cuts.push(Cut {
            segment: Arc::clone(&self.segment),
            group,
            seal_at,
        });
        self.chain = digest;
        self.hasher = Group::hasher(&digest);
        self.group_from = self.next_seq;
        Ok(())
    }

    fn has_room(&self) -> bool {
        has_room(self.offset, self.segment.capacity)
    }

    // Goes on in the next segment. Until the new file is there nothing has changed, and a failure
    // may be tried again; after that one poisons.
    fn roll(&mut self, shared: &Shared) -> Result<(), JournalError> {
        let number = self.segment.header.number + 1;
        let (file, capacity) = shared.next_file(number)?;
        self.cut(shared)?;
        let header = SegmentHeader {
            boot: self.segment.header.boot,
            number,
            first_seq: self.next_seq,
            chain: self.chain,
        };
        if shared.disk.write_at(&file, &header.encode(), 0).is_err() {
            return Err(shared.poison());
        }
        self.segment = Arc::new(Segment::new(file, header, capacity));
        self.offset = SEGMENT_HEADER as u64;
        let full = lock(&shared.live).roll(self.last_seq(), &self.segment);
        if let Some(number) = full {
            shared.ask_keeper(Task::Delete(number));
        }
        shared.ask_keeper(Task::Prepare);
        Ok(())
    }

    fn buffer_frame(&mut self) {
        self.buffer.extend_from_slice(&self.frame);
        self.offset += self.frame.len() as u64;
    }

    // Gives the buffer to the operating system.
    fn flush(&mut self, shared: &Shared) -> Result<(), JournalError> {
        let at = self.offset - self.buffer.len() as u64;
        if shared
            .disk
            .write_at(&self.segment.file, &self.buffer, at)
            .is_err()
        {
            return Err(shared.poison());
        }
        self.buffer.clear();
        self.written_to = self.last_seq();
        Ok(())
    }
}
