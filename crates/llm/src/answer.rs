//! One borrowed read of an answer, whole or one event of it: what billing and release need to know.

use crate::json::{Cursor, Fault, Kind, Text};
use crate::reply::ReplyError;
use std::ops::Range;

/// What an answer or an event says, spans relative to its text.
#[derive(Default, Debug)]
pub(crate) struct Answer<'a> {
    /// The value of `model` (of the whole answer, or inside `message_start`).
    pub(crate) model: Option<Text<'a>>,
    /// The JSON text of `usage` where it is not null, outermost last.
    pub(crate) usage: [Option<&'a str>; 2],
    /// The first finish reason that is not null; its presence is the end.
    pub(crate) finish: Option<Text<'a>>,
    /// `choices` is an empty array.
    pub(crate) no_choices: bool,
    /// The provider reports an error.
    pub(crate) error: bool,
    /// `message_stop`.
    pub(crate) stop: bool,
    /// Bytes of text, tool arguments and thinking.
    pub(crate) produced: u64,
    /// Some of it is thinking, of which a provider bills more than it shows.
    pub(crate) reasoned: bool,
}

impl Answer<'_> {
    /// Where the value of `model` stands.
    pub(crate) fn model_span(&self) -> Option<Range<usize>> {
        self.model.as_ref().map(Text::span)
    }
}

/// Reads a chat completion, one of its chunks, or an embedding.
pub(crate) fn openai(text: &str) -> Result<Answer<'_>, ReplyError> {
    read(text, |key, cursor, answer| match key {
        "choices" if cursor.kind()? == Kind::Array => choices(cursor, answer),
        _ => shared(key, cursor, answer),
    })
}

/// Reads a message or one event of it.
pub(crate) fn anthropic(text: &str) -> Result<Answer<'_>, ReplyError> {
    read(text, |key, cursor, answer| match key {
        "type" if cursor.kind()? == Kind::String => {
            let kind = cursor.string()?;
            answer.error |= kind.is("error");
            answer.stop |= kind.is("message_stop");
            Ok(())
        }
        "message" if cursor.kind()? == Kind::Object => message(cursor, answer),
        "delta" if cursor.kind()? == Kind::Object => delta(cursor, answer),
        "stop_reason" => finish(cursor, answer),
        "content" | "content_block" => produced(cursor, answer),
        _ => shared(key, cursor, answer),
    })
}

fn read<'a>(
    text: &'a str,
    member: impl Fn(&str, &mut Cursor<'a>, &mut Answer<'a>) -> Result<(), Fault>,
) -> Result<Answer<'a>, ReplyError> {
    let mut cursor = Cursor::lenient(text);
    let mut answer = Answer::default();
    each_member(&mut cursor, |key, cursor| member(key, cursor, &mut answer))
        .and_then(|()| cursor.end())
        .map_err(|_| ReplyError::Malformed("JSON"))?;
    Ok(answer)
}

fn shared<'a>(key: &str, cursor: &mut Cursor<'a>, answer: &mut Answer<'a>) -> Result<(), Fault> {
    match (key, cursor.kind()?) {
        ("model", Kind::String) => answer.model = Some(cursor.string()?),
        ("usage", kind) if kind != Kind::Null => answer.usage[1] = Some(cursor.raw()?),
        ("error", kind) if kind != Kind::Null => {
            answer.error = true;
            cursor.skip()?;
        }
        _ => {
            cursor.skip()?;
        }
    }
    Ok(())
}

fn choices<'a>(cursor: &mut Cursor<'a>, answer: &mut Answer<'a>) -> Result<(), Fault> {
    let mut open = cursor.array()?;
    answer.no_choices = true;
    while cursor.element(&mut open)? {
        answer.no_choices = false;
        if cursor.kind()? != Kind::Object {
            cursor.skip()?;
            continue;
        }
        each_member(cursor, |key, cursor| match key {
            "finish_reason" => finish(cursor, answer),
            "delta" | "message" => produced(cursor, answer),
            _ => cursor.skip().map(drop),
        })?;
    }
    Ok(())
}

/// The `message` of `message_start`.
fn message<'a>(cursor: &mut Cursor<'a>, answer: &mut Answer<'a>) -> Result<(), Fault> {
    each_member(cursor, |key, cursor| match (key, cursor.kind()?) {
        ("model", Kind::String) => {
            answer.model = Some(cursor.string()?);
            Ok(())
        }
        ("usage", kind) if kind != Kind::Null => {
            answer.usage[0] = Some(cursor.raw()?);
            Ok(())
        }
        ("content", _) => produced(cursor, answer),
        _ => cursor.skip().map(drop),
    })
}

/// The `delta` of `content_block_delta` or `message_delta`.
fn delta<'a>(cursor: &mut Cursor<'a>, answer: &mut Answer<'a>) -> Result<(), Fault> {
    each_member(cursor, |key, cursor| match key {
        "stop_reason" => finish(cursor, answer),
        "text" | "partial_json" => produced(cursor, answer),
        "thinking" => reasoning(cursor, answer),
        _ => cursor.skip().map(drop),
    })
}

fn finish<'a>(cursor: &mut Cursor<'a>, answer: &mut Answer<'a>) -> Result<(), Fault> {
    if cursor.kind()? != Kind::String {
        return cursor.skip().map(drop);
    }
    let reason = cursor.string()?;
    answer.finish.get_or_insert(reason);
    Ok(())
}

/// Adds up the strings of a value, leaving out what the model did not write.
fn produced(cursor: &mut Cursor<'_>, answer: &mut Answer<'_>) -> Result<(), Fault> {
    match cursor.kind()? {
        Kind::String => answer.produced += cursor.string()?.bytes(),
        Kind::Array => {
            let mut open = cursor.array()?;
            while cursor.element(&mut open)? {
                produced(cursor, answer)?;
            }
        }
        Kind::Object => each_member(cursor, |key, cursor| match key {
            "type" if cursor.kind()? == Kind::String => {
                let kind = cursor.string()?;
                answer.reasoned |= kind.is("thinking") || kind.is("redacted_thinking");
                Ok(())
            }
            "role" | "id" | "type" | "data" | "signature" | "citations" | "annotations" => {
                cursor.skip().map(drop)
            }
            "thinking" | "reasoning" | "reasoning_content" | "reasoning_details" => {
                reasoning(cursor, answer)
            }
            _ => produced(cursor, answer),
        })?,
        _ => {
            cursor.skip()?;
        }
    }
    Ok(())
}

fn reasoning(cursor: &mut Cursor<'_>, answer: &mut Answer<'_>) -> Result<(), Fault> {
    let before = answer.produced;
    produced(cursor, answer)?;
    // Relays name the member in every chunk, mostly null.
    answer.reasoned |= answer.produced > before;
    Ok(())
}

fn each_member<'a>(
    cursor: &mut Cursor<'a>,
    mut visit: impl FnMut(&str, &mut Cursor<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut open = cursor.object()?;
    while let Some(key) = cursor.key(&mut open)? {
        visit(&key.decoded(), cursor)?;
    }
    Ok(())
}
