//! Lines on `control.sock`: one request line, then row lines, then one last line.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Answer, Command, Fault, FaultCode, Row};

/// The socket's name inside the data directory.
pub const SOCKET_NAME: &str = "control.sock";

/// Bytes of a request line. A rate card travels inside it as a JSON string, in which each quote takes two bytes.
pub const REQUEST_LINE_BYTES_MAX: usize = 2 * base::limits::RATECARD_BYTES_MAX + 64 * 1024;

/// Bytes of one answer line: an audit entry is below 64 KiB, a thousand tokens of one tenant below 512 KiB.
pub const ANSWER_LINE_BYTES_MAX: usize = 1024 * 1024;

/// One line of an answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    /// A part of a long answer; more follows.
    Row(Box<Row>),
    /// The last line of a command that was carried out.
    Answer(Box<Answer>),
    /// The last line of a command that was not, or not to its end.
    Fault(Fault),
}

/// Where the rows of a long answer go, one at a time and in order.
pub trait Rows: Send {
    /// Hands one row over; may block until the reader has room.
    ///
    /// # Errors
    /// When nobody reads any more: the command stops.
    fn push(&mut self, row: Row) -> Result<(), Closed>;
}

/// The reader of an answer went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl Frame {
    /// The frame as one line with its newline. Wiped when dropped: it may hold a token.
    ///
    /// # Errors
    /// A fault when the line would exceed [`ANSWER_LINE_BYTES_MAX`].
    pub fn to_line(&self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        line_of(self, ANSWER_LINE_BYTES_MAX)
    }

    /// Reads a line, with or without its newline.
    ///
    /// # Errors
    /// A fault when it is not a frame.
    pub fn from_line(line: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(line).map_err(|error| {
            Fault::new(
                FaultCode::Unreachable,
                format!("the gateway's answer is not understood: {error}"),
            )
        })
    }
}

impl Command {
    /// The command as one line with its newline. Wiped when dropped: it may hold a secret.
    ///
    /// # Errors
    /// A fault when the line would exceed [`REQUEST_LINE_BYTES_MAX`].
    pub fn to_line(&self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        line_of(self, REQUEST_LINE_BYTES_MAX)
    }

    /// Reads a command from a line or from a whole JSON document.
    ///
    /// # Errors
    /// [`FaultCode::Invalid`] with what is wrong: an unknown command or field, a name outside its grammar.
    pub fn from_json(text: &[u8]) -> Result<Self, Fault> {
        if text.len() > REQUEST_LINE_BYTES_MAX {
            return Err(Fault::new(
                FaultCode::Invalid,
                format!("the command is larger than {REQUEST_LINE_BYTES_MAX} bytes"),
            ));
        }
        serde_json::from_slice(text)
            .map_err(|error| Fault::new(FaultCode::Invalid, error.to_string()))
    }
}

fn line_of(value: &impl Serialize, max: usize) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut line = Zeroizing::new(Vec::with_capacity(512));
    serde_json::to_writer(&mut *line, value)
        .map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
    line.push(b'\n');
    if line.len() > max {
        return Err(Fault::new(
            FaultCode::Invalid,
            format!(
                "a message of {} bytes is above the limit of {max}",
                line.len()
            ),
        ));
    }
    Ok(line)
}
