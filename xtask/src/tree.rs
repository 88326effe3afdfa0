//! The files that the house rules look at, read once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

/// Directories that hold nothing of ours, wherever they stand.
const NOT_OURS: [&str; 4] = ["target", "node_modules", "__pycache__", "venv"];

/// Directories that runs of the program leave behind.
const LEFT_BEHIND: [&str; 2] = ["data", "bench/results"];

/// What is read as text; other files only exist.
const TEXT: [&str; 10] = [
    "rs", "md", "toml", "py", "js", "mjs", "ts", "sh", "yaml", "stderr",
];

/// The project as paths and texts, so that each rule is a pure function and is tried on small made-up trees.
#[derive(Default)]
pub(crate) struct Tree {
    texts: BTreeMap<String, String>,
    paths: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        tree.walk(root, "")?;
        Ok(tree)
    }

    /// A tree for a rule's own tests.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.insert(path, (*text).to_owned());
        }
        tree
    }

    /// All texts whose path ends in `.{extension}`, in order of path.
    pub(crate) fn with_extension(&self, extension: &str) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .filter(move |(path, _)| {
                path.rsplit_once('.')
                    .is_some_and(|(_, end)| end == extension)
            })
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// Whether a file or directory of that path exists.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.paths.contains(path.trim_end_matches('/'))
    }

    fn walk(&mut self, root: &Path, at: &str) -> Result<()> {
        let dir = root.join(at);
        for entry in
            std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?
        {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if at.is_empty() {
                name.clone()
            } else {
                format!("{at}/{name}")
            };
            if entry.file_type()?.is_dir() {
                let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
                let foreign =
                    NOT_OURS.contains(&name.as_str()) || LEFT_BEHIND.contains(&path.as_str());
                if !hidden && !foreign {
                    self.paths.insert(path.clone());
                    self.walk(root, &path)?;
                }
            } else if name
                .rsplit_once('.')
                .is_some_and(|(_, end)| TEXT.contains(&end))
            {
                let text =
                    std::fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
                self.insert(&path, String::from_utf8_lossy(&text).into_owned());
            } else {
                self.paths.insert(path);
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, text: String) {
        let mut parent = path;
        while let Some((dir, _)) = parent.rsplit_once('/') {
            self.paths.insert(dir.to_owned());
            parent = dir;
        }
        self.paths.insert(path.to_owned());
        self.texts.insert(path.to_owned(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_knows_files_and_their_directories() {
        let tree = Tree::of(&[("docs/a/b.md", "x"), ("c.rs", "")]);
        assert!(
            tree.has("docs") && tree.has("docs/a/") && tree.has("docs/a/b.md") && tree.has("c.rs")
        );
        assert!(!tree.has("docs/b.md"));
        assert_eq!(tree.with_extension("md").count(), 1);
        assert_eq!(tree.text("docs/a/b.md"), Some("x"));
    }
}
