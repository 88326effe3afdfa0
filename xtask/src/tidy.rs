//! The house rules: what a machine can check of the style, run by `cargo xtask tidy` and by `cargo test`.

mod crates;
mod docs;
mod links;
mod walls;
mod words;

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::tree::Tree;
use crate::{House, layers};

/// One rule broken in one place.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) place: String,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding {
            place: place.into(),
            message: message.into(),
        }
    }

    /// At a line, counted from 1.
    pub(crate) fn at(path: &str, line: usize, message: impl Into<String>) -> Finding {
        Finding::new(format!("{path}:{line}"), message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.message)
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

/// Every rule with the name it is reported under.
const RULES: &[(&str, Rule)] = &[
    ("crates depend only downwards", layers::findings),
    ("files keep their size", crates::sizes),
    (
        "crates take the workspace lints and say what they are",
        crates::lints_and_docs,
    ),
    ("bans say why", crates::bans_have_reasons),
    ("no unsafe code outside crates/sys", walls::no_unsafe),
    ("capabilities are minted in few places", walls::mint_sites),
    ("words of the house", words::findings),
    ("links lead somewhere", links::findings),
    ("invariants name their tests", docs::invariants),
    ("docs/request.md follows the pipeline", docs::request_stages),
    ("dependencies have their reason", docs::dependency_rows),
];

/// Runs all rules over the project and prints what they find.
pub(crate) fn run(house: &House) -> Result<ExitCode> {
    let tree = Tree::read(house.root())?;
    let mut broken = 0;
    for (name, rule) in RULES {
        let found = rule(&tree);
        println!("{} {name}", if found.is_empty() { "ok  " } else { "FAIL" });
        for finding in &found {
            println!("       {finding}");
        }
        broken += found.len();
    }
    if broken == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {broken} to mend");
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The gate: a broken rule of the house fails `cargo test`.
    fn holds(rule: &str) {
        let (_, check) = RULES.iter().find(|(name, _)| *name == rule).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let found = check(&Tree::read(root).unwrap());
        let list: Vec<String> = found.iter().map(Finding::to_string).collect();
        assert!(list.is_empty(), "{rule}:\n{}", list.join("\n"));
    }

    macro_rules! gate {
        ($($test:ident: $rule:literal,)*) => {
            $(#[test] fn $test() { holds($rule); })*

            #[test]
            fn every_rule_is_a_gate() {
                let gates = [$($rule),*];
                assert!(RULES.iter().all(|(name, _)| gates.contains(name)));
            }
        };
    }

    gate! {
        crates_depend_only_downwards: "crates depend only downwards",
        files_keep_their_size: "files keep their size",
        crates_take_the_workspace_lints: "crates take the workspace lints and say what they are",
        bans_say_why: "bans say why",
        no_unsafe_outside_sys: "no unsafe code outside crates/sys",
        capabilities_are_minted_in_few_places: "capabilities are minted in few places",
        words_of_the_house: "words of the house",
        links_lead_somewhere: "links lead somewhere",
        invariants_name_their_tests: "invariants name their tests",
        request_page_follows_the_pipeline: "docs/request.md follows the pipeline",
        dependencies_have_their_reason: "dependencies have their reason",
    }
}
