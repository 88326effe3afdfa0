//! Orders to be slow or faulty or to call tools, written as `[[sim: ...]]` in the model name or the last user message.

use std::time::Duration;

use crate::script::Rounds;

/// What the caller ordered. Orders in the model name and in the message add up.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Directives {
    /// The orders as written: `times` counts per text.
    pub(crate) written: String,
    /// Wait before the response head.
    pub(crate) delay: Duration,
    /// Wait between two pieces of a stream.
    pub(crate) gap: Duration,
    /// Exactly so many pieces of text.
    pub(crate) chunks: Option<usize>,
    /// Bytes of each piece, filler text.
    pub(crate) piece_bytes: Option<usize>,
    /// Reported (uncached) input and output tokens.
    pub(crate) fixed_usage: Option<(u64, u64)>,
    pub(crate) cache_read: Option<u64>,
    pub(crate) cache_write: Option<u64>,
    pub(crate) reasoning: Option<u64>,
    pub(crate) odd_usage: Option<OddUsage>,
    pub(crate) faults: Vec<Fault>,
    /// The faults hit only the first so many requests that carry these very orders.
    pub(crate) times: Option<u32>,
    /// The faults hit only this model: how a fallback is tested with one message.
    pub(crate) on: Option<String>,
    /// Tool calls to make, whatever the model would do.
    pub(crate) script: Option<Rounds>,
}

/// One way to misbehave. Positions count pieces of content already sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    Status {
        code: u16,
        retry_after: Option<u64>,
    },
    /// Close without any answer.
    Disconnect,
    /// Never answer.
    Hang,
    Redirect,
    EchoKey,
    Gzip,
    ContentType(String),
    At {
        after: usize,
        what: Break,
    },
    /// Leave out `[DONE]` or `message_stop`; the transfer itself ends cleanly.
    NoEnd,
    DoubleEnd,
    /// Go on past the output limit of the request.
    NoLimit,
    Comments,
    Framing(Framing),
    /// One byte at a time with this pause.
    SlowBytes(Duration),
}

/// What happens at one place of a stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Break {
    Hang,
    /// Close the connection in the middle of the body.
    Cut,
    /// The same with a reset instead of an orderly close.
    Reset,
    /// End the transfer cleanly, without finish reason and without end mark.
    End,
    ErrorEvent,
    Malformed,
    BadUtf8,
    LongLine(usize),
}

/// How events are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Crlf,
    CrOnly,
    ByteOrderMark,
    NoBlankLine,
}

/// Wrong or unusual ways to report usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OddUsage {
    Missing,
    Null,
    Negative,
    Text,
    Float,
    /// 2^63, one more than a signed word holds.
    Huge,
    Zero,
    /// On the chunk that carries the finish reason instead of one with empty choices.
    OnChoices,
    /// All counts in `message_delta`, zeros in `message_start`.
    DeltaOnly,
    /// Input in `message_start`, `message_delta` with output alone: the older form.
    DeltaOutput,
}

/// Most pieces that one order may ask for.
const CHUNKS_MAX: usize = 2_000_000;
/// Most bytes of one ordered piece or line.
const LINE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Characters of an order that a refusal repeats.
const QUOTE_CHARS: usize = 120;
/// Default of `long_line`: above any sane event bound.
const LONG_LINE_BYTES: usize = 2 * 1024 * 1024;

/// Takes the orders out of a text: what is left, and the orders.
///
/// # Errors
/// A sentence that names the order which is not known or not well formed.
pub(crate) fn take(text: &str, into: &mut Directives) -> Result<String, String> {
    let mut rest = text;
    let mut left = String::with_capacity(text.len());
    while let Some((before, orders, after)) = split(rest) {
        left.push_str(before);
        into.written.push_str(orders);
        for order in orders.split_whitespace() {
            apply(order, into).ok_or_else(|| {
                let shown: String = order.chars().take(QUOTE_CHARS).collect();
                format!("the simulator does not know the order '{shown}'")
            })?;
        }
        rest = after;
    }
    left.push_str(rest);
    Ok(left.trim().to_owned())
}

/// The text before the first orders, those orders, and the text after them.
pub(crate) fn split(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("[[sim:")?;
    let (orders, after) = rest.split_once("]]")?;
    Some((before, orders, after))
}

impl Directives {
    /// Drops the faults, keeps pace and usage.
    pub(crate) fn without_faults(mut self) -> Self {
        self.faults.clear();
        self.odd_usage = None;
        self
    }

    pub(crate) fn has(&self, fault: &Fault) -> bool {
        self.faults.contains(fault)
    }
}

