//! What the journal's sealed payloads hold: the boundary between the kernel's types and bytes on disk.
//!
//! Each begins with the version of its form, one byte. Then, of `sent`: [`Sent`] in postcard's encoding. Of `settled`: a length,
//! [`Row`] in the same, then what an `event` has: the audit sequence and the canonical audit entry. Where content is kept, a zero byte
//! and the sealed content follow ([`crate::audit::content`]).

use std::sync::Arc;

use base::{Money, Timestamp, Usage, UsageSource};
use serde::{Deserialize, Serialize};

use crate::audit::content::{self, Blob};
use crate::audit::standing::LimitsSeen;
use crate::error::KernelError;
use crate::quota::{Demand, PartyKind};

/// The form of every payload that this program writes and reads. Postcard's encoding names no fields: a change of [`Sent`], of
/// [`Row`] or of what stands around them is a new version.
const VERSION: u8 = 4;

/// An attempt at the moment it is sent: enough to charge it at its hold if nothing more is ever heard of it.
#[derive(Clone, Serialize, Deserialize, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) request_id: String,
    pub(crate) attempt: u32,
    pub(crate) person: Option<String>,
    pub(crate) token: String,
    pub(crate) role: String,
    pub(crate) model: String,
    pub(crate) provider: String,
    pub(crate) provider_model: String,
    pub(crate) hold_pico: i64,
    pub(crate) hold_tokens: u64,
    pub(crate) requests: u64,
    pub(crate) ratecard_version: String,
    pub(crate) started_ms: i64,
    pub(crate) request_received: String,
    pub(crate) request_sent: String,
    pub(crate) config: String,
    pub(crate) policy_version: String,
    pub(crate) rule: Arc<str>,
    pub(crate) region: Option<String>,
    pub(crate) trace_id: Option<String>,
    pub(crate) limits: LimitsSeen,
}

/// One ledger row.
#[derive(Clone, Serialize, Deserialize, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) sent_seq: u64,
    pub(crate) request_id: String,
    pub(crate) attempt: u32,
    pub(crate) person: Option<String>,
    pub(crate) token: String,
    pub(crate) model: String,
    pub(crate) provider: String,
    pub(crate) provider_model: String,
    pub(crate) usage: Option<UsageWire>,
    pub(crate) cost_pico: Option<i64>,
    pub(crate) hold_pico: i64,
    /// What counts against quotas: the cost, or a bound of what the provider may bill where it has not said it, at most the hold.
    pub(crate) charged_pico: i64,
    pub(crate) charged_tokens: u64,
    /// 1 on a call's first attempt.
    pub(crate) requests: u64,
    pub(crate) ratecard_version: String,
    pub(crate) usage_source: String,
    pub(crate) outcome: String,
    pub(crate) started_ms: i64,
    pub(crate) finished_ms: i64,
    pub(crate) trace: Option<String>,
}

/// The buckets of [`Usage`] on disk.
#[derive(Clone, Copy, Serialize, Deserialize, Debug, PartialEq, Eq)]
pub(crate) struct UsageWire(pub(crate) [u64; 10]);

impl From<&Usage> for UsageWire {
    fn from(usage: &Usage) -> Self {
        Self([
            usage.input,
            usage.cache_read,
            usage.cache_write,
            usage.cache_write_1h,
            usage.audio_in,
            usage.image_in,
            usage.output,
            usage.reasoning,
            usage.audio_out,
            usage.server_tool_calls,
        ])
    }
}

impl From<UsageWire> for Usage {
    fn from(wire: UsageWire) -> Self {
        let [
            input,
            cache_read,
            cache_write,
            cache_write_1h,
            audio_in,
            image_in,
            output,
            reasoning,
            audio_out,
            server_tool_calls,
        ] = wire.0;
        Self {
            input,
            cache_read,
            cache_write,
            cache_write_1h,
            audio_in,
            image_in,
            output,
            reasoning,
            audio_out,
            server_tool_calls,
        }
    }
}

impl Row {
    /// Who is counted for it beside the tenant.
    pub(crate) fn parties(&self) -> impl Iterator<Item = (PartyKind, &str)> {
        let person = self.person.as_deref().map(|name| (PartyKind::Person, name));
        person
            .into_iter()
            .chain([(PartyKind::Token, self.token.as_str())])
    }

    /// What it counts against quotas.
    pub(crate) fn charged(&self) -> Demand {
        Demand {
            requests: self.requests,
            tokens: self.charged_tokens,
            cost: Money::from_pico(i128::from(self.charged_pico)),
        }
    }

    /// The row of an attempt of which nothing more is known: charged at its hold, with no cost of its own.
    pub(crate) fn unknown(sent_seq: u64, sent: &Sent, finished: Timestamp) -> Self {
        Self {
            sent_seq,
            request_id: sent.request_id.clone(),
            attempt: sent.attempt,
            person: sent.person.clone(),
            token: sent.token.clone(),
            model: sent.model.clone(),
            provider: sent.provider.clone(),
            provider_model: sent.provider_model.clone(),
            usage: None,
            cost_pico: None,
            hold_pico: sent.hold_pico,
            charged_pico: sent.hold_pico,
            charged_tokens: sent.hold_tokens,
            requests: sent.requests,
            ratecard_version: sent.ratecard_version.clone(),
            usage_source: UsageSource::Unknown.as_str().to_owned(),
            outcome: "unknown".to_owned(),
            started_ms: sent.started_ms,
            finished_ms: finished.unix_ms(),
            trace: sent.trace_id.clone(),
        }
    }
}

