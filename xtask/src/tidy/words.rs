//! Words that do not stand in this project, and names that say nothing.

use super::Finding;
use crate::tree::Tree;

/// Words that mark unfinished work, as whole words in this case. (Cut in two here, so that this file passes.)
const UNFINISHED: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Phrases that promise the real thing for later, in any case.
const LATER: [&str; 3] = [
    concat!("place", "holder"),
    concat!("for ", "now"),
    concat!("basic ", "implementation"),
];

/// Endings of type and module names that name no thing of the domain.
const VAGUE: [&str; 4] = ["Manager", "Helper", "Util", "Utils"];

/// What introduces a name.
const NAMING: [&str; 5] = ["struct", "enum", "trait", "type", "mod"];

/// Extensions of the files that are read.
const READ: [&str; 7] = ["rs", "md", "py", "js", "mjs", "ts", "sh"];

/// All findings about words and names.
pub(crate) fn findings(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for extension in READ {
        for (path, text) in tree.with_extension(extension) {
            let product = path.starts_with("crates/") && path.contains("/src/");
            let mut in_tests = false;
            for (index, line) in text.lines().enumerate() {
                in_tests |= line.trim() == "#[cfg(test)]";
                let mut say = |message: String| found.push(Finding::at(path, index + 1, message));
                unfinished(line, &mut say);
                if extension == "rs" {
                    names(line, &mut say);
                    if product && !in_tests && !path.contains("tests") && pretends(line) {
                        say(format!(
                            "`{}` belongs in tests and in bench",
                            concat!("mo", "ck")
                        ));
                    }
                }
            }
        }
    }
    found
}

fn unfinished(line: &str, say: &mut impl FnMut(String)) {
    for word in UNFINISHED {
        if words(line).any(|seen| seen == word) {
            say(format!("`{word}`: finish it, or write an issue"));
        }
    }
    let lower = line.to_lowercase();
    for phrase in LATER {
        let whole = |at: usize| {
            let before = lower.get(..at).and_then(|text| text.chars().next_back());
            let after = lower
                .get(at + phrase.len()..)
                .and_then(|text| text.chars().next());
            !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
        };
        // The plural and the compounds of the first phrase are the same excuse.
        if lower
            .match_indices(phrase)
            .any(|(at, _)| whole(at) || !phrase.contains(' '))
        {
            say(format!("`{phrase}`: say what is there, or finish it"));
        }
    }
}

fn names(line: &str, say: &mut impl FnMut(String)) {
    let code = line.split("//").next().unwrap_or_default();
    let mut before = "";
    for word in words(code) {
        let upper_camel = word.chars().next().is_some_and(char::is_uppercase);
        if NAMING.contains(&before) {
            let vague = if before == "mod" {
                ["manager", "helper", "helpers", "util", "utils"].contains(&word)
            } else {
                upper_camel && VAGUE.iter().any(|end| word.ends_with(end))
            };
            if vague {
                say(format!(
                    "`{word}` names nothing of the domain; see docs/glossary.md"
                ));
            }
        }
        if before == "fn" && word.starts_with("get_") {
            say(format!("`{word}`: drop the `get_`"));
        }
        before = word;
    }
}

/// Whether a line of the product speaks of a thing that only pretends.
fn pretends(line: &str) -> bool {
    words(line).any(|word| {
        word.to_lowercase()
            .split('_')
            .any(|part| part == concat!("mo", "ck"))
            || word.starts_with(concat!("Mo", "ck"))
    })
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        findings(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn unfinished_work_is_found_in_code_and_prose() {
        for text in [
            concat!("// TO", "DO: later"),
            concat!("a Place", "holder crate"),
            concat!("plain for ", "now."),
        ] {
            assert_eq!(count("crates/a/src/lib.rs", text), 1, "{text}");
            assert_eq!(count("docs/a.md", text), 1, "{text}");
        }
        assert_eq!(count("docs/a.md", "for nowhere, METHODOLOGY"), 0);
    }

    #[test]
    fn vague_names_are_found_where_they_are_given() {
        assert_eq!(
            count(
                "crates/a/src/lib.rs",
                concat!("pub struct Tenant", "Manager {")
            ),
            1
        );
        assert_eq!(count("crates/a/src/lib.rs", concat!("mod ut", "ils;")), 1);
        assert_eq!(
            count(
                "crates/a/src/lib.rs",
                concat!("    pub fn g", "et_name(&self) -> &str {")
            ),
            1
        );
        assert_eq!(
            count(
                "crates/a/src/lib.rs",
                "impl Budget { fn target_of(&self) {} }"
            ),
            0
        );
        assert_eq!(
            count("crates/a/src/lib.rs", "use other::ConnectionManager;"),
            0
        );
    }

    #[test]
    fn pretending_is_for_tests() {
        let line = concat!("let upstream = mo", "ck_upstream();");
        assert_eq!(count("crates/a/src/lib.rs", line), 1);
        assert_eq!(
            count(
                "crates/a/src/lib.rs",
                &format!("#[cfg(test)]\nmod tests {{\n{line}\n}}")
            ),
            0
        );
        assert_eq!(count("bench/src/main.rs", line), 0);
    }
}
