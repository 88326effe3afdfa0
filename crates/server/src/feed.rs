//! Rows on their way from a command to whoever reads them, through a bounded queue.

use rpc::{Closed, Fault, Row};
use tokio::sync::mpsc;

/// Rows that wait for their reader.
const ROWS_WAITING: usize = 64;

/// Where a command puts its rows; waits while the reader is behind.
pub(crate) struct Feed {
    rows: mpsc::Sender<Row>,
    pushed: std::sync::atomic::AtomicU64,
}

impl Feed {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Row>) {
        let (rows, reader) = mpsc::channel(ROWS_WAITING);
        (
            Self {
                rows,
                pushed: std::sync::atomic::AtomicU64::new(0),
            },
            reader,
        )
    }

    /// Hands one row over.
    pub(crate) async fn push(&self, row: Row) -> Result<(), Fault> {
        self.rows.send(row).await.map_err(|_| Fault::from(Closed))?;
        self.pushed
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Rows handed over so far.
    pub(crate) fn pushed(&self) -> u64 {
        self.pushed.load(std::sync::atomic::Ordering::Relaxed)
    }
}
