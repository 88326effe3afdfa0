//! Limits: what a tenant may use, who said so, and what is used of it.

use base::{Markup, Money, TenantId};
use kernel::quota::{Quota, Unit};
use kernel::{Limits, Operator, Tenant};
use rpc::{Answer, Fault, LimitsChange, QuotaLine, QuotaView};

use super::Office;
use crate::fault::fault;

impl Office {
    pub(super) async fn show_limits(
        &self,
        operator: &Operator,
        id: &TenantId,
    ) -> Result<Answer, Fault> {
        quota_view(&self.tenant(operator, id)?).await
    }

    pub(super) async fn set_limits(
        &self,
        operator: &Operator,
        id: &TenantId,
        change: &LimitsChange,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        if !change.is_empty() {
            let before = outward(&tenant.account().overrides);
            let after = inward(&change.applied_to(&before));
            self.kernel
                .set_limits(operator, &tenant, change.tier.clone(), after)
                .await
                .map_err(fault)?;
        }
        quota_view(&tenant).await
    }
}

async fn quota_view(tenant: &Tenant) -> Result<Answer, Fault> {
    // Reading brings the books of a tenant that was not used yet up to date.
    tenant.audit_length().await.map_err(fault)?;
    let account = tenant.account();
    let limits = tenant.settings().limits;
    let line = |quota: Quota| {
        let (used, resets_at) = tenant.used(quota);
        let shown = |amount: i128| {
            if quota.unit() == Unit::Cost {
                Money::from_pico(amount).to_string()
            } else {
                amount.to_string()
            }
        };
        let limit = limits.limit(quota);
        let source = match (account.overrides.limit(quota), limit) {
            (Some(_), _) => "tenant",
            (None, Some(_)) => "tier",
            (None, None) => "none",
        };
        let fixed = matches!(
            quota,
            Quota::RequestsPerDay | Quota::TokensPerDay | Quota::CostPerDay | Quota::CostPerMonth
        );
        QuotaLine {
            name: quota.name().to_owned(),
            limit: limit.map(shown),
            source: source.to_owned(),
            used: shown(used),
            resets_at: fixed.then_some(resets_at),
        }
    };
    Ok(Answer::Quota(QuotaView {
        tenant: tenant.id().clone(),
        tier: account.tier.clone(),
        markup: markup(tenant),
        quotas: Quota::ALL.map(line).into(),
    }))
}

/// The tier's factor on list prices, where it is one.
pub(super) fn markup(tenant: &Tenant) -> Option<Markup> {
    Some(tenant.settings().markup).filter(|markup| *markup != Markup::NONE)
}

/// Limits of the protocol as the kernel keeps them.
pub(crate) fn inward(limits: &rpc::Limits) -> Limits {
    let count = |value: Option<u64>| value.map(i128::from);
    let cost = |value: Option<Money>| value.map(Money::pico);
    let mut kept = Limits::default();
    for quota in Quota::ALL {
        let value = match quota {
            Quota::RequestsPerSecond => count(limits.requests_per_second),
            Quota::RequestsPerMinute => count(limits.requests_per_minute),
            Quota::RequestsPerDay => count(limits.requests_per_day),
            Quota::TokensPerMinute => count(limits.tokens_per_minute),
            Quota::TokensPerDay => count(limits.tokens_per_day),
            Quota::CostPerDay => cost(limits.cost_per_day_usd),
            Quota::CostPerMonth => cost(limits.cost_per_month_usd),
            Quota::ConcurrentRequests => count(limits.concurrent_requests),
        };
        kept.set(quota, value);
    }
    kept
}

/// The kernel's limits in the protocol.
pub(crate) fn outward(limits: &Limits) -> rpc::Limits {
    let count = |quota| {
        limits
            .limit(quota)
            .map(|value| u64::try_from(value).unwrap_or(u64::MAX))
    };
    let cost = |quota| limits.limit(quota).map(Money::from_pico);
    rpc::Limits {
        requests_per_second: count(Quota::RequestsPerSecond),
        requests_per_minute: count(Quota::RequestsPerMinute),
        requests_per_day: count(Quota::RequestsPerDay),
        tokens_per_minute: count(Quota::TokensPerMinute),
        tokens_per_day: count(Quota::TokensPerDay),
        cost_per_day_usd: cost(Quota::CostPerDay),
        cost_per_month_usd: cost(Quota::CostPerMonth),
        concurrent_requests: count(Quota::ConcurrentRequests),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_crosses_both_ways() {
        let mut limits = Limits::default();
        for (place, quota) in Quota::ALL.into_iter().enumerate() {
            limits.set(quota, Some(i128::try_from(place).unwrap() * 7));
        }
        assert_eq!(inward(&outward(&limits)), limits);
        assert_eq!(inward(&outward(&Limits::default())), Limits::default());
    }
}
