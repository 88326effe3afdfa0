//! What the simulated model says: a pure function of the call and its orders.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::call::{Call, Format, Thinking, Tool, ToolChoice, Wire, tokens};
use crate::directive::{Directives, Fault};
use crate::fence;
use crate::schema::{instance, places};

/// Everything that the model says.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) thinking: Arc<Pieces>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) usage: Tokens,
}

/// One alternative of the answer.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) text: Arc<Pieces>,
    pub(crate) tool_calls: Vec<ToolCall>,
    pub(crate) finish: Finish,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToolCall {
    pub(crate) name: String,
    /// JSON text, or what a script says.
    pub(crate) arguments: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    Tools,
    StopSequence(String),
}

/// What the provider bills. Cache counts stand beside `input`, reasoning stands inside `output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tokens {
    pub(crate) input: u64,
    pub(crate) cache_read: u64,
    pub(crate) cache_write: u64,
    pub(crate) cache_write_1h: u64,
    pub(crate) output: u64,
    pub(crate) reasoning: u64,
}

/// A text and where its tokens end.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    text: String,
    ends: Vec<usize>,
}

/// Prompt tokens by how the cache took part.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CacheUse {
    pub(crate) read: u64,
    pub(crate) write: u64,
    pub(crate) write_1h: u64,
}

/// Bytes of the user's words that an answer repeats.
const QUOTE_CHARS: usize = 240;
/// Longest token in bytes: text without spaces is cut here.
const TOKEN_BYTES: usize = 16;

/// Composes the answer.
pub(crate) fn compose(call: &Call, orders: &Directives, cache: CacheUse) -> Answer {
    let limit = call
        .max_output
        .unwrap_or(call.model.max_output)
        .min(call.model.max_output);
    let (thinking, reasoning) = think(call, orders, limit);
    let left = limit - reasoning;
    let choices: Vec<Choice> = (0..call.choices)
        .map(|index| choice(call, orders, index, left))
        .collect();
    let said: u64 = choices.iter().map(Choice::tokens).sum();
    let usage = bill(call, orders, cache, said, reasoning);
    Answer {
        thinking: Arc::new(thinking),
        choices,
        usage,
    }
}

impl Pieces {
    /// Splits at spaces, and long runs without spaces at [`TOKEN_BYTES`].
    pub(crate) fn of(text: String) -> Self {
        let mut ends = Vec::new();
        let mut start = 0;
        for (at, c) in text.char_indices() {
            if at > start && (c == ' ' || at - start >= TOKEN_BYTES) {
                ends.push(at);
                start = at;
            }
        }
        if !text.is_empty() {
            ends.push(text.len());
        }
        Self { text, ends }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn piece(&self, index: usize) -> &str {
        let start = index
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .copied()
            .unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(self.text.len());
        self.text.get(start..end).unwrap_or("")
    }

    fn shorten(&mut self, pieces: usize) {
        self.ends.truncate(pieces);
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
    }

    fn exactly(mut self, pieces: usize, bytes: Option<usize>) -> Self {
        if let Some(bytes) = bytes {
            let filler = "s".repeat(bytes - 1) + " ";
            self.text = filler.repeat(pieces);
            self.ends = (1..=pieces).map(|n| n * bytes).collect();
            return self;
        }
        self.shorten(pieces);
        while self.ends.len() < pieces {
            self.text.push_str(" simulated");
            self.ends.push(self.text.len());
        }
        self
    }
}

impl Choice {
    fn tokens(&self) -> u64 {
        let calls: u64 = self.tool_calls.iter().map(ToolCall::tokens).sum();
        self.text.len() as u64 + calls
    }
}

impl ToolCall {
    fn tokens(&self) -> u64 {
        tokens(&self.name) + tokens(&self.arguments)
    }
}

fn think(call: &Call, orders: &Directives, limit: u64) -> (Pieces, u64) {
    let budget = match call.thinking {
        Thinking::Off => return (Pieces::default(), 0),
        Thinking::Hidden(budget) | Thinking::Shown(budget) => budget,
    };
    let thought = format!(
        "Simulated reasoning: the user wrote {} characters and brought {} tools. An answer that \
         repeats the question and says that it is simulated will do.",
        call.question.chars().count(),
        call.tools.len()
    );
    let mut pieces = Pieces::of(thought);
    pieces.shorten(usize::try_from(budget.min(limit)).unwrap_or(usize::MAX));
    let counted = match call.thinking {
        Thinking::Hidden(_) => orders.reasoning.unwrap_or(budget).min(limit),
        _ => pieces.len() as u64,
    };
    (pieces, counted)
}

fn choice(call: &Call, orders: &Directives, index: u64, limit: u64) -> Choice {
    let room = usize::try_from(limit).unwrap_or(usize::MAX);
    let tool_calls = call.scripted.clone().unwrap_or_else(|| tool_calls(call));
    if !tool_calls.is_empty() {
        return calling(call, tool_calls, limit);
    }
    let mut pieces = Pieces::of(text(call, index));
    if let Some(chunks) = orders.chunks {
        pieces = pieces.exactly(chunks, orders.piece_bytes);
    } else if let Some(bytes) = orders.piece_bytes {
        let count = pieces.len();
        pieces = pieces.exactly(count, Some(bytes));
    }
    let mut finish = Finish::Stop;
    let stop = call
        .stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| pieces.text.find(stop.as_str()).map(|at| (at, stop)))
        .min();
    if let Some((at, stop)) = stop {
        finish = Finish::StopSequence(stop.clone());
        pieces = Pieces::of(pieces.text[..at].to_owned());
    }
    if pieces.len() > room && !orders.has(&Fault::NoLimit) {
        finish = Finish::Length;
        pieces.shorten(room);
    }
    Choice {
        text: Arc::new(pieces),
        tool_calls: Vec::new(),
        finish,
    }
}

