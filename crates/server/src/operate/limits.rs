//! Limits: what a tenant and its persons and tokens may use, who said so, and what is used of it.

use base::{Limits, Markup, Quota, Scope, TenantId, Timestamp};
use kernel::lifecycle::QuotaChange;
use kernel::quota::{Gauge, Override, Quotas};
use kernel::{KernelError, Operator, Tenant};
use rpc::{
    Answer, Fault, FaultCode, LimitsChange, OverrideView, PartyQuotas, QuotaLine, QuotaView,
    StorageView, Until,
};

use super::Office;
use crate::fault::fault;

impl Office {
    pub(super) async fn show_limits(
        &self,
        operator: &Operator,
        id: &TenantId,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let view = quota_view(&tenant).await.map_err(fault)?;
        Ok(Answer::Quota(view))
    }

    pub(super) async fn set_limits(
        &self,
        operator: &Operator,
        id: &TenantId,
        change: LimitsChange,
    ) -> Result<Answer, Fault> {
        change
            .check()
            .map_err(|message| Fault::new(FaultCode::Invalid, message))?;
        let until = self.end_of("until", change.until)?;
        let tenant = self.tenant(operator, id)?;
        let LimitsChange {
            tier,
            scope,
            limits,
            ..
        } = change;
        let limits = limits.list();
        self.known_scope(operator, &tenant, &scope, &limits)?;
        let change = QuotaChange {
            tier,
            scope,
            limits,
            until,
        };
        self.kernel
            .change_quotas(operator, &tenant, change)
            .await
            .map_err(fault)?;
        let view = quota_view(&tenant).await.map_err(fault)?;
        Ok(Answer::Quota(view))
    }

    /// Refuses a limit for a token that nobody has: it would hold for nobody. One that is left of a former token can be lifted.
    fn known_scope(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        scope: &Scope,
        limits: &[(Quota, Option<i128>)],
    ) -> Result<(), Fault> {
        let Scope::Token(name) = scope else {
            return Ok(());
        };
        let tokens = self.kernel.list_tokens(operator, tenant);
        let lifted = || {
            let overrides = &tenant.account().overrides;
            limits.iter().all(|(_, limit)| limit.is_none())
                && overrides.iter().any(|over| over.scope == *scope)
        };
        if tokens.iter().any(|token| token.name == *name) || lifted() {
            return Ok(());
        }
        let text = format!("{} has no token {name}", tenant.id());
        Err(Fault::new(FaultCode::NotFound, text))
    }

    /// The moment that somebody gave as an end in the field `name`.
    pub(super) fn end_of(
        &self,
        name: &str,
        until: Option<Until>,
    ) -> Result<Option<Timestamp>, Fault> {
        let now = self.kernel.now();
        let moment = until.map(|until| until.moment(now)).transpose();
        moment.map_err(|error| Fault::new(FaultCode::Invalid, format!("{name}: {error}")))
    }
}

/// Everything there is to see of a tenant's quotas.
pub(crate) async fn quota_view(tenant: &Tenant) -> Result<QuotaView, KernelError> {
    // Reading brings the books of a tenant that was not used yet up to date.
    tenant.audit_length().await?;
    let stored = tenant.stored().await;
    let account = tenant.account();
    let now = tenant.now();
    let Quotas {
        tenant: gauges,
        persons,
        tokens,
        mut overrides,
    } = tenant.quotas();
    overrides.retain(|over| over.until.is_none_or(|until| now < until));
    let lines = |gauges: &[Gauge], scopes: &[&Scope]| -> Vec<QuotaLine> {
        let line = |gauge| quota_line(gauge, &overrides, scopes);
        gauges.iter().map(line).collect()
    };
    let person = |(name, gauges): &(Box<str>, Vec<Gauge>)| PartyQuotas {
        name: name.to_string(),
        quotas: lines(gauges, &[&Scope::Person(name.clone()), &Scope::EachPerson]),
    };
    let token = |(name, gauges): &(Box<str>, Vec<Gauge>)| {
        let own = name.parse().map(Scope::Token).unwrap_or(Scope::EachToken);
        PartyQuotas {
            name: name.to_string(),
            quotas: lines(gauges, &[&own, &Scope::EachToken]),
        }
    };
    Ok(QuotaView {
        tenant: tenant.id().clone(),
        tier: account.tier.clone(),
        markup: markup(tenant),
        quotas: lines(&gauges, &[&Scope::Tenant]),
        persons: persons.iter().map(person).collect(),
        tokens: tokens.iter().map(token).collect(),
        overrides: overrides.iter().map(override_view).collect(),
        storage: stored.map(|stored| StorageView {
            database_bytes: stored.database,
            files_bytes: stored.files,
            cache_bytes: stored.cache,
            logs_bytes: stored.logs,
        }),
    })
}

