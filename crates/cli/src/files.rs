//! Files and standard input that the command line itself reads or writes: what the user named, and the demo's own.

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base::limits::{POLICY_BYTES_MAX, RATECARD_BYTES_MAX, SECRET_BYTES_MAX};
use rpc::{Credential, Fault, FaultCode};

const CHECKPOINT_BYTES_MAX: usize = 64 * 1024;
/// Where a conversation's token may stand in the environment.
const TOKEN: &str = "PARTYWALL_TOKEN";

/// A secret from a file, or from standard input: one trailing newline taken off, not empty, bounded, UTF-8.
pub(crate) fn secret(from_file: Option<&Path>) -> Result<Credential, Fault> {
    let bytes = match from_file {
        Some(path) => bounded(open(path)?, SECRET_BYTES_MAX + 2, path)?,
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                crate::print::note(
                    "type or paste the value, then press Ctrl-D (it is shown as you type)",
                );
            }
            bounded(
                stdin.lock(),
                SECRET_BYTES_MAX + 2,
                Path::new("standard input"),
            )?
        }
    };
    parse_secret(bytes)
}

/// The token of a conversation: from a file, else from the environment, else from standard input where nothing else is read from there.
pub(crate) fn token(from_file: Option<&Path>, input_is_free: bool) -> Result<Credential, Fault> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a credential of whoever types the command; no gateway reads it"
    )]
    let known = std::env::var(TOKEN).ok().filter(|text| !text.is_empty());
    match (from_file, known) {
        (None, Some(text)) => parse_secret(text.into_bytes()),
        (None, None) if !input_is_free => {
            let text = format!("no token: give --token-file FILE, or set {TOKEN}");
            Err(Fault::new(FaultCode::Invalid, text))
        }
        _ => secret(from_file),
    }
}

/// A rate-card file, bounded; `-` is standard input.
pub(crate) fn ratecard(path: &Path) -> Result<String, Fault> {
    let too_large = || {
        refused(format!(
            "{} is larger than {RATECARD_BYTES_MAX} bytes, the limit of a rate card",
            path.display()
        ))
    };
    let bytes = if path == Path::new("-") {
        bounded(std::io::stdin().lock(), RATECARD_BYTES_MAX + 1, path)?
    } else {
        bounded(open(path)?, RATECARD_BYTES_MAX + 1, path)?
    };
    if bytes.len() > RATECARD_BYTES_MAX {
        return Err(too_large());
    }
    String::from_utf8(bytes).map_err(|_| refused(format!("{} is not UTF-8 text", path.display())))
}

/// A document of rules, bounded; `-` is standard input.
pub(crate) fn policy(path: &Path) -> Result<String, Fault> {
    let bytes = match path == Path::new("-") {
        true => bounded(std::io::stdin().lock(), POLICY_BYTES_MAX + 1, path)?,
        false => bounded(open(path)?, POLICY_BYTES_MAX + 1, path)?,
    };
    if bytes.len() > POLICY_BYTES_MAX {
        return Err(refused(format!(
            "{} is larger than {POLICY_BYTES_MAX} bytes, the limit of a document of rules",
            path.display()
        )));
    }
    String::from_utf8(bytes).map_err(|_| refused(format!("{} is not UTF-8 text", path.display())))
}

/// A checkpoint that somebody kept: a note of a few lines.
pub(crate) fn checkpoint(path: &Path) -> Result<String, Fault> {
    text(path, CHECKPOINT_BYTES_MAX)
}

/// A text of at most `max` bytes.
pub(crate) fn text(path: &Path, max: usize) -> Result<String, Fault> {
    let bytes = bounded(open(path)?, max + 1, path)?;
    if bytes.len() > max {
        return Err(refused(format!(
            "{} is larger than the limit of {max} bytes",
            path.display()
        )));
    }
    String::from_utf8(bytes).map_err(|_| refused(format!("{} is not UTF-8 text", path.display())))
}

/// The first bytes of a file, at most `max`; `None` when it does not exist.
pub(crate) fn beginning(path: &Path, max: usize) -> Result<Option<Vec<u8>>, Fault> {
    match open(path) {
        Ok(file) => bounded(file, max, path).map(Some),
        Err(_) if !exists(path) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Whether anything of that name is there.
pub(crate) fn exists(path: &Path) -> bool {
    rustix::fs::statat(rustix::fs::CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Replaces a file of the demo as a whole, readable by its owner only.
#[expect(
    clippy::disallowed_methods,
    reason = "the demo writes its own configuration before any gateway runs on it"
)]
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let failed = |error: std::io::Error| {
        Fault::new(
            FaultCode::Io,
            format!("cannot write {}: {error}", path.display()),
        )
    };
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(failed)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)
}

/// Makes a directory of the demo for its owner only, where it is missing.
pub(crate) fn private_directory(path: &Path) -> Result<(), Fault> {
    match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(Fault::new(
            FaultCode::Io,
            format!("cannot create {}: {error}", path.display()),
        )),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file that the operator named on the command line"
)]
fn open(path: &Path) -> Result<std::fs::File, Fault> {
    std::fs::File::open(path).map_err(|error| {
        Fault::new(
            FaultCode::Io,
            format!("cannot open {}: {error}", path.display()),
        )
    })
}

fn bounded(from: impl Read, max: usize, path: &Path) -> Result<Vec<u8>, Fault> {
    // Room for small inputs from the start, so that a secret is not left behind by a growing buffer.
    let mut bytes = Vec::with_capacity(max.min(SECRET_BYTES_MAX + 3));
    from.take(u64::try_from(max).unwrap_or(u64::MAX))
        .read_to_end(&mut bytes)
        .map_err(|error| {
            Fault::new(
                FaultCode::Io,
                format!("cannot read {}: {error}", path.display()),
            )
        })?;
    Ok(bytes)
}

fn parse_secret(mut bytes: Vec<u8>) -> Result<Credential, Fault> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(refused(format!(
            "the secret is larger than {SECRET_BYTES_MAX} bytes"
        )));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| refused("the secret is not UTF-8 text".to_owned()))?;
    Credential::new(text).map_err(|_| {
        refused("the secret is empty; give it on standard input or with --from-file".to_owned())
    })
}

fn refused(message: String) -> Fault {
    Fault::new(FaultCode::Refused, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_loses_one_newline_only() {
        let read =
            |bytes: &[u8]| parse_secret(bytes.to_vec()).map(|secret| secret.expose().to_owned());
        assert_eq!(read(b"sk-1\n").unwrap(), "sk-1");
        assert_eq!(read(b"sk-1\r\n").unwrap(), "sk-1");
        assert_eq!(read(b"sk-1\n\n").unwrap(), "sk-1\n");
        assert_eq!(read(b" sk ").unwrap(), " sk ");
        for empty in [&b""[..], b"\n", b"\r\n"] {
            assert!(read(empty).unwrap_err().message.contains("empty"));
        }
        assert_eq!(
            read(&[b'a'; SECRET_BYTES_MAX]).unwrap().len(),
            SECRET_BYTES_MAX
        );
        assert!(
            read(&[b'a'; SECRET_BYTES_MAX + 1])
                .unwrap_err()
                .message
                .contains("larger")
        );
        assert!(read(&[0xff]).unwrap_err().message.contains("UTF-8"));
    }
}
