//! Files that the operator names outside the data directory: price cards. The configuration has its own reader.

use std::io::Read;
use std::path::Path;

use rpc::{Fault, FaultCode};

/// The text of a regular file of at most `max` bytes.
#[expect(
    clippy::disallowed_methods,
    reason = "files that the operator names in the configuration"
)]
pub(crate) fn text(path: &Path, max: usize) -> Result<String, Fault> {
    let refused =
        |why: String| Fault::new(FaultCode::BadConfig, format!("{}: {why}", path.display()));
    let reason = |error: std::io::Error| refused(format!("cannot be read: {error}"));
    // Looked at first: opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(reason)?.is_file() {
        return Err(refused("is not a regular file".to_owned()));
    }
    let file = std::fs::File::open(path).map_err(reason)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(reason)?;
    if bytes.len() > max {
        return Err(refused(format!("is larger than {max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| refused("is not UTF-8".to_owned()))
}
