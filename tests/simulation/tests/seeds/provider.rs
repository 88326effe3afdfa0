//! What a provider does with one request: an answer, whole or broken at any byte, at any speed, or none at all.

use std::time::Duration;

use crate::rng::Rng;

/// Which wire a provider speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    OpenAi,
    Anthropic,
}

/// What a request asks for, as the provider reads it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) kind: Kind,
    pub(crate) nonce: String,
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) embeds: bool,
    /// Output that was ordered.
    pub(crate) cap: u64,
}

/// How the connection goes on behind the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    KeepsOpen,
    Closes,
    Breaks,
    Hangs,
}

/// One answer on its way.
pub(crate) struct Script {
    /// Bytes of the request that are taken before the connection breaks; `None`: all.
    pub(crate) takes: Option<usize>,
    /// What is sent, each piece after a time.
    pub(crate) pieces: Vec<(Duration, Vec<u8>)>,
    pub(crate) end: End,
    pub(crate) truth: Truth,
}

/// What is true of an answer, whatever reaches the gateway.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Truth {
    pub(crate) status: u16,
    /// Bytes that must have been sent before the answer is over: without a stream all of it, with one its finish reason.
    pub(crate) over_at: usize,
    /// Input and output that the answer says were used, where it says so in a form that can be true.
    pub(crate) said: Option<(u64, u64)>,
    /// Bytes up to the end of what it says of that.
    pub(crate) said_at: usize,
    /// Whether it is a well-formed answer.
    pub(crate) sound: bool,
}

/// What can be wrong with what an answer says of its usage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Truly,
    Nothing,
    Less,
    Fraction,
    Absurd,
}

pub(crate) fn script(rng: &mut Rng, ask: &Ask, gentle: bool) -> Script {
    let faulty = !gentle && rng.percent(45);
    if faulty && rng.percent(25) {
        return refuses(rng, ask);
    }
    let says = if !gentle && rng.percent(12) {
        [Says::Nothing, Says::Less, Says::Fraction, Says::Absurd][rng.index(4)]
    } else {
        Says::Truly
    };
    let output = rng.within(1, ask.cap.clamp(1, 24));
    let used = (rng.within(1, 12), output);
    let mut script = if ask.embeds {
        whole(&embedding(ask, says, used.0), says, (used.0, 0))
    } else if ask.stream {
        match ask.kind {
            Kind::OpenAi => openai_stream(rng, ask, says, used),
            Kind::Anthropic => anthropic_stream(ask, says, used),
        }
    } else {
        let text = words(ask, used.1);
        let body = match ask.kind {
            Kind::OpenAi => openai_whole(ask, &text, says, used),
            Kind::Anthropic => anthropic_whole(ask, &text, says, used),
        };
        whole(&body, says, used)
    };
    if faulty {
        spoil(rng, &mut script);
    }
    pace(rng, &mut script, faulty);
    if !faulty && !gentle && rng.percent(4) {
        // Behind it comes an answer that nobody asked for: whoever used the connection again would read it.
        let more = openai_whole(ask, &words(ask, 2), Says::Truly, (1, 2));
        script
            .pieces
            .extend(whole(&more, Says::Truly, (1, 2)).pieces);
    }
    script
}