/// One line; its limit is that of the first of the scopes that has one, a temporary one before a lasting one.
fn quota_line(gauge: &Gauge, overrides: &[Override], scopes: &[&Scope]) -> QuotaLine {
    let quota = gauge.quota;
    let of = |scope: &Scope, temporary: bool| {
        overrides.iter().find(|over| {
            over.scope == *scope && over.quota == quota && over.until.is_some() == temporary
        })
    };
    let by = scopes
        .iter()
        .find_map(|scope| of(scope, true).or_else(|| of(scope, false)));
    let source = match (by, gauge.limit) {
        (Some(over), _) if over.until.is_some() => "temporary",
        (Some(_), _) => "tenant",
        (None, Some(_)) => "tier",
        (None, None) => "none",
    };
    QuotaLine {
        name: quota.name().to_owned(),
        limit: gauge.limit.map(|limit| quota.shown(limit)),
        source: source.to_owned(),
        used: quota.shown(gauge.used),
        held: quota.shown(gauge.held),
        left: gauge.left().map(|left| quota.shown(left)),
        resets_at: gauge.resets_at,
        until: by.and_then(|over| over.until),
    }
}

fn override_view(over: &Override) -> OverrideView {
    OverrideView {
        scope: over.scope.clone(),
        name: over.quota.name().to_owned(),
        limit: over.quota.shown(over.limit),
        until: over.until,
    }
}

/// The tier's factor on list prices, where it is one.
pub(super) fn markup(tenant: &Tenant) -> Option<Markup> {
    Some(tenant.settings().markup).filter(|markup| *markup != Markup::NONE)
}

/// The limits of a tenant as a whole that do not end by themselves.
pub(super) fn lasting(overrides: &[Override]) -> Limits {
    let mut limits = Limits::default();
    for over in overrides {
        if over.scope == Scope::Tenant && over.until.is_none() {
            limits.set(over.quota, Some(over.limit));
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_set_its_limit() {
        let quota = Quota::TokensPerDay;
        let over = |scope: &str, limit, until: Option<i64>| Override {
            scope: scope.parse().unwrap(),
            quota,
            limit,
            until: until.map(Timestamp::from_unix_ms),
        };
        let overrides = [
            over("tenant", 100, None),
            over("each-token", 20, None),
            over("each-token", 30, Some(7)),
            over("token:ci", 10, None),
        ];
        let gauge = |limit| Gauge {
            quota,
            limit,
            used: 3,
            held: 4,
            resets_at: None,
        };
        let line = |limit, scopes: &[&str]| {
            let scopes: Vec<Scope> = scopes.iter().map(|text| text.parse().unwrap()).collect();
            let scopes: Vec<&Scope> = scopes.iter().collect();
            quota_line(&gauge(limit), &overrides, &scopes)
        };
        assert_eq!(line(Some(100), &["tenant"]).source, "tenant");
        assert_eq!(line(Some(10), &["token:ci", "each-token"]).source, "tenant");
        let temporary = line(Some(30), &["token:other", "each-token"]);
        assert_eq!(temporary.source, "temporary");
        assert_eq!(temporary.until, Some(Timestamp::from_unix_ms(7)));
        let left = (temporary.left.as_deref(), temporary.held.as_str());
        assert_eq!(left, (Some("23"), "4"));
        assert_eq!(line(Some(5), &["each-person"]).source, "tier");
        assert_eq!(line(None, &["each-person"]).source, "none");
        assert_eq!(lasting(&overrides).limit(quota), Some(100));
    }
}
