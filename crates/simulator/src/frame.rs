//! Streams as frames, and the faults done to them.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::call::Wire;
use crate::directive::{Break, Directives, Fault, Framing};

/// One server-sent event before it is written.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) part: Part,
    pub(crate) event: Option<&'static str>,
    pub(crate) data: String,
}

/// What a frame is to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Open,
    Content,
    Finish,
    Usage,
    /// The end mark: `[DONE]`, `message_stop`.
    End,
}

/// What the connection does next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Send(Bytes),
    Wait(Duration),
    Hang,
    Cut,
    Reset,
}

/// The frames of one stream with the ordered faults worked in, made step by step.
pub(crate) struct Script {
    frames: Box<dyn Iterator<Item = Frame> + Send>,
    wire: Wire,
    gap: Duration,
    slow: Option<Duration>,
    framing: Option<Framing>,
    breaks: Vec<(usize, Break)>,
    no_end: bool,
    double_end: bool,
    comments: bool,
    content_sent: usize,
    started: bool,
    steps: VecDeque<Step>,
    over: bool,
}

/// Hyper writes what it holds within this time, so that a cut comes after the bytes before it.
const FLUSH: Duration = Duration::from_millis(15);

impl Frame {
    pub(crate) fn data(part: Part, data: String) -> Self {
        Self {
            part,
            event: None,
            data,
        }
    }

    pub(crate) fn event(part: Part, event: &'static str, data: String) -> Self {
        Self {
            part,
            event: Some(event),
            data,
        }
    }
}

impl Script {
    pub(crate) fn new(
        frames: impl Iterator<Item = Frame> + Send + 'static,
        wire: Wire,
        orders: &Directives,
    ) -> Self {
        let mut script = Self {
            frames: Box::new(frames),
            wire,
            gap: orders.gap,
            slow: None,
            framing: None,
            breaks: Vec::new(),
            no_end: orders.has(&Fault::NoEnd),
            double_end: orders.has(&Fault::DoubleEnd),
            comments: orders.has(&Fault::Comments),
            content_sent: 0,
            started: false,
            steps: VecDeque::new(),
            over: false,
        };
        for fault in &orders.faults {
            match fault {
                Fault::At { after, what } => script.breaks.push((*after, *what)),
                Fault::Framing(framing) => script.framing = Some(*framing),
                Fault::SlowBytes(pause) => script.slow = Some(*pause),
                _ => {}
            }
        }
        script
    }

    /// A body that is no stream: sent whole, in slow bytes, or broken half-way.
    pub(crate) fn whole(body: Vec<u8>, orders: &Directives) -> Self {
        let mut script = Self::new(std::iter::empty(), Wire::OpenAi, orders);
        script.framing = None;
        let broken = script.breaks.first().map(|(_, what)| *what);
        let half = body.len() / 2;
        script.over = true;
        match broken {
            Some(Break::Hang | Break::Cut | Break::Reset) => {
                script.send(&body[..half]);
                script.stop(broken.unwrap_or(Break::Cut));
            }
            _ => script.send(&body),
        }
        script
    }

    /// Whether no step is left.
    pub(crate) fn is_over(&self) -> bool {
        self.over && self.steps.is_empty()
    }

    fn push(&mut self, frame: &Frame) {
        while let Some(index) = self.due(frame.part) {
            let (_, what) = self.breaks.swap_remove(index);
            self.stop(what);
            if self.over {
                return;
            }
        }
        if frame.part == Part::End && self.no_end {
            return;
        }
        if frame.part == Part::Content {
            if self.content_sent > 0 && !self.gap.is_zero() {
                self.steps.push_back(Step::Wait(self.gap));
            }
            self.content_sent += 1;
        }
        if self.comments {
            self.comment();
        }
        let text = self.write(frame);
        self.send(text.as_bytes());
        if frame.part == Part::End && self.double_end {
            self.send(text.as_bytes());
        }
    }

    /// The break that comes before this frame; one that was never due comes before the end.
    fn due(&self, part: Part) -> Option<usize> {
        self.breaks.iter().position(|(after, _)| match part {
            Part::Open => *after == 0 && !self.started,
            Part::Content => *after <= self.content_sent,
            Part::Finish | Part::Usage | Part::End => true,
        })
    }

    fn comment(&mut self) {
        let newline = self.newline();
        let mut text = format!(": SIMULATED PROCESSING{newline}{newline}");
        if self.wire == Wire::Anthropic {
            text.push_str(&format!(
                "event: ping{newline}data: {{\"type\": \"ping\"}}{newline}{newline}"
            ));
        }
        self.send(text.as_bytes());
    }

