//! The keeper thread: prepares the next segment and deletes folded ones, off the append path.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rustix::fs::{OFlags, renameat};

use crate::files::{FileFault, open, sync_dir};
use crate::ground::Crew;
use crate::journal::segment::{create, delete, name, remove};
use crate::journal::{FIRST_SEGMENT_BYTES, JournalError, Shared, lock};

/// Work for the keeper.
pub(super) enum Task {
    /// Have a prepared segment ready.
    Prepare,
    /// Delete the segment with this number.
    Delete(u64),
    /// End.
    Stop,
}

/// A prepared file, all zeros and synced, so that syncing a group writes no metadata.
pub(super) struct Spare {
    file: File,
    bytes: u64,
}

/// Tasks that wait; more than segments ever wait at once.
pub(super) const TASKS_MAX: usize = 256;

const SPARE: &str = "spare";
const UNFINISHED: &str = "spare.new";
// Bytes of one write of zeros. The page cache keeps a file in pieces as large as its first writes,
// and every later write into a piece walks all its blocks: zeros written by the megabyte make each
// append 3 µs slower.
const CHUNK: usize = 16 * 1024;
// Bytes of zeros between two syncs, so that no large flush gets into the way of a group's.
const SYNC_EVERY: u64 = 1024 * 1024;

impl Shared {
    pub(super) fn run_keeper(&self, tasks: &Receiver<Task>) {
        self.prepare();
        for task in tasks {
            match task {
                Task::Stop => return,
                task => self.keep(&task),
            }
        }
    }

    pub(super) fn keep(&self, task: &Task) {
        match task {
            Task::Prepare => self.prepare(),
            Task::Delete(number) => self.delete(*number),
            Task::Stop => {}
        }
    }

    /// Hands a task over, or does a deletion itself where the keeper is behind.
    pub(super) fn ask_keeper(&self, task: Task) {
        if let Some((stage, shared)) = self.staged() {
            let keep = move || shared.keep(&task);
            return stage.take(Crew::Keeper, Duration::ZERO, Box::new(keep));
        }
        match self.keeper.try_send(task) {
            Ok(()) => {}
            Err(refused) => match refused_task(refused) {
                Task::Delete(number) => self.delete(number),
                // Many of them wait already.
                Task::Prepare | Task::Stop => {}
            },
        }
    }

    /// Deletes a folded segment, once the names of those after it are on disk: numbers go on from the last name, and a power cut that
    /// left none would have them given again. What could not be deleted is found empty of news at the next start.
    fn delete(&self, number: u64) {
        if self.disk.sync_names(&self.dir).is_ok() {
            let _ = delete(&self.dir, number);
        }
    }

    /// The file of the next segment, under its name: the spare one, or a new one where the keeper
    /// was not fast enough.
    pub(super) fn next_file(&self, number: u64) -> Result<(File, u64), JournalError> {
        {
            // Until the file has its name the keeper must not make another spare.
            let mut spare = lock(&self.spare);
            if let Some(spare) = spare.take() {
                renameat(&self.dir, SPARE, &self.dir, name(number))?;
                return Ok((spare.file, spare.bytes));
            }
        }
        let bytes = self.segment_bytes.min(FIRST_SEGMENT_BYTES);
        // Left over when an earlier try got no further.
        remove(&self.dir, &name(number))?;
        Ok((create(&self.dir, &name(number), bytes)?, bytes))
    }

    // Without a spare a roll makes its own small segment, and reports the full disk itself.
    fn prepare(&self) {
        if lock(&self.spare).is_some() {
            return;
        }
        // The next roll asks again. What was made of it must not keep room that may be lacking.
        if self.make_spare().is_err() {
            let _ = remove(&self.dir, UNFINISHED);
        }
    }

    fn make_spare(&self) -> Result<(), JournalError> {
        remove(&self.dir, UNFINISHED)?;
        let file = create(&self.dir, UNFINISHED, self.segment_bytes)?;
        let stop = || self.stopping.load(Ordering::Acquire);
        if fill(&file, self.segment_bytes, stop)? {
            let mut spare = lock(&self.spare);
            renameat(&self.dir, UNFINISHED, &self.dir, SPARE)?;
            *spare = Some(Spare {
                file,
                bytes: self.segment_bytes,
            });
            drop(spare);
            sync_dir(&self.dir)?;
        }
        Ok(())
    }
}

/// The first segment of a process: the spare one that the last process left, or a small one.
pub(super) fn first_file(
    dir: &OwnedFd,
    number: u64,
    segment_bytes: u64,
) -> Result<(File, u64), JournalError> {
    if let Some(file) = left_over(dir, segment_bytes)? {
        renameat(dir, SPARE, dir, name(number))?;
        return Ok((file, segment_bytes));
    }
    remove(dir, SPARE)?;
    let bytes = segment_bytes.min(FIRST_SEGMENT_BYTES);
    let file = create(dir, &name(number), bytes)?;
    fill(&file, bytes, || false)?;
    Ok((file, bytes))
}

// A spare file is taken only if it is as it should be: a power cut may have brought back the name
// of one that was already in use.
fn left_over(dir: impl AsFd, segment_bytes: u64) -> Result<Option<File>, JournalError> {
    let file = match open(dir, SPARE, OFlags::RDWR) {
        Ok(file) => File::from(file),
        Err(FileFault::Io(rustix::io::Errno::NOENT)) => return Ok(None),
        Err(fault) => return Err(fault.into()),
    };
    if file.metadata()?.len() != segment_bytes {
        return Ok(None);
    }
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < segment_bytes {
        let len = chunk_len(segment_bytes - at);
        file.read_exact_at(&mut chunk[..len], at)?;
        if chunk[..len].iter().any(|byte| *byte != 0) {
            return Ok(None);
        }
        at += len as u64;
    }
    Ok(Some(file))
}

// Writes zeros and syncs them. False when it was told to stop.
fn fill(file: &File, bytes: u64, stop: impl Fn() -> bool) -> Result<bool, JournalError> {
    let zeros = [0; CHUNK];
    let mut at = 0;
    while at < bytes {
        let len = chunk_len(bytes - at);
        file.write_all_at(&zeros[..len], at)?;
        at += len as u64;
        if at.is_multiple_of(SYNC_EVERY) || at == bytes {
            file.sync_data()?;
            if stop() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn chunk_len(left: u64) -> usize {
    usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))
}

fn refused_task(refused: std::sync::mpsc::TrySendError<Task>) -> Task {
    match refused {
        std::sync::mpsc::TrySendError::Full(task)
        | std::sync::mpsc::TrySendError::Disconnected(task) => task,
    }
}
