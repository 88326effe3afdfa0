//! Same-dialect requests: the client's bytes with listed members replaced or inserted.
//!
//! Whatever no edit names stays byte for byte, members that nobody here knows included. New members
//! go behind the last one.

use crate::dialect::Operation;
use crate::json::{self, Cursor, Fault};
use crate::request::Request;
use bytes::Bytes;
use std::ops::Range;

/// What the gateway changes in a request. The default changes nothing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Edits<'a> {
    /// The provider's name of the model.
    pub model: Option<&'a str>,
    /// The most output tokens per choice: replaces the client's number in the field the client used,
    /// otherwise goes into `max_output_field` (Anthropic: `max_tokens`).
    pub max_output: Option<u64>,
    /// The field for `max_output` where an `OpenAI` client sent none.
    pub max_output_field: OutputCapField,
    /// Ensure `stream_options.include_usage` is true (`OpenAI`, streaming only).
    pub include_usage: bool,
    /// JSON number text; inserted only where the client gave no temperature.
    pub temperature: Option<&'a str>,
    /// Text put before the client's own system prompt.
    pub system_prompt: Option<&'a str>,
    /// Opaque tag of the tenant, at most 64 characters, in place of whatever the client says about its
    /// users: `OpenAI` `user` (inserted if absent) and `safety_identifier` (only if present), Anthropic
    /// `metadata.user_id`. A `prompt_cache_key` is kept behind the tag, so that equal keys of two
    /// tenants never meet at the provider.
    pub user_tag: Option<&'a str>,
}

/// Where an `OpenAI`-compatible provider reads the output cap. Which one a provider wants is the
/// provider's property: `OpenAI` itself refuses `max_tokens` for its reasoning models, while many
/// compatible servers (older vLLM, Ollama) silently ignore the newer name, and a cap that is ignored
/// is a reservation that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum OutputCapField {
    /// `max_completion_tokens`.
    #[default]
    MaxCompletionTokens,
    /// `max_tokens`.
    MaxTokens,
}

impl OutputCapField {
    /// The member's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxTokens => "max_tokens",
        }
    }
}

/// The outbound body; the very bytes that came where nothing changes. An embedding takes only `model`
/// and `user_tag`.
#[must_use]
pub fn splice(request: &Request, edits: &Edits<'_>) -> Bytes {
    let mut patches = Patches {
        request,
        replaced: Vec::new(),
        inserted: Vec::new(),
    };
    if let Some(model) = edits.model.filter(|model| *model != request.model()) {
        patches.set("model", quoted(model));
    }
    match request.operation() {
        Operation::ChatCompletions => {
            patches.openai_user(edits);
            patches.chat(edits);
        }
        Operation::Embeddings => patches.openai_user(edits),
        Operation::Messages => patches.messages(edits),
    }
    patches.apply()
}

/// `prompt_cache_key` and `user` hold at most this many characters.
const TAG_CHARS_MAX: usize = 64;

struct Patches<'r> {
    request: &'r Request,
    replaced: Vec<(Range<usize>, Vec<u8>)>,
    /// New members, each after a comma.
    inserted: Vec<u8>,
}

