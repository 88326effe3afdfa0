//! JSON objects of texts and numbers, written into memory: each call writes a log line and an audit entry.

use std::io::Write as _;

/// An object being written. Names are constants of the code and need no escaping.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    /// Begins an object at the end of `out`.
    pub(crate) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self {
            out,
            is_empty: true,
        }
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        write_text(self.out, value);
    }

    /// The text `kind/name`, or `kind` where the name is empty. Kinds are constants of the code.
    pub(crate) fn path(&mut self, name: &str, kind: &str, of: &str) {
        self.name(name);
        let start = self.out.len();
        write_text(self.out, of);
        let slash = if of.is_empty() { "" } else { "/" };
        let before = kind.bytes().chain(slash.bytes());
        drop(self.out.splice(start + 1..start + 1, before));
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        // Writing into memory cannot fail.
        let _in_memory = write!(self.out, "{value}");
    }

    pub(crate) fn null(&mut self, name: &str) {
        self.name(name);
        self.out.extend_from_slice(b"null");
    }

    /// A member whose value `write` writes.
    pub(crate) fn member(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.name(name);
        write(self.out);
    }

    pub(crate) fn end(self) {
        self.out.push(b'}');
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// A JSON string. Most texts are ids, names and digests that need no escaping.
fn write_text(out: &mut Vec<u8>, text: &str) {
    // A fold, not a search: the compiler turns it into vector code.
    let special = text.bytes().fold(false, |found, byte| {
        found | (byte < b' ') | (byte == b'"') | (byte == b'\\')
    });
    if !special {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Into memory: nothing to fail on.
        let _in_memory = serde_json::to_writer(out, text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_are_written_as_serde_json_writes_them(text: String, number: u64) {
            let mut out = Vec::new();
            let mut object = Object::begin(&mut out);
            object.text("a", &text);
            object.number("b", number);
            object.null("c");
            object.path("p", "kind", &text);
            object.member("d", |out| Object::begin(out).end());
            object.end();
            let path = if text.is_empty() { "kind".to_owned() } else { format!("kind/{text}") };
            let expected = format!(
                "{{\"a\":{},\"b\":{number},\"c\":null,\"p\":{},\"d\":{{}}}}",
                serde_json::to_string(&text).unwrap(),
                serde_json::to_string(&path).unwrap()
            );
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
