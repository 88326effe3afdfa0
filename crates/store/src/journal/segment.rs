//! One file of the journal.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FallocateFlags, OFlags, fallocate, ftruncate, unlinkat};
use rustix::io::Errno;

use crate::files::{open, readable_dir};
use crate::journal::frame::{
    FRAME_HEADER, Frame, FrameKind, GROUP_FRAME, SegmentHeader, flip, record_frame_len,
};
use crate::journal::{JournalError, RECORD_BYTES_MAX, RecordRef, SEGMENT_BYTES};

/// A segment, open.
pub(super) struct Segment {
    pub(super) file: File,
    pub(super) header: SegmentHeader,
    pub(super) capacity: u64,
    pub(super) salt: u32,
    /// Whether the directory that names it is synced.
    named: AtomicBool,
}

impl Segment {
    pub(super) fn new(file: File, header: SegmentHeader, capacity: u64) -> Self {
        Self {
            file,
            salt: header.salt(),
            header,
            capacity,
            named: AtomicBool::new(false),
        }
    }

    pub(super) fn is_named(&self) -> bool {
        self.named.load(Ordering::Acquire)
    }

    pub(super) fn set_named(&self) {
        self.named.store(true, Ordering::Release);
    }

    /// Longest payload, so that a segment always takes several records.
    pub(super) fn record_bytes_max(&self) -> usize {
        record_bytes_max(self.capacity)
    }

    pub(super) fn read_record(&self, record: &RecordRef) -> Result<Vec<u8>, JournalError> {
        let mut header = [0; FRAME_HEADER];
        self.file.read_exact_at(&mut header, record.offset)?;
        // Behind the header it is none of the header's.
        let _in_the_header = record.mended.map(|bit| flip(&mut header, bit));
        let len = u64::from(u32::from_le_bytes([
            header[0], header[1], header[2], header[3],
        ]));
        if len > self.capacity {
            return Err(JournalError::Damaged);
        }
        let len = usize::try_from(len).map_err(|_| JournalError::Damaged)?;
        let mut bytes = vec![0; FRAME_HEADER + len.next_multiple_of(8)];
        self.file.read_exact_at(&mut bytes, record.offset)?;
        if let Some(bit) = record.mended {
            flip(&mut bytes, bit).ok_or(JournalError::Damaged)?;
        }
        let frame = Frame::decode(&bytes, 0, self.salt).ok_or(JournalError::Damaged)?;
        let same = frame.kind == FrameKind::Record(record.kind)
            && frame.seq == record.seq.number()
            && frame.uid == record.uid;
        let payload = frame
            .payload(&bytes, 0)
            .filter(|_| same)
            .ok_or(JournalError::Damaged)?;
        Ok(payload.to_vec())
    }
}

/// Whether the longest record still goes into a segment that is used up to `offset`, and the group frame that must be able to
/// follow it.
pub(super) fn has_room(offset: u64, capacity: u64) -> bool {
    let record = record_frame_len(record_bytes_max(capacity));
    offset + (record + GROUP_FRAME) as u64 <= capacity
}

fn record_bytes_max(capacity: u64) -> usize {
    usize::try_from(capacity / 4)
        .unwrap_or(usize::MAX)
        .min(RECORD_BYTES_MAX)
}

/// A segment's file name. Longer than four digits after 9,999.
pub(super) fn name(number: u64) -> String {
    format!("{number:04}")
}

/// The numbers of all segments, ascending.
pub(super) fn list(dir: &OwnedFd) -> Result<Vec<u64>, JournalError> {
    let mut numbers = Vec::new();
    for entry in Dir::new(readable_dir(dir)?)? {
        let entry = entry?;
        let Ok(text) = entry.file_name().to_str() else {
            continue;
        };
        let Ok(number) = text.parse() else { continue };
        if name(number) == text {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens an existing segment and reads all of it.
pub(super) fn load(dir: &OwnedFd, number: u64) -> Result<(File, Vec<u8>), JournalError> {
    let file = File::from(open(dir, &name(number), OFlags::RDONLY)?);
    let len = file.metadata()?.len();
    if len > *SEGMENT_BYTES.end() {
        return Err(JournalError::Foreign);
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| JournalError::Io)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok((file, bytes))
}

/// Makes an empty file of the given size, its space reserved. Fails where the name is taken.
pub(super) fn create(dir: impl AsFd, name: &str, bytes: u64) -> Result<File, JournalError> {
    let file = open(dir, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // Some file systems cannot reserve; then the size is set and a full disk shows later.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => ftruncate(&file, bytes)?,
        other => other?,
    }
    Ok(File::from(file))
}

/// Removes a segment. One that is gone already is no error.
pub(super) fn delete(dir: impl AsFd, number: u64) -> Result<(), JournalError> {
    remove(dir, &name(number))
}

pub(super) fn remove(dir: impl AsFd, name: &str) -> Result<(), JournalError> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
