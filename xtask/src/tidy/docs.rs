//! Documents that must agree with the code: invariants, the request page, the list of dependencies.

use toml::{Table, Value};

use super::Finding;
use super::links::headings;
use crate::tree::Tree;

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const PIPELINE: &str = "crates/gateway/src/pipeline.rs";
const REQUEST: &str = "docs/request.md";
const DEPENDENCIES: &str = "docs/dependencies.md";

/// The section of `docs/request.md` whose headings are the stages.
const STAGES: &str = "The stages";

/// What marks a stage in the pipeline file: `// stage: admit`.
const STAGE_MARK: &str = "stage: ";

/// Each `**Invariant:**` of ARCHITECTURE.md ends in ``(test: `file::name`)`` and that test exists. Several are
/// separated by commas; a test that is a whole file (a compile-fail case) is named without `::`.
pub(crate) fn invariants(tree: &Tree) -> Vec<Finding> {
    let Some(text) = tree.text(ARCHITECTURE) else {
        return vec![Finding::new(ARCHITECTURE, "is missing")];
    };
    let mut found = Vec::new();
    let mut seen = 0;
    for paragraph in text
        .split("\n\n")
        .flat_map(|block| block.split("**Invariant:**").skip(1))
    {
        seen += 1;
        let one_line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = one_line.chars().take(60).collect();
        let names: Vec<&str> = one_line
            .split_once("(test: ")
            .and_then(|(_, rest)| rest.split_once(')'))
            .map(|(list, _)| list.split('`').skip(1).step_by(2).collect())
            .unwrap_or_default();
        if names.is_empty() {
            found.push(Finding::new(
                ARCHITECTURE,
                format!("an invariant without its test: {short}…"),
            ));
        }
        for name in names {
            if !test_exists(tree, name) {
                found.push(Finding::new(
                    ARCHITECTURE,
                    format!("`{name}` does not exist (invariant: {short}…)"),
                ));
            }
        }
    }
    if seen == 0 {
        found.push(Finding::new(ARCHITECTURE, "names no invariant"));
    }
    found
}

/// The headings under "The stages" of docs/request.md are the stage comments of the pipeline file, in order.
pub(crate) fn request_stages(tree: &Tree) -> Vec<Finding> {
    let Some(page) = tree.text(REQUEST) else {
        return vec![Finding::new(REQUEST, "is missing")];
    };
    let described: Vec<&str> = headings(page)
        .skip_while(|(level, title)| (*level, *title) != (2, STAGES))
        .skip(1)
        .take_while(|(level, _)| *level > 2)
        .filter(|(level, _)| *level == 3)
        .map(|(_, title)| title)
        .collect();
    if described.is_empty() {
        return vec![Finding::new(
            REQUEST,
            format!("has no stages under `## {STAGES}`"),
        )];
    }
    let Some(pipeline) = tree.text(PIPELINE) else {
        return Vec::new();
    };
    let built: Vec<&str> = pipeline.lines().filter_map(stage).collect();
    if built == described {
        return Vec::new();
    }
    let message = format!(
        "its stages are [{}], but {PIPELINE} has [{}]",
        described.join(" | "),
        built.join(" | ")
    );
    vec![Finding::new(REQUEST, message)]
}

