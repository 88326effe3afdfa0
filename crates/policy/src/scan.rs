//! A look at hostile text before a parser does: where each rule begins and ends, how long and how deep it is.

use crate::error::PolicyError;
use crate::{DEPTH_MAX, LIKES_MAX, RULE_BYTES_MAX, RULES_MAX, SET_BYTES_MAX, TEXT_BYTES_MAX};

/// One rule as it was written, annotations and the comments before it included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece<'a> {
    /// Line of its first character that is no blank, from 1.
    pub(crate) line: u64,
    pub(crate) text: &'a str,
}

/// How large what.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    set_bytes: usize,
    rule_bytes: usize,
    text_bytes: usize,
}

impl Limits {
    /// Of what people write.
    pub(crate) const WRITTEN: Self = Self {
        set_bytes: SET_BYTES_MAX,
        rule_bytes: RULE_BYTES_MAX,
        text_bytes: TEXT_BYTES_MAX,
    };
    /// Of what is made from a list that has limits of its own.
    pub(crate) const MADE: Self = Self {
        set_bytes: 1024 * 1024,
        rule_bytes: 1024 * 1024,
        text_bytes: 1024 * 1024,
    };
}

/// Cuts a set into its rules.
///
/// # Errors
/// Where one of the limits of this crate is passed, a text has no end, or something stands behind the last rule.
pub(crate) fn pieces(set: &str, limits: Limits) -> Result<Vec<Piece<'_>>, PolicyError> {
    let Limits {
        set_bytes,
        rule_bytes,
        text_bytes,
    } = limits;
    if set.len() > set_bytes {
        return Err(PolicyError::new(format!(
            "the rules have {} bytes; the limit is {set_bytes}",
            set.len()
        )));
    }
    let mut scan = Scan::default();
    let mut found = Vec::new();
    for (at, byte) in set.bytes().enumerate() {
        scan.step(byte)?;
        if scan.text_bytes > text_bytes {
            return Err(PolicyError::at(
                scan.line,
                format!("a text in quotes has more than {text_bytes} bytes"),
            ));
        }
        if scan.ended {
            scan.ended = false;
            let text = set.get(scan.begin..=at).unwrap_or_default();
            if text.len() > rule_bytes {
                return Err(PolicyError::at(
                    scan.first_line,
                    format!(
                        "the rule has {} bytes; the limit is {rule_bytes}",
                        text.len()
                    ),
                ));
            }
            if found.len() == RULES_MAX {
                return Err(PolicyError::at(
                    scan.first_line,
                    format!("more rules than the limit of {RULES_MAX}"),
                ));
            }
            found.push(Piece {
                line: scan.first_line,
                text,
            });
            scan.begin = at + 1;
            scan.first_line = 0;
        }
    }
    match scan.state {
        State::Text | State::Escape => Err(PolicyError::at(
            scan.line,
            "a text in quotes has no end".to_owned(),
        )),
        State::Slash => Err(PolicyError::at(
            scan.line,
            "'/' says nothing here".to_owned(),
        )),
        _ if scan.first_line != 0 => Err(PolicyError::at(
            scan.first_line,
            "a rule has no end; it ends with ';'".to_owned(),
        )),
        _ => Ok(found),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    Slash,
    Comment,
    Text,
    Escape,
}

struct Scan {
    state: State,
    depth: usize,
    line: u64,
    /// Where the rule begins that is being read.
    begin: usize,
    /// Bytes of the text in quotes that is being read.
    text_bytes: usize,
    /// The last letters outside of texts, as far as they can be a word that is counted.
    word: [u8; 5],
    likes: usize,
    /// Its line; 0 before its first character that says something.
    first_line: u64,
    ended: bool,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            state: State::Code,
            depth: 0,
            line: 1,
            begin: 0,
            text_bytes: 0,
            word: [0; 5],
            likes: 0,
            first_line: 0,
            ended: false,
        }
    }
}

