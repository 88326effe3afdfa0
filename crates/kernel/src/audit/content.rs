//! What was said in a call, sealed: beside its entry, which names digest and length of each piece.
//!
//! A blob is sealed under the key of the person (or token) that called, bound to the tenant, the attempt and the part; the entry
//! binds it to its place in the log. Without the key it stays what the entry says it is, and can no longer be read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{TenantUid, limits};
use serde::Deserialize;
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};
use vault::Aad;

use crate::audit::tree::signed;
use crate::audit::verify::{AuditError, LogFault};
use crate::audit::{Entry, Trail, person};
use crate::error::KernelError;
use crate::json_text::Object;
use crate::open::Kernel;
use crate::resident::{Books, Pending};
use crate::sweep::Operator;
use crate::tenant::Tenant;
use crate::tenant::admit::Admission;

/// Which side of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The request's body as it was received.
    Request,
    /// The answer's body as it was delivered.
    Answer,
}

impl Part {
    /// The name in entries and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Answer => "answer",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Request, Self::Answer]
            .into_iter()
            .find(|part| part.as_str() == name)
    }
}

/// A sealed piece on its way through the journal.
#[derive(PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) part: Part,
    /// Number of the key that it is sealed under.
    pub(crate) key: u64,
    /// The attempt's own record in the journal.
    pub(crate) sent: u64,
    /// Bytes of the whole part; what is kept of it may be less.
    pub(crate) length: u64,
    pub(crate) sealed: Vec<u8>,
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes, sealed", self.part.as_str(), self.length)
    }
}

pub(crate) fn blob_aad(uid: &TenantUid, sent: u64, part: Part) -> Aad {
    Aad::new("partywall audit content v1")
        .uid(uid)
        .number(sent)
        .bytes(part.as_str().as_bytes())
}

/// What an entry says of its content, as canonical JSON.
pub(crate) fn named(blobs: &[Blob]) -> String {
    let mut out = Vec::with_capacity(256);
    for blob in blobs {
        out.push(if out.is_empty() { b'[' } else { b',' });
        let mut object = Object::begin(&mut out);
        object.number("bytes", blob.length);
        object.text("part", blob.part.as_str());
        object.number("sealed_bytes", blob.sealed.len() as u64);
        let digest = vault::sha256(&blob.sealed);
        object.text("sha256", &vault::digest::hex(&digest));
        object.end();
    }
    if out.is_empty() {
        out.push(b'[');
    }
    out.push(b']');
    // Only texts went in.
    String::from_utf8(out).unwrap_or_default()
}

/// Bytes of the audit sequence before an entry.
const SEQUENCE: usize = 8;
/// What stands between an entry and its content in the journal: no JSON text holds this byte.
const SEPARATOR: u8 = 0;

/// Appends content to a settled record, after its entry. Without any, nothing is appended.
pub(crate) fn write(blobs: Option<&[Blob]>, out: &mut Vec<u8>) {
    let Some(blobs) = blobs else { return };
    out.push(SEPARATOR);
    for blob in blobs {
        out.push(match blob.part {
            Part::Request => 1,
            Part::Answer => 2,
        });
        for number in [blob.key, blob.sent, blob.length, blob.sealed.len() as u64] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&blob.sealed);
    }
}

/// An entry's bytes, and the content behind them, if any.
pub(crate) type Split<'a> = (&'a [u8], Option<Arc<[Blob]>>);

/// Takes apart what [`write`] put behind an audit sequence (eight bytes) and its entry. `None` when it is something else.
pub(crate) fn split(bytes: &[u8]) -> Option<Split<'_>> {
    let entry = bytes.get(SEQUENCE..)?;
    let Some(end) = entry.iter().position(|byte| *byte == SEPARATOR) else {
        return Some((bytes, None));
    };
    let end = SEQUENCE + end;
    let (entry, mut rest) = bytes.split_at(end);
    rest = rest.get(1..)?;
    let mut blobs = Vec::with_capacity(2);
    while let Some((part, fields)) = rest.split_first() {
        let part = match part {
            1 => Part::Request,
            2 => Part::Answer,
            _ => return None,
        };
        let (key, fields) = number(fields)?;
        let (sent, fields) = number(fields)?;
        let (length, fields) = number(fields)?;
        let (size, fields) = number(fields)?;
        let (sealed, after) = fields.split_at_checked(usize::try_from(size).ok()?)?;
        rest = after;
        blobs.push(Blob {
            part,
            key,
            sent,
            length,
            sealed: sealed.to_vec(),
        });
    }
    Some((entry, Some(blobs.into())))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

impl Pending {
    /// Bytes of sealed content that wait with it.
    pub(crate) fn content_bytes(&self) -> usize {
        let blobs = self.content.iter().flat_map(|blobs| blobs.iter());
        blobs.map(|blob| blob.sealed.len()).sum()
    }
}

impl Kernel {
    /// Bytes of sealed content that wait for their fold, over all tenants.
    pub(crate) fn content_waiting(&self) -> usize {
        self.content_counter().load(Ordering::Relaxed)
    }

