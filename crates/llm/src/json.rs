//! A strict JSON cursor over borrowed text: grammar, depth, duplicate keys and spans in one pass.
//!
//! `serde_json` reads into types; what a gateway needs is where values stand, so that the bytes
//! around an edit stay as they came. The cursor validates whatever it steps over.

use base::limits::JSON_DEPTH_MAX;
use std::borrow::Cow;
use std::ops::Range;

/// Why a text is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Not JSON, at this byte.
    Grammar(usize),
    /// Nested deeper than [`JSON_DEPTH_MAX`].
    Depth,
    /// An object names this key twice.
    Duplicate(String),
    /// A string escapes half of a surrogate pair, at this byte.
    Surrogate(usize),
}

/// What kind of value comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    String,
    /// `-` or a digit
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

/// A string as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    quoted: &'a str,
    start: usize,
    escaped: bool,
}

impl<'a> Text<'a> {
    /// The text between the quotes, escapes and all.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.quoted
            .get(1..self.quoted.len().saturating_sub(1))
            .unwrap_or("")
    }

    /// The meaning of the string.
    #[must_use]
    pub fn decoded(&self) -> Cow<'a, str> {
        if !self.escaped {
            return Cow::Borrowed(self.raw());
        }
        // Only a lenient cursor lets a lone surrogate by; its escapes then stay as they are.
        serde_json::from_str::<String>(self.quoted).map_or(Cow::Borrowed(self.raw()), Cow::Owned)
    }

    /// UTF-8 bytes of the meaning, at most; exact without escapes. An escape never grows when decoded.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let raw = self.raw();
        if self.escaped {
            self.decoded().len() as u64
        } else {
            raw.len() as u64
        }
    }

    /// Whether the meaning is `other`.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        if self.escaped {
            self.decoded() == other
        } else {
            self.raw() == other
        }
    }

    /// Where the string stands, quotes included.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.start..self.start + self.quoted.len()
    }
}

/// An object or array being read; handed back to [`Cursor::key`] or [`Cursor::element`].
#[derive(Debug)]
pub struct Open {
    first: bool,
    keys_from: usize,
}

/// A position in a JSON text. After each key and each element exactly one value must be read.
#[derive(Debug)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    strict: bool,
    structure: u64,
    /// Keys of the open objects, innermost last; empty for a lenient cursor.
    keys: Vec<Cow<'a, str>>,
}

/// Objects up to this size are checked for duplicates by comparison, larger ones by sorting.
const FEW_KEYS: usize = 16;

/// Bytes of a string that are looked at one by one: keys and ids end within, and to call a search costs more than they do.
const NEAR: usize = 32;

/// Bytes that stand for themselves in a string.
static PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        plain[byte] = false;
        byte += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