/// A tool-calling choice; calls that do not fit the token limit are left out, as a cut call is no use to anyone. A
/// script is followed all the same, and the words before its calls give way.
fn calling(call: &Call, tool_calls: Vec<ToolCall>, limit: u64) -> Choice {
    let mut pieces = match call.wire {
        Wire::OpenAi => Pieces::default(),
        Wire::Anthropic => Pieces::of("This is a simulated answer that calls tools.".to_owned()),
    };
    let needed: u64 = tool_calls.iter().map(ToolCall::tokens).sum();
    if call.scripted.is_some() {
        pieces.shorten(usize::try_from(limit.saturating_sub(needed)).unwrap_or(usize::MAX));
    }
    if call.scripted.is_some() || pieces.len() as u64 + needed <= limit {
        return Choice {
            text: Arc::new(pieces),
            tool_calls,
            finish: Finish::Tools,
        };
    }
    pieces.shorten(usize::try_from(limit).unwrap_or(usize::MAX));
    Choice {
        text: Arc::new(pieces),
        tool_calls: Vec::new(),
        finish: Finish::Length,
    }
}

fn tool_calls(call: &Call) -> Vec<ToolCall> {
    if !call.tool_results.is_empty() {
        return Vec::new();
    }
    let mut calls = match &call.tool_choice {
        ToolChoice::None => Vec::new(),
        _ => fence::calls(call),
    };
    if let ToolChoice::Named(name) = &call.tool_choice {
        calls.retain(|fenced| fenced.name == *name);
    }
    if calls.is_empty() {
        calls = fitting_calls(call);
    }
    if !call.parallel {
        calls.truncate(1);
    }
    calls
}

/// Calls of the tools that the message speaks of or that the request demands.
fn fitting_calls(call: &Call) -> Vec<ToolCall> {
    let mut wanted: Vec<&Tool> = match &call.tool_choice {
        ToolChoice::None => Vec::new(),
        ToolChoice::Named(name) => call
            .tools
            .iter()
            .filter(|tool| tool.name == *name)
            .collect(),
        ToolChoice::Auto | ToolChoice::Required => call
            .tools
            .iter()
            .filter(|tool| fits(tool, &call.question))
            .collect(),
    };
    if wanted.is_empty() && call.tool_choice == ToolChoice::Required {
        wanted.extend(call.tools.first());
    }
    let mut calls = Vec::new();
    for tool in wanted {
        let times = if takes_place(tool) {
            places(&call.question).len().clamp(1, 8)
        } else {
            1
        };
        for pick in 0..times {
            let arguments = instance(&tool.schema, &call.question, pick).to_string();
            let arguments = if arguments == "null" {
                "{}".to_owned()
            } else {
                arguments
            };
            calls.push(ToolCall {
                name: tool.name.clone(),
                arguments,
            });
        }
    }
    calls
}

