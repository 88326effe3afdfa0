//! What is gathered of one attempt for its entry above the lowest level, until the attempt is settled.

use std::sync::Arc;

use base::{TenantUid, limits};
use store::Seq;
use vault::TenantKeys;

use crate::audit::content::{Blob, Part, blob_aad, named};
use crate::audit::level::Level;
use crate::audit::person::PersonKey;
use crate::error::KernelError;
use crate::json_text::Object;
use crate::ledger::{OpenAttempt, UnwrittenAttempt};
use crate::tenant::admit::Admission;

/// Bytes of the names of tools that stand in an entry; a longer list is named by a keyed digest.
const TOOL_NAMES_BYTES: usize = 4_096;
/// Bytes of one name. What is longer, or has other characters than names have, is no name.
const NAME_BYTES: usize = 128;

/// What a call asks for, beside its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// What is asked: `chat.completions`, …
    pub operation: &'static str,
    /// Whether the answer is to be streamed.
    pub streamed: bool,
    /// Messages of the conversation, or inputs of an embedding; `None` where they are not counted.
    pub messages: Option<u64>,
    /// The most output that the client wants, in tokens.
    pub max_tokens: Option<u64>,
    /// The temperature that the client gave, as it wrote the number.
    pub temperature: Option<String>,
    /// Names of the tools that the client offers.
    pub tools: Vec<String>,
}

/// What is gathered of one attempt. It holds content at the level `full`: it is neither shown nor copied.
pub struct Notes {
    asked: Asked,
    bytes_in: u64,
    bytes_out: u64,
    first_byte_ms: Option<u64>,
    finish_reason: Option<String>,
    content: Option<Content>,
}

struct Content {
    key: Arc<PersonKey>,
    request: Cut,
    answer: Cut,
}

/// The beginning of something, and how long it is.
#[derive(Default)]
struct Cut {
    kept: Vec<u8>,
    length: u64,
}

impl Cut {
    fn take(&mut self, bytes: &[u8]) {
        self.length = self.length.saturating_add(bytes.len() as u64);
        let room = limits::CONTENT_PART_BYTES_MAX.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// What is kept, ending with a whole character where it is text.
    fn end(mut self) -> (Vec<u8>, u64) {
        if self.length > self.kept.len() as u64
            && let Err(error) = std::str::from_utf8(&self.kept)
            && error.error_len().is_none()
        {
            self.kept.truncate(error.valid_up_to());
        }
        (self.kept, self.length)
    }
}

impl Admission {
    /// Begins the notes of one attempt. At the level `full` they take what is said: content of the same tenant that waits for its fold
    /// is folded first where too much of it waits.
    ///
    /// # Errors
    /// When the key of the caller cannot be laid or read: then the attempt must not be sent.
    pub async fn begin_notes(
        &self,
        asked: Asked,
        request: &[u8],
    ) -> Result<Box<Notes>, KernelError> {
        let content = match self.settings().audit_level {
            Level::Basic | Level::Detailed => None,
            Level::Full => {
                let key = self.person_key().await?;
                let mut content = Content {
                    key,
                    request: Cut::default(),
                    answer: Cut::default(),
                };
                content.request.take(request);
                Some(content)
            }
        };
        Ok(Box::new(Notes {
            asked,
            bytes_in: request.len() as u64,
            bytes_out: 0,
            first_byte_ms: None,
            finish_reason: None,
            content,
        }))
    }
}

impl UnwrittenAttempt {
    /// Gives the attempt what its entry is to say above the lowest logging level.
    pub fn noted(mut self, notes: Option<Box<Notes>>) -> Self {
        self.0.notes = notes;
        self
    }
}

impl OpenAttempt {
    /// What is gathered for its entry; `None` at the lowest logging level.
    pub fn notes(&mut self) -> Option<&mut Notes> {
        self.notes.as_deref_mut()
    }

    /// Notes that the provider's answer begins.
    pub fn answer_begins(&mut self) {
        if self.notes.is_none() {
            return;
        }
        let ms = self.ms_since_sent();
        if let Some(notes) = &mut self.notes {
            notes.first_byte_after(ms);
        }
    }
}

impl Notes {
    /// A piece of the answer as the client gets it.
    pub fn delivered(&mut self, bytes: &[u8]) {
        self.bytes_out = self.bytes_out.saturating_add(bytes.len() as u64);
        if let Some(content) = &mut self.content {
            content.answer.take(bytes);
        }
    }

    /// Why the answer ended, in the provider's word.
    pub fn finished(&mut self, reason: Option<&str>) {
        self.finish_reason = reason.filter(|reason| is_name(reason)).map(str::to_owned);
    }

    fn first_byte_after(&mut self, ms: u64) {
        self.first_byte_ms.get_or_insert(ms);
    }

    /// The entry's part, and the content sealed. `sent` is the attempt's own record in the journal.
    pub(crate) fn close(self: Box<Self>, keys: &TenantKeys, uid: &TenantUid, sent: Seq) -> Noted {
        let call = self.call(keys);
        let Some(content) = self.content else {
            return Noted {
                call,
                named: None,
                blobs: None,
            };
        };
        let Content {
            key,
            request,
            answer,
        } = content;
        let mut blobs = Vec::with_capacity(2);
        for (part, cut) in [(Part::Request, request), (Part::Answer, answer)] {
            let (plain, length) = cut.end();
            if length > 0 {
                blobs.push(Blob {
                    part,
                    key: key.number(),
                    sent: sent.number(),
                    length,
                    sealed: key.key().seal(&blob_aad(uid, sent.number(), part), &plain),
                });
            }
        }
        Noted {
            call,
            named: Some(named(&blobs)),
            blobs: Some(blobs.into()),
        }
    }

