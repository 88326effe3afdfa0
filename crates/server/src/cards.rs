//! Rate cards: the built-in one, those of the configuration, those imported; later ones win, model by model.
//!
//! Imports lie in `DATA/ratecards/NNNN-<digest>.json`, numbered in their order. They are written whole or not at all.

use kernel::{DataRoot, digest};
use llm::prices::{BUILT_IN, RateCard};
use rpc::{Fault, FaultCode};

use crate::fault::{fault, io};

const FOLDER: &str = "ratecards";
/// Imports that may lie side by side; more would make each start slow.
const IMPORTS_MAX: usize = 256;
/// Hexadecimal digits of a digest in names and versions.
const DIGEST_SHOWN: usize = 16;

/// The card in force: everything merged, with its version.
pub(crate) fn in_force(root: &DataRoot, configured: &[String]) -> Result<RateCard, Fault> {
    let mut texts: Vec<String> = configured.to_vec();
    texts.extend(imported(root)?);
    merged(&texts)
}

/// The card that would be in force after one more import. Nothing is stored.
pub(crate) fn with_candidate(
    root: &DataRoot,
    configured: &[String],
    card: &str,
) -> Result<RateCard, Fault> {
    let mut texts: Vec<String> = configured.to_vec();
    texts.extend(imported(root)?);
    texts.push(card.to_owned());
    merged(&texts)
}

/// Stores an import: the next start reads it again.
pub(crate) fn store(root: &DataRoot, card: &str) -> Result<(), Fault> {
    let failed = |error: std::io::Error| io("the rate card cannot be stored", &error);
    if root.dir().symlink_metadata(FOLDER).is_err() {
        root.dir().create_dir(FOLDER).map_err(failed)?;
    }
    let names = names(root)?;
    if names.len() >= IMPORTS_MAX {
        let text = format!(
            "{IMPORTS_MAX} rate cards are imported already; remove old files from DATA/{FOLDER}"
        );
        return Err(Fault::new(FaultCode::Refused, text));
    }
    let number = names.last().map_or(0, |(number, _)| *number);
    let digest = hex(&digest::sha256(card.as_bytes()));
    let name = format!(
        "{FOLDER}/{:04}-{}.json",
        number.saturating_add(1),
        &digest[..DIGEST_SHOWN]
    );
    let unfinished = format!("{FOLDER}/.unfinished");
    // What a crash left of an earlier import.
    let _usually_absent = root.dir().remove_file(&unfinished);
    root.write_private_new(&unfinished, card.as_bytes())
        .map_err(fault)?;
    root.dir()
        .rename(&unfinished, root.dir(), &name)
        .map_err(failed)?;
    // The handle of a directory itself may not be synced; one opened for reading may.
    root.dir()
        .open_dir(FOLDER)
        .and_then(|folder| folder.open("."))
        .and_then(|handle| handle.sync_all())
        .map_err(failed)
}

fn imported(root: &DataRoot) -> Result<Vec<String>, Fault> {
    let read = |(_, name): &(u32, String)| {
        let path = format!("{FOLDER}/{name}");
        let bytes = root
            .read_private(&path, base::limits::RATECARD_BYTES_MAX)
            .map_err(fault)?
            .unwrap_or_default();
        String::from_utf8(bytes)
            .map_err(|_| Fault::new(FaultCode::BadConfig, format!("DATA/{path} is not UTF-8")))
    };
    names(root)?.iter().map(read).collect()
}

/// Names of stored imports in their order.
fn names(root: &DataRoot) -> Result<Vec<(u32, String)>, Fault> {
    let failed = |error: std::io::Error| io("DATA/ratecards cannot be read", &error);
    let entries = match root.dir().read_dir(FOLDER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry
            .map_err(failed)?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if let Some(number) = number(&name).filter(|_| name.ends_with(".json")) {
            names.push((number, name));
        }
    }
    names.sort();
    Ok(names)
}

fn number(name: &str) -> Option<u32> {
    name.split_once('-')?.0.parse().ok()
}

fn merged(texts: &[String]) -> Result<RateCard, Fault> {
    let mut cards = vec![RateCard::built_in()];
    let mut hasher = digest::Sha256::new();
    hasher.update(BUILT_IN.as_bytes());
    for text in texts {
        cards.push(parsed(text)?);
        // The length keeps two texts from reading as one.
        hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    let version = hex(&hasher.finish());
    Ok(RateCard::merged(cards).with_version(version[..DIGEST_SHOWN].to_owned()))
}

/// Reads a card; the fault names the entry.
pub(crate) fn parsed(text: &str) -> Result<RateCard, Fault> {
    RateCard::parse(text)
        .map_err(|error| Fault::new(FaultCode::BadConfig, format!("rate card: {error}")))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