impl Scan {
    /// Patterns cost the product of their length and the text's: there are few of them.
    fn count_like(&mut self, byte: u8) -> Result<(), PolicyError> {
        self.word.rotate_left(1);
        self.word[4] = byte;
        if self.word.ends_with(b"like") {
            self.likes += 1;
        }
        if self.likes > LIKES_MAX {
            return Err(PolicyError::at(
                self.line,
                format!("more than {LIKES_MAX} comparisons with 'like'"),
            ));
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<(), PolicyError> {
        let slash_alone = self.state == State::Slash && byte != b'/';
        if slash_alone && self.first_line == 0 {
            self.first_line = self.line;
        }
        self.state = match (self.state, byte) {
            (State::Comment, b'\n') => State::Code,
            (State::Comment, _) | (State::Slash, b'/') => State::Comment,
            (State::Text, b'\\') => State::Escape,
            (State::Text, b'"') => State::Code,
            (State::Text | State::Escape, _) => State::Text,
            (State::Code, b'/') => State::Slash,
            (State::Code | State::Slash, b'"') => State::Text,
            (State::Code | State::Slash, _) => State::Code,
        };
        if byte == b'\n' {
            self.line += 1;
        }
        match self.state {
            State::Text | State::Escape => self.text_bytes += 1,
            _ => self.text_bytes = 0,
        }
        if !matches!(self.state, State::Code | State::Text) {
            return Ok(());
        }
        if self.first_line == 0 && !byte.is_ascii_whitespace() {
            self.first_line = self.line;
        }
        if self.state == State::Text {
            return Ok(());
        }
        self.count_like(byte)?;
        match byte {
            b'(' | b'[' | b'{' => self.depth += 1,
            b')' | b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            b';' if self.depth == 0 => self.ended = true,
            _ => {}
        }
        if self.depth > DEPTH_MAX {
            return Err(PolicyError::at(
                self.line,
                format!("brackets stand more than {DEPTH_MAX} deep"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(set: &str) -> Vec<(u64, String)> {
        let found = pieces(set, Limits::WRITTEN).unwrap();
        found
            .iter()
            .map(|piece| (piece.line, piece.text.trim().to_owned()))
            .collect()
    }

    #[test]
    fn rules_are_cut_at_their_ends_only() {
        let set = "// a; b\n\n@id(\"x;y\") permit (a, b, c)\nwhen { \"\\\";\" == \"//\" };\nforbid(p);\n// the end";
        assert_eq!(
            lines(set),
            [
                (
                    3,
                    "// a; b\n\n@id(\"x;y\") permit (a, b, c)\nwhen { \"\\\";\" == \"//\" };"
                        .to_owned()
                ),
                (5, "forbid(p);".to_owned())
            ]
        );
        assert_eq!(lines("  // nothing\n"), []);
    }

    #[test]
    fn limits_are_named() {
        let said = |set: &str| pieces(set, Limits::WRITTEN).unwrap_err().to_string();
        assert!(said(&"x".repeat(SET_BYTES_MAX + 1)).contains("65536"));
        assert!(said(&format!("{};", "x".repeat(RULE_BYTES_MAX))).contains("4096"));
        assert!(said(&"x;".repeat(RULES_MAX + 1)).contains("256"));
        assert!(said(&"(".repeat(DEPTH_MAX + 1)).contains("24 deep"));
        assert!(said(&format!("\"{}\";", "x".repeat(TEXT_BYTES_MAX + 1))).contains("256 bytes"));
        assert!(said(&"a like b\n".repeat(LIKES_MAX + 1)).contains("line 33: more than 32"));
        assert_eq!(said("a;\n\"never"), "line 2: a text in quotes has no end");
        assert_eq!(said("a;\nb"), "line 2: a rule has no end; it ends with ';'");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_between_rules(set in "[a-c;\"\\\\/\n(){}\\[\\] ]{0,200}") {
            if let Ok(found) = pieces(&set, Limits::WRITTEN) {
                let whole: String = found.iter().map(|piece| piece.text).collect();
                prop_assert!(set.starts_with(&whole));
                // What stands behind the last rule says nothing.
                for line in set[whole.len()..].lines() {
                    let line = line.trim();
                    prop_assert!(line.is_empty() || line.starts_with("//"), "{line:?} was dropped");
                }
            }
        }
    }
}
