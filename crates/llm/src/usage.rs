//! Usage as the dialects write it, to and from disjoint buckets.
//!
//! A count that is not a whole number is an error, never zero: a free call is the dearest mistake.

use crate::json::{Cursor, Kind};
use crate::reply::ReplyError;
use base::Usage;
use serde::Serialize;
use serde_json::value::RawValue;

/// `usage` of a chat completion: cached, written and audio tokens stand inside `prompt_tokens`;
/// reasoning, audio and predicted tokens inside `completion_tokens`.
///
/// Where `total_tokens` exceeds the two by exactly the reasoning tokens (or no reasoning is named),
/// the provider counts reasoning beside the completion, and the excess is reasoning.
/// `None` where the object does not say both input and output.
///
/// # Errors
/// [`ReplyError::Malformed`] when a count is not a whole number from 0 to 2^53, or the parts exceed
/// their whole.
pub fn openai_usage(raw: &RawValue) -> Result<Option<Usage>, ReplyError> {
    openai_counts(raw.get())?.usage()
}

/// `usage` of an embedding: all input, no output.
///
/// # Errors
/// As [`openai_usage`].
pub fn embedding_usage(raw: &RawValue) -> Result<Option<Usage>, ReplyError> {
    openai_counts(raw.get())?.input_only().usage()
}

/// `usage` of an Anthropic message: thinking stands inside `output_tokens`, cached and written tokens
/// beside `input_tokens`. `None` where it does not say both input and output.
///
/// # Errors
/// As [`openai_usage`].
pub fn anthropic_usage(raw: &RawValue) -> Result<Option<Usage>, ReplyError> {
    let mut counts = AnthropicCounts::default();
    counts.merge(raw.get())?;
    counts.usage()
}

/// Usage as `OpenAI` writes it, which does not tell the life times of cache writes apart.
#[must_use]
pub fn write_openai(usage: &Usage) -> OpenAiUsageWire {
    OpenAiUsageWire {
        prompt_tokens: usage.tokens_in(),
        completion_tokens: usage.tokens_out(),
        total_tokens: usage.tokens_in().saturating_add(usage.tokens_out()),
        prompt_tokens_details: OpenAiPromptDetails {
            cached_tokens: usage.cache_read,
            audio_tokens: usage.audio_in,
            cache_write_tokens: usage.cache_write.saturating_add(usage.cache_write_1h),
        },
        completion_tokens_details: OpenAiCompletionDetails {
            reasoning_tokens: usage.reasoning,
            audio_tokens: usage.audio_out,
        },
    }
}

/// Usage as Anthropic writes it. Audio and image counts stand inside `input_tokens`.
#[must_use]
pub fn write_anthropic(usage: &Usage) -> AnthropicUsageWire {
    AnthropicUsageWire {
        input_tokens: usage
            .input
            .saturating_add(usage.audio_in)
            .saturating_add(usage.image_in),
        cache_creation_input_tokens: usage.cache_write.saturating_add(usage.cache_write_1h),
        cache_read_input_tokens: usage.cache_read,
        cache_creation: AnthropicCacheCreation {
            ephemeral_5m_input_tokens: usage.cache_write,
            ephemeral_1h_input_tokens: usage.cache_write_1h,
        },
        output_tokens: usage.tokens_out(),
        output_tokens_details: (usage.reasoning > 0).then_some(AnthropicOutputDetails {
            thinking_tokens: usage.reasoning,
        }),
    }
}

/// `usage` in `OpenAI`'s form.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenAiUsageWire {
    /// All input, cached included.
    pub prompt_tokens: u64,
    /// All output, reasoning included.
    pub completion_tokens: u64,
    /// The sum.
    pub total_tokens: u64,
    /// Parts of `prompt_tokens`.
    pub prompt_tokens_details: OpenAiPromptDetails,
    /// Parts of `completion_tokens`.
    pub completion_tokens_details: OpenAiCompletionDetails,
}

/// Parts of `prompt_tokens`.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenAiPromptDetails {
    /// Read from the cache.
    pub cached_tokens: u64,
    /// Audio.
    pub audio_tokens: u64,
    /// Written to the cache.
    pub cache_write_tokens: u64,
}

