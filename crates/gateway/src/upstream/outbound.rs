//! The body of a request to a provider. A large one leaves in pieces, and others have their turn in between: given whole to a socket
//! that takes it, thirty megabytes hold the thread for ten milliseconds.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes that are written without a pause.
pub(crate) const PIECE_BYTES: usize = 128 * 1024;

pub(super) struct OutboundBody {
    left: Bytes,
    /// Between two pieces.
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl OutboundBody {
    pub(super) fn new(whole: Bytes) -> Self {
        Self {
            left: whole,
            pause: None,
        }
    }
}

impl Body for OutboundBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = this.left.split_to(this.left.len().min(PIECE_BYTES));
        if !this.left.is_empty() {
            // The runtime's own pause: it looks at its sockets before it comes back here.
            this.pause = Some(Box::pin(tokio::task::yield_now()));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_leaves_whole_with_pauses_for_others() {
        for (size, pieces) in [(0, 0), (1, 1), (PIECE_BYTES, 1), (3 * PIECE_BYTES + 5, 4)] {
            let whole: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let mut body = OutboundBody::new(Bytes::from(whole.clone()));
            assert_eq!(body.is_end_stream(), size == 0);
            let mut came = Vec::new();
            let mut turns = 0;
            let others = async {
                loop {
                    turns += 1;
                    tokio::task::yield_now().await;
                }
            };
            let reading = async {
                let mut read = 0;
                while let Some(frame) = body.frame().await {
                    came.extend_from_slice(&frame.unwrap().into_data().unwrap());
                    read += 1;
                    assert_eq!(body.size_hint().exact(), Some((size - came.len()) as u64));
                }
                read
            };
            let read = tokio::select! {
                biased;
                read = reading => read,
                () = others => unreachable!("it does not end"),
            };
            assert_eq!((read, came), (pieces, whole), "{size}");
            assert_eq!(turns, pieces.max(1) - 1, "{size}");
        }
    }
}
