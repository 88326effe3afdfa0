//! What each method does. Everything comes from the admission of the call; no params reach another tenant.

use std::sync::{Mutex, PoisonError};

use gateway::refusal::Refusal;
use kernel::report::{AuditFilter, AuditRow};
use kernel::tokens::IssuedToken;
use rpc::jsonrpc::{Failure, number};
use rpc::method::{self, Handle, TICKET_PROTOCOL};
use rpc::params::{
    AuditPage, AuditQuery, Document, Done, Health, NamedSecret, NamedSubscription, Nothing,
    OwnTenant, OwnToken, Rotate, SecretList, SetSecret, Subscribe, Subscribed, Ticket, TicketWish,
    UsagePage, UsagePeriod,
};
use rpc::policy::{SetPolicy, TestPolicy};
use rpc::{
    AuditCheckpoint, Credential, Fault, PolicyChecked, PolicyView, QuotaView, RotatedTokens, Row,
    SecretView, openrpc,
};
use serde_json::value::{RawValue, to_raw_value};

use super::follow::{Followed, Subscription, follow};
use super::session::{Turn, failure, kernel_failure};
use crate::feed::Feed;
use crate::usage::{self, Period};
use crate::{operate, settings_view, tenant_views};

/// Entries of a page without a wish.
const AUDIT_PAGE: u64 = 100;
/// Rows of usage in one answer: two years of a few models.
const USAGE_ROWS_MAX: usize = 5_000;

type Told<T> = Result<T, Failure>;

impl Handle<method::Health> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<Health> {
        let tenant = self.admission.tenant();
        tenant.live().map_err(kernel_failure)?;
        Ok(Health {
            status: "ok".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: tenant.now(),
        })
    }
}

impl Handle<method::Discover> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<Document> {
        let document = openrpc::document(env!("CARGO_PKG_VERSION"));
        to_raw_value(&document).map(Document).map_err(internal)
    }
}

impl Handle<method::TenantGet> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<OwnTenant> {
        let (tenant, account) = (self.admission.tenant(), self.admission.tenant().account());
        let person = self.admission.person().map(str::parse).transpose();
        Ok(OwnTenant {
            id: tenant.id().clone(),
            status: operate::status(account.status.as_str()).map_err(internal)?,
            tier: account.tier.clone(),
            created_at: account.created,
            audit_vkey: operate::verification_key(tenant),
            caller: OwnToken {
                token: self.admission.token_name().clone(),
                role: self.admission.role(),
                person: person.map_err(internal)?,
            },
        })
    }
}

impl Handle<method::TenantUsage> for Turn {
    async fn handle(&self, UsagePeriod { from, to }: UsagePeriod) -> Told<UsagePage> {
        let tenant = self.admission.tenant();
        let own = tenant_views::own_usage(&self.admission);
        // What is wrong with the store is said by this, in the words of every route.
        tenant.audit_length().await.map_err(kernel_failure)?;
        let (feed, mut waiting) = Feed::new();
        let work = async {
            let fed = usage::feed(tenant, Period { from, to }, false, own.as_ref(), &feed).await;
            drop(feed);
            fed
        };
        // Owns the queue's end: when there are too many rows, the next one ends the work.
        let collect = async move {
            let mut rows = Vec::new();
            while let Some(row) = waiting.recv().await {
                if rows.len() >= USAGE_ROWS_MAX {
                    return Err(
                        Failure::invalid_params("from", "the period has too many rows")
                            .limit(USAGE_ROWS_MAX),
                    );
                }
                if let Row::Usage(row) = row {
                    rows.push(row);
                }
            }
            Ok(rows)
        };
        let (fed, rows) = tokio::join!(work, collect);
        let rows = rows?;
        fed.map_err(|fault: Fault| internal(fault))?;
        Ok(UsagePage { rows })
    }
}

impl Handle<method::TenantQuota> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<QuotaView> {
        let view = tenant_views::own_quotas(&self.admission).await;
        view.map_err(kernel_failure)
    }
}

