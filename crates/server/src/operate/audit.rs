//! A tenant's audit log.

use std::time::Duration;

use base::TenantId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kernel::{Operator, Tenant};
use rpc::{Answer, Fault, Row};
use serde_json::value::RawValue;

use super::Office;
use crate::fault::{fault, internal};
use crate::feed::Feed;

/// Between two looks for new entries.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

impl Office {
    pub(super) async fn tail(
        &self,
        operator: &Operator,
        id: &TenantId,
        limit: u32,
        follow: bool,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        let length = self
            .tenant(operator, id)?
            .audit_length()
            .await
            .map_err(fault)?;
        let mut next = length.saturating_sub(u64::from(limit));
        loop {
            // Taken anew for each page: a suspension ends earlier authority, and is itself an entry to be seen.
            let page = self
                .tenant(operator, id)?
                .audit_page(next)
                .await
                .map_err(fault)?;
            let at_end = page.is_empty();
            for row in page {
                next = row.seq.saturating_add(1);
                to.push(Row::Audit(raw(row.entry)?)).await?;
            }
            match (at_end, follow) {
                (false, _) => {}
                (true, false) => return Ok(Answer::End { rows: to.pushed() }),
                (true, true) => tokio::time::sleep(FOLLOW_EVERY).await,
            }
        }
    }
}

/// An entry as it was signed, byte for byte.
pub(crate) fn raw(entry: String) -> Result<Box<RawValue>, Fault> {
    RawValue::from_string(entry).map_err(|_| internal("an audit entry is not JSON"))
}

/// The key that verifies a tenant's log, as a signed-note verifier key: `name+hash+key`. The name is the log's origin and holds
/// the tenant's uid: an id that is deleted and taken again is another log.
pub(crate) fn verification_key(tenant: &Tenant) -> String {
    const ED25519: u8 = 1;
    let name = format!("partywall/{}", tenant.uid());
    let mut key = vec![ED25519];
    key.extend_from_slice(&tenant.account().audit_key);
    let hash = kernel::digest::sha256(&[name.as_bytes(), b"\n", &key].concat());
    let hash: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}+{hash}+{}", STANDARD.encode(&key))
}
