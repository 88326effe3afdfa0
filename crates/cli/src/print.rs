//! The only place that writes to standard output and standard error.

use std::borrow::Cow;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};

use rpc::{Fault, FaultCode};
use serde_json::ser::PrettyFormatter;

use crate::clean;

/// Standard output, buffered. A reader that goes away (`| head`) ends the output quietly.
pub(crate) struct Out {
    to: BufWriter<Stdout>,
    /// Nobody reads any more.
    gone: bool,
}

impl Out {
    pub(crate) fn new() -> Self {
        Self {
            to: BufWriter::with_capacity(64 * 1024, io::stdout()),
            gone: false,
        }
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), Fault> {
        let written = self.to.write_all(text.as_bytes());
        self.checked(written)
    }

    /// One JSON document on one line, in which nothing acts on a terminal.
    pub(crate) fn json_line(&mut self, value: &serde_json::Value) -> Result<(), Fault> {
        self.text(&clean::escaped(&value.to_string()))?;
        self.text("\n")?;
        self.flush()
    }

    /// One JSON document, indented.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> Result<(), Fault> {
        let mut to =
            serde_json::Serializer::with_formatter(Vec::new(), PrettyFormatter::with_indent(b"  "));
        value
            .serialize(&mut to)
            .map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
        let mut bytes = to.into_inner();
        bytes.push(b'\n');
        let written = self.to.write_all(&bytes);
        self.checked(written)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Fault> {
        let flushed = self.to.flush();
        self.checked(flushed)
    }

    /// Whether the reader went away, so that producing more is pointless.
    pub(crate) fn gone(&self) -> bool {
        self.gone
    }

    fn checked(&mut self, result: io::Result<()>) -> Result<(), Fault> {
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            Err(error) => Err(Fault::new(
                FaultCode::Io,
                format!("cannot write to standard output: {error}"),
            )),
        }
    }
}

/// `error: …` on one line of standard error.
pub(crate) fn error(message: &str) {
    stderr_line("error: ", message);
}

/// `note: …` on one line of standard error, so that standard output stays machine-readable.
pub(crate) fn note(message: &str) {
    stderr_line("note: ", message);
}

/// A line of standard error as it stands: what happens beside the reply that goes to standard output. Make it clean before.
pub(crate) fn aside(line: &str) {
    stderr_line("", line);
}

/// What a person is asked, on standard error; the answer follows on the same line.
pub(crate) fn prompt(text: &str) {
    let mut to = io::stderr().lock();
    // Who does not see it is not asked: the answer is no.
    let _ = write!(to, "{}", one_line(text)).and_then(|()| to.flush());
}

/// What goes on at the moment, on one line of a terminal that overwrites itself. Silent elsewhere.
#[derive(Default)]
pub(crate) struct Doing {
    shown: bool,
}

impl Doing {
    pub(crate) fn show(&mut self, text: &str) {
        let mut to = io::stderr().lock();
        if to.is_terminal() {
            // A terminal that is gone needs no progress.
            let _ = write!(to, "\r{:60}", one_line(text)).and_then(|()| to.flush());
            self.shown = true;
        }
    }

    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let mut to = io::stderr().lock();
            let _ = write!(to, "\r{:60}\r", "").and_then(|()| to.flush());
        }
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        self.clear();
    }
}

/// How far a long command has come, on one line of a terminal that overwrites itself. Silent elsewhere.
#[derive(Default)]
pub(crate) struct Meter {
    shown: bool,
}

impl Meter {
    pub(crate) fn show(&mut self, progress: rpc::Progress) {
        let mut to = io::stderr().lock();
        if !to.is_terminal() {
            return;
        }
        let percent = progress.done.saturating_mul(100) / progress.of.max(1);
        // A terminal that is gone needs no progress.
        let _ = write!(to, "\r{percent:3} % of {} entries", progress.of);
        self.shown = true;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r{:40}\r", "");
        }
    }
}

fn stderr_line(lead: &str, message: &str) {
    // With standard error closed there is nowhere left to say it; the exit code still tells.
    let _ = writeln!(io::stderr().lock(), "{lead}{}", one_line(message));
}

/// The text without control characters: neither a second line nor a terminal escape gets through.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(
            text.trim_end()
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_stays_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[2Jc\r\n"), "a b [2Jc");
        assert_eq!(one_line("plain ü"), "plain ü");
    }
}
