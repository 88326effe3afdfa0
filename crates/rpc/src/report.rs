//! Reports as text: CSV and JSON, row by row, so that a long one never stands in memory.
//!
//! CSV quotes as RFC 4180 says, ends lines with `\n`, and is safe to open in a spreadsheet: a text cell that would be
//! read as a formula begins with a single quote.

use std::fmt::{Display, Write as _};
use std::marker::PhantomData;

use serde::Serialize;

use crate::ledger::{LedgerRow, UsageRow};
use crate::text::shown;

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A header line, then one line per row.
    Csv,
    /// One array of objects, one object per line.
    Json,
}

/// A row that has columns.
pub trait Columns: Serialize {
    /// The header, in order.
    const NAMES: &'static [&'static str];

    /// The cells, in the same order.
    fn cells(&self, line: &mut CsvLine<'_>);
}

/// Writes rows of one kind: `head`, each `row`, `tail`.
pub struct Report<T> {
    format: Format,
    array: JsonArray,
    rows: PhantomData<fn(T)>,
}

impl<T: Columns> Report<T> {
    /// A report without rows so far.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            array: JsonArray::default(),
            rows: PhantomData,
        }
    }

    /// What comes before the rows.
    pub fn head(&self, out: &mut String) {
        match self.format {
            Format::Csv => {
                let mut line = CsvLine::new(out);
                T::NAMES.iter().for_each(|name| line.text(name));
                line.end();
            }
            Format::Json => self.array.head(out),
        }
    }

    /// One row.
    ///
    /// # Errors
    /// Those of the JSON writer.
    pub fn row(&mut self, row: &T, out: &mut String) -> Result<(), serde_json::Error> {
        match self.format {
            Format::Csv => {
                let mut line = CsvLine::new(out);
                row.cells(&mut line);
                line.end();
                Ok(())
            }
            Format::Json => self.array.push(row, out),
        }
    }

    /// What comes after the rows.
    pub fn tail(&self, out: &mut String) {
        if self.format == Format::Json {
            self.array.tail(out);
        }
    }
}

/// A JSON array written one element at a time, one element per line.
#[derive(Default)]
pub struct JsonArray {
    begun: bool,
}

impl JsonArray {
    /// Opens the array.
    pub fn head(&self, out: &mut String) {
        out.push('[');
    }

    /// Adds one element.
    ///
    /// # Errors
    /// Those of the JSON writer.
    pub fn push(
        &mut self,
        element: &impl Serialize,
        out: &mut String,
    ) -> Result<(), serde_json::Error> {
        let text = serde_json::to_string(element)?;
        out.push_str(if self.begun { ",\n" } else { "\n" });
        out.push_str(&text);
        self.begun = true;
        Ok(())
    }

    /// Closes the array.
    pub fn tail(&self, out: &mut String) {
        out.push_str(if self.begun { "\n]\n" } else { "]\n" });
    }
}

/// One line of CSV under construction.
pub struct CsvLine<'a> {
    out: &'a mut String,
    begun: bool,
}

impl<'a> CsvLine<'a> {
    fn new(out: &'a mut String) -> Self {
        Self { out, begun: false }
    }

    /// A text cell: guarded against formulas, quoted where needed.
    pub fn text(&mut self, cell: &str) {
        self.separate();
        let guard = if is_formula(cell) { "'" } else { "" };
        if cell.contains(['"', ',', '\n', '\r']) {
            self.out.push('"');
            self.out.push_str(guard);
            self.out.push_str(&cell.replace('"', "\"\""));
            self.out.push('"');
        } else {
            self.out.push_str(guard);
            self.out.push_str(cell);
        }
    }

    /// A cell that is a number, a date or a moment by its type, and so needs neither guard nor quotes.
    pub fn plain(&mut self, cell: impl Display) {
        self.separate();
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{cell}");
    }

    /// As [`CsvLine::plain`]; an empty cell for what is not known.
    pub fn maybe(&mut self, cell: Option<impl Display>) {
        match cell {
            Some(cell) => self.plain(cell),
            None => self.separate(),
        }
    }

    fn separate(&mut self) {
        if self.begun {
            self.out.push(',');
        }
        self.begun = true;
    }

    fn end(self) {
        self.out.push('\n');
    }
}

/// Whether a spreadsheet would evaluate the cell. Full-width forms count: some programs fold them.
fn is_formula(cell: &str) -> bool {
    cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
}

impl Columns for UsageRow {
    const NAMES: &'static [&'static str] = &[
        "date",
        "tenant",
        "model",
        "tokens_in",
        "tokens_out",
        "cost_usd",
    ];

    fn cells(&self, line: &mut CsvLine<'_>) {
        line.plain(self.date);
        line.text(self.tenant.as_str());
        line.text(&self.model);
        line.plain(self.tokens_in);
        line.plain(self.tokens_out);
        line.maybe(self.cost_usd);
    }
}

impl Columns for LedgerRow {
    const NAMES: &'static [&'static str] = &[
        "request_id",
        "attempt",
        "tenant",
        "person",
        "token",
        "model",
        "provider",
        "provider_model",
        "tokens_in",
        "tokens_out",
        "cache_read_tokens",
        "cache_write_tokens",
        "cache_write_1h_tokens",
        "reasoning_tokens",
        "audio_in_tokens",
        "audio_out_tokens",
        "image_in_tokens",
        "server_tool_calls",
        "cost_usd",
        "charged_usd",
        "ratecard_version",
        "usage_source",
        "outcome",
        "started_at",
        "finished_at",
        "trace_id",
    ];

    fn cells(&self, line: &mut CsvLine<'_>) {
        line.text(&self.request_id);
        line.plain(self.attempt);
        line.text(self.tenant.as_str());
        line.text(self.person.as_deref().unwrap_or_default());
        line.text(self.token.as_str());
        line.text(&self.model);
        line.text(&self.provider);
        line.text(&self.provider_model);
        line.maybe(self.tokens_in);
        line.maybe(self.tokens_out);
        line.maybe(self.cache_read_tokens);
        line.maybe(self.cache_write_tokens);
        line.maybe(self.cache_write_1h_tokens);
        line.maybe(self.reasoning_tokens);
        line.maybe(self.audio_in_tokens);
        line.maybe(self.audio_out_tokens);
        line.maybe(self.image_in_tokens);
        line.maybe(self.server_tool_calls);
        line.maybe(self.cost_usd);
        line.plain(self.charged_usd);
        line.text(&self.ratecard_version);
        line.text(&shown(&self.usage_source));
        line.text(&self.outcome);
        line.plain(self.started_at);
        line.plain(self.finished_at);
        line.text(self.trace_id.as_deref().unwrap_or_default());
    }
}