/// Parts of `completion_tokens`.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenAiCompletionDetails {
    /// Reasoning.
    pub reasoning_tokens: u64,
    /// Audio.
    pub audio_tokens: u64,
}

/// `usage` in Anthropic's form.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnthropicUsageWire {
    /// Input that no cache bucket holds.
    pub input_tokens: u64,
    /// Written to the cache, both life times.
    pub cache_creation_input_tokens: u64,
    /// Read from the cache.
    pub cache_read_input_tokens: u64,
    /// `cache_creation_input_tokens` by life time.
    pub cache_creation: AnthropicCacheCreation,
    /// All output, thinking included.
    pub output_tokens: u64,
    /// Parts of `output_tokens`; left out where nothing was thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens_details: Option<AnthropicOutputDetails>,
}

/// Parts of `output_tokens`.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnthropicOutputDetails {
    /// Thinking, shown or not.
    pub thinking_tokens: u64,
}

/// Cache writes by life time.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnthropicCacheCreation {
    /// Five minutes.
    pub ephemeral_5m_input_tokens: u64,
    /// One hour.
    pub ephemeral_1h_input_tokens: u64,
}

const MALFORMED: ReplyError = ReplyError::Malformed("usage");

/// Beyond this JSON numbers are not whole in most readers; no call consumes so much.
const COUNT_MAX: u64 = 1 << 53;

/// The counts of one `OpenAI` usage object as they stand.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct OpenAiCounts {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
    cached: u64,
    written: u64,
    audio_in: u64,
    reasoning: u64,
    audio_out: u64,
}

impl OpenAiCounts {
    /// Of an operation that has no output.
    pub(crate) fn input_only(self) -> Self {
        Self {
            completion: Some(0),
            total: None,
            ..self
        }
    }

    pub(crate) fn usage(self) -> Result<Option<Usage>, ReplyError> {
        let Some(prompt) = self.prompt else {
            return Ok(None);
        };
        let completion = match (self.completion, self.total) {
            (Some(completion), _) => completion,
            (None, Some(total)) => total.checked_sub(prompt).ok_or(MALFORMED)?,
            (None, None) => return Ok(None),
        };
        let beside = self
            .total
            .and_then(|total| total.checked_sub(prompt + completion))
            .unwrap_or(0);
        let (output, reasoning) = if beside > 0 && (self.reasoning == 0 || self.reasoning == beside)
        {
            (completion.checked_sub(self.audio_out), beside)
        } else {
            (
                completion.checked_sub(self.reasoning + self.audio_out),
                self.reasoning,
            )
        };
        let parts = self.cached + self.written + self.audio_in;
        Ok(Some(Usage {
            input: prompt.checked_sub(parts).ok_or(MALFORMED)?,
            cache_read: self.cached,
            cache_write: self.written,
            audio_in: self.audio_in,
            output: output.ok_or(MALFORMED)?,
            reasoning,
            audio_out: self.audio_out,
            ..Usage::default()
        }))
    }
}

/// Reads the JSON text of an `OpenAI` usage object; `null` has no counts.
pub(crate) fn openai_counts(text: &str) -> Result<OpenAiCounts, ReplyError> {
    let mut counts = OpenAiCounts::default();
    each_member(&mut Cursor::lenient(text), &mut |name, cursor| {
        match name {
            "prompt_tokens" => counts.prompt = count(cursor)?,
            "completion_tokens" => counts.completion = count(cursor)?,
            "total_tokens" => counts.total = count(cursor)?,
            "prompt_tokens_details" => each_member(cursor, &mut |name, cursor| {
                match name {
                    "cached_tokens" => counts.cached = count(cursor)?.unwrap_or(0),
                    "cache_write_tokens" => counts.written = count(cursor)?.unwrap_or(0),
                    "audio_tokens" => counts.audio_in = count(cursor)?.unwrap_or(0),
                    _ => skip(cursor)?,
                }
                Ok(())
            })?,
            "completion_tokens_details" => each_member(cursor, &mut |name, cursor| {
                match name {
                    "reasoning_tokens" => counts.reasoning = count(cursor)?.unwrap_or(0),
                    "audio_tokens" => counts.audio_out = count(cursor)?.unwrap_or(0),
                    _ => skip(cursor)?,
                }
                Ok(())
            })?,
            _ => skip(cursor)?,
        }
        Ok(())
    })?;
    Ok(counts)
}