impl Handle<method::TenantRotate> for Turn {
    async fn handle(&self, Rotate { all, grace }: Rotate) -> Told<RotatedTokens> {
        let now = self.admission.tenant().now();
        let end = grace.map(|until| until.moment(now)).transpose();
        let end = end.map_err(|error| Failure::invalid_params("grace", &error.to_string()))?;
        let end = end.filter(|end| *end > now);
        let grace = end.map(|end| end.since(now));
        let admin = self
            .trail
            .administrator(&self.admission)
            .map_err(kernel_failure)?;
        let issued = match all {
            Some(true) => admin.rotate_all_tokens(grace).await,
            _ => admin.rotate_own_token(grace).await.map(|token| vec![token]),
        };
        let issued: Vec<IssuedToken> = issued.map_err(kernel_failure)?;
        let tenant = self.admission.tenant().id();
        let shown = |token| operate::issued(tenant, token, end);
        let tokens = issued.iter().map(shown).collect::<Result<_, _>>();
        tokens
            .map(|tokens| RotatedTokens { tokens })
            .map_err(internal)
    }
}

impl Handle<method::ConfigGet> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<Document> {
        settings_view::json(self.admission.tenant())
            .map(Document)
            .map_err(internal)
    }
}

impl Handle<method::ConfigSchema> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<Document> {
        to_raw_value(&settings_view::overlay_schema())
            .map(Document)
            .map_err(internal)
    }
}

impl Handle<method::SecretsSet> for Turn {
    async fn handle(&self, SetSecret { name, value }: SetSecret) -> Told<Done> {
        let value = kernel::Secret::from_text(value.expose().to_owned());
        let value = value.map_err(|error| Failure::invalid_params("value", &error.to_string()))?;
        let admin = self
            .trail
            .administrator(&self.admission)
            .map_err(kernel_failure)?;
        admin
            .set_secret(name.as_str(), value)
            .await
            .map_err(kernel_failure)?;
        Ok(Done { done: true })
    }
}

impl Handle<method::SecretsList> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<SecretList> {
        let found = self.admission.own_secrets().await.map_err(kernel_failure)?;
        let view = |info: kernel::SecretInfo| {
            let (name, created_at) = (info.name.parse().map_err(internal)?, info.set_at);
            Ok(SecretView { name, created_at })
        };
        let secrets = found.into_iter().map(view).collect::<Told<_>>()?;
        Ok(SecretList { secrets })
    }
}

impl Handle<method::SecretsDelete> for Turn {
    async fn handle(&self, NamedSecret { name }: NamedSecret) -> Told<Done> {
        let admin = self
            .trail
            .administrator(&self.admission)
            .map_err(kernel_failure)?;
        admin
            .delete_secret(name.as_str())
            .await
            .map_err(kernel_failure)?;
        Ok(Done { done: true })
    }
}

impl Handle<method::PolicyGet> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<PolicyView> {
        let own = self.admission.own_policy().await.map_err(kernel_failure)?;
        Ok(operate::policy_view(self.admission.tenant(), own))
    }
}

impl Handle<method::PolicySet> for Turn {
    async fn handle(&self, SetPolicy { document }: SetPolicy) -> Told<PolicyChecked> {
        let admin = self
            .trail
            .administrator(&self.admission)
            .map_err(kernel_failure)?;
        let set = admin.set_policy(&document).await.map_err(kernel_failure)?;
        Ok(operate::policy_checked(
            self.admission.tenant().id(),
            set,
            true,
        ))
    }
}

impl Handle<method::PolicyTest> for Turn {
    async fn handle(&self, TestPolicy { document }: TestPolicy) -> Told<PolicyChecked> {
        let in_force = document.is_none();
        let document = match document {
            Some(document) => document,
            None => {
                let own = self.admission.own_policy().await.map_err(kernel_failure)?;
                own.map_or_else(String::new, |own| own.document.to_string())
            }
        };
        let checked = self.admission.check_policy(&document).await;
        let checked = checked.map_err(kernel_failure)?;
        match checked.refusal() {
            Some(refusal) => Err(Failure::new(number::REFUSED, "refused", refusal)),
            None => Ok(operate::policy_checked(
                self.admission.tenant().id(),
                checked,
                in_force,
            )),
        }
    }
}

