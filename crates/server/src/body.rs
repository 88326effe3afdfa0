//! What an answer's body is made of: the pipeline's own, a few bytes, or a report that is written while it is read.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use gateway::reply::{BodyError, ReplyBody};
use http_body::{Body, Frame, SizeHint};
use kernel::Authority;
use tokio::sync::mpsc;

/// Parts of a report that wait for a slow reader.
const REPORT_PARTS: usize = 8;

/// The body of every answer of both listeners.
pub(crate) enum AnswerBody {
    /// Of the pipeline: it owns the hold and the trail of its call.
    Reply(ReplyBody),
    /// Written row by row.
    Report(mpsc::Receiver<ReportPart>),
}

/// A piece of a report. The end is said: a report whose writer went away must not look complete.
pub(crate) enum ReportPart {
    Bytes(Bytes),
    End,
}

/// The body broke off; the connection is cut so that nobody takes the part for the whole.
#[derive(Debug)]
pub(crate) enum Broken {
    Reply(BodyError),
    Report,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reply(error) => write!(f, "{error}"),
            Self::Report => f.write_str("the report broke off"),
        }
    }
}

impl std::error::Error for Broken {}

impl AnswerBody {
    pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::Reply(ReplyBody::full(bytes.into()))
    }

    /// On whose authority it goes on, where it is a stream.
    pub(crate) fn authority(&self) -> Option<&Authority> {
        match self {
            Self::Reply(reply) => reply.authority(),
            Self::Report(_) => None,
        }
    }

    /// A report and where its parts are written to.
    pub(crate) fn report() -> (mpsc::Sender<ReportPart>, Self) {
        let (sender, receiver) = mpsc::channel(REPORT_PARTS);
        (sender, Self::Report(receiver))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Reply(reply) => Pin::new(reply)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Broken::Reply))),
            Self::Report(parts) => parts.poll_recv(cx).map(|part| match part {
                Some(ReportPart::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(ReportPart::End) => None,
                None => Some(Err(Broken::Report)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Reply(reply) => reply.is_end_stream(),
            Self::Report(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Reply(reply) => reply.size_hint(),
            Self::Report(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_report_ends_only_where_its_writer_says_so() {
        let (parts, body) = AnswerBody::report();
        parts
            .send(ReportPart::Bytes(Bytes::from_static(b"[]")))
            .await
            .unwrap();
        parts.send(ReportPart::End).await.unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "[]");

        let (parts, body) = AnswerBody::report();
        parts
            .send(ReportPart::Bytes(Bytes::from_static(b"[")))
            .await
            .unwrap();
        drop(parts);
        assert!(body.collect().await.is_err());
    }
}