    /// Counts content that begins to wait.
    pub(crate) fn content_comes(&self, books: &mut Books, bytes: usize) {
        if bytes > 0 {
            books.content_bytes += bytes;
            self.content_counter().fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// All content of a tenant waits no more.
    pub(crate) fn content_goes(&self, books: &mut Books) {
        let bytes = std::mem::take(&mut books.content_bytes);
        if bytes > 0 {
            self.content_counter().fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Whether a tenant's content is to be folded now: it has much waiting, or all have too much.
    pub(crate) fn content_is_due(&self, books: &Books) -> bool {
        books.content_bytes >= limits::FOLD_CONTENT_BYTES
            || (books.content_bytes > 0
                && self.content_waiting() > limits::CONTENT_WAITING_BYTES_MAX)
    }
}

/// Stores a record's content beside its entry. What is there already, or was dropped with its entry, stays as it is.
pub(crate) fn store(tx: &mut WriteTx<'_>, record: &Pending) -> Result<(), StoreError> {
    for blob in record.content.iter().flat_map(|blobs| blobs.iter()) {
        tx.execute(
            "INSERT INTO audit_content (seq, part, key, sent_seq, sealed)
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM audit WHERE seq = ?1)
             ON CONFLICT (seq, part) DO NOTHING",
            params![
                signed(record.audit_seq),
                blob.part.as_str(),
                signed(blob.key),
                signed(blob.sent),
                blob.sealed
            ],
        )?;
    }
    Ok(())
}

/// What an entry says of one piece.
#[derive(Deserialize)]
pub(super) struct Named {
    bytes: u64,
    part: String,
    sealed_bytes: u64,
    sha256: String,
}

/// A stored piece as its entry would name it.
pub(super) struct Found {
    seq: u64,
    part: String,
    sealed_bytes: u64,
    sha256: String,
}

/// Digests of all content that is stored beside the entries from `from` to before `to`.
pub(super) fn digests(tx: &ReadTx<'_>, from: u64, to: u64) -> Result<Vec<Found>, StoreError> {
    let sql = "SELECT seq, part, sealed FROM audit_content WHERE seq >= ?1 AND seq < ?2";
    let mut found = Vec::new();
    tx.for_each(sql, params![signed(from), signed(to)], |row| {
        let (seq, sealed): (i64, Vec<u8>) = (row.get(0)?, row.get(2)?);
        found.push(Found {
            seq: u64::try_from(seq).unwrap_or_default(),
            part: row.get(1)?,
            sealed_bytes: sealed.len() as u64,
            sha256: vault::digest::hex(&vault::sha256(&sealed)),
        });
        Ok(())
    })?;
    Ok(found)
}

/// Compares what the entry at `place` names with what is stored beside it.
pub(super) fn compare(place: u64, named: &[Named], found: &[Found]) -> Result<(), LogFault> {
    let beside = || found.iter().filter(|found| found.seq == place);
    let same = |named: &Named| {
        beside().any(|found| {
            found.part == named.part
                && found.sealed_bytes == named.sealed_bytes
                && found.sha256 == named.sha256
        })
    };
    if beside().count() == named.len() && named.iter().all(same) {
        Ok(())
    } else {
        Err(LogFault::Content(place))
    }
}

/// What is kept of a call.
pub enum Kept {
    /// What was said.
    Parts(Vec<KeptPart>),
    /// It was sealed under a key that was destroyed since.
    Erased,
}

/// One side of a call.
pub struct KeptPart {
    /// Which.
    pub part: Part,
    /// Bytes of the whole; `kept` is its beginning.
    pub bytes: u64,
    /// What was said.
    pub kept: Vec<u8>,
}

/// Pieces beside one entry that are read: one more than there can be.
const ROWS_MAX: usize = 3;

struct Row {
    found: Found,
    sent: i64,
    sealed: Vec<u8>,
    key: person::KeyRow,
}

/// What is read of an entry here.
#[derive(Deserialize)]
struct Seen {
    #[serde(default)]
    content: Vec<Named>,
}

impl Tenant {
    /// What is kept of the call whose entry stands at `seq`. `None` where there is no such entry, or nothing is kept with it.
    ///
    /// # Errors
    /// [`LogFault::Content`] when what is stored is not what the entry names; otherwise as [`Tenant::read`].
    pub async fn audit_content(&self, seq: u64) -> Result<Option<Kept>, AuditError> {
        let Ok(place) = i64::try_from(seq) else {
            return Ok(None);
        };
        let Some((entry, rows)) = self.read(move |tx| beside(tx, place)).await? else {
            return Ok(None);
        };
        let fault = || LogFault::Content(seq);
        let entry: Seen = serde_json::from_str(&entry).map_err(|_| LogFault::Altered(seq))?;
        let (found, rows): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .map(|row| (row.found, (row.sent, row.sealed, row.key)))
            .unzip();
        compare(seq, &entry.content, &found)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let keys = self.kernel().keys(self.resident())?;
        let mut parts = Vec::with_capacity(rows.len());
        for named in &entry.content {
            let place = found.iter().position(|found| found.part == named.part);
            let part = Part::from_name(&named.part).ok_or_else(fault)?;
            let (sent, sealed, key) = place.and_then(|at| rows.get(at)).ok_or_else(fault)?;
            let Some(key) = key.open(&keys, &self.uid()).map_err(|_| fault())? else {
                return Ok(Some(Kept::Erased));
            };
            let sent = u64::try_from(*sent).map_err(|_| fault())?;
            let plain = key.open(&blob_aad(&self.uid(), sent, part), sealed);
            parts.push(KeptPart {
                part,
                bytes: named.bytes,
                kept: plain.map_err(|_| fault())?.to_vec(),
            });
        }
        Ok(Some(Kept::Parts(parts)))
    }
}

fn beside(tx: &ReadTx<'_>, place: i64) -> Result<Option<(String, Vec<Row>)>, StoreError> {
    let sql = "SELECT entry FROM audit WHERE seq = ?1";
    let entry = tx.query_one(sql, params![place], |row| Ok(row.get(0)?))?;
    let Some(entry) = entry else { return Ok(None) };
    let sql = "SELECT part, audit_content.sealed, sent_seq, number, kind, name, person_key.sealed
        FROM audit_content LEFT JOIN person_key ON number = key WHERE seq = ?1 LIMIT ?2";
    let rows = tx.query(
        sql,
        params![place, signed(ROWS_MAX as u64)],
        ROWS_MAX,
        |row| {
            let sealed: Vec<u8> = row.get(1)?;
            Ok(Row {
                found: Found {
                    seq: u64::try_from(place).unwrap_or_default(),
                    part: row.get(0)?,
                    sealed_bytes: sealed.len() as u64,
                    sha256: vault::digest::hex(&vault::sha256(&sealed)),
                },
                sent: row.get(2)?,
                sealed,
                key: person::KeyRow::read(row, 3)?,
            })
        },
    )?;
    Ok(Some((entry, rows)))
}

impl Kernel {
    /// Records that the operator reads what is kept of a call; it may be shown when this returns.
    ///
    /// # Errors
    /// When the journal cannot be written: nothing is to be shown then.
    pub async fn record_content_access(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        of: u64,
    ) -> Result<(), KernelError> {
        let detail = [
            ("entry", of.to_string()),
            ("read", "audit.content".to_owned()),
        ];
        self.record_change(
            operator,
            tenant.resident(),
            "operator.access",
            detail.into(),
        )
        .await
    }
}

impl Trail {
    /// Records that an admitted caller reads what is kept of a call; it may be shown when this returns.
    ///
    /// # Errors
    /// When the journal cannot be written: nothing is to be shown then.
    pub async fn reads_content(&self, admission: &Admission, of: u64) -> Result<(), KernelError> {
        let time = self.kernel.now().to_string();
        let resident = admission.tenant().resident();
        let seq = self.kernel.record_event(resident, |seq| Entry {
            action: "read_content",
            decision: "allow",
            detail: [("entry", of.to_string())].into(),
            request_id: Some(self.request.as_str()),
            seq,
            time,
            ..Entry::of(admission)
        })?;
        self.kernel.durable(seq).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(part: Part, sealed: &[u8]) -> Blob {
        Blob {
            part,
            key: 3,
            sent: 1 << 40,
            length: 99,
            sealed: sealed.to_vec(),
        }
    }

    #[test]
    fn content_follows_its_entry_and_is_taken_apart_again() {
        let entry = b"\0\0\0\0\0\0\0\0{\"seq\":7}";
        let mut bytes = entry.to_vec();
        write(None, &mut bytes);
        let (text, none) = split(&bytes).unwrap();
        assert!(text == entry && none.is_none());
        for blobs in [
            vec![],
            vec![blob(Part::Request, b"\0\0x")],
            vec![blob(Part::Request, b"a"), blob(Part::Answer, &[0; 300])],
        ] {
            let mut bytes = entry.to_vec();
            write(Some(&blobs), &mut bytes);
            let (text, back) = split(&bytes).unwrap();
            assert!(text == entry && back.unwrap().as_ref() == blobs.as_slice());
            let whole = bytes.len();
            for cut in entry.len() + 2..whole {
                let sound = split(&bytes[..cut]).is_some_and(|(_, back)| back.is_some());
                let at_a_border = blobs.len() == 2 && cut == entry.len() + 1 + 33 + 1;
                assert_eq!(sound, at_a_border, "{cut} of {whole}");
            }
        }
        assert!(split(b"12345678{}\0\x03").is_none());
    }

    #[test]
    fn what_an_entry_names_is_canonical() {
        for blobs in [
            vec![],
            vec![blob(Part::Request, b"a"), blob(Part::Answer, b"b")],
        ] {
            let text = named(&blobs);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json_canonicalizer::to_string(&value).unwrap(), text);
            assert_eq!(value.as_array().unwrap().len(), blobs.len());
        }
    }
}