impl Patches<'_> {
    fn chat(&mut self, edits: &Edits<'_>) {
        if let Some(cap) = edits
            .max_output
            .filter(|cap| self.request.max_output() != Some(*cap))
        {
            let field = self
                .request
                .max_output_field()
                .unwrap_or(edits.max_output_field.as_str());
            self.set(field, cap.to_string().into_bytes());
        }
        self.temperature(edits);
        if edits.include_usage && self.request.stream() && !self.request.include_usage() {
            self.set_in("stream_options", "include_usage", b"true");
        }
        if let (Some(prompt), Some(span)) =
            (edits.system_prompt, self.request.member_span("messages"))
        {
            let mut message = b"{\"role\":\"system\",\"content\":".to_vec();
            json::write_string(&mut message, prompt);
            message.extend_from_slice(b"},");
            self.replaced
                .push((span.start + 1..span.start + 1, message));
        }
    }

    fn messages(&mut self, edits: &Edits<'_>) {
        if let Some(cap) = edits
            .max_output
            .filter(|cap| self.request.max_output() != Some(*cap))
        {
            self.set("max_tokens", cap.to_string().into_bytes());
        }
        self.temperature(edits);
        if let Some(tag) = edits.user_tag {
            self.set_in("metadata", "user_id", &quoted(tag));
        }
        if let Some(prompt) = edits.system_prompt {
            self.system(prompt);
        }
    }

    fn openai_user(&mut self, edits: &Edits<'_>) {
        let Some(tag) = edits.user_tag else { return };
        self.set("user", quoted(tag));
        if self
            .request
            .member("safety_identifier")
            .is_some_and(|value| value != "null")
        {
            self.set("safety_identifier", quoted(tag));
        }
        match self.request.member("prompt_cache_key") {
            None | Some("null") => {}
            Some(value) => {
                let key: String = serde_json::from_str(value).unwrap_or_default();
                let tagged: String = format!("{tag}-{key}").chars().take(TAG_CHARS_MAX).collect();
                self.set("prompt_cache_key", quoted(&tagged));
            }
        }
    }

    fn temperature(&mut self, edits: &Edits<'_>) {
        if let Some(temperature) = edits
            .temperature
            .filter(|_| !self.request.temperature_given())
        {
            self.set("temperature", temperature.as_bytes().to_vec());
        }
    }

    /// Anthropic's `system` with a prompt before it; its blocks and their cache marks stay.
    fn system(&mut self, prompt: &str) {
        let value = self.request.member("system").unwrap_or("null");
        let (Some(span), false) = (self.request.member_span("system"), value == "null") else {
            return self.set("system", quoted(prompt));
        };
        let Some(blocks) = value.strip_prefix('[') else {
            // The opening quote of the client's text goes, for the new text brings its own.
            let mut text = quoted(prompt);
            text.pop();
            text.extend_from_slice(br"\n\n");
            return self.replaced.push((span.start..span.start + 1, text));
        };
        let mut block = b"{\"type\":\"text\",\"text\":".to_vec();
        json::write_string(&mut block, prompt);
        block.push(b'}');
        if blocks.trim_start() != "]" {
            block.push(b',');
        }
        self.replaced.push((span.start + 1..span.start + 1, block));
    }

    /// Replaces the value of a top-level member, or inserts the member.
    fn set(&mut self, name: &str, value: Vec<u8>) {
        if let Some(span) = self.request.member_span(name) {
            self.replaced.push((span, value));
            return;
        }
        self.inserted.push(b',');
        json::write_string(&mut self.inserted, name);
        self.inserted.push(b':');
        self.inserted.extend_from_slice(&value);
    }

    /// Sets a member of a top-level object, which is made if it is absent or null.
    fn set_in(&mut self, name: &str, key: &str, value: &[u8]) {
        let text = self.request.member(name).unwrap_or("null");
        let found = find(text, key).ok().flatten();
        let Some((span, found)) = self.request.member_span(name).zip(found) else {
            let object = [b"{", &*quoted(key), b":", value, b"}"].concat();
            return self.set(name, object);
        };
        match found {
            Found::At(at) => {
                self.replaced
                    .push((span.start + at.start..span.start + at.end, value.to_vec()));
            }
            Found::Absent { empty } => {
                let comma: &[u8] = if empty { b"" } else { b"," };
                let member = [&*quoted(key), b":", value, comma].concat();
                self.replaced.push((span.start + 1..span.start + 1, member));
            }
        }
    }

    fn apply(mut self) -> Bytes {
        let body = self.request.body();
        if !self.inserted.is_empty() {
            let end = self.request.members_end();
            self.replaced
                .push((end..end, std::mem::take(&mut self.inserted)));
        }
        if self.replaced.is_empty() {
            return body.clone();
        }
        // Stable, so that what is inserted behind the last member stays behind its new value.
        self.replaced.sort_by_key(|(span, _)| span.start);
        let added: usize = self.replaced.iter().map(|(_, value)| value.len()).sum();
        let mut out = Vec::with_capacity(body.len() + added);
        let mut from = 0;
        for (span, value) in &self.replaced {
            out.extend_from_slice(&body[from..span.start]);
            out.extend_from_slice(value);
            from = span.end;
        }
        out.extend_from_slice(&body[from..]);
        out.into()
    }
}

enum Found {
    At(Range<usize>),
    Absent { empty: bool },
}

/// Where the value of `key` stands in the text of an object; `None` if it is no object.
fn find(object: &str, key: &str) -> Result<Option<Found>, Fault> {
    if !object.starts_with('{') {
        return Ok(None);
    }
    let mut cursor = Cursor::lenient(object);
    let mut open = cursor.object()?;
    let mut empty = true;
    while let Some(name) = cursor.key(&mut open)? {
        empty = false;
        let span = cursor.skip()?;
        if name.is(key) {
            return Ok(Some(Found::At(span)));
        }
    }
    Ok(Some(Found::Absent { empty }))
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    json::write_string(&mut out, text);
    out
}

#[cfg(test)]
mod tests;