    fn newline(&self) -> &'static str {
        match self.framing {
            Some(Framing::Crlf) => "\r\n",
            Some(Framing::CrOnly) => "\r",
            _ => "\n",
        }
    }

    fn write(&mut self, frame: &Frame) -> String {
        let newline = self.newline();
        let blank = if self.framing == Some(Framing::NoBlankLine) {
            ""
        } else {
            newline
        };
        let mark = if self.framing == Some(Framing::ByteOrderMark) && !self.started {
            "\u{feff}"
        } else {
            ""
        };
        self.started = true;
        let event = frame
            .event
            .map(|name| format!("event: {name}{newline}"))
            .unwrap_or_default();
        format!("{mark}{event}data: {}{newline}{blank}", frame.data)
    }

    fn send(&mut self, bytes: &[u8]) {
        let Some(pause) = self.slow else {
            self.steps
                .push_back(Step::Send(Bytes::copy_from_slice(bytes)));
            return;
        };
        for byte in bytes {
            self.steps
                .push_back(Step::Send(Bytes::copy_from_slice(&[*byte])));
            self.steps.push_back(Step::Wait(pause));
        }
    }

    fn stop(&mut self, what: Break) {
        match what {
            Break::Hang => self.end_with(Step::Hang),
            Break::Cut => self.end_with(Step::Cut),
            Break::Reset => self.end_with(Step::Reset),
            Break::End => self.over = true,
            Break::ErrorEvent => {
                let frame = error_frame(self.wire);
                let text = self.write(&frame);
                self.send(text.as_bytes());
                self.over = true;
            }
            Break::Malformed => {
                self.send(b"data: {\"id\": \"chatcmpl-sim\", \"choices\": [{\"delta\": \n\n")
            }
            Break::BadUtf8 => {
                let (head, tail) = match self.wire {
                    Wire::OpenAi => (
                        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"",
                        "\"},\"finish_reason\":null}]}\n\n",
                    ),
                    Wire::Anthropic => (
                        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"",
                        "\"}}\n\n",
                    ),
                };
                let bad = [head.as_bytes(), &[0xff, 0xfe, 0xc3, 0x28], tail.as_bytes()].concat();
                self.send(&bad);
            }
            Break::LongLine(bytes) => {
                let line = format!("data: {{\"padding\": \"{}\"}}\n\n", "x".repeat(bytes));
                self.steps.push_back(Step::Send(Bytes::from(line)));
            }
        }
    }

    fn end_with(&mut self, step: Step) {
        self.steps.push_back(Step::Wait(FLUSH));
        self.steps.push_back(step);
        self.over = true;
    }
}

impl Iterator for Script {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            if self.over {
                return None;
            }
            match self.frames.next() {
                Some(frame) => self.push(&frame),
                None => self.over = true,
            }
        }
    }
}

/// The error that a provider reports in the middle of a stream.
fn error_frame(wire: Wire) -> Frame {
    let message = "The simulated server had an error in the middle of this stream.";
    match wire {
        Wire::OpenAi => {
            let error = serde_json::json!({
                "error": {"message": message, "type": "server_error", "param": null, "code": "server_error"}
            });
            Frame::data(Part::Finish, error.to_string())
        }
        Wire::Anthropic => {
            let error = serde_json::json!({"type": "error", "error": {"type": "overloaded_error", "message": message}});
            Frame::event(Part::Finish, "error", error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(orders: &str) -> Vec<Step> {
        let mut parsed = Directives::default();
        crate::directive::take(&format!("[[sim:{orders}]]"), &mut parsed).unwrap();
        let frames = [
            Part::Open,
            Part::Content,
            Part::Content,
            Part::Content,
            Part::Finish,
            Part::End,
        ];
        let frames = frames.map(|part| Frame::data(part, format!("{part:?}")));
        Script::new(frames.into_iter(), Wire::OpenAi, &parsed).collect()
    }

    fn text(steps: &[Step]) -> String {
        steps
            .iter()
            .map(|step| match step {
                Step::Send(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Step::Wait(_) => String::new(),
                other => format!("<{other:?}>"),
            })
            .collect()
    }

    #[test]
    fn a_break_comes_after_the_ordered_number_of_pieces() {
        let cut = text(&script("fault=cut_after:2"));
        assert_eq!(cut, "data: Open\n\ndata: Content\n\ndata: Content\n\n<Cut>");
        let late = text(&script("fault=reset_after:99"));
        assert!(late.ends_with("data: Content\n\n<Reset>"), "{late}");
        let first = text(&script("fault=hang_after:0"));
        assert_eq!(first, "<Hang>");
    }

    #[test]
    fn framings_and_ends() {
        assert!(text(&script("fault=crlf")).ends_with("data: End\r\n\r\n"));
        assert!(text(&script("fault=no_end")).ends_with("data: Finish\n\n"));
        assert!(text(&script("fault=double_done")).ends_with("data: End\n\ndata: End\n\n"));
        assert!(text(&script("fault=bom")).starts_with("\u{feff}data: Open"));
        let slow = script("fault=slow_bytes:1ms");
        assert!(
            slow.iter().all(|step| matches!(step, Step::Wait(_))
                || matches!(step, Step::Send(b) if b.len() == 1))
        );
    }
}
