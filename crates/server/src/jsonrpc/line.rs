//! What waits to be sent to one client: bounded in frames, bytes and time.

use std::sync::Arc;
use std::time::Duration;

use base::limits::{RPC_SLOW_MAX, RPC_WAITING_BYTES_MAX, RPC_WAITING_FRAMES_MAX};
use futures_util::{Sink, SinkExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::socket::Cut;

/// What was begun to be sent when the socket is cut may take so long.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(400);

/// The end at which frames are put in.
pub(super) struct Line {
    frames: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

/// A frame on its way.
pub(super) struct Waiting {
    message: Message,
    lasting: bool,
    /// Given back when the frame has left or is thrown away.
    _room: OwnedSemaphorePermit,
}

impl Line {
    pub(super) fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (frames, waiting) = mpsc::channel(RPC_WAITING_FRAMES_MAX);
        let room = Arc::new(Semaphore::new(RPC_WAITING_BYTES_MAX));
        (Self { frames, room }, waiting)
    }

    /// Puts a frame in; waits for room, and gives the client up when there is none in time.
    pub(super) async fn send(&self, message: Message, lasting: bool) -> Result<(), Cut> {
        // What is larger than all the room there is takes all of it.
        let bytes = message.len().clamp(1, RPC_WAITING_BYTES_MAX);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let placed = async {
            let room = Arc::clone(&self.room)
                .acquire_many_owned(bytes)
                .await
                .ok()?;
            let waiting = Waiting {
                message,
                lasting,
                _room: room,
            };
            self.frames.send(waiting).await.ok()
        };
        match timeout(RPC_SLOW_MAX, placed).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(Cut::Gone),
            Err(_late) => Err(Cut::Slow),
        }
    }
}

/// Sends frames until the socket is cut. What waits then is thrown away, but for what shows a thing once. Says why, where it is
/// the client that does not take them.
pub(super) async fn write<S>(
    sink: &mut S,
    mut waiting: mpsc::Receiver<Waiting>,
    cut: &CancellationToken,
) -> Option<Cut>
where
    S: Sink<Message> + Unpin,
{
    loop {
        let next = tokio::select! {
            biased;
            () = cut.cancelled() => break,
            next = waiting.recv() => next,
        };
        let Some(Waiting { message, _room, .. }) = next else {
            break;
        };
        let late = async {
            cut.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            biased;
            sent = timeout(RPC_SLOW_MAX, sink.send(message)) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_gone)) => return Some(Cut::Gone),
                Err(_late) => return Some(Cut::Slow),
            },
            () = late => return None,
        }
    }
    while let Ok(Waiting {
        message, lasting, ..
    }) = waiting.try_recv()
    {
        let sent = async { sink.send(message).await.is_ok() };
        if lasting && !timeout(LAST_WORDS, sent).await.unwrap_or_default() {
            break;
        }
    }
    None
}