impl<'a> Cursor<'a> {
    /// For a client's body: duplicate keys and lone surrogates are faults, at any depth.
    #[must_use]
    pub fn strict(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            strict: true,
            structure: 0,
            keys: Vec::new(),
        }
    }

    /// For a provider's answer: grammar and depth only.
    #[must_use]
    pub fn lenient(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            strict: false,
            structure: 0,
            keys: Vec::new(),
        }
    }

    /// Where the cursor stands.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Brackets, commas and colons stepped over so far.
    #[must_use]
    pub fn structure(&self) -> u64 {
        self.structure
    }

    /// The kind of the next value; only its first byte is looked at.
    ///
    /// # Errors
    /// When no value can start here.
    pub fn kind(&mut self) -> Result<Kind, Fault> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(Fault::Grammar(self.at)),
        }
    }

    /// Steps into an object.
    ///
    /// # Errors
    /// When the next value is no object, or stands too deep.
    pub fn object(&mut self) -> Result<Open, Fault> {
        self.open(b'{')
    }

    /// Steps into an array.
    ///
    /// # Errors
    /// When the next value is no array, or stands too deep.
    pub fn array(&mut self) -> Result<Open, Fault> {
        self.open(b'[')
    }

    /// The next key of an open object; `None` closes it.
    ///
    /// # Errors
    /// On a fault of grammar, and on a duplicate key if the cursor is strict.
    pub fn key(&mut self, open: &mut Open) -> Result<Option<Text<'a>>, Fault> {
        if self.peek() == Some(b'}') {
            return self.close(open).map(|()| None);
        }
        self.comma(open)?;
        let key = self.string()?;
        if self.strict {
            self.note_key(key.decoded(), open.keys_from)?;
        }
        self.expect(b':')?;
        Ok(Some(key))
    }

    /// Whether the open array has a further element; `false` closes it.
    ///
    /// # Errors
    /// On a fault of grammar.
    pub fn element(&mut self, open: &mut Open) -> Result<bool, Fault> {
        if self.peek() == Some(b']') {
            return self.close(open).map(|()| false);
        }
        self.comma(open)?;
        Ok(true)
    }

    /// Reads a string.
    ///
    /// # Errors
    /// When the next value is no string, or a wrong one.
    pub fn string(&mut self) -> Result<Text<'a>, Fault> {
        if self.peek() != Some(b'"') {
            return Err(Fault::Grammar(self.at));
        }
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            self.plain();
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => escaped = true,
                _ => return Err(Fault::Grammar(self.at)),
            }
            self.at += 1;
            self.escape()?;
        }
        self.at += 1;
        Ok(Text {
            quoted: &self.text[start..self.at],
            start,
            escaped,
        })
    }

    /// Steps over any value and returns where it stands.
    ///
    /// # Errors
    /// On any fault inside the value.
    pub fn skip(&mut self) -> Result<Range<usize>, Fault> {
        let kind = self.kind()?;
        let start = self.at;
        match kind {
            Kind::Object => {
                let mut open = self.object()?;
                while self.key(&mut open)?.is_some() {
                    self.skip()?;
                }
            }
            Kind::Array => {
                let mut open = self.array()?;
                while self.element(&mut open)? {
                    self.skip()?;
                }
            }
            Kind::String => {
                self.string()?;
            }
            Kind::Number => self.number()?,
            Kind::Bool if self.text[self.at..].starts_with('t') => self.word("true")?,
            Kind::Bool => self.word("false")?,
            Kind::Null => self.word("null")?,
        }
        Ok(start..self.at)
    }

    /// Steps over any value and returns its text.
    ///
    /// # Errors
    /// On any fault inside the value.
    pub fn raw(&mut self) -> Result<&'a str, Fault> {
        let span = self.skip()?;
        Ok(&self.text[span])
    }

    /// Only white space may be left.
    ///
    /// # Errors
    /// When something else is left.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(Fault::Grammar(self.at)),
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.peek() == Some(byte) {
            self.at += 1;
            self.structure += 1;
            Ok(())
        } else {
            Err(Fault::Grammar(self.at))
        }
    }

    fn open(&mut self, bracket: u8) -> Result<Open, Fault> {
        self.expect(bracket)?;
        self.depth += 1;
        if self.depth > JSON_DEPTH_MAX {
            return Err(Fault::Depth);
        }
        Ok(Open {
            first: true,
            keys_from: self.keys.len(),
        })
    }

    fn comma(&mut self, open: &mut Open) -> Result<(), Fault> {
        if !std::mem::replace(&mut open.first, false) {
            self.expect(b',')?;
        }
        Ok(())
    }

    fn close(&mut self, open: &Open) -> Result<(), Fault> {
        self.at += 1;
        self.structure += 1;
        self.depth -= 1;
        let keys = self.keys.get_mut(open.keys_from..).unwrap_or_default();
        if keys.len() > FEW_KEYS {
            keys.sort_unstable();
            if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(Fault::Duplicate(pair[0].to_string()));
            }
        }
        self.keys.truncate(open.keys_from);
        Ok(())
    }

    fn note_key(&mut self, key: Cow<'a, str>, keys_from: usize) -> Result<(), Fault> {
        let before = self.keys.get(keys_from..).unwrap_or_default();
        if before.len() < FEW_KEYS && before.contains(&key) {
            return Err(Fault::Duplicate(key.into_owned()));
        }
        self.keys.push(key);
        Ok(())
    }

    /// Steps over what stands for itself in a string.
    fn plain(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        let is_plain = |byte: &&u8| PLAIN[usize::from(**byte)];
        let near = rest.iter().take(NEAR).take_while(is_plain).count();
        self.at += near;
        if near < NEAR {
            return;
        }
        let far = &rest[NEAR..];
        let stop = memchr::memchr2(b'"', b'\\', far).unwrap_or(far.len());
        // A fold, not a search: the compiler turns it into vector code.
        let control = far[..stop]
            .iter()
            .fold(false, |found, &byte| found | (byte < 0x20));
        self.at += match control {
            false => stop,
            true => far.iter().take_while(is_plain).count(),
        };
    }

    /// After a backslash.
    fn escape(&mut self) -> Result<(), Fault> {
        let at = self.at;
        let byte = self.text.as_bytes().get(at).copied();
        self.at += 1;
        match byte {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') => self.code_unit(at),
            _ => Err(Fault::Grammar(at)),
        }
    }

    fn code_unit(&mut self, at: usize) -> Result<(), Fault> {
        match self.hex4().ok_or(Fault::Grammar(at))? {
            0xD800..=0xDBFF if self.strict => {
                let second = self.text.as_bytes().get(self.at..self.at + 2) == Some(b"\\u");
                self.at += 2;
                match self.hex4() {
                    Some(0xDC00..=0xDFFF) if second => Ok(()),
                    _ => Err(Fault::Surrogate(at)),
                }
            }
            0xDC00..=0xDFFF if self.strict => Err(Fault::Surrogate(at)),
            _ => Ok(()),
        }
    }

    fn hex4(&mut self) -> Option<u16> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
        let mut unit = 0;
        for &digit in digits {
            let digit = char::from(digit).to_digit(16)?;
            unit = unit << 4 | u16::try_from(digit).ok()?;
        }
        self.at += 4;
        Some(unit)
    }

    fn number(&mut self) -> Result<(), Fault> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let from = self.at;
        while self
            .text
            .as_bytes()
            .get(self.at)
            .is_some_and(u8::is_ascii_digit)
        {
            self.at += 1;
        }
        if self.at == from {
            Err(Fault::Grammar(from))
        } else {
            Ok(())
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            Err(Fault::Grammar(self.at))
        }
    }
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing to a vector cannot fail, and a string always serializes.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strict(text: &str) -> Result<(), Fault> {
        let mut cursor = Cursor::strict(text);
        cursor.skip()?;
        cursor.end()
    }

    #[test]
    fn faults_have_their_names() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(strict(&deep(JSON_DEPTH_MAX)), Ok(()));
        assert_eq!(strict(&deep(JSON_DEPTH_MAX + 1)), Err(Fault::Depth));
        assert_eq!(strict(&"[".repeat(1 << 20)), Err(Fault::Depth));
        for (text, key) in [
            (r#"{"a":1,"a":2}"#, "a"),
            (r#"{"a":1,"\u0061":2}"#, "a"),
            (r#"[{"x":{"b":1,"c":2,"b":3}}]"#, "b"),
        ] {
            assert_eq!(
                strict(text),
                Err(Fault::Duplicate(key.to_owned())),
                "{text}"
            );
        }
        let many: String = (0..100).map(|i| format!("\"k{i}\":0,")).collect();
        assert_eq!(strict(&format!("{{{many}\"z\":0}}")), Ok(()));
        assert_eq!(
            strict(&format!("{{{many}\"k7\":0}}")),
            Err(Fault::Duplicate("k7".to_owned()))
        );
        for text in [
            r#""\ud83d""#,
            r#""\ud83dx""#,
            r#""\ude00""#,
            r#""\ud83d\n""#,
            r#""\ud83d\u0041""#,
        ] {
            assert!(matches!(strict(text), Err(Fault::Surrogate(_))), "{text}");
        }
        assert_eq!(strict(r#""\ud83d\ude00""#), Ok(()));
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "01",
            "1.",
            ".5",
            "-",
            "1e",
            "+1",
            "nul",
            "tru",
            "\"\t\"",
            "\"\\x\"",
            "\"\\u12\"",
            "[1 2]",
            "{}x",
            "\"",
            "{,}",
            "'a'",
        ] {
            assert!(matches!(strict(text), Err(Fault::Grammar(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_on_what_is_json(text in r#"[\[\]{},:"\\u0-9a-f.eE+\- tnrl]{0,24}"#) {
            let mut cursor = Cursor::lenient(&text);
            let ours = cursor.skip().and_then(|_| cursor.end()).is_ok();
            prop_assert_eq!(ours, serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok());
        }

        #[test]
        fn strict_accepts_only_what_serde_reads(text in r#"[\[\]{},:"\\ud8c0-1a]{0,24}"#) {
            if strict(&text).is_ok() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
            }
        }

        #[test]
        fn strings_round_trip(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            let json = String::from_utf8(out).unwrap();
            let mut cursor = Cursor::strict(&json);
            let read = cursor.string().unwrap();
            prop_assert_eq!(read.decoded(), text.as_str());
            prop_assert_eq!(read.bytes(), text.len() as u64);
            prop_assert!(read.is(&text));
            prop_assert_eq!(read.span(), 0..json.len());
        }
    }
}
