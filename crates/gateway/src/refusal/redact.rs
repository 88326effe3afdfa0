//! What may be shown of a provider's error text.

/// Characters of a provider's text that are shown.
const CHARS_MAX: usize = 512;

/// Prefixes of keys and tokens in use by providers and by us.
const KEY_PREFIXES: &[&str] = &[
    "sk-",
    "sk_",
    "pk-",
    "pk_",
    "tk_",
    "rk_",
    "xai-",
    "gsk_",
    "hf_",
    "r8_",
    "fw_",
    "ghp_",
    "github_pat_",
    "glpat-",
    "xox",
    "AIza",
    "AKIA",
    "ASIA",
    "eyJ",
    "org-",
    "proj_",
    "acct_",
];

/// The text on one line, at most 512 characters, without anything that looks like a key, an
/// account, an address of a person or a URL.
#[must_use]
pub fn redacted(text: &str) -> String {
    let mut shown = String::new();
    let mut count = 0;
    let separator = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(
                c,
                '"' | '\'' | '`' | '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>' | ',' | ';' | '='
            )
    };
    for piece in text.split_inclusive(separator) {
        let (word, end) = match piece.char_indices().next_back() {
            Some((at, last)) if separator(last) => (&piece[..at], Some(last)),
            _ => (piece, None),
        };
        let word = if is_secret(word) { "[redacted]" } else { word };
        let end = end.map(|c| {
            if c.is_whitespace() || c.is_control() {
                ' '
            } else {
                c
            }
        });
        for c in word.chars().chain(end) {
            if c == ' ' && shown.ends_with(' ') || is_invisible(c) {
                continue;
            }
            if count == CHARS_MAX {
                return shown;
            }
            shown.push(c);
            count += 1;
        }
    }
    shown.trim().to_owned()
}

/// Direction marks and the like turn a log line or a terminal around.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn is_secret(word: &str) -> bool {
    // `key:sk-…`, `key=sk-…`: the part behind the sign is looked at as well.
    let parts = word.split([':', '/', '|']);
    word.contains("://")
        || word.contains('@') && word.contains('.')
        || word.contains("***")
        || parts
            .into_iter()
            .any(|part| has_key_prefix(part) || part.split(['-', '_', '.']).any(is_random))
}

fn has_key_prefix(part: &str) -> bool {
    let hits = |prefix: &&str| {
        part.get(..prefix.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
            && part.len() > prefix.len() + 4
    };
    KEY_PREFIXES.iter().any(hits)
}

/// A run of letters and digits that no word and no date is: 16 with a digit, or 32 without.
fn is_random(run: &str) -> bool {
    let plain = run
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'*' | b'~'));
    plain && (run.len() >= 32 || run.len() >= 16 && run.bytes().any(|b| b.is_ascii_digit()))
}
