//! Rules about crates and their files: sizes, lints, crate pages, bans.

use toml::{Table, Value};

use super::Finding;
use crate::layers;
use crate::tree::Tree;

/// Longest file below `crates/`, in lines. A file past it holds more than one topic.
const FILE_LINES_MAX: usize = 600;

/// Files past the budget: pure tables only. The list may only shrink; a name that no longer needs it fails.
const LONG_TABLES: &[&str] = &[];

/// The manifest of the crate for unsafe code.
const OWN_LINTS: &str = "crates/sys/Cargo.toml";

/// Every Rust file of the crates fits its budget.
pub(crate) fn sizes(tree: &Tree) -> Vec<Finding> {
    sizes_but(tree, LONG_TABLES)
}

/// Every package inherits the workspace's lints and opens with a sentence about itself.
pub(crate) fn lints_and_docs(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in layers::manifests(tree) {
        let Ok(manifest) = text.parse::<Table>() else {
            found.push(Finding::new(path, "is not TOML"));
            continue;
        };
        let inherits = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(Value::as_bool);
        // A lint that the workspace forbids cannot be lifted in one crate, so this one has a list of its own.
        if inherits != Some(true) && path != OWN_LINTS {
            found.push(Finding::new(path, "lacks `[lints] workspace = true`"));
        }
        let dir = path.trim_end_matches("Cargo.toml");
        let roots = ["src/lib.rs", "src/main.rs"].map(|root| format!("{dir}{root}"));
        let mut present = roots
            .iter()
            .filter_map(|root| Some((root, tree.text(root)?)))
            .peekable();
        if present.peek().is_none() {
            found.push(Finding::new(path, "has neither src/lib.rs nor src/main.rs"));
        }
        for (root, text) in present {
            if !text.starts_with("//! ") {
                found.push(Finding::at(
                    root,
                    1,
                    "must open with a `//!` sentence about the crate",
                ));
            }
        }
    }
    found
}

/// Every ban in clippy.toml says why, and what to use instead.
pub(crate) fn bans_have_reasons(tree: &Tree) -> Vec<Finding> {
    const PATH: &str = "clippy.toml";
    let Some(config) = tree.text(PATH).and_then(|text| text.parse::<Table>().ok()) else {
        return vec![Finding::new(PATH, "is missing or is not TOML")];
    };
    let mut found = Vec::new();
    for list in ["disallowed-methods", "disallowed-types"] {
        let Some(bans) = config.get(list).and_then(Value::as_array) else {
            found.push(Finding::new(PATH, format!("lacks `{list}`")));
            continue;
        };
        for ban in bans {
            let reason = ban
                .get("reason")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if reason.trim().is_empty() {
                let name = ban
                    .get("path")
                    .and_then(Value::as_str)
                    .or(ban.as_str())
                    .unwrap_or("?");
                found.push(Finding::new(
                    PATH,
                    format!("the ban of `{name}` has no reason"),
                ));
            }
        }
    }
    found
}

fn sizes_but(tree: &Tree, exempt: &[&str]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree
        .with_extension("rs")
        .filter(|(path, _)| path.starts_with("crates/"))
    {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX && !exempt.contains(&path) {
            found.push(Finding::new(
                path,
                format!("{lines} lines; the budget is {FILE_LINES_MAX}"),
            ));
        }
    }
    for path in exempt {
        if tree
            .text(path)
            .is_none_or(|text| text.lines().count() <= FILE_LINES_MAX)
        {
            found.push(Finding::new(
                *path,
                "needs no exemption from the file budget any more",
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_past_its_budget_fails_unless_it_is_listed() {
        let long = "x\n".repeat(FILE_LINES_MAX + 1);
        let tree = Tree::of(&[("crates/a/src/lib.rs", &long), ("bench/src/main.rs", &long)]);
        assert_eq!(sizes_but(&tree, &[]).len(), 1);
        assert!(sizes_but(&tree, &["crates/a/src/lib.rs"]).is_empty());
        assert_eq!(
            sizes_but(&tree, &["crates/a/src/lib.rs", "crates/b/src/lib.rs"]).len(),
            1
        );
    }

    #[test]
    fn a_crate_without_lints_or_a_sentence_fails() {
        let good = "[package]\nname = \"a\"\n[lints]\nworkspace = true";
        let bare = "[package]\nname = \"a\"";
        let tree = |manifest, root| {
            Tree::of(&[
                ("crates/a/Cargo.toml", manifest),
                ("crates/a/src/lib.rs", root),
            ])
        };
        assert!(lints_and_docs(&tree(good, "//! Ids.")).is_empty());
        assert_eq!(lints_and_docs(&tree(bare, "//! Ids.")).len(), 1);
        assert_eq!(lints_and_docs(&tree(good, "pub mod ids;")).len(), 1);
        assert_eq!(
            lints_and_docs(&Tree::of(&[("crates/a/Cargo.toml", good)])).len(),
            1
        );
    }

    #[test]
    fn a_ban_without_a_reason_fails() {
        let config = "disallowed-types = []\ndisallowed-methods = [\n\
            { path = \"std::fs::read\", reason = \"ambient\" }, { path = \"std::fs::write\" }, \"std::env::var\"]";
        assert_eq!(
            bans_have_reasons(&Tree::of(&[("clippy.toml", config)])).len(),
            2
        );
    }
}