/// Whether the message speaks of the tool: by its name, by a telling word of its name, or by the topic of its description.
fn fits(tool: &Tool, question: &str) -> bool {
    let question = question.to_lowercase();
    let name = tool.name.to_lowercase();
    let description = tool.description.to_lowercase();
    const EMPTY_WORDS: [&str; 14] = [
        "tool", "data", "info", "current", "fetch", "find", "make", "call", "list", "with", "from",
        "this", "that", "what",
    ];
    const TOPICS: [&str; 8] = [
        "weather",
        "forecast",
        "temperature",
        "stock",
        "price",
        "calendar",
        "email",
        "calculate",
    ];
    let words: Vec<&str> = question.split(|c: char| !c.is_alphanumeric()).collect();
    let by_topic = TOPICS
        .iter()
        .any(|topic| words.contains(topic) && description.contains(topic));
    let mut name_words = name
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.len() >= 4);
    question.contains(&name)
        || by_topic
        || name_words.any(|word| !EMPTY_WORDS.contains(&word) && words.contains(&word))
}

fn takes_place(tool: &Tool) -> bool {
    let hints = ["city", "location", "place", "town"];
    tool.schema["properties"]
        .as_object()
        .is_some_and(|properties| {
            properties
                .keys()
                .any(|name| hints.iter().any(|hint| name.contains(hint)))
        })
}

fn text(call: &Call, index: u64) -> String {
    match &call.format {
        Format::Text => prose(call, index),
        Format::JsonObject => json!({
            "simulated": true,
            "model": call.model.name,
            "question": quote(&call.question),
            "tool_results": call.tool_results,
        })
        .to_string(),
        Format::JsonSchema(schema) => match instance(schema, &call.question, 0) {
            Value::Null => "{}".to_owned(),
            value => value.to_string(),
        },
    }
}

fn prose(call: &Call, index: u64) -> String {
    let mut text = format!(
        "This is a simulated answer from {}; no real model was asked.",
        call.model.name
    );
    if index > 0 {
        text.push_str(&format!(" It is alternative {}.", index + 1));
    }
    if call.images > 0 {
        text.push_str(&format!(
            " {} image(s) came along; a simulated model does not look at them.",
            call.images
        ));
    }
    for result in &call.tool_results {
        text.push_str(&format!(" The tool returned: {}.", quote(result)));
    }
    if call.question.is_empty() {
        text.push_str(" There was no text to answer.");
    } else {
        text.push_str(&format!(" You wrote: \"{}\".", quote(&call.question)));
        let words = call.question.split_whitespace().count();
        let kind = if call.question.trim_end().ends_with('?') {
            "question"
        } else {
            "message"
        };
        text.push_str(&format!(
            " That is a {kind} of {words} words, to which a real model would now reply."
        ));
    }
    text
}

fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTE_CHARS).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    quoted
}

fn bill(call: &Call, orders: &Directives, cache: CacheUse, said: u64, reasoning: u64) -> Tokens {
    let mut tokens = Tokens {
        input: call
            .input_tokens
            .saturating_sub(cache.read + cache.write + cache.write_1h),
        cache_read: cache.read,
        cache_write: cache.write,
        cache_write_1h: cache.write_1h,
        output: said + reasoning,
        reasoning,
    };
    if let Some((input, output)) = orders.fixed_usage {
        tokens = Tokens {
            input,
            output,
            ..Tokens::default()
        };
    }
    tokens.cache_read = orders.cache_read.unwrap_or(tokens.cache_read);
    tokens.cache_write = orders.cache_write.unwrap_or(tokens.cache_write);
    tokens.reasoning = orders
        .reasoning
        .unwrap_or(tokens.reasoning)
        .min(tokens.output);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_text() {
        let text = "Hello there, a_very_long_word_without_any_space  äöü end".to_owned();
        let pieces = Pieces::of(text.clone());
        let joined: String = (0..pieces.len()).map(|index| pieces.piece(index)).collect();
        assert_eq!(joined, text);
        assert!(pieces.len() > 5);
    }

    #[test]
    fn exact_count_of_pieces() {
        for (have, want) in [("one", 5), ("one two three four", 2)] {
            assert_eq!(Pieces::of(have.to_owned()).exactly(want, None).len(), want);
        }
        let sized = Pieces::of(String::new()).exactly(3, Some(10));
        assert_eq!(
            (sized.len(), sized.piece(2).len(), sized.text().len()),
            (3, 10, 30)
        );
    }
}
