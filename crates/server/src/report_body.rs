//! Reports over HTTP: rows become CSV or JSON while they are read, so that a long report never stands in memory.

use std::future::Future;

use bytes::Bytes;
use kernel::tasks::Tasks;
use rpc::report::{Columns, Format, Report};
use rpc::{Fault, LedgerRow, Row, UsageRow};
use tokio::sync::mpsc;

use crate::body::{AnswerBody, ReportPart};
use crate::fault::internal;
use crate::feed::Feed;

/// Text that is gathered before it is sent.
const PART_BYTES: usize = 16 * 1024;

/// The media type of a format.
pub(crate) fn media_type(format: Format) -> &'static str {
    match format {
        Format::Csv => "text/csv; charset=utf-8",
        Format::Json => "application/json",
    }
}

/// A body that is filled by `work`, which feeds usage rows, or with `detail` ledger rows. It ends early, and visibly, when
/// `work` fails.
pub(crate) fn body<W, F>(tasks: &Tasks, format: Format, detail: bool, work: W) -> AnswerBody
where
    W: FnOnce(Feed) -> F,
    F: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let (parts, body) = AnswerBody::report();
    let (feed, rows) = Feed::new();
    let filling = work(feed);
    tasks.spawn(async move {
        let writing = async {
            if detail {
                write::<LedgerRow>(format, rows, &parts).await
            } else {
                write::<UsageRow>(format, rows, &parts).await
            }
        };
        let (filled, written) = tokio::join!(filling, writing);
        if filled.is_ok() && written.is_ok() {
            // A reader that is gone needs no end.
            let _reader_gone = parts.send(ReportPart::End).await;
        }
    });
    body
}

async fn write<T: Columns + FromRow>(
    format: Format,
    mut rows: mpsc::Receiver<Row>,
    parts: &mpsc::Sender<ReportPart>,
) -> Result<(), Fault> {
    let mut report = Report::<T>::new(format);
    let mut page = String::with_capacity(PART_BYTES + 1024);
    report.head(&mut page);
    while let Some(row) = rows.recv().await {
        let row = T::from_row(row).ok_or_else(|| internal("a report got a row of another kind"))?;
        report
            .row(&row, &mut page)
            .map_err(|error| internal(error.to_string()))?;
        if page.len() >= PART_BYTES {
            send(parts, &mut page).await?;
        }
    }
    report.tail(&mut page);
    send(parts, &mut page).await
}

async fn send(parts: &mpsc::Sender<ReportPart>, page: &mut String) -> Result<(), Fault> {
    let bytes = Bytes::from(std::mem::replace(
        page,
        String::with_capacity(PART_BYTES + 1024),
    ));
    parts
        .send(ReportPart::Bytes(bytes))
        .await
        .map_err(|_| Fault::from(rpc::Closed))
}

trait FromRow: Sized {
    fn from_row(row: Row) -> Option<Self>;
}

impl FromRow for UsageRow {
    fn from_row(row: Row) -> Option<Self> {
        if let Row::Usage(row) = row {
            Some(row)
        } else {
            None
        }
    }
}

impl FromRow for LedgerRow {
    fn from_row(row: Row) -> Option<Self> {
        if let Row::Ledger(row) = row {
            Some(*row)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use rpc::FaultCode;

    use super::*;

    fn usage(model: &str) -> Row {
        Row::Usage(UsageRow {
            date: base::UtcDay::parse("2026-11-22").unwrap(),
            tenant: "acme".parse().unwrap(),
            model: model.to_owned(),
            tokens_in: 1,
            tokens_out: 2,
            cost_usd: None,
            attempts: 1,
            unknown_attempts: 1,
        })
    }

    #[tokio::test]
    async fn rows_become_text_and_failures_break_the_body() {
        let tasks = Tasks::default();
        let good = body(&tasks, Format::Csv, false, |feed| async move {
            feed.push(usage("=1")).await
        });
        let text = good.collect().await.unwrap().to_bytes();
        assert_eq!(
            text,
            "date,tenant,model,tokens_in,tokens_out,cost_usd\n2026-11-22,acme,'=1,1,2,\n"
        );

        let broken = body(&tasks, Format::Json, false, |feed| async move {
            feed.push(usage("m")).await?;
            Err(Fault::new(FaultCode::Io, "disk"))
        });
        assert!(broken.collect().await.is_err());
    }
}
