//! The two places where the configuration touches the machine: environment and files.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// The environment of the process, read once at start.
pub struct Environment {
    variables: HashMap<String, String>,
}

impl Environment {
    /// The environment as it is now. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            variables: std::env::vars_os().filter_map(text).collect(),
        }
    }

    /// An environment of exactly these variables.
    #[must_use]
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            variables: variables.into_iter().map(owned).collect(),
        }
    }

    /// The value of a variable; an empty one counts as not set.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// The bytes of a regular file of at most `max` bytes; the error is for the operator.
#[expect(
    clippy::disallowed_methods,
    reason = "files that the operator names: configuration, keys, certificates"
)]
pub(super) fn read(path: &Path, max: usize) -> Result<Vec<u8>, String> {
    let reason = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    // Looked at first: opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(reason)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(reason)?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(reason)?;
    if bytes.len() > max {
        return Err(format!("is larger than the limit of {max} bytes"));
    }
    Ok(bytes)
}
