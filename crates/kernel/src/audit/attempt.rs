//! The entry of an attempt.

use crate::audit::Entry;
use crate::audit::standing::Limits;
use crate::journal_record::Sent;
use crate::ledger::Settlement;

/// What the entry of an attempt says of the attempt itself.
pub(crate) fn called<'a>(sent: &'a Sent, settlement: &'a Settlement) -> Entry<'a> {
    let usage = settlement.usage;
    Entry {
        action: "call_model",
        attempt: Some(sent.attempt),
        config: Some(&sent.config),
        cost_usd: settlement.cost.map(|cost| cost.to_string()),
        decision: "allow",
        model: Some(&sent.model),
        outcome: Some(settlement.outcome.as_str()),
        person: sent.person.as_deref(),
        policy_version: Some(&sent.policy_version),
        provider: Some(&sent.provider),
        provider_model: Some(&sent.provider_model),
        quotas: Limits::Stood(&sent.limits),
        ratecard_version: Some(&sent.ratecard_version),
        region: sent.region.as_deref(),
        request_id: Some(&sent.request_id),
        request_received: Some(&sent.request_received),
        request_sent: Some(&sent.request_sent),
        role: Some(&sent.role),
        rule: Some(&sent.rule),
        token: Some(&sent.token),
        tokens_in: usage.map(|usage| usage.tokens_in()),
        tokens_out: usage.map(|usage| usage.tokens_out()),
        trace_id: sent.trace_id.as_deref(),
        usage_source: Some(settlement.usage_source.as_str()),
        ..Entry::default()
    }
}
