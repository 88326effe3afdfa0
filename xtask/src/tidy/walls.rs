//! Rules about authority: unsafe code, and where a `Tenant` comes into being.

use super::Finding;
use crate::tree::Tree;

/// The only crate that may hold unsafe code (it does not exist before it is needed).
const UNSAFE_CRATE: &str = "crates/sys/";

/// The constructors of the capabilities, with the files that may call each and how often. Admission mints after it has
/// verified a credential, the operator's sweep one tenant at a time. A new call site is a decision: it is made here.
const MINTS: &[(&str, &[(&str, usize)])] = &[
    (
        "mint",
        &[
            ("crates/kernel/src/tenant/admit.rs", 1),
            ("crates/kernel/src/tenant.rs", 1),
        ],
    ),
    // Creating a tenant hands its maker the one that was made; a repair reads what it has built before anybody is served by it.
    (
        "mint_for_operator",
        &[
            ("crates/kernel/src/sweep.rs", 3),
            ("crates/kernel/src/lifecycle.rs", 1),
            ("crates/kernel/src/repair.rs", 1),
        ],
    ),
    // The operator's own capability: made where the data directory's lock is taken.
    ("of_the_opener", &[("crates/kernel/src/open.rs", 1)]),
];

/// No unsafe block, function, impl or attribute outside the one crate for it.
pub(crate) fn no_unsafe(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree
        .with_extension("rs")
        .filter(|(path, _)| !path.starts_with(UNSAFE_CRATE))
    {
        for (line, code) in code_lines(text) {
            // Every second part stands between quotes, where it is a word like any other.
            let mut words = code
                .split('"')
                .step_by(2)
                .flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'));
            if words.any(|word| word == "unsafe") {
                found.push(Finding::at(
                    path,
                    line,
                    "unsafe code stands only in crates/sys",
                ));
            }
        }
    }
    found
}

/// Capabilities come into being only where the table says, and their constructors are not public.
pub(crate) fn mint_sites(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree
        .with_extension("rs")
        .filter(|(path, _)| !path.starts_with("xtask/"))
    {
        for (constructor, sites) in MINTS {
            let allowed = sites
                .iter()
                .find(|(file, _)| *file == path)
                .map_or(0, |(_, most)| *most);
            let mut calls = 0;
            for (line, code) in code_lines(text) {
                if code
                    .trim_start()
                    .starts_with(&format!("pub fn {constructor}("))
                {
                    found.push(Finding::at(
                        path,
                        line,
                        format!("`{constructor}` must not be public"),
                    ));
                }
                calls += code.matches(&format!("::{constructor}(")).count();
                if calls > allowed && code.contains(&format!("::{constructor}(")) {
                    let message = format!(
                        "a call of `{constructor}` that is not in the table of xtask/src/tidy/walls.rs"
                    );
                    found.push(Finding::at(path, line, message));
                }
            }
        }
    }
    found
}

/// The lines of a Rust file with their numbers, comments cut off.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_fails_and_the_word_does_not() {
        let bad = "fn f() {\n    unsafe { g() }\n}";
        assert_eq!(
            no_unsafe(&Tree::of(&[("crates/a/src/lib.rs", bad)])).len(),
            1
        );
        assert!(no_unsafe(&Tree::of(&[("crates/sys/src/lib.rs", bad)])).is_empty());
        let fine = "// unsafe here\nlet s = \"unsafe\"; let unsafe_code = 1;";
        assert!(no_unsafe(&Tree::of(&[("crates/a/src/lib.rs", fine)])).is_empty());
        assert_eq!(
            no_unsafe(&Tree::of(&[(
                "crates/a/src/lib.rs",
                "#[unsafe(no_mangle)]"
            )]))
            .len(),
            1
        );
    }

    #[test]
    fn a_mint_outside_admission_fails() {
        let call = "fn f() { let t = Tenant::mint(kernel, resident, via); }";
        let calls = |path: &str, code: &str| mint_sites(&Tree::of(&[(path, code)])).len();
        assert_eq!(calls("crates/kernel/src/tenant/admit.rs", call), 0);
        assert_eq!(
            calls(
                "crates/kernel/src/tenant/admit.rs",
                &format!("{call}\n{call}")
            ),
            1
        );
        assert_eq!(calls("crates/kernel/src/files.rs", call), 1);
        assert_eq!(calls("crates/gateway/src/pipeline.rs", call), 1);
        assert_eq!(
            calls(
                "crates/server/src/lib.rs",
                "let o = Operator::of_the_opener();"
            ),
            1
        );
    }

    #[test]
    fn a_public_constructor_fails() {
        let tree = |code: &str| Tree::of(&[("crates/kernel/src/tenant.rs", code)]);
        assert_eq!(
            mint_sites(&tree("    pub fn mint(inner: Inner) -> Tenant {")).len(),
            1
        );
        assert!(mint_sites(&tree("    pub(crate) fn mint(inner: Inner) -> Tenant {")).is_empty());
    }
}