impl Handle<method::AuditQuery> for Turn {
    async fn handle(&self, query: AuditQuery) -> Told<AuditPage> {
        let tenant = self.admission.tenant();
        let length = tenant.audit_length().await.map_err(kernel_failure)?;
        let limit = usize::try_from(query.limit.unwrap_or(AUDIT_PAGE)).unwrap_or(usize::MAX);
        let filter = AuditFilter {
            action: query.action,
            decision: query.decision,
            model: query.model,
            person: query.person,
            token: query.token,
            request_id: query.request_id,
            since: query.since,
            until: query.until,
        };
        let found = tenant
            .audit_search(query.from.unwrap_or_default(), limit, filter)
            .await;
        let (rows, mut next) = found.map_err(kernel_failure)?;
        let (mut entries, mut bytes) = (Vec::with_capacity(rows.len()), 0);
        for row in rows {
            bytes += row.entry.len();
            if bytes > AuditPage::BYTES_MAX && !entries.is_empty() {
                next = row.seq;
                break;
            }
            entries.push(entry(row)?);
        }
        Ok(AuditPage {
            entries,
            next: Some(next).filter(|next| *next < length),
            length,
        })
    }
}

impl Handle<method::AuditCheckpointGet> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<AuditCheckpoint> {
        let tenant = self.admission.tenant();
        let checkpoint = tenant.audit_checkpoint().await.map_err(kernel_failure)?;
        Ok(AuditCheckpoint {
            tenant: tenant.id().clone(),
            vkey: operate::verification_key(tenant),
            checkpoint,
        })
    }
}

impl Handle<method::AuditSubscribe> for Turn {
    async fn handle(&self, Subscribe { from }: Subscribe) -> Told<Subscribed> {
        let subscriptions = self.subscriptions()?;
        let length = self
            .admission
            .tenant()
            .audit_length()
            .await
            .map_err(kernel_failure)?;
        follow(subscriptions, Followed::Audit, from.unwrap_or(length))
    }
}

impl Handle<method::AuditUnsubscribe> for Turn {
    async fn handle(&self, NamedSubscription { subscription }: NamedSubscription) -> Told<Done> {
        let subscriptions = self.subscriptions()?;
        let mut open = subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        let place = open.iter().position(|other| other.name == subscription);
        open.remove(place.ok_or_else(Failure::not_found)?);
        Ok(Done { done: true })
    }
}

impl Handle<method::TicketIssue> for Turn {
    async fn handle(&self, TicketWish { origin }: TicketWish) -> Told<Ticket> {
        let desk = &self.session.app.rpc;
        let is_own = self
            .session
            .origin
            .as_ref()
            .is_none_or(|asks| *asks == origin);
        if !is_own || !desk.lets_in(&origin) {
            return Err(failure(&Refusal::ForeignOrigin));
        }
        let issued = desk.tickets.issue(&self.admission, &origin);
        let (text, expires_at) = issued.map_err(kernel_failure)?;
        let text = text.expose_str().unwrap_or_default();
        Ok(Ticket {
            ticket: Credential::new(text.to_owned()).map_err(internal)?,
            protocol: Credential::new(format!("{TICKET_PROTOCOL}{text}")).map_err(internal)?,
            expires_at,
        })
    }
}

impl Turn {
    pub(super) fn subscriptions(&self) -> Told<&Mutex<Vec<Subscription>>> {
        self.session.subscriptions.as_ref().ok_or_else(|| {
            let text = "subscriptions live on a WebSocket: open one at /rpc";
            Failure::new(number::REFUSED, "websocket_required", text)
        })
    }
}

/// An entry as it was signed, byte for byte.
pub(super) fn entry(row: AuditRow) -> Told<Box<RawValue>> {
    operate::raw(row.entry).map_err(internal)
}

fn internal(_what: impl std::fmt::Display) -> Failure {
    Failure::internal()
}
