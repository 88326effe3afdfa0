//! What the engine and the journal stand on: the threads, the disk and the randomness of the system, or what a simulation puts in
//! their place.
//!
//! Without the feature `simulation`, which no program of the product switches on, there is only the system's.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use vault::random;

/// A piece of work that a thread of the store would do.
pub type Work = Box<dyn FnOnce() + Send>;

/// Which thread would do it. Work of one kind that is due is done in the order in which it came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Crew {
    /// Reads of databases.
    Readers,
    /// Writes of databases.
    Writers,
    /// Begins a group of the journal.
    Groups,
    /// Signs a group and syncs it.
    Syncs,
    /// Makes and deletes files of the journal.
    Keeper,
}

/// Takes the place of threads, disk and randomness: one thread does everything, in an order that somebody chooses.
pub trait Stage: Send + Sync {
    /// Takes work that is due after `delay`, and does it at that time or later; never before this returns, but for work that
    /// somebody waits for in a blocking call.
    fn take(&self, crew: Crew, delay: Duration, work: Work);
    /// Writes all bytes into a file of the journal.
    ///
    /// # Errors
    /// As the stage likes; the journal takes nothing any more after one.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Brings a file of the journal to stable storage.
    ///
    /// # Errors
    /// As [`Stage::write_at`].
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Where random bits decide what happens next; keys and nonces stay the system's.
    fn draw(&self) -> [u8; 16];
    /// Bytes of one segment of the journal.
    fn segment_bytes(&self) -> u64;
}

/// What a kernel's engine and journal stand on. Cheap to clone.
#[derive(Clone, Default)]
pub struct Ground {
    #[cfg(feature = "simulation")]
    stage: Option<Arc<dyn Stage>>,
}

impl Ground {
    /// The system's threads, disk and randomness.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A stage in the system's place.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn staged(stage: Arc<dyn Stage>) -> Self {
        Self { stage: Some(stage) }
    }

    /// The stage, in a simulation.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn stage(&self) -> Option<&Arc<dyn Stage>> {
        self.stage.as_ref()
    }

    /// The stage: there is none.
    #[cfg(not(feature = "simulation"))]
    #[must_use]
    pub const fn stage(&self) -> Option<&Arc<dyn Stage>> {
        None
    }

    /// Random bits that may decide what happens next: ids, and the draws of a request.
    #[must_use]
    pub fn draw(&self) -> [u8; 16] {
        self.stage().map_or_else(random, |stage| stage.draw())
    }
}