    /// The facts as canonical JSON.
    fn call(&self, keys: &TenantKeys) -> String {
        let asked = &self.asked;
        let mut out = Vec::with_capacity(256);
        let mut object = Object::begin(&mut out);
        object.number("bytes_in", self.bytes_in);
        object.number("bytes_out", self.bytes_out);
        if let Some(reason) = &self.finish_reason {
            object.text("finish_reason", reason);
        }
        let mut number = |name, value: Option<u64>| {
            if let Some(value) = value {
                object.number(name, value);
            }
        };
        number("first_byte_ms", self.first_byte_ms);
        number("max_tokens", asked.max_tokens);
        number("messages", asked.messages);
        object.text("operation", asked.operation);
        let streamed = if asked.streamed { "true" } else { "false" };
        object.member("streamed", |out| out.extend_from_slice(streamed.as_bytes()));
        if let Some(temperature) = asked.temperature.as_deref().filter(|text| is_name(text)) {
            object.text("temperature", temperature);
        }
        let tools = &asked.tools;
        let shown = tools.iter().map(|name| name.len() + 3).sum::<usize>() <= TOOL_NAMES_BYTES
            && tools.iter().all(|name| is_name(name));
        match (tools.is_empty(), shown) {
            (true, _) => {}
            (false, true) => object.member("tool_names", |out| list(out, tools)),
            (false, false) => {
                let mut names = Vec::new();
                list(&mut names, tools);
                let digest = vault::hmac_sha256(&keys.commitment, &[&vault::sha256(&names)]);
                object.text("tool_names_digest", &vault::digest::hex(&digest));
            }
        }
        object.number("tools", tools.len() as u64);
        object.end();
        // Only texts went in.
        String::from_utf8(out).unwrap_or_default()
    }
}

/// What an entry says above the lowest level: members as canonical JSON, and the content that goes along.
pub(crate) struct Noted {
    pub(crate) call: String,
    /// What of the content is kept.
    pub(crate) named: Option<String>,
    pub(crate) blobs: Option<Arc<[Blob]>>,
}

/// Whether a text is a name and no content: short, and of the characters that names have.
fn is_name(text: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+');
    (1..=NAME_BYTES).contains(&text.len()) && text.bytes().all(plain)
}

fn list(out: &mut Vec<u8>, texts: &[String]) {
    // Into memory: nothing to fail on.
    let _in_memory = serde_json::to_writer(out, texts);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(tools: &[&str]) -> Box<Notes> {
        let asked = Asked {
            operation: "chat.completions",
            streamed: true,
            messages: Some(2),
            max_tokens: Some(100),
            temperature: Some("0.70".to_owned()),
            tools: tools.iter().map(|&name| name.to_owned()).collect(),
        };
        Box::new(Notes {
            asked,
            bytes_in: 7,
            bytes_out: 0,
            first_byte_ms: None,
            finish_reason: None,
            content: None,
        })
    }

    #[test]
    fn facts_are_canonical_and_hold_names_only() {
        let keys = TenantKeys::generate();
        let mut one = notes(&["look", "file.read"]);
        one.delivered(b"12345");
        one.finished(Some("stop"));
        one.first_byte_after(31);
        let text = one.call(&keys);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json_canonicalizer::to_string(&value).unwrap(), text);
        assert_eq!(
            text,
            r#"{"bytes_in":7,"bytes_out":5,"finish_reason":"stop","first_byte_ms":31,"max_tokens":100,"messages":2,"operation":"chat.completions","streamed":true,"temperature":"0.70","tool_names":["look","file.read"],"tools":2}"#
        );
        // A name that is a sentence, and more names than an entry takes, are named by a digest that nobody can guess at.
        let many: Vec<String> = (0..1_000).map(|number| format!("tool{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for tools in [&["Ann's diagnosis"][..], &["x".repeat(129).as_str()], &many] {
            let mut one = notes(tools);
            one.finished(Some("because Ann said so"));
            let text = one.call(&keys);
            assert!(
                text.len() < 400 && text.contains("tool_names_digest"),
                "{text}"
            );
            assert!(!text.contains("Ann") && !text.contains("tool17"), "{text}");
            let other = notes(tools).call(&TenantKeys::generate());
            assert_ne!(text.split("digest").nth(1), other.split("digest").nth(1));
        }
    }

    #[test]
    fn a_cut_keeps_its_bound_whole_characters_and_the_length() {
        let max = limits::CONTENT_PART_BYTES_MAX;
        for (piece, pieces) in [("a", 5), ("ä", max), ("€uro", max / 4), ("😀", max / 3)] {
            let mut cut = Cut::default();
            for _ in 0..pieces {
                cut.take(piece.as_bytes());
            }
            let (kept, length) = cut.end();
            assert_eq!(length, (piece.len() * pieces) as u64);
            assert!(kept.len() <= max && (length > max as u64 || kept.len() as u64 == length));
            assert!(std::str::from_utf8(&kept).is_ok(), "{piece}");
            assert!(length <= max as u64 || kept.len() > max - 4);
        }
        // What is no text is kept to the last byte.
        let mut cut = Cut::default();
        cut.take(&vec![0xff; max + 1]);
        assert_eq!(cut.end().0.len(), max);
    }
}