fn apply(order: &str, into: &mut Directives) -> Option<()> {
    let (name, value) = order.split_once('=')?;
    match name {
        "delay" => into.delay = duration(value)?,
        "gap" => into.gap = duration(value)?,
        "chunks" => {
            into.chunks = Some(
                value
                    .parse()
                    .ok()
                    .filter(|n| (1..=CHUNKS_MAX).contains(n))?,
            )
        }
        "bytes" => {
            into.piece_bytes = Some(
                value
                    .parse()
                    .ok()
                    .filter(|n| (1..=LINE_BYTES_MAX).contains(n))?,
            )
        }
        "fixed_usage" => {
            let (input, output) = value.split_once(':')?;
            into.fixed_usage = Some((input.parse().ok()?, output.parse().ok()?));
        }
        "cache_read" => into.cache_read = Some(value.parse().ok()?),
        "cache_write" => into.cache_write = Some(value.parse().ok()?),
        "reasoning" => into.reasoning = Some(value.parse().ok()?),
        "usage" => into.odd_usage = Some(odd_usage(value)?),
        "times" => into.times = Some(value.parse().ok()?),
        "on" => into.on = Some(value.to_owned()),
        "script" => into.script = Some(Rounds::decode(value)?),
        "tag" => {}
        "fault" => into.faults.push(fault(value)?),
        _ => return None,
    }
    Some(())
}

fn fault(value: &str) -> Option<Fault> {
    let (name, argument) = value
        .split_once(':')
        .map_or((value, None), |(name, rest)| (name, Some(rest)));
    let at = |what| {
        let after = argument.map_or(Some(1), |text| text.parse().ok())?;
        Some(Fault::At { after, what })
    };
    match name {
        "status" => {
            let (code, retry_after) = match argument?.split_once(':') {
                Some((code, seconds)) => (code, Some(seconds.parse().ok()?)),
                None => (argument?, None),
            };
            Some(Fault::Status {
                code: code.parse().ok().filter(|c| (400..=599).contains(c))?,
                retry_after,
            })
        }
        "disconnect" => Some(Fault::Disconnect),
        "hang" => Some(Fault::Hang),
        "redirect" => Some(Fault::Redirect),
        "echo_key" => Some(Fault::EchoKey),
        "gzip" => Some(Fault::Gzip),
        "content_type" => Some(Fault::ContentType(
            argument.unwrap_or("text/html").to_owned(),
        )),
        "hang_after" => at(Break::Hang),
        "cut_after" => at(Break::Cut),
        "reset_after" => at(Break::Reset),
        "end_after" => at(Break::End),
        "error_event" => at(Break::ErrorEvent),
        "malformed" => at(Break::Malformed),
        "bad_utf8" => at(Break::BadUtf8),
        "long_line" => {
            let bytes = argument.map_or(Some(LONG_LINE_BYTES), |text| text.parse().ok())?;
            Some(Fault::At {
                after: 1,
                what: Break::LongLine(bytes.min(LINE_BYTES_MAX)),
            })
        }
        "no_end" => Some(Fault::NoEnd),
        "double_done" => Some(Fault::DoubleEnd),
        "no_limit" => Some(Fault::NoLimit),
        "comments" => Some(Fault::Comments),
        "crlf" => Some(Fault::Framing(Framing::Crlf)),
        "cr_only" => Some(Fault::Framing(Framing::CrOnly)),
        "bom" => Some(Fault::Framing(Framing::ByteOrderMark)),
        "no_blank_line" => Some(Fault::Framing(Framing::NoBlankLine)),
        "slow_bytes" => Some(Fault::SlowBytes(duration(argument.unwrap_or("10ms"))?)),
        _ => None,
    }
}

fn odd_usage(value: &str) -> Option<OddUsage> {
    Some(match value {
        "missing" => OddUsage::Missing,
        "null" => OddUsage::Null,
        "negative" => OddUsage::Negative,
        "string" => OddUsage::Text,
        "float" => OddUsage::Float,
        "huge" => OddUsage::Huge,
        "zero" => OddUsage::Zero,
        "on_choices" => OddUsage::OnChoices,
        "delta_only" => OddUsage::DeltaOnly,
        "delta_output" => OddUsage::DeltaOutput,
        _ => return None,
    })
}

fn duration(text: &str) -> Option<Duration> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().ok()?;
    let duration = match unit {
        "us" => Duration::from_micros(number),
        "ms" | "" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return None,
    };
    Some(duration.min(Duration::from_secs(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_taken_out_of_the_text() {
        let mut orders = Directives::default();
        let left = take(
            "Hello [[sim:delay=200ms chunks=50 gap=20ms fault=cut_after:3]] there [[sim:fault=status:429:7]]",
            &mut orders,
        );
        assert_eq!(left.as_deref(), Ok("Hello  there"));
        assert_eq!(orders.delay, Duration::from_millis(200));
        assert_eq!(orders.gap, Duration::from_millis(20));
        assert_eq!(orders.chunks, Some(50));
        assert_eq!(
            orders.faults,
            [
                Fault::At {
                    after: 3,
                    what: Break::Cut
                },
                Fault::Status {
                    code: 429,
                    retry_after: Some(7)
                },
            ]
        );
    }

    #[test]
    fn unknown_orders_are_named() {
        for bad in [
            "fault=nonsense",
            "chunks=0",
            "delay=5parsec",
            "plain",
            "fault=status:200",
            "usage=odd",
        ] {
            let refused = take(&format!("x [[sim:{bad}]]"), &mut Directives::default());
            assert!(refused.is_err_and(|message| message.contains(bad)), "{bad}");
        }
    }

    #[test]
    fn an_unclosed_order_is_plain_text() {
        let mut orders = Directives::default();
        assert_eq!(
            take("a [[sim:fault=hang", &mut orders).as_deref(),
            Ok("a [[sim:fault=hang")
        );
        assert_eq!(orders, Directives::default());
    }
}
