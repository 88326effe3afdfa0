//! Text of models and tools on its way to a terminal. Whoever wrote it may want to move the cursor, set a title or hide what stands there:
//! nothing of that gets through.

use std::fmt::Write;

/// The text without control characters, newline and tab excepted, without whole escape sequences, and without characters that turn the
/// direction of writing.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = match c {
            '\u{1b}' | '\u{90}'..='\u{9f}' => after_sequence(rest),
            _ => {
                if matches!(c, '\n' | '\t') || !acts(c) {
                    out.push(c);
                }
                rest.get(c.len_utf8()..).unwrap_or_default()
            }
        };
    }
    out
}

/// The text on one line, with what does not show itself written as `\u{…}`: for what a person decides about, where nothing may be missing.
pub(crate) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            let _never_fails = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON in which no such character stands, each as its escape: it stands in strings only, where that means the same.
pub(crate) fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if acts(c) {
            // All of them are below U+FFFF.
            let _never_fails = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// At most so many characters, and a sign where some are left out.
pub(crate) fn short(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Whether a terminal or a reader's eye is led by it in place of being shown it.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

/// What follows the escape sequence that the text begins with. One that does not end takes its first characters along, and no text.
fn after_sequence(text: &str) -> &str {
    let mut chars = text.chars();
    let kind = match chars.next() {
        Some('\u{1b}') => chars.next(),
        // The same introducers as one character each.
        Some('\u{9b}') => Some('['),
        Some('\u{9d}' | '\u{90}' | '\u{98}' | '\u{9e}' | '\u{9f}') => Some(']'),
        _ => return chars.as_str(),
    };
    let rest = chars.as_str();
    match kind {
        Some('[') => after_control(rest),
        Some(']' | 'P' | 'X' | '^' | '_') => after_string(rest),
        Some(' '..='/') => {
            let end = rest.find(|c| !matches!(c, ' '..='/'));
            let last = end.and_then(|end| rest.get(end..)).unwrap_or_default();
            match last.chars().next() {
                Some('0'..='~') => last.get(1..).unwrap_or_default(),
                _ => last,
            }
        }
        Some('0'..='~') => rest,
        // Not a sequence: only the escape itself goes.
        _ => text.get(1..).unwrap_or_default(),
    }
}

/// Behind `ESC [`: parameters, and one letter that ends them.
fn after_control(rest: &str) -> &str {
    let end = rest.find(|c| !matches!(c, ' '..='?')).unwrap_or(rest.len());
    let last = rest.get(end..).unwrap_or_default();
    match last.chars().next() {
        Some('@'..='~') => last.get(1..).unwrap_or_default(),
        _ => last,
    }
}

/// Behind `ESC ]`: a text up to its end mark, on this line.
fn after_string(rest: &str) -> &str {
    for mark in rest.char_indices() {
        match mark {
            (_, '\n') => break,
            (at, c @ ('\u{7}' | '\u{9c}')) => {
                return rest.get(at + c.len_utf8()..).unwrap_or_default();
            }
            (at, '\u{1b}') => {
                let behind = rest.get(at..).unwrap_or_default();
                return behind.strip_prefix("\u{1b}\\").unwrap_or(behind);
            }
            _ => {}
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_the_terminal() {
        for (hostile, shown) in [
            ("plain ü\n\tindented", "plain ü\n\tindented"),
            ("a\r\nb\rc", "a\nbc"),
            ("a\u{1b}[31;1mred\u{1b}[0mb", "aredb"),
            ("\u{1b}[2J\u{1b}[Hgone", "gone"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}]52;c;aGk=\u{1b}\\x", "x"),
            ("\u{9b}31mred", "red"),
            ("\u{9d}0;t\u{9c}x", "x"),
            ("\u{1b}Pq#0\u{1b}\\x", "x"),
            ("\u{1b}(0x\u{1b}=y\u{1b}cz", "xyz"),
            ("\u{8}\u{7f}\u{0}\u{85}x", "x"),
            ("a\u{202e}b\u{2066}c\u{feff}d\u{200b}e", "abcde"),
            // What never ends hides no text that follows.
            ("\u{1b}]0;never\nshown", "0;never\nshown"),
            ("\u{1b}[31", ""),
            ("\u{1b}[31\u{1b}[0mx", "x"),
            ("x\u{1b}", "x"),
            ("x\u{1b}é", "xé"),
            ("\u{1b}\u{1b}[2Jx", "x"),
        ] {
            assert_eq!(plain(hostile), shown, "{hostile:?}");
        }
    }

    #[test]
    fn no_text_whatever_leaves_a_character_that_acts() {
        let pieces = [
            "\u{1b}", "[", "]", "\u{9b}", "\u{9d}", "31", "m", "\u{7}", "\\", "é", "\n",
            "\u{202e}", "(", ";",
        ];
        let mut text = String::new();
        for step in 0..20_000_usize {
            text.push_str(pieces[(step * step + step / 7) % pieces.len()]);
            if step % 37 == 0 {
                let shown = plain(&text);
                assert!(
                    shown.chars().all(|c| matches!(c, '\n' | '\t') || !acts(c)),
                    "{text:?}"
                );
                text.clear();
            }
        }
    }

    #[test]
    fn what_is_decided_about_is_shown_whole_and_on_one_line() {
        assert_eq!(
            visible("rm\u{202e} a\nb\u{1b}[2K"),
            "rm\\u{202e} a\\u{a}b\\u{1b}[2K"
        );
    }

    #[test]
    fn json_keeps_its_meaning() {
        let text = "a\u{9b}\u{202e}ü";
        let json = escaped(&serde_json::to_string(text).unwrap());
        assert_eq!(json, "\"a\\u009b\\u202eü\"");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(short("äöü", 3), "äöü");
        assert_eq!(short("äöü", 2), "äö…");
    }
}
