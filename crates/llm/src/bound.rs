//! Proven upper bounds of input tokens, taken while a request is read.
//!
//! **Text.** A token covers at least one byte of what the model reads: byte-level BPE (`OpenAI`,
//! Anthropic, Llama 3, Qwen, Mistral) splits bytes, and sentencepiece with byte fallback splits
//! characters and then bytes. So the UTF-8 bytes of a text bound its tokens. What a provider adds is
//! bounded by constants:
//! - per message its role and delimiters: `OpenAI` documents 3 tokens a message and 1 for a name,
//!   the chat templates of open models take up to 8;
//! - once per request the default system text of a template (Harmony, the longest known, about 80);
//! - once where there are tools the provider's instructions (Anthropic's list: 159 to 804 by model and
//!   choice), and per tool its wrapping; the tools of Anthropic's that the client runs bring their own
//!   description (bash 245, text editor 700, computer 735 tokens).
//!
//! JSON that a provider renders again (schemas, tool arguments) may gain a blank or an indent at each
//! bracket, comma and colon, so each of those counts two more.
//!
//! **Images** count by the maximum of the model's family ([`InputBound::tokens`]), never by their
//! base64 text. Audio, files, documents other than plain text, and parts of a kind not known here have
//! no bound; then the context window counts, which no request can exceed.

use crate::dialect::Dialect;
use crate::json::{Cursor, Fault, Kind, Text};
use crate::request::RequestError;

/// An upper bound of what a request costs as input.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct InputBound {
    /// Tokens of text, messages and tools, at most.
    pub text_tokens: u64,
    /// Image parts.
    pub images: u64,
    /// Some part has no bound of its own.
    pub unknown_part: bool,
}

impl InputBound {
    /// The bound at one model of one provider, by the provider's name of the model.
    ///
    /// Where a part has no bound, or the images are for a family not known here, it is the context
    /// window; `None` where that is not known either.
    #[must_use]
    pub fn tokens(
        &self,
        provider: Dialect,
        provider_model: &str,
        context_window: Option<u64>,
    ) -> Option<u64> {
        if self.unknown_part {
            return context_window;
        }
        if self.images == 0 {
            return Some(self.text_tokens);
        }
        match image_tokens_max(provider, provider_model) {
            Some(image) => Some(
                self.text_tokens
                    .saturating_add(self.images.saturating_mul(image)),
            ),
            None => context_window,
        }
    }

    /// The same request with a system prompt put before the client's.
    #[must_use]
    pub fn with_system_prompt(self, prompt: &str) -> Self {
        let more = prompt.len() as u64 + MESSAGE_TOKENS;
        Self {
            text_tokens: self.text_tokens.saturating_add(more),
            ..self
        }
    }
}

/// What a chat template writes once.
const REQUEST_TOKENS: u64 = 96;
/// What a chat template writes around a message, its role included.
const MESSAGE_TOKENS: u64 = 12;
/// What stands around a content part.
const PART_TOKENS: u64 = 8;
/// The provider's instructions for tools.
const TOOLS_TOKENS: u64 = 1_024;
/// What stands around one tool.
const TOOL_TOKENS: u64 = 24;
/// The description that a client-run tool of Anthropic's brings with it.
const TYPED_TOOL_TOKENS: u64 = 1_024;
/// Start and end marks of one embedded text.
const INPUT_TOKENS: u64 = 4;

