//! Files of the workspace: what is asked about them, and what comes back.

use serde::{Deserialize, Serialize};

use crate::field::{Described, Field, Kind};

const PATH: Kind = Kind::Text { max: 1_024 };
const PLACE: Kind = Kind::Count {
    min: 0,
    max: i64::MAX as u64,
};
/// Base64 of 256 KiB.
const CONTENT: Kind = Kind::Text { max: 349_528 };

/// A directory: `files.list`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesWish {
    /// Its path.
    #[serde(default)]
    pub path: Option<String>,
    /// Directories deep.
    #[serde(default)]
    pub depth: Option<u64>,
}

impl Described for FilesWish {
    const FIELDS: &'static [Field] = &[
        Field::new(
            "path",
            PATH,
            "A directory below the workspace; the whole workspace without it.",
        ),
        Field::new(
            "depth",
            Kind::Count { min: 1, max: 32 },
            "Directories deep; 1 without it.",
        ),
    ];
}

/// What is in a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileList {
    /// By path.
    pub entries: Vec<FileEntry>,
    /// There is more.
    pub cut: bool,
}

impl Described for FileList {
    const FIELDS: &'static [Field] = &[
        Field::must(
            "entries",
            Kind::List,
            "By path: path, kind (file, directory, link, other), bytes, modified_ms.",
        ),
        Field::must(
            "cut",
            Kind::Flag,
            "There is more, or a part could not be looked at.",
        ),
    ];
}

/// One name in a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileEntry {
    /// Below the workspace.
    pub path: String,
    /// `file`, `directory`, `link` or `other`.
    pub kind: String,
    /// Length of a file.
    pub bytes: u64,
    /// When it was changed, as programs may set it: Unix milliseconds.
    pub modified_ms: i64,
}

/// A piece of a file: `files.read`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadFile {
    /// Its path.
    pub path: String,
    /// The byte to begin at.
    #[serde(default)]
    pub offset: Option<u64>,
    /// Bytes.
    #[serde(default)]
    pub limit: Option<u64>,
}

impl Described for ReadFile {
    const FIELDS: &'static [Field] = &[
        Field::must("path", PATH, "A file below the workspace."),
        Field::new("offset", PLACE, "The byte to begin at."),
        Field::new(
            "limit",
            Kind::Count {
                min: 1,
                max: 262_144,
            },
            "Bytes at most; 262144 without it.",
        ),
    ];
}

/// What a file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileContent {
    /// Where it begins.
    pub offset: u64,
    /// Length of the whole file.
    pub total: u64,
    /// The piece as text, where it is UTF-8.
    pub text: Option<String>,
    /// The piece in base64, where it is not.
    pub base64: Option<String>,
}

impl Described for FileContent {
    const FIELDS: &'static [Field] = &[
        Field::must("offset", PLACE, "The byte at which the piece begins."),
        Field::must("total", PLACE, "Length of the whole file."),
        Field::must(
            "text",
            CONTENT,
            "The piece, where it is UTF-8 as it stands; null otherwise.",
        ),
        Field::must(
            "base64",
            CONTENT,
            "The piece in base64, where it is no text; null otherwise.",
        ),
    ];
}

/// What a file is to hold: `files.write`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    /// Its path.
    pub path: String,
    /// Text.
    #[serde(default)]
    pub text: Option<String>,
    /// Bytes in base64, in place of a text.
    #[serde(default)]
    pub base64: Option<String>,
    /// Add to its end.
    #[serde(default)]
    pub append: Option<bool>,
}

impl Described for WriteFile {
    const FIELDS: &'static [Field] = &[
        Field::must(
            "path",
            PATH,
            "A file below the workspace; directories on the way are made.",
        ),
        Field::new("text", Kind::Text { max: 262_144 }, "What it is to hold."),
        Field::new(
            "base64",
            CONTENT,
            "The same as bytes in base64, in place of a text.",
        ),
        Field::new(
            "append",
            Kind::Flag,
            "Add to its end, in place of what it holds.",
        ),
    ];
}

/// A file that was written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct FileWritten {
    /// Its length now.
    pub bytes: u64,
    /// Nothing of that name was there before.
    pub created: bool,
}

impl Described for FileWritten {
    const FIELDS: &'static [Field] = &[
        Field::must("bytes", PLACE, "Its length now."),
        Field::must(
            "created",
            Kind::Flag,
            "Nothing of that name was there before.",
        ),
    ];
}

/// A file by its path: `files.delete`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedFile {
    /// The path.
    pub path: String,
}

impl Described for NamedFile {
    const FIELDS: &'static [Field] = &[Field::must(
        "path",
        PATH,
        "A file, or a directory that is empty.",
    )];
}