/// The counts of an Anthropic message, put together from the events that carry parts of them.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct AnthropicCounts {
    input: Option<u64>,
    output: Option<u64>,
    thinking: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    written_5m: Option<u64>,
    written_1h: Option<u64>,
    server_tools: Option<u64>,
}

impl AnthropicCounts {
    /// Takes the JSON text of a further usage object. Counts are cumulative, so the larger one
    /// stands; adding them up would count twice, and some backends start with zeros.
    pub(crate) fn merge(&mut self, text: &str) -> Result<(), ReplyError> {
        let keep = |old: &mut Option<u64>, new: Option<u64>| *old = (*old).max(new);
        each_member(&mut Cursor::lenient(text), &mut |name, cursor| {
            match name {
                "input_tokens" => keep(&mut self.input, count(cursor)?),
                "output_tokens" => keep(&mut self.output, count(cursor)?),
                "output_tokens_details" => each_member(cursor, &mut |name, cursor| {
                    match name {
                        "thinking_tokens" => keep(&mut self.thinking, count(cursor)?),
                        _ => skip(cursor)?,
                    }
                    Ok(())
                })?,
                "cache_read_input_tokens" => keep(&mut self.cache_read, count(cursor)?),
                "cache_creation_input_tokens" => keep(&mut self.cache_write, count(cursor)?),
                "cache_creation" => each_member(cursor, &mut |name, cursor| {
                    match name {
                        "ephemeral_5m_input_tokens" => keep(&mut self.written_5m, count(cursor)?),
                        "ephemeral_1h_input_tokens" => keep(&mut self.written_1h, count(cursor)?),
                        _ => skip(cursor)?,
                    }
                    Ok(())
                })?,
                "server_tool_use" => {
                    let mut calls = 0_u64;
                    each_member(cursor, &mut |name, cursor| {
                        // Fetches and the like are named `*_requests` too; each is a call to be priced.
                        match name.strip_suffix("_requests") {
                            Some(_) => calls = calls.saturating_add(count(cursor)?.unwrap_or(0)),
                            None => skip(cursor)?,
                        }
                        Ok(())
                    })?;
                    keep(&mut self.server_tools, Some(calls));
                }
                _ => skip(cursor)?,
            }
            Ok(())
        })
    }

    pub(crate) fn usage(self) -> Result<Option<Usage>, ReplyError> {
        let (Some(input), Some(output)) = (self.input, self.output) else {
            return Ok(None);
        };
        let reasoning = self.thinking.unwrap_or(0);
        let written_1h = self.written_1h.unwrap_or(0);
        let parts = written_1h + self.written_5m.unwrap_or(0);
        let written = self.cache_write.unwrap_or(parts);
        Ok(Some(Usage {
            input,
            output: output.checked_sub(reasoning).ok_or(MALFORMED)?,
            reasoning,
            cache_read: self.cache_read.unwrap_or(0),
            cache_write: written.max(parts) - written_1h,
            cache_write_1h: written_1h,
            server_tool_calls: self.server_tools.unwrap_or(0),
            ..Usage::default()
        }))
    }
}

type Visit<'v, 'a> = &'v mut dyn FnMut(&str, &mut Cursor<'a>) -> Result<(), ReplyError>;

/// Shows every member of an object; `null` has none, anything else is malformed.
fn each_member<'a>(cursor: &mut Cursor<'a>, visit: Visit<'_, 'a>) -> Result<(), ReplyError> {
    match cursor.kind() {
        Ok(Kind::Null) => return skip(cursor),
        Ok(Kind::Object) => {}
        _ => return Err(MALFORMED),
    }
    let mut open = cursor.object().map_err(|_| MALFORMED)?;
    while let Some(key) = cursor.key(&mut open).map_err(|_| MALFORMED)? {
        visit(&key.decoded(), cursor)?;
    }
    Ok(())
}

fn skip(cursor: &mut Cursor<'_>) -> Result<(), ReplyError> {
    cursor.skip().map(drop).map_err(|_| MALFORMED)
}