/// The dearest image of a family, in tokens.
///
/// `OpenAI` cuts an image scaled to at most 768 by 2,048 pixels into at most 8 tiles (a base and a price
/// per tile), or takes at most 1,536 patches times a factor; Anthropic takes patches of 28 pixels, at most
/// 1,568 (edge 1,568), from Opus 4.7 and the fifth generation on at most 4,784 (edge 2,576). Each is rounded up.
fn image_tokens_max(provider: Dialect, model: &str) -> Option<u64> {
    let table: &[(&str, u64)] = match provider {
        Dialect::OpenAi => &[
            ("gpt-4o-mini", 2_833 + 8 * 5_667),
            ("gpt-4o", 85 + 8 * 170),
            ("gpt-4-turbo", 85 + 8 * 170),
            ("gpt-4.1-mini", 2_500),
            ("gpt-4.1-nano", 3_800),
            ("gpt-4.1", 85 + 8 * 170),
            ("gpt-5-mini", 2_500),
            ("gpt-5-nano", 3_800),
            ("gpt-5", 70 + 8 * 140),
            ("o1", 75 + 8 * 150),
            ("o3", 75 + 8 * 150),
            ("o4-mini", 2_700),
        ],
        Dialect::Anthropic => &[
            ("claude-3", 1_700),
            ("claude-sonnet-4-5", 1_700),
            ("claude-haiku-4-5", 1_700),
            ("claude-opus-4-1", 1_700),
            ("claude-opus-4-5", 1_700),
            ("claude-opus-4-0", 1_700),
            ("claude-sonnet-4-0", 1_700),
            ("claude-opus-4-20250514", 1_700),
            ("claude-sonnet-4-20250514", 1_700),
            ("claude", 4_900),
        ],
    };
    let family = |name: &str| {
        model
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    table
        .iter()
        .find(|(name, _)| family(name))
        .map(|&(_, tokens)| tokens)
}

/// Measures the input while the cursor reads it.
#[derive(Debug)]
pub(crate) struct Measure {
    dialect: Dialect,
    bound: InputBound,
    system: bool,
    server_tools: bool,
}

impl Measure {
    pub(crate) fn new(dialect: Dialect) -> Self {
        let bound = InputBound {
            text_tokens: REQUEST_TOKENS,
            ..InputBound::default()
        };
        Self {
            dialect,
            bound,
            system: false,
            server_tools: false,
        }
    }

    pub(crate) fn bound(&self) -> InputBound {
        self.bound
    }

    /// A system prompt was there.
    pub(crate) fn system(&self) -> bool {
        self.system
    }

    /// A tool runs at the provider.
    pub(crate) fn server_tools(&self) -> bool {
        self.server_tools
    }

    pub(crate) fn note_server_tools(&mut self) {
        self.server_tools = true;
    }

    /// `messages`: an array of at least one object with a role.
    pub(crate) fn messages(&mut self, cursor: &mut Cursor<'_>) -> Result<(), RequestError> {
        require(cursor, Kind::Array, "messages", "must be an array")?;
        let mut open = cursor.array()?;
        let mut count = 0_usize;
        while cursor.element(&mut open)? {
            self.message(cursor, count)?;
            count += 1;
        }
        if count == 0 {
            return Err(RequestError::of("messages", "messages must not be empty"));
        }
        Ok(())
    }

    /// Anthropic's `system`: text or an array of text blocks.
    pub(crate) fn system_prompt(&mut self, cursor: &mut Cursor<'_>) -> Result<(), RequestError> {
        self.system |= cursor.kind()? != Kind::Null;
        self.add(MESSAGE_TOKENS);
        self.content(cursor, &|| "system".to_owned())
    }

    /// `tools` or `functions`.
    pub(crate) fn tools(
        &mut self,
        cursor: &mut Cursor<'_>,
        name: &str,
    ) -> Result<(), RequestError> {
        if cursor.kind()? == Kind::Null {
            return Ok(cursor.skip().map(drop)?);
        }
        require(cursor, Kind::Array, name, "must be an array")?;
        let mut open = cursor.array()?;
        let mut count = 0_usize;
        while cursor.element(&mut open)? {
            count += 1;
            if count > base::limits::TOOLS_MAX {
                let limit = base::limits::TOOLS_MAX;
                return Err(RequestError::of(
                    name,
                    format!("{name} holds more than {limit} tools"),
                ));
            }
            self.tool(cursor)?;
        }
        if count > 0 {
            self.add(TOOLS_TOKENS);
        }
        Ok(())
    }

    /// `input` of an embedding: text, texts, tokens, or lists of tokens.
    pub(crate) fn embedding(&mut self, cursor: &mut Cursor<'_>) -> Result<(), RequestError> {
        let wrong = || {
            RequestError::of(
                "input",
                "input must be a string, an array of strings, or token arrays",
            )
        };
        match cursor.kind()? {
            Kind::String => {
                let text = cursor.string()?;
                self.add(text.bytes() + INPUT_TOKENS);
            }
            Kind::Array => {
                let mut open = cursor.array()?;
                let mut count = 0_usize;
                while cursor.element(&mut open)? {
                    count += 1;
                    match cursor.kind()? {
                        Kind::Number => {
                            cursor.skip()?;
                            self.add(1);
                        }
                        Kind::String | Kind::Array => self.embedding(cursor)?,
                        _ => return Err(wrong()),
                    }
                }
                if count == 0 {
                    return Err(RequestError::of("input", "input must not be empty"));
                }
                self.add(INPUT_TOKENS);
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Any value whose text the model may see as it stands.
    pub(crate) fn raw(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        let cost = raw_tokens(cursor)?;
        self.add(cost);
        Ok(())
    }

    fn add(&mut self, tokens: u64) {
        self.bound.text_tokens = self.bound.text_tokens.saturating_add(tokens);
    }

    fn message(&mut self, cursor: &mut Cursor<'_>, index: usize) -> Result<(), RequestError> {
        if cursor.kind()? != Kind::Object {
            let at = format!("messages[{index}]");
            return Err(RequestError::of(&at, format!("{at} must be an object")));
        }
        self.add(MESSAGE_TOKENS);
        let mut role = false;
        let mut open = cursor.object()?;
        while let Some(key) = cursor.key(&mut open)? {
            if key.is("role") && cursor.kind()? == Kind::String {
                let text = cursor.string()?;
                role = true;
                self.add(text.bytes());
                self.system |= text.is("system") || text.is("developer");
            } else if key.is("content") {
                self.content(cursor, &|| format!("messages[{index}].content"))?;
            } else if cursor.kind()? == Kind::Null {
                cursor.skip()?;
            } else {
                self.raw(cursor)?;
            }
        }
        if role {
            return Ok(());
        }
        let at = format!("messages[{index}].role");
        Err(RequestError::of(&at, format!("{at} must be a string")))
    }

    fn content(
        &mut self,
        cursor: &mut Cursor<'_>,
        at: &dyn Fn() -> String,
    ) -> Result<(), RequestError> {
        match cursor.kind()? {
            Kind::String => {
                let text = cursor.string()?;
                self.add(text.bytes());
            }
            Kind::Array => {
                let mut open = cursor.array()?;
                while cursor.element(&mut open)? {
                    self.part(cursor)?;
                }
            }
            Kind::Null => {
                cursor.skip()?;
            }
            _ => {
                let at = at();
                let message = format!("{at} must be a string or an array of parts");
                return Err(RequestError::of(&at, message));
            }
        }
        Ok(())
    }

    /// One content part. Its members come in any order, so what its type does not count is measured
    /// apart and added once the type is known.
    fn part(&mut self, cursor: &mut Cursor<'_>) -> Result<(), RequestError> {
        self.add(PART_TOKENS);
        if cursor.kind()? != Kind::Object {
            return Ok(self.raw(cursor)?);
        }
        let (mut kind, mut payload, mut plain) = (None, 0_u64, false);
        let mut open = cursor.object()?;
        while let Some(key) = cursor.key(&mut open)? {
            match (&*key.decoded(), cursor.kind()?) {
                ("type", Kind::String) => kind = Some(cursor.string()?),
                ("text", Kind::String) => {
                    let text = cursor.string()?;
                    self.add(text.bytes());
                }
                ("content", _) => self.content(cursor, &|| "content".to_owned())?,
                ("source", Kind::Object) => {
                    let (tokens, text) = source(cursor)?;
                    payload = payload.saturating_add(tokens);
                    plain = text;
                }
                ("image_url" | "source", _) => {
                    payload = payload.saturating_add(raw_tokens(cursor)?)
                }
                ("cache_control", _) => {
                    cursor.skip()?;
                }
                _ => self.raw(cursor)?,
            }
        }
        self.add_part(
            kind.map(|kind: Text<'_>| kind.decoded()).as_deref(),
            payload,
            plain,
        );
        Ok(())
    }

    fn add_part(&mut self, kind: Option<&str>, payload: u64, plain: bool) {
        match kind {
            Some("image_url" | "image" | "input_image") => self.bound.images += 1,
            Some("document") if plain => self.add(payload),
            Some(
                "text"
                | "refusal"
                | "tool_use"
                | "tool_result"
                | "thinking"
                | "redacted_thinking"
                | "search_result"
                | "server_tool_use"
                | "web_search_tool_result",
            ) => self.add(payload),
            _ => self.bound.unknown_part = true,
        }
    }

    fn tool(&mut self, cursor: &mut Cursor<'_>) -> Result<(), RequestError> {
        self.add(TOOL_TOKENS);
        if cursor.kind()? != Kind::Object {
            return Ok(self.raw(cursor)?);
        }
        let mut open = cursor.object()?;
        let mut kind = None;
        while let Some(key) = cursor.key(&mut open)? {
            self.add(key.bytes() + 4);
            if key.is("type") && cursor.kind()? == Kind::String {
                let text = cursor.string()?;
                self.add(text.bytes() + 2);
                kind = Some(text);
            } else {
                self.raw(cursor)?;
            }
        }
        let Some(kind) = kind else { return Ok(()) };
        match (self.dialect, &*kind.decoded()) {
            (Dialect::OpenAi, "function" | "custom") | (Dialect::Anthropic, "custom") => {}
            (Dialect::Anthropic, kind) if runs_at_the_client(kind) => self.add(TYPED_TOOL_TOKENS),
            _ => self.server_tools = true,
        }
        Ok(())
    }
}

/// Tools of Anthropic's making whose calls come back to the client like any other.
fn runs_at_the_client(kind: &str) -> bool {
    ["bash_", "text_editor_", "computer_", "memory_"]
        .iter()
        .any(|name| kind.starts_with(name))
}

/// The bytes of a value as it stands, and two for each bracket, comma and colon.
fn raw_tokens(cursor: &mut Cursor<'_>) -> Result<u64, Fault> {
    let before = cursor.structure();
    let span = cursor.skip()?;
    Ok(span.len() as u64 + 2 * (cursor.structure() - before))
}

/// The `source` of an image or document: its size as text, and whether it is plain text.
fn source(cursor: &mut Cursor<'_>) -> Result<(u64, bool), Fault> {
    let (mut tokens, mut plain) = (0_u64, false);
    let mut open = cursor.object()?;
    while let Some(key) = cursor.key(&mut open)? {
        if key.is("type") && cursor.kind()? == Kind::String {
            plain = cursor.string()?.is("text");
        } else {
            tokens = tokens.saturating_add(raw_tokens(cursor)?);
        }
    }
    Ok((tokens, plain))
}

/// The next value must be of this kind.
pub(crate) fn require(
    cursor: &mut Cursor<'_>,
    kind: Kind,
    name: &str,
    rule: &str,
) -> Result<(), RequestError> {
    if cursor.kind()? == kind {
        return Ok(());
    }
    Err(RequestError::of(name, format!("{name} {rule}")))
}

#[cfg(test)]
mod tests;
