//! Checkpoints as signed notes: three lines of text, an empty line, signatures.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Hash;
use crate::digest::sha256;
use crate::signing::{SigningKey, verify};

/// Type of Ed25519 in key hashes and verifier keys (C2SP `signed-note`).
const ED25519: u8 = 1;
/// What stands before each signature: an em dash and a space.
const SIGNATURE: &str = "\u{2014} ";
/// Bytes of a note that is read at most.
const NOTE_MAX: usize = 65_536;

/// The public key of a log under its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogKey {
    name: String,
    key: [u8; 32],
}

impl LogKey {
    /// A key under a name, which for a log is its origin: not empty, without white space and `+`.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] for another name.
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, NoteError> {
        let bad = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '+';
        if name.is_empty() || name.contains(bad) {
            return Err(NoteError::Malformed);
        }
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 key.
    #[must_use]
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Reads `name+hash+key`, as [`LogKey`] is displayed.
    ///
    /// # Errors
    /// [`NoteError::Malformed`], also for a hash that is not this key's.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Malformed);
        };
        let key = STANDARD.decode(key).map_err(|_| NoteError::Malformed)?;
        let [ED25519, key @ ..] = key.as_slice() else {
            return Err(NoteError::Malformed);
        };
        let key = <[u8; 32]>::try_from(key).map_err(|_| NoteError::Malformed)?;
        let read = Self::new(name, key)?;
        if hex::encode(read.hash()) != hash {
            return Err(NoteError::Malformed);
        }
        Ok(read)
    }

    fn typed(&self) -> [u8; 33] {
        let mut typed = [ED25519; 33];
        typed[1..].copy_from_slice(&self.key);
        typed
    }

    fn hash(&self) -> [u8; 4] {
        let digest = sha256(&[self.name.as_bytes(), b"\n", &self.typed()].concat());
        [digest[0], digest[1], digest[2], digest[3]]
    }
}

/// `name+hash+key`: the verifier key of C2SP `signed-note`.
impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hash, key) = (hex::encode(self.hash()), STANDARD.encode(self.typed()));
        write!(f, "{}+{hash}+{key}", self.name)
    }
}

/// How many entries a log has, and the root over them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The log's name: one for its whole life.
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

/// A checkpoint and the note that holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    /// What is signed.
    pub checkpoint: Checkpoint,
    /// The whole note, signatures included.
    pub note: String,
}

impl Checkpoint {
    /// Signs it with a log's key: its name is the origin.
    #[must_use]
    pub fn sign(self, key: &SigningKey, public: &LogKey) -> SignedCheckpoint {
        let text = self.text();
        let mut signature = public.hash().to_vec();
        signature.extend_from_slice(&key.sign(text.as_bytes()));
        let (name, signature) = (public.name(), STANDARD.encode(signature));
        SignedCheckpoint {
            note: format!("{text}\n{SIGNATURE}{name} {signature}\n"),
            checkpoint: self,
        }
    }

    /// Reads a note that one of `keys` signed.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] for what is no such note, [`NoteError::BadSignature`] when a signature that claims to be of one
    /// of the keys is not, [`NoteError::UnknownKey`] when none claims to be.
    pub fn open(note: &str, keys: &[LogKey]) -> Result<SignedCheckpoint, NoteError> {
        let (text, signatures) = split(note)?;
        let checkpoint = Self::parse(text)?;
        let mut verified = false;
        for line in signatures.lines() {
            let (name, encoded) = line
                .strip_prefix(SIGNATURE)
                .and_then(|line| line.split_once(' '))
                .ok_or(NoteError::Malformed)?;
            let bytes = STANDARD.decode(encoded).map_err(|_| NoteError::Malformed)?;
            let (hash, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::Malformed)?;
            let known = |key: &&LogKey| key.name == name && key.hash() == *hash;
            if let Some(key) = keys.iter().find(known) {
                if key.name != checkpoint.origin {
                    return Err(NoteError::UnknownKey);
                }
                verify(&key.key, text.as_bytes(), signature)
                    .map_err(|_| NoteError::BadSignature)?;
                verified = true;
            }
        }
        if !verified {
            return Err(NoteError::UnknownKey);
        }
        Ok(SignedCheckpoint {
            checkpoint,
            note: note.to_owned(),
        })
    }

    fn text(&self) -> String {
        let root = STANDARD.encode(self.root);
        format!("{}\n{}\n{root}\n", self.origin, self.size)
    }

    fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Malformed);
        };
        let root = STANDARD.decode(root).map_err(|_| NoteError::Malformed)?;
        let read = Self {
            origin: origin.to_owned(),
            size: size.parse().map_err(|_| NoteError::Malformed)?,
            root: Hash::try_from(root.as_slice()).map_err(|_| NoteError::Malformed)?,
        };
        // One text has one form: no leading zeros, no extension lines, an origin.
        if origin.is_empty() || read.text() != text {
            return Err(NoteError::Malformed);
        }
        Ok(read)
    }
}

// The text with its last line end, and the signature lines.
fn split(note: &str) -> Result<(&str, &str), NoteError> {
    let control = |letter: char| letter.is_control() && letter != '\n';
    if note.len() > NOTE_MAX || note.contains(control) || !note.ends_with('\n') {
        return Err(NoteError::Malformed);
    }
    let at = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
    let (text, signatures) = (&note[..=at], &note[at + 2..]);
    if signatures.is_empty() {
        return Err(NoteError::Malformed);
    }
    Ok((text, signatures))
}

/// Why a note is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoteError {
    /// It has not the form of a signed checkpoint, or of a verifier key.
    Malformed,
    /// A signature under the name and hash of a known key is not that key's.
    BadSignature,
    /// None of the signatures is of a known key for this origin.
    UnknownKey,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a signed checkpoint or verifier key",
            Self::BadSignature => "the checkpoint's signature does not verify",
            Self::UnknownKey => "the checkpoint is not signed by this log's key",
        })
    }
}

impl std::error::Error for NoteError {}