fn count(cursor: &mut Cursor<'_>) -> Result<Option<u64>, ReplyError> {
    let text = cursor.raw().map_err(|_| MALFORMED)?;
    if text == "null" {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(count) if count <= COUNT_MAX => Ok(Some(count)),
        _ => Err(MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn openai_buckets_are_disjoint() {
        let full = r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
            "prompt_tokens_details":{"cached_tokens":60,"audio_tokens":10,"cache_write_tokens":5},
            "completion_tokens_details":{"reasoning_tokens":30,"audio_tokens":4,"accepted_prediction_tokens":3,"rejected_prediction_tokens":2}}"#;
        let usage = openai_usage(&raw(full)).unwrap().unwrap();
        let expect = Usage {
            input: 25,
            cache_read: 60,
            cache_write: 5,
            audio_in: 10,
            output: 16,
            reasoning: 30,
            audio_out: 4,
            ..Usage::default()
        };
        assert_eq!(usage, expect);
        assert_eq!((usage.tokens_in(), usage.tokens_out()), (100, 50));
        for (text, input, output, reasoning) in [
            (
                r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#,
                0,
                0,
                0,
            ),
            (
                r#"{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":null,"completion_tokens_details":null}"#,
                7,
                3,
                0,
            ),
            (r#"{"prompt_tokens":7,"total_tokens":10}"#, 7, 3, 0),
            (
                r#"{"prompt_tokens":7,"completion_tokens":3,"total_tokens":30,"completion_tokens_details":{"reasoning_tokens":20}}"#,
                7,
                3,
                20,
            ),
            (
                r#"{"prompt_tokens":7,"completion_tokens":3,"total_tokens":30}"#,
                7,
                3,
                20,
            ),
            (
                r#"{"prompt_tokens":7,"completion_tokens":3,"total_tokens":1}"#,
                7,
                3,
                0,
            ),
        ] {
            let expect = Usage {
                input,
                output,
                reasoning,
                ..Usage::default()
            };
            assert_eq!(openai_usage(&raw(text)), Ok(Some(expect)), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_unknown_and_what_is_odd_is_refused() {
        for text in [
            "null",
            "{}",
            r#"{"prompt_tokens":1}"#,
            r#"{"completion_tokens":1,"total_tokens":3}"#,
            r#"{"prompt_tokens":null,"completion_tokens":2}"#,
        ] {
            assert_eq!(openai_usage(&raw(text)), Ok(None), "{text}");
        }
        for odd in [
            "-1",
            "1.5",
            "1.0",
            "1e3",
            "\"7\"",
            "9223372036854775808",
            "18446744073709551616",
            "9007199254740993",
            "true",
            "[]",
            "{}",
        ] {
            let text = format!(r#"{{"prompt_tokens":{odd},"completion_tokens":1}}"#);
            assert_eq!(openai_usage(&raw(&text)), Err(MALFORMED), "{text}");
            let text = format!(
                r#"{{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{{"cached_tokens":{odd}}}}}"#
            );
            assert_eq!(openai_usage(&raw(&text)), Err(MALFORMED), "{text}");
            let text = format!(r#"{{"input_tokens":1,"output_tokens":{odd}}}"#);
            assert_eq!(anthropic_usage(&raw(&text)), Err(MALFORMED), "{text}");
            let text = format!(
                r#"{{"input_tokens":1,"output_tokens":9,"output_tokens_details":{{"thinking_tokens":{odd}}}}}"#
            );
            assert_eq!(anthropic_usage(&raw(&text)), Err(MALFORMED), "{text}");
        }
        for text in [
            r#"{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":6}}"#,
            r#"{"prompt_tokens":5,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":2}}"#,
            r#"{"prompt_tokens":5,"total_tokens":4}"#,
            "[]",
            "7",
            "\"x\"",
        ] {
            assert_eq!(openai_usage(&raw(text)), Err(MALFORMED), "{text}");
        }
    }

    #[test]
    fn embeddings_have_no_output() {
        for text in [
            r#"{"prompt_tokens":8,"total_tokens":8}"#,
            r#"{"prompt_tokens":8}"#,
        ] {
            let expect = Usage {
                input: 8,
                ..Usage::default()
            };
            assert_eq!(embedding_usage(&raw(text)), Ok(Some(expect)), "{text}");
        }
    }

    #[test]
    fn anthropic_counts_are_cumulative() {
        let start = r#"{"input_tokens":25,"cache_creation_input_tokens":100,"cache_read_input_tokens":7,"cache_creation":{"ephemeral_5m_input_tokens":60,"ephemeral_1h_input_tokens":40},"output_tokens":1,"service_tier":"standard"}"#;
        let mut counts = AnthropicCounts::default();
        counts.merge(start).unwrap();
        counts
            .merge(r#"{"output_tokens":15,"server_tool_use":{"web_search_requests":2}}"#)
            .unwrap();
        let expect = Usage {
            input: 25,
            cache_read: 7,
            cache_write: 60,
            cache_write_1h: 40,
            output: 15,
            server_tool_calls: 2,
            ..Usage::default()
        };
        assert_eq!(counts.usage(), Ok(Some(expect)));

        let mut late = AnthropicCounts::default();
        late.merge(r#"{"input_tokens":0,"output_tokens":0}"#)
            .unwrap();
        late.merge(r#"{"input_tokens":25,"cache_read_input_tokens":7,"cache_creation_input_tokens":9,"output_tokens":15}"#).unwrap();
        let expect = Usage {
            input: 25,
            cache_read: 7,
            cache_write: 9,
            output: 15,
            ..Usage::default()
        };
        assert_eq!(late.usage(), Ok(Some(expect)));
        assert_eq!(anthropic_usage(&raw(r#"{"output_tokens":3}"#)), Ok(None));
    }

    #[test]
    fn thinking_is_a_part_of_the_output() {
        for (details, output, reasoning) in [
            (r#"{"thinking_tokens":7}"#, 3, 7),
            (r#"{"thinking_tokens":10,"later":[1]}"#, 0, 10),
            (r#"{"thinking_tokens":0}"#, 10, 0),
            (r#"{"thinking_tokens":null}"#, 10, 0),
            ("{}", 10, 0),
            ("null", 10, 0),
        ] {
            let text = format!(
                r#"{{"input_tokens":1,"output_tokens":10,"output_tokens_details":{details}}}"#
            );
            let expect = Usage {
                input: 1,
                output,
                reasoning,
                ..Usage::default()
            };
            assert_eq!(anthropic_usage(&raw(&text)), Ok(Some(expect)), "{text}");
        }
        for details in [r#"{"thinking_tokens":11}"#, "[]", "7"] {
            let text = format!(
                r#"{{"input_tokens":1,"output_tokens":10,"output_tokens_details":{details}}}"#
            );
            assert_eq!(anthropic_usage(&raw(&text)), Err(MALFORMED), "{text}");
        }
        let mut counts = AnthropicCounts::default();
        for part in [
            r#"{"input_tokens":1,"output_tokens":2,"output_tokens_details":{"thinking_tokens":2}}"#,
            r#"{"output_tokens":50,"output_tokens_details":{"thinking_tokens":40}}"#,
        ] {
            counts.merge(part).unwrap();
        }
        let usage = counts.usage().unwrap().unwrap();
        assert_eq!((usage.output, usage.reasoning), (10, 40));
    }

    #[test]
    fn wire_forms_read_back() {
        let usage = Usage {
            input: 1,
            cache_read: 2,
            cache_write: 3,
            cache_write_1h: 4,
            output: 5,
            reasoning: 6,
            ..Usage::default()
        };
        let wire = raw(&serde_json::to_string(&write_anthropic(&usage)).unwrap());
        assert_eq!(anthropic_usage(&wire), Ok(Some(usage)));
        let plain = serde_json::to_string(&write_anthropic(&Usage::default())).unwrap();
        assert!(!plain.contains("details"), "{plain}");
        let usage = Usage {
            input: 1,
            cache_read: 2,
            cache_write: 4,
            audio_in: 3,
            output: 5,
            reasoning: 6,
            audio_out: 7,
            ..Usage::default()
        };
        let wire = raw(&serde_json::to_string(&write_openai(&usage)).unwrap());
        assert_eq!(openai_usage(&wire), Ok(Some(usage)));
    }
}
