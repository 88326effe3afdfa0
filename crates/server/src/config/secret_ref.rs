//! References to secrets: the only form in which a secret stands in a configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use base::limits;
use kernel::Secret;

use super::ConfigError;
use super::ambient::{self, Environment};
use super::value::At;

/// Where a secret is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretRef {
    /// `env:NAME`: an environment variable of the gateway's process.
    Env(String),
    /// `file:PATH`: a file, from the configuration's folder where relative. One newline at its end
    /// is not part of the secret.
    File(PathBuf),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl SecretRef {
    /// Reads a reference. What stands there is never shown: it may be the secret itself.
    pub(super) fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        let variable = |name: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            (1..=256).contains(&name.len())
                && name.bytes().all(plain)
                && !name.starts_with(|c: char| c.is_ascii_digit())
        };
        match at.text().split_once(':') {
            Some(("env", name)) if variable(name) => Ok(Self::Env(name.to_owned())),
            Some(("env", _)) => Err(at.wrong("env: is followed by the name of an environment variable")),
            Some(("file", path)) if !path.is_empty() && !path.contains('\0') => Ok(Self::File(path.into())),
            Some(("file", _)) => Err(at.wrong("file: is followed by a path")),
            Some(("vault", _)) => Err(at.wrong(
                "the operator's own secrets are not kept in a vault; use env:NAME or file:PATH",
            )),
            _ => Err(at.wrong(
                "a secret does not belong in this file: put it in the environment (env:NAME) or in a file (file:PATH)",
            )),
        }
    }

    /// The secret.
    ///
    /// # Errors
    /// One line that names the reference and what to do, never the secret.
    pub(super) fn fetch(&self, folder: &Path, environment: &Environment) -> Result<Secret, String> {
        let secret = match self {
            Self::Env(name) => {
                let text = environment.variable(name).ok_or_else(|| {
                    format!("the environment variable {name} is not set; set it and start again")
                })?;
                Secret::from_text(text.to_owned())
            }
            Self::File(path) => {
                let mut bytes = ambient::read(&folder.join(path), limits::SECRET_BYTES_MAX)
                    .map_err(|reason| format!("{self}: {reason}"))?;
                if bytes.ends_with(b"\n") {
                    bytes.pop();
                }
                Secret::new(bytes)
            }
        };
        secret.map_err(|_| {
            format!(
                "{self}: is empty or larger than {} bytes",
                limits::SECRET_BYTES_MAX
            )
        })
    }
}
