//! Server-sent events: cutting a byte stream into events, reading one, writing one.
//!
//! Framing follows the WHATWG grammar: lines end in LF, CRLF or CR, a blank line ends an event,
//! a byte order mark at the start is skipped, comments and unknown fields carry nothing.

use std::borrow::Cow;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Where the search for the end of an event stands; survives until more bytes arrive.
#[derive(Clone, Copy, Default, Debug)]
pub struct Scan {
    line: usize,
    at: usize,
}

impl Scan {
    /// A search that starts at this byte.
    #[must_use]
    pub fn from(start: usize) -> Self {
        Self {
            line: start,
            at: start,
        }
    }

    /// Tells the scan that the first `bytes` bytes are gone.
    pub fn rebase(&mut self, bytes: usize) {
        self.line = self.line.saturating_sub(bytes);
        self.at = self.at.saturating_sub(bytes);
    }

    /// The end (exclusive, blank line included) of the event that the scan stands in, or `None`
    /// until more bytes come. After `Some` the scan stands at the start of the next event.
    ///
    /// A CR in the last byte waits unless `all` bytes are there: an LF that follows belongs to it.
    pub fn event_end(&mut self, bytes: &[u8], all: bool) -> Option<usize> {
        while let Some(found) = memchr::memchr2(b'\n', b'\r', bytes.get(self.at..)?) {
            let end = self.at + found;
            let next = match (bytes[end], bytes.get(end + 1)) {
                (b'\r', None) if !all => {
                    self.at = end;
                    return None;
                }
                (b'\r', Some(b'\n')) => end + 2,
                _ => end + 1,
            };
            let blank = end == self.line;
            *self = Self::from(next);
            if blank {
                return Some(next);
            }
        }
        self.at = bytes.len();
        None
    }
}

/// What one event says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// The `event` field; empty if absent.
    pub name: &'a [u8],
    /// The `data` lines joined by LF; `None` when there is none (comments, empty events).
    pub data: Option<Cow<'a, [u8]>>,
    /// Where the value of the first `data` line starts in the bytes of the event.
    pub data_at: usize,
}

impl<'a> Event<'a> {
    /// Reads the bytes of one event.
    #[must_use]
    pub fn read(frame: &'a [u8]) -> Self {
        let mut event = Event {
            name: b"",
            data: None,
            data_at: 0,
        };
        for (at, line) in lines(frame) {
            match field(line) {
                (b"data", value) => match &mut event.data {
                    None => {
                        event.data = Some(Cow::Borrowed(value));
                        event.data_at = at + line.len() - value.len();
                    }
                    Some(data) => {
                        let data = data.to_mut();
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                },
                (b"event", value) => event.name = value,
                _ => {}
            }
        }
        event
    }
}

/// Appends one event: `name` may be empty, `data` may hold line feeds.
pub fn write_event(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    if !name.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    for line in data.split(|&byte| byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Appends the event in `frame` with its data replaced; its other fields and comments stay.
pub fn write_with_data(out: &mut Vec<u8>, frame: &[u8], data: &[u8]) {
    for (_, line) in lines(frame) {
        if !line.is_empty() && field(line).0 != b"data" {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
    }
    write_event(out, "", data);
}

/// The field's name and value; a comment has an empty name.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b':', line) {
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, b""),
    }
}

/// The lines of an event without their ends, each with where it starts.
fn lines(frame: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = if frame.starts_with(BYTE_ORDER_MARK) {
        BYTE_ORDER_MARK.len()
    } else {
        0
    };
    std::iter::from_fn(move || {
        let rest = frame.get(at..).filter(|rest| !rest.is_empty())?;
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = (at, &rest[..end]);
        let line_end = if rest[end..].starts_with(b"\r\n") {
            2
        } else {
            1
        };
        at += end + line_end;
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(bytes: &[u8]) -> Vec<&[u8]> {
        let (mut scan, mut from, mut found) = (Scan::default(), 0, Vec::new());
        while let Some(end) = scan.event_end(bytes, false) {
            found.push(&bytes[from..end]);
            from = end;
        }
        found
    }

    #[test]
    fn every_line_end_is_one() {
        assert_eq!(
            events(b"data: a\n\ndata: b\n\n"),
            [b"data: a\n\n", b"data: b\n\n"]
        );
        assert_eq!(events(b"data: a\r\n\r\ndata: b\r\n\r\n").len(), 2);
        assert_eq!(
            events(b"data: a\r\rdata: b\r\r\n"),
            [&b"data: a\r\r"[..], b"data: b\r\r\n"]
        );
        assert_eq!(events(b"data: a\n\r\n"), [b"data: a\n\r\n"]);
        assert_eq!(events(b"data: a\n"), [b""; 0]);
        assert_eq!(events(b"data: a\r\n\r"), [b""; 0]);
    }

    #[test]
    fn fields_are_read() {
        for (frame, name, data) in [
            (&b"data: {}\n\n"[..], &b""[..], Some(&b"{}"[..])),
            (b"data:{}\r\n\r\n", b"", Some(b"{}")),
            (b"data:  x\n\n", b"", Some(b" x")),
            (b"event: ping\ndata: {}\n\n", b"ping", Some(b"{}")),
            (b": PROCESSING\n\n", b"", None),
            (b"data: a\n: note\nid: 7\ndata: b\n\n", b"", Some(b"a\nb")),
            (b"\xEF\xBB\xBFdata: a\n\n", b"", Some(b"a")),
            (b"data\n\n", b"", Some(b"")),
            (b"datum: a\n\n", b"", None),
            (b"\n", b"", None),
        ] {
            let event = Event::read(frame);
            assert_eq!(
                (event.name, event.data.as_deref()),
                (name, data),
                "{frame:?}"
            );
        }
    }

    #[test]
    fn replacing_data_keeps_the_rest() {
        let mut out = Vec::new();
        write_with_data(
            &mut out,
            b"event: e\ndata: a\nid: 7\ndata: b\n: c\n\n",
            b"x\ny",
        );
        assert_eq!(out, b"event: e\nid: 7\n: c\ndata: x\ndata: y\n\n");
    }

    proptest! {
        #[test]
        fn cuts_alike_however_the_bytes_arrive(bytes in "[ab\r\n]{0,40}", step in 1_usize..7) {
            let bytes = bytes.as_bytes();
            let (mut scan, mut ends) = (Scan::default(), Vec::new());
            for have in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
                while let Some(end) = scan.event_end(&bytes[..have], false) {
                    ends.push(end);
                }
            }
            let whole: Vec<usize> = events(bytes).iter().scan(0, |sum, e| { *sum += e.len(); Some(*sum) }).collect();
            prop_assert_eq!(ends, whole);
        }

        #[test]
        fn what_is_written_is_read(name in "[a-z_]{0,8}", data in "[^\r]{0,40}") {
            let mut out = Vec::new();
            write_event(&mut out, &name, data.as_bytes());
            prop_assert_eq!(events(&out), [out.as_slice()]);
            let event = Event::read(&out);
            prop_assert_eq!(event.name, name.as_bytes());
            prop_assert_eq!(event.data.as_deref(), Some(data.as_bytes()));
        }
    }
}