/// Each external crate of the root manifest has a row in docs/dependencies.md, and each row its crate.
pub(crate) fn dependency_rows(tree: &Tree) -> Vec<Finding> {
    let manifest = tree
        .text("Cargo.toml")
        .and_then(|text| text.parse::<Table>().ok());
    let (Some(manifest), Some(page)) = (manifest, tree.text(DEPENDENCIES)) else {
        return vec![Finding::new(
            DEPENDENCIES,
            "this page or the root manifest is missing",
        )];
    };
    let declared = manifest
        .get("workspace")
        .and_then(|table| table.get("dependencies"))
        .and_then(Value::as_table);
    let names: Vec<&str> = declared
        .into_iter()
        .flatten()
        .filter(|(_, spec)| spec.get("path").is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    let rows: Vec<&str> = page
        .lines()
        .skip_while(|line| *line != "## Crates")
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let missing = names
        .iter()
        .filter(|name| !rows.contains(name))
        .map(|name| format!("`{name}` has no row"));
    let stale = rows
        .iter()
        .filter(|row| !names.contains(row))
        .map(|row| format!("`{row}` is no dependency any more"));
    missing
        .chain(stale)
        .map(|message| Finding::new(DEPENDENCIES, message))
        .collect()
}

/// `file::name` exists where the file holds a function of that name; `file` where it is there.
fn test_exists(tree: &Tree, test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else {
        return tree.has(test);
    };
    // `file::module::name` is welcome; what counts is the function.
    let name = name.rsplit("::").next().unwrap_or(name);
    let Some(text) = tree.text(file) else {
        return false;
    };
    // The last form is a test that a macro makes: `name: …,`.
    [
        format!("fn {name}("),
        format!("def {name}("),
        format!("test(\"{name}\""),
        format!("\n        {name}: "),
    ]
    .iter()
    .any(|definition| text.contains(definition.as_str()))
}

fn stage(line: &str) -> Option<&str> {
    let comment = line
        .trim_start()
        .strip_prefix("//")?
        .trim_start_matches(['/', '!']);
    Some(
        comment
            .trim()
            .strip_prefix(STAGE_MARK)?
            .trim_end_matches('.'),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invariant_names_a_test_that_exists() {
        let tree = |line: &str| {
            Tree::of(&[
                (
                    ARCHITECTURE,
                    &format!("# A\n\n**Invariant:** it\nholds {line}\n"),
                ),
                ("crates/a/src/lib.rs", "    fn it_holds() {"),
                ("tests/isolation/fail/forge.rs", ""),
            ])
        };
        assert!(invariants(&tree("(test: `crates/a/src/lib.rs::it_holds`)")).is_empty());
        assert!(
            invariants(&tree(
                "(test:\n`crates/a/src/lib.rs::tests::it_holds`, `tests/isolation/fail/forge.rs`)"
            ))
            .is_empty()
        );
        assert_eq!(invariants(&tree("")).len(), 1);
        assert_eq!(
            invariants(&tree("(test: `crates/a/src/lib.rs::it_hold`)")).len(),
            1
        );
        assert_eq!(
            invariants(&tree("(test: `crates/b/src/lib.rs::it_holds`)")).len(),
            1
        );
        assert_eq!(
            invariants(&Tree::of(&[(ARCHITECTURE, "# nothing")])).len(),
            1
        );
    }

    #[test]
    fn the_request_page_and_the_pipeline_agree() {
        let page = "# R\n## Before\n### no stage\n## The stages\n### identify\n### admit\n## After\n### no stage";
        let tree = |code: &str| Tree::of(&[(REQUEST, page), (PIPELINE, code)]);
        assert!(
            request_stages(&tree("// stage: identify\nx();\n    // stage: admit.\n")).is_empty()
        );
        assert_eq!(
            request_stages(&tree("// stage: admit\n// stage: identify\n")).len(),
            1
        );
        assert_eq!(request_stages(&tree("")).len(), 1);
        assert_eq!(request_stages(&Tree::of(&[(REQUEST, "# R")])).len(), 1);
    }

    #[test]
    fn a_dependency_without_a_row_fails_and_so_does_a_stale_row() {
        let root = "[workspace.dependencies]\nhex = \"0.4\"\nbase = { path = \"crates/base\" }";
        let tree = |page: &str| Tree::of(&[("Cargo.toml", root), (DEPENDENCIES, page)]);
        assert!(
            dependency_rows(&tree(
                "## Crates\n| `hex` | x |\n## Others\n| `pytest` | x |"
            ))
            .is_empty()
        );
        assert_eq!(
            dependency_rows(&tree("## Crates\n| `bytes` | x |")).len(),
            2
        );
    }
}