/// An amount as the database and the journal hold it. Rows above 9.2 million USD do not exist; they saturate.
pub(crate) fn pico_i64(money: Money) -> i64 {
    i64::try_from(money.pico()).unwrap_or(if money.pico() < 0 { i64::MIN } else { i64::MAX })
}

/// A payload as read back.
#[derive(Debug)]
pub(crate) enum Payload {
    Sent(Box<Sent>),
    /// Without a row: nothing was sent.
    Settled {
        row: Option<Box<Row>>,
        audit_seq: u64,
        entry: String,
        content: Option<Arc<[Blob]>>,
    },
    Event {
        audit_seq: u64,
        entry: String,
    },
}

pub(crate) fn write_sent(sent: &Sent, out: &mut Vec<u8>) {
    out.push(VERSION);
    write_fields(sent, out);
}

pub(crate) fn write_settled(row: Option<&Row>, audit_seq: u64, entry: &str, out: &mut Vec<u8>) {
    out.push(VERSION);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if let Some(row) = row {
        write_fields(row, out);
    }
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    write_entry(audit_seq, entry, out);
}

pub(crate) fn write_event(audit_seq: u64, entry: &str, out: &mut Vec<u8>) {
    out.push(VERSION);
    write_entry(audit_seq, entry, out);
}

fn write_entry(audit_seq: u64, entry: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&audit_seq.to_le_bytes());
    out.extend_from_slice(entry.as_bytes());
}

fn write_fields(value: &impl Serialize, out: &mut Vec<u8>) {
    // Strings and integers into memory: there is nothing to fail on.
    let written = postcard::serialize_with_flavor(value, Fields(out));
    debug_assert!(written.is_ok());
}

/// Where postcard writes: the end of a buffer.
struct Fields<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Fields<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Reads a payload of the given kind.
///
/// # Errors
/// When the bytes are not such a payload, or one of another version: the record was opened with the right key, so this is damage,
/// or the work of another program.
pub(crate) fn read(kind: store::RecordKind, bytes: &[u8]) -> Result<Payload, KernelError> {
    let damaged = || KernelError::Quarantined("a journal record does not decode".to_owned());
    let bytes = match bytes.split_first().ok_or_else(damaged)? {
        (&VERSION, bytes) => bytes,
        (other, _) => {
            return Err(KernelError::Quarantined(format!(
                "a journal record is of version {other}; this program reads version {VERSION}"
            )));
        }
    };
    let event = |bytes: &[u8]| -> Option<(u64, String)> {
        let (seq, entry) = bytes.split_first_chunk::<8>()?;
        Some((
            u64::from_le_bytes(*seq),
            String::from_utf8(entry.to_vec()).ok()?,
        ))
    };
    match kind {
        store::RecordKind::Sent => postcard::from_bytes(bytes)
            .map(|sent| Payload::Sent(Box::new(sent)))
            .map_err(|_| damaged()),
        store::RecordKind::Settled => {
            let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
            let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| damaged())?;
            let (row, tail) = rest.split_at_checked(length).ok_or_else(damaged)?;
            let row = match row {
                [] => None,
                fields => Some(Box::new(
                    postcard::from_bytes(fields).map_err(|_| damaged())?,
                )),
            };
            let (tail, content) = content::split(tail).ok_or_else(damaged)?;
            let (audit_seq, entry) = event(tail).ok_or_else(damaged)?;
            Ok(Payload::Settled {
                row,
                audit_seq,
                entry,
                content,
            })
        }
        store::RecordKind::Event => {
            let (audit_seq, entry) = event(bytes).ok_or_else(damaged)?;
            Ok(Payload::Event { audit_seq, entry })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_round_trips() {
        let sent = crate::fixture::sent(7);
        let row = Row::unknown(3, &sent, Timestamp::from_unix_ms(8));
        let mut bytes = Vec::new();
        write_settled(Some(&row), 42, "{\"a\":1}", &mut bytes);
        let Payload::Settled {
            row: back,
            audit_seq,
            entry,
            content: None,
        } = read(store::RecordKind::Settled, &bytes).unwrap()
        else {
            unreachable!("asked for a settled record")
        };
        assert_eq!(
            (*back.unwrap(), audit_seq, entry.as_str()),
            (row, 42, "{\"a\":1}")
        );
        for cut in 0..bytes.len() - 7 {
            assert!(
                read(store::RecordKind::Settled, &bytes[..cut]).is_err(),
                "{cut}"
            );
        }
        bytes.clear();
        write_sent(&sent, &mut bytes);
        assert!(
            matches!(read(store::RecordKind::Sent, &bytes), Ok(Payload::Sent(back)) if *back == sent)
        );
    }

    #[test]
    fn a_payload_of_another_version_is_called_that() {
        use store::RecordKind::{Event, Sent, Settled};
        let mut bytes = Vec::new();
        write_event(7, "{}", &mut bytes);
        assert!(matches!(
            read(Event, &bytes),
            Ok(Payload::Event { audit_seq: 7, .. })
        ));
        bytes[0] += 1;
        for kind in [Sent, Settled, Event] {
            let Err(KernelError::Quarantined(why)) = read(kind, &bytes) else {
                unreachable!("it is of another version")
            };
            let other = VERSION + 1;
            assert_eq!(
                why,
                format!(
                    "a journal record is of version {other}; this program reads version {VERSION}"
                )
            );
        }
        assert!(read(Event, &[]).is_err());
    }
}