/// No usable answer, with or without a status.
fn refuses(rng: &mut Rng, ask: &Ask) -> Script {
    let silent = |takes, end| Script {
        takes,
        pieces: Vec::new(),
        end,
        truth: Truth::default(),
    };
    match rng.index(5) {
        0 => return silent(None, End::Hangs),
        1 => return silent(None, [End::Closes, End::Breaks][rng.index(2)]),
        2 => return silent(Some(rng.index(400)), End::Breaks),
        _ => {}
    }
    let status = [400, 401, 404, 408, 409, 418, 429, 500, 502, 503, 529][rng.index(11)];
    let body = match ask.kind {
        Kind::OpenAi => format!(
            r#"{{"error":{{"message":"{} no","type":"no","code":null}}}}"#,
            ask.nonce
        ),
        Kind::Anthropic => {
            format!(
                r#"{{"type":"error","error":{{"type":"no","message":"{} no"}}}}"#,
                ask.nonce
            )
        }
    };
    let retry = if rng.percent(30) {
        "retry-after: 2\r\n"
    } else {
        ""
    };
    let bytes = format!(
        "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\n{retry}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut script = silent(None, End::KeepsOpen);
    script.truth.status = status;
    script.truth.over_at = bytes.len();
    script.pieces = vec![(Duration::ZERO, bytes.into_bytes())];
    pace(rng, &mut script, true);
    script
}

/// Cuts the answer at a byte, or puts something else into it.
fn spoil(rng: &mut Rng, script: &mut Script) {
    let mut bytes = all(script);
    match rng.index(5) {
        // It stays whole; its speed or its numbers are wrong enough.
        0 | 1 => return,
        2 | 3 => {
            bytes.truncate(rng.index(bytes.len()));
            script.end = [End::Closes, End::Breaks, End::Hangs][rng.index(3)];
        }
        _ => {
            let at = rng.index(bytes.len());
            // No digit: it must not make another call's number of this one's.
            let garbage: Vec<u8> = (0..rng.within(1, 40))
                .map(|_| rng.next().to_le_bytes()[0] | 0x40)
                .collect();
            let end = (at + garbage.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&garbage[..end - at]);
            script.truth.sound = false;
            script.truth.said = None;
        }
    }
    script.pieces = vec![(Duration::ZERO, bytes)];
}

/// Cuts the bytes into pieces, and lets time pass before each.
fn pace(rng: &mut Rng, script: &mut Script, faulty: bool) {
    let bytes = all(script);
    let pieces = match rng.index(4) {
        0 => 1,
        1 | 2 => rng.within(2, 9),
        _ if faulty => 60,
        _ => 20,
    };
    let mut cuts: Vec<usize> = (1..pieces).map(|_| rng.index(bytes.len())).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    let slow = rng.percent(40);
    script.pieces = cuts
        .windows(2)
        .map(|cut| {
            let wait = match rng.index(8) {
                0..4 => 0,
                4..7 => rng.within(1, if slow { 400 } else { 5 }),
                // Longer than a provider may be silent, sometimes.
                _ if faulty => rng.within(1, 9_000),
                _ => rng.within(1, 1_500),
            };
            (Duration::from_millis(wait), bytes[cut[0]..cut[1]].to_vec())
        })
        .collect();
}

fn all(script: &Script) -> Vec<u8> {
    script
        .pieces
        .iter()
        .flat_map(|(_, bytes)| bytes.iter().copied())
        .collect()
}

/// Each word is the nonce: whoever reads another's word has another's answer.
fn words(ask: &Ask, count: u64) -> String {
    vec![ask.nonce.as_str(); usize::try_from(count).unwrap()].join(" ")
}

fn whole(body: &str, says: Says, used: (u64, u64)) -> Script {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let bytes = format!("{head}{body}").into_bytes();
    let truth = Truth {
        status: 200,
        over_at: bytes.len(),
        said: (says == Says::Truly).then_some(used),
        said_at: bytes.len(),
        sound: says == Says::Truly || says == Says::Nothing || says == Says::Absurd,
    };
    Script {
        takes: None,
        pieces: vec![(Duration::ZERO, bytes)],
        end: End::KeepsOpen,
        truth,
    }
}

/// Two counts as an answer may write them.
fn counts(says: Says, names: (&str, &str), used: (u64, u64)) -> Option<String> {
    let (input, output) = match says {
        Says::Nothing => return None,
        Says::Truly => (used.0.to_string(), used.1.to_string()),
        Says::Less => ("-3".to_owned(), used.1.to_string()),
        Says::Fraction => (used.0.to_string(), "1.5".to_owned()),
        Says::Absurd => ("900000000000".to_owned(), "7".to_owned()),
    };
    Some(format!(
        r#"{{"{}":{input},"{}":{output}}}"#,
        names.0, names.1
    ))
}

const OPENAI: (&str, &str) = ("prompt_tokens", "completion_tokens");
const ANTHROPIC: (&str, &str) = ("input_tokens", "output_tokens");

fn openai_whole(ask: &Ask, text: &str, says: Says, used: (u64, u64)) -> String {
    let usage =
        counts(says, OPENAI, used).map_or(String::new(), |usage| format!(r#","usage":{usage}"#));
    format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"{}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}]{usage}}}"#,
        ask.model
    )
}

fn embedding(ask: &Ask, says: Says, input: u64) -> String {
    let usage = match says {
        Says::Nothing => String::new(),
        Says::Truly => format!(r#","usage":{{"prompt_tokens":{input},"total_tokens":{input}}}"#),
        Says::Less => r#","usage":{"prompt_tokens":-3,"total_tokens":1}"#.to_owned(),
        Says::Fraction => r#","usage":{"prompt_tokens":1.5,"total_tokens":1}"#.to_owned(),
        Says::Absurd => {
            r#","usage":{"prompt_tokens":900000000000,"total_tokens":900000000000}"#.to_owned()
        }
    };
    format!(
        r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":[0.5]}}],"note":"{}","model":"{}"{usage}}}"#,
        ask.nonce, ask.model
    )
}

fn anthropic_whole(ask: &Ask, text: &str, says: Says, used: (u64, u64)) -> String {
    let usage =
        counts(says, ANTHROPIC, used).map_or(String::new(), |usage| format!(r#","usage":{usage}"#));
    format!(
        r#"{{"id":"m","type":"message","role":"assistant","model":"{}","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","stop_sequence":null{usage}}}"#,
        ask.model
    )
}

const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A stream of events, each in a chunk of its own.
struct Events {
    bytes: Vec<u8>,
    truth: Truth,
}

impl Events {
    fn begin(says: Says, used: (u64, u64)) -> Self {
        Self {
            bytes: STREAM_HEAD.as_bytes().to_vec(),
            truth: Truth {
                status: 200,
                said: (says == Says::Truly).then_some(used),
                sound: says == Says::Truly || says == Says::Nothing || says == Says::Absurd,
                ..Truth::default()
            },
        }
    }

    fn put(&mut self, event: &str) {
        self.bytes
            .extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
    }

    fn data(&mut self, data: &str) {
        self.put(&format!("data: {data}\n\n"));
    }

    fn named(&mut self, name: &str, data: &str) {
        self.put(&format!("event: {name}\ndata: {data}\n\n"));
    }

    fn end(mut self) -> Script {
        self.bytes.extend_from_slice(b"0\r\n\r\n");
        Script {
            takes: None,
            pieces: vec![(Duration::ZERO, self.bytes)],
            end: End::KeepsOpen,
            truth: self.truth,
        }
    }
}

fn openai_stream(rng: &mut Rng, ask: &Ask, says: Says, used: (u64, u64)) -> Script {
    let mut events = Events::begin(says, used);
    let model = &ask.model;
    let chunk = |delta: &str, reason: &str| {
        format!(
            r#"{{"id":"c","object":"chat.completion.chunk","created":1,"model":"{model}","choices":[{{"index":0,"delta":{{{delta}}},"finish_reason":{reason}}}]}}"#
        )
    };
    events.data(&chunk(r#""role":"assistant","content":"""#, "null"));
    for _ in 0..used.1 {
        events.data(&chunk(&format!(r#""content":"{} ""#, ask.nonce), "null"));
    }
    events.data(&chunk("", r#""stop""#));
    events.truth.over_at = events.bytes.len();
    if let Some(usage) = counts(says, OPENAI, used) {
        events.data(&format!(
            r#"{{"id":"c","object":"chat.completion.chunk","created":1,"model":"{model}","choices":[],"usage":{usage}}}"#
        ));
    }
    events.truth.said_at = events.bytes.len();
    if rng.percent(97) {
        events.data("[DONE]");
    }
    events.end()
}

fn anthropic_stream(ask: &Ask, says: Says, used: (u64, u64)) -> Script {
    let mut events = Events::begin(says, used);
    let begun = counts(says, ANTHROPIC, (used.0, 1)).unwrap_or_else(|| "{}".to_owned());
    events.named(
        "message_start",
        &format!(
            r#"{{"type":"message_start","message":{{"id":"m","type":"message","role":"assistant","model":"{}","content":[],"stop_reason":null,"stop_sequence":null,"usage":{begun}}}}}"#,
            ask.model
        ),
    );
    events.named(
        "content_block_start",
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
    );
    for _ in 0..used.1 {
        events.named(
            "content_block_delta",
            &format!(
                r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{} "}}}}"#,
                ask.nonce
            ),
        );
    }
    events.named(
        "content_block_stop",
        r#"{"type":"content_block_stop","index":0}"#,
    );
    let usage = match says {
        Says::Nothing => String::new(),
        Says::Truly | Says::Absurd => format!(r#","usage":{{"output_tokens":{}}}"#, used.1),
        Says::Less => r#","usage":{"output_tokens":-3}"#.to_owned(),
        Says::Fraction => r#","usage":{"output_tokens":1.5}"#.to_owned(),
    };
    events.named(
        "message_delta",
        &format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn","stop_sequence":null}}{usage}}}"#),
    );
    events.truth.over_at = events.bytes.len();
    events.truth.said_at = events.bytes.len();
    events.named("message_stop", r#"{"type":"message_stop"}"#);
    events.end()
}
