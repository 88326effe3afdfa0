//! Links of the documentation lead to a file and a heading that exist.

use super::Finding;
use crate::tree::Tree;

/// Checks each relative link of each Markdown file.
pub(crate) fn findings(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree.with_extension("md") {
        for (index, line) in prose(text) {
            for target in targets(&line) {
                if let Err(message) = follow(tree, path, target) {
                    found.push(Finding::at(path, index, message));
                }
            }
        }
    }
    found
}

/// The headings of a Markdown text as `(level, title)`.
pub(crate) fn headings(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().filter_map(move |line| {
        fenced ^= line.trim_start().starts_with("```");
        let level = line.chars().take_while(|c| *c == '#').count();
        let title = line.get(level..).and_then(|rest| rest.strip_prefix(' '))?;
        (!fenced && level > 0).then_some((level, title.trim()))
    })
}

fn follow(tree: &Tree, from: &str, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        from.to_owned()
    } else {
        join(from, file).ok_or(format!("`{target}` leaves the project"))?
    };
    if !path.is_empty() && !tree.has(&path) {
        return Err(format!("`{target}` leads to nothing"));
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let text = tree.text(&path).unwrap_or_default();
    if headings(text).any(|(_, title)| slug(title) == anchor) {
        return Ok(());
    }
    Err(format!("`{target}`: there is no such heading"))
}

/// `file` as seen from the directory of `from`; `None` where it climbs out of the project.
fn join(from: &str, file: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// The anchor that the usual renderers make of a heading.
fn slug(title: &str) -> String {
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| {
        if c == ' ' {
            '-'
        } else {
            c.to_ascii_lowercase()
        }
    })
    .collect()
}

/// The lines outside code blocks, with inline code cut out, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then(|| {
            (
                index + 1,
                line.split('`').step_by(2).collect::<Vec<_>>().join("``"),
            )
        })
    })
}

/// What stands in `](…)`, without a title.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let (target, _) = rest.split_once(')')?;
        target.split_whitespace().next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("docs/a.md", text),
            ("docs/b.md", "# Top\n## Keys, and `what` they open\n"),
            ("README.md", ""),
        ]);
        findings(&tree)
            .into_iter()
            .map(|found| found.message)
            .collect()
    }

    #[test]
    fn good_links_pass() {
        assert!(
            said("[b](b.md) [up](../README.md) [x](https://example.org/#a) [dir](../docs/)")
                .is_empty()
        );
        assert!(said("# Here\n[k](b.md#keys-and-what-they-open) [self](#here)").is_empty());
    }

    #[test]
    fn dead_links_fail() {
        assert_eq!(said("[c](c.md)"), ["`c.md` leads to nothing"]);
        assert_eq!(
            said("[b](b.md#gone)"),
            ["`b.md#gone`: there is no such heading"]
        );
        assert_eq!(
            said("[out](../../etc/passwd)"),
            ["`../../etc/passwd` leaves the project"]
        );
    }

    #[test]
    fn code_is_not_a_link() {
        assert!(said("`[c](c.md)`\n```\n[c](c.md)\n```").is_empty());
    }
}
