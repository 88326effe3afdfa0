//! What the person at the terminal does: lines, the end of input, Ctrl-C. Input is read only when it is asked for, so that what is typed while
//! a run works stays where it is until its turn.

use std::collections::VecDeque;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rpc::{Fault, FaultCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes of one line: longer than any message may be.
const LINE_BYTES_MAX: usize = 512 * 1024;

/// What came first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// A line, without its end.
    Line(String),
    /// There is no more input.
    End,
    /// Ctrl-C.
    Interrupt,
    /// The time is over.
    Nothing,
}

/// Input and Ctrl-C of this process.
pub(crate) struct Ears {
    /// A byte for each Ctrl-C.
    bell: UnixStream,
    /// Keeps the task that rings.
    _ringer: tokio::runtime::Runtime,
    lines: Lines,
    /// No further input comes.
    ended: bool,
    /// Ctrl-C was heard, and nobody has been told.
    rung: bool,
}

impl Ears {
    /// Listens from now on: Ctrl-C no longer ends the process by itself.
    pub(crate) fn open() -> Result<Self, Fault> {
        let failed = |error: std::io::Error| {
            Fault::new(FaultCode::Io, format!("cannot listen for Ctrl-C: {error}"))
        };
        let (bell, ring) = UnixStream::pair().map_err(failed)?;
        let ringer = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(failed)?;
        let interrupts = tokio::signal::unix::SignalKind::interrupt();
        let mut interrupts = {
            let _entered = ringer.enter();
            tokio::signal::unix::signal(interrupts).map_err(failed)?
        };
        // The runtime owns the task: it ends with the runtime.
        ringer.spawn(async move {
            let mut ring = &ring;
            while interrupts.recv().await.is_some() && ring.write_all(b"!").is_ok() {}
        });
        Ok(Self {
            bell,
            _ringer: ringer,
            lines: Lines::default(),
            ended: false,
            rung: false,
        })
    }

    /// Whether a person types the input.
    pub(crate) fn is_terminal(&self) -> bool {
        std::io::stdin().is_terminal()
    }

    /// Waits without reading input. Whether Ctrl-C ended the wait.
    pub(crate) fn pause(&mut self, time: Duration) -> Result<bool, Fault> {
        Ok(self.hear(Some(time), false)? == Heard::Interrupt)
    }

    /// Waits for whatever comes first, without end where no time is said.
    pub(crate) fn listen(&mut self, time: Option<Duration>) -> Result<Heard, Fault> {
        self.hear(time, true)
    }

    /// Lines that were typed before this moment: they are no answer to what is asked now.
    pub(crate) fn typed_before(&mut self) -> Result<Vec<String>, Fault> {
        let mut lines = Vec::new();
        loop {
            match self.hear(Some(Duration::ZERO), true)? {
                Heard::Line(line) => lines.push(line),
                heard => {
                    self.rung |= heard == Heard::Interrupt;
                    return Ok(lines);
                }
            }
        }
    }

    fn hear(&mut self, time: Option<Duration>, reads: bool) -> Result<Heard, Fault> {
        if std::mem::take(&mut self.rung) {
            return Ok(Heard::Interrupt);
        }
        let until = time.map(|time| Instant::now() + time);
        loop {
            let line = if reads {
                self.lines.next(self.ended)
            } else {
                None
            };
            let left = match (&line, until) {
                (Some(_), _) => Some(Duration::ZERO),
                (None, Some(until)) => Some(until.saturating_duration_since(Instant::now())),
                (None, None) => None,
            };
            let (rings, ready) = self.wait(left, reads && line.is_none() && !self.ended)?;
            if rings {
                if let Some(line) = line {
                    self.lines.put_back(line);
                }
                let mut byte = [0];
                // One ring at a time: the second one means something else.
                return match self.bell.read(&mut byte) {
                    Ok(_) => Ok(Heard::Interrupt),
                    Err(error) => Err(unheard(&error)),
                };
            }
            if let Some(line) = line {
                return Ok(Heard::Line(line));
            }
            if ready {
                self.take()?;
            } else if reads && self.ended {
                return Ok(Heard::End);
            } else if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Heard::Nothing);
            }
        }
    }

    /// Waits for the bell and for input; which of the two came.
    fn wait(&self, time: Option<Duration>, reads: bool) -> Result<(bool, bool), Fault> {
        let stdin = std::io::stdin();
        let time = if self.ended && time.is_none() {
            Some(Duration::ZERO)
        } else {
            time
        };
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let mut all = vec![PollFd::new(&self.bell, PollFlags::IN)];
        if reads {
            all.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        match poll(&mut all, time.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok((false, false)),
            Err(error) => return Err(unheard(&error.into())),
        }
        let came = |place: usize| all.get(place).is_some_and(|fd| !fd.revents().is_empty());
        Ok((came(0), came(1)))
    }

    fn take(&mut self) -> Result<(), Fault> {
        let mut piece = [0; 4096];
        let read = match rustix::io::read(std::io::stdin().as_fd(), &mut piece) {
            Ok(read) => read,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(unheard(&error.into())),
        };
        self.ended = read == 0;
        self.lines.add(piece.get(..read).unwrap_or_default())
    }
}

fn unheard(error: &std::io::Error) -> Fault {
    Fault::new(
        FaultCode::Io,
        format!("cannot read standard input: {error}"),
    )
}

/// Bytes of the input, cut into lines.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
    whole: VecDeque<String>,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if self.begun.len() > LINE_BYTES_MAX {
                let text = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                return Err(Fault::new(FaultCode::Refused, text));
            }
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.begun);
        let line = line.trim_end_matches(['\n', '\r']).to_owned();
        self.begun.clear();
        self.whole.push_back(line);
    }

    /// The next line; the last one may lack its end.
    fn next(&mut self, ended: bool) -> Option<String> {
        if ended && !self.begun.is_empty() {
            self.end_line();
        }
        self.whole.pop_front()
    }

    fn put_back(&mut self, line: String) {
        self.whole.push_front(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_cut_into_lines_wherever_its_pieces_end() {
        let mut lines = Lines::default();
        for piece in ["one\r\ntw", "o\n\nthr", "ee"] {
            lines.add(piece.as_bytes()).unwrap();
        }
        let mut seen = Vec::new();
        while let Some(line) = lines.next(false) {
            seen.push(line);
        }
        assert_eq!(seen, ["one", "two", ""]);
        assert_eq!(lines.next(true).as_deref(), Some("three"));
        assert_eq!(lines.next(true), None);
        lines.put_back("again".to_owned());
        assert_eq!(lines.next(false).as_deref(), Some("again"));
        assert!(lines.add(&vec![b'a'; LINE_BYTES_MAX + 1]).is_err());
    }
}
