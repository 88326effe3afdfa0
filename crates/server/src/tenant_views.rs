//! What a tenant reads of itself: models, usage, quotas, settings, audit log. Everything comes from the `Tenant` of the admission.

use std::sync::Arc;

use base::{Role, Scope, Timestamp};
use gateway::checkpoint;
use gateway::door::{self, Visit};
use gateway::policy;
use gateway::refusal::Refusal;
use http::{HeaderMap, StatusCode, Uri};
use kernel::audit::content::Kept;
use kernel::audit::verify::AuditError;
use kernel::log::Field;
use kernel::report::AuditFilter;
use kernel::{Admission, AuditedRefusal, KernelError};
use llm::Dialect;
use rpc::QuotaView;
use rpc::report::Format;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::body::AnswerBody;
use crate::dispatch::{Answer, App, PathParams, bad_request, finished, shared_dialect};
use crate::query::{Query, QueryError};
use crate::report_body;
use crate::routes::TenantView;
use crate::usage::{self, Own, Period};
use crate::{operate, settings_view};

/// Entries of one page of the audit log, and how many without a wish.
const AUDIT_PAGE: (u64, u64) = (1_000, 100);
/// Models of one page in Anthropic's shape, and how many without a wish.
const MODELS_PAGE: (u64, u64) = (1_000, 1_000);

/// Admits the caller to a route with these roles and answers.
pub(crate) async fn answer(
    app: &Arc<App>,
    what: TenantView,
    roles: &'static [Role],
    headers: &HeaderMap,
    uri: &Uri,
    params: &PathParams<'_>,
) -> Answer {
    let dialect = match what {
        TenantView::Models | TenantView::Model => shared_dialect(headers),
        TenantView::Usage
        | TenantView::Quota
        | TenantView::Config
        | TenantView::Audit
        | TenantView::Content => Dialect::OpenAi,
    };
    let visit = match door::enter(&app.gateway, headers, uri, dialect, action(what), roles).await {
        Ok(visit) => visit,
        Err(refused) => return refused.map(AnswerBody::Reply),
    };
    let answered = match what {
        TenantView::Models => models(app, &visit, uri, dialect),
        TenantView::Model => model(app, &visit, params.at(0), dialect).await,
        TenantView::Usage => read_usage(app, &visit, uri).await,
        TenantView::Quota => quota(&visit, uri).await,
        TenantView::Config => config(&visit, uri),
        TenantView::Audit => audit(&visit, uri).await,
        TenantView::Content => content(app, &visit, uri, params.at(0)).await,
    };
    match answered {
        Ok(mut answer) => {
            if checkpoint::wanted(headers) {
                checkpoint::put(answer.headers_mut(), visit.admission.tenant()).await;
            }
            answer
        }
        Err(refusal) => {
            door::respond(&app.gateway, &visit.trail, &refusal, dialect).map(AnswerBody::Reply)
        }
    }
}

fn action(what: TenantView) -> &'static str {
    match what {
        TenantView::Models | TenantView::Model => "read_models",
        TenantView::Usage => "read_usage",
        TenantView::Quota => "read_quota",
        TenantView::Config => "read_config",
        TenantView::Audit => "read_audit",
        TenantView::Content => "read_content",
    }
}

fn json(visit: &Visit, value: &impl Serialize) -> Result<Answer, Refusal> {
    let bytes = serde_json::to_vec(value).map_err(|_| Refusal::Internal)?;
    Ok(finished(
        visit.trail.request_id(),
        StatusCode::OK,
        "application/json",
        AnswerBody::bytes(bytes),
    ))
}

#[derive(Serialize)]
struct OpenAiModel<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
}

#[derive(Serialize)]
struct OpenAiModels<'a> {
    object: &'static str,
    data: Vec<OpenAiModel<'a>>,
}

#[derive(Serialize)]
struct AnthropicModel<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    display_name: &'a str,
    created_at: String,
}

#[derive(Serialize)]
struct AnthropicModels<'a> {
    data: Vec<AnthropicModel<'a>>,
    has_more: bool,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
}

/// A deployment does not know when a model was made; what it knows is since when it offers it.
fn openai_model<'a>(app: &App, id: &'a str) -> OpenAiModel<'a> {
    OpenAiModel {
        id,
        object: "model",
        created: app.since_s,
        owned_by: "partywall",
    }
}

fn anthropic_model<'a>(app: &App, id: &'a str) -> AnthropicModel<'a> {
    let since = base::Timestamp::from_unix_ms(app.since_s.saturating_mul(1_000));
    AnthropicModel {
        kind: "model",
        id,
        display_name: id,
        created_at: since.to_string(),
    }
}

fn models(app: &App, visit: &Visit, uri: &Uri, dialect: Dialect) -> Result<Answer, Refusal> {
    let catalog = app.gateway.catalog();
    let mut names: Vec<_> = catalog
        .visible(|name| policy::sees(&catalog, &visit.admission, name))
        .map(|model| model.name.as_str())
        .collect();
    if dialect == Dialect::OpenAi {
        let data = names.into_iter().map(|id| openai_model(app, id)).collect();
        return json(
            visit,
            &OpenAiModels {
                object: "list",
                data,
            },
        );
    }
    let query = Query::parse(uri.query(), &["limit", "after_id", "before_id", "beta"])
        .map_err(bad_request)?;
    let limit = query
        .number("limit", 1, MODELS_PAGE.0)
        .map_err(bad_request)?
        .unwrap_or(MODELS_PAGE.1);
    if let Some(after) = query.text("after_id") {
        let place = names
            .iter()
            .position(|name| *name == after)
            .map_or(names.len(), |place| place + 1);
        names.drain(..place);
    }
    if let Some(before) = query.text("before_id") {
        names.truncate(
            names
                .iter()
                .position(|name| *name == before)
                .unwrap_or_default(),
        );
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = names.len() > limit;
    // Backwards, the page is the one that ends before the given model.
    if query.text("before_id").is_some() && has_more {
        names.drain(..names.len() - limit);
    }
    names.truncate(limit);
    let (first_id, last_id) = (names.first().copied(), names.last().copied());
    let data = names
        .into_iter()
        .map(|id| anthropic_model(app, id))
        .collect();
    json(
        visit,
        &AnthropicModels {
            data,
            has_more,
            first_id,
            last_id,
        },
    )
}

async fn model(app: &App, visit: &Visit, asked: &str, dialect: Dialect) -> Result<Answer, Refusal> {
    let catalog = app.gateway.catalog();
    let found = catalog
        .model(asked)
        .filter(|model| policy::sees(&catalog, &visit.admission, model.name.as_str()));
    let Some(model) = found else {
        let refusal = Refusal::ModelNotFound {
            model: asked.to_owned(),
        };
        return Err(refused(visit, "read_models", refusal).await?);
    };
    match dialect {
        Dialect::OpenAi => json(visit, &openai_model(app, model.name.as_str())),
        Dialect::Anthropic => json(visit, &anthropic_model(app, model.name.as_str())),
    }
}

/// The refusal, once its entry is durable.
async fn refused(
    visit: &Visit,
    action: &'static str,
    refusal: Refusal,
) -> Result<Refusal, Refusal> {
    let (reason, rule) = (refusal.code(), refusal.code());
    let entry = AuditedRefusal {
        action,
        reason,
        rule,
        quota: None,
    };
    let recorded = visit.trail.refuse(&visit.admission, entry).await;
    recorded.map_err(Refusal::from)?;
    Ok(refusal)
}

/// What a report is asked for.
pub(crate) fn report_wish(query: &Query<'_>) -> Result<(Period, Format, bool), String> {
    let period = Period {
        from: query.day("from")?,
        to: query.day("to")?,
    };
    let format = match query.text("format") {
        None | Some("json") => Format::Json,
        Some("csv") => Format::Csv,
        Some(_) => return Err("format is json or csv".to_owned()),
    };
    Ok((period, format, query.flag("detail")?))
}

async fn read_usage(app: &App, visit: &Visit, uri: &Uri) -> Result<Answer, Refusal> {
    let query =
        Query::parse(uri.query(), &["from", "to", "format", "detail"]).map_err(bad_request)?;
    let (period, format, detail) = report_wish(&query).map_err(bad_request)?;
    let tenant = visit.admission.tenant().clone();
    let own = own_usage(&visit.admission);
    // A store that cannot be read is said now; once the first bytes are out, it can only break the body.
    tenant.audit_length().await.map_err(Refusal::from)?;
    let body = report_body::body(
        app.gateway.kernel().tasks(),
        format,
        detail,
        |feed| async move { usage::feed(&tenant, period, detail, own.as_ref(), &feed).await },
    );
    Ok(finished(
        visit.trail.request_id(),
        StatusCode::OK,
        report_body::media_type(format),
        body,
    ))
}

/// Whose usage the caller may see, where that is not everybody's.
pub(crate) fn own_usage(admission: &Admission) -> Option<Own> {
    (!reads_all_usage(admission)).then(|| Own {
        person: admission.person().map(str::to_owned),
        token: admission.token_name().clone(),
    })
}

/// Whether the caller may see what others of its tenant have used.
fn reads_all_usage(admission: &Admission) -> bool {
    matches!(
        admission.role(),
        Role::Admin | Role::Readonly | Role::Auditor
    )
}

/// The tenant's quotas for everybody; those of its persons and tokens for whoever may read all usage, and one's own otherwise.
async fn quota(visit: &Visit, uri: &Uri) -> Result<Answer, Refusal> {
    Query::parse(uri.query(), &[]).map_err(bad_request)?;
    let view = own_quotas(&visit.admission).await.map_err(Refusal::from)?;
    json(visit, &view)
}

/// The quotas that the caller may see.
pub(crate) async fn own_quotas(admission: &Admission) -> Result<QuotaView, KernelError> {
    let mut view = operate::quota_view(admission.tenant()).await?;
    // What the operator adds to list prices is for the operator to tell.
    view.markup = None;
    if !reads_all_usage(admission) {
        let (person, token) = (admission.person(), admission.token_name());
        view.persons
            .retain(|party| Some(party.name.as_str()) == person);
        view.tokens.retain(|party| party.name == token.as_str());
        view.overrides.retain(|over| match &over.scope {
            Scope::Tenant | Scope::EachPerson | Scope::EachToken => true,
            Scope::Person(name) => Some(&**name) == person,
            Scope::Token(name) => name == token,
        });
    }
    Ok(view)
}

fn config(visit: &Visit, uri: &Uri) -> Result<Answer, Refusal> {
    Query::parse(uri.query(), &[]).map_err(bad_request)?;
    let settings = settings_view::json(visit.admission.tenant());
    json(visit, &settings.map_err(|_| Refusal::Internal)?)
}

#[derive(Serialize)]
struct AuditPage {
    entries: Vec<Box<RawValue>>,
    /// Where the next page begins; absent at the end of the log.
    next: Option<u64>,
    /// Entries of the log.
    length: u64,
}

/// What may be asked of the log: where to begin, how many, and which.
const AUDIT_QUERY: &[&str] = &[
    "from",
    "limit",
    "action",
    "decision",
    "model",
    "person",
    "token",
    "request_id",
    "since",
    "until",
];

fn audit_filter(query: &Query<'_>) -> Result<AuditFilter, QueryError> {
    let text = |name| query.text(name).map(str::to_owned);
    let moment = |name: &'static str| match query.text(name) {
        None => Ok(None),
        Some(text) => Timestamp::parse(text)
            .map(Some)
            .ok_or_else(|| format!("{name}: not an RFC 3339 moment such as 2026-11-23T04:00:00Z")),
    };
    Ok(AuditFilter {
        action: text("action"),
        decision: text("decision"),
        model: text("model"),
        person: text("person"),
        token: text("token"),
        request_id: text("request_id"),
        since: moment("since")?,
        until: moment("until")?,
    })
}

async fn audit(visit: &Visit, uri: &Uri) -> Result<Answer, Refusal> {
    let query = Query::parse(uri.query(), AUDIT_QUERY).map_err(bad_request)?;
    let filter = audit_filter(&query).map_err(bad_request)?;
    let from = query
        .number("from", 0, u64::MAX)
        .map_err(bad_request)?
        .unwrap_or_default();
    let limit = query
        .number("limit", 1, AUDIT_PAGE.0)
        .map_err(bad_request)?
        .unwrap_or(AUDIT_PAGE.1);
    let tenant = visit.admission.tenant();
    let length = tenant.audit_length().await.map_err(Refusal::from)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (page, next) = tenant
        .audit_search(from, limit, filter)
        .await
        .map_err(Refusal::from)?;
    let next = Some(next).filter(|next| *next < length);
    let raw = |row: kernel::report::AuditRow| operate::raw(row.entry);
    let entries = page.into_iter().map(raw).collect::<Result<_, _>>();
    let entries = entries.map_err(|_| {
        Refusal::from(KernelError::Quarantined(
            "an audit entry is not JSON".to_owned(),
        ))
    })?;
    json(
        visit,
        &AuditPage {
            entries,
            next,
            length,
        },
    )
}

#[derive(Serialize)]
struct ContentView {
    seq: u64,
    content: Vec<rpc::ContentPart>,
}

/// What is kept of one call. A place of another tenant's log, one that nothing is kept with, and what is no place are alike.
async fn content(app: &App, visit: &Visit, uri: &Uri, asked: &str) -> Result<Answer, Refusal> {
    Query::parse(uri.query(), &[]).map_err(bad_request)?;
    let tenant = visit.admission.tenant();
    let place = asked.parse::<u64>().ok();
    let Some(seq) = place.filter(|place| place.to_string() == asked) else {
        return Err(refused(visit, "read_content", Refusal::NotFound).await?);
    };
    let kept = match tenant.audit_content(seq).await {
        Ok(kept) => kept,
        Err(AuditError::Kernel(error)) => return Err(error.into()),
        Err(AuditError::Log(fault)) => {
            let (kernel, text) = (app.gateway.kernel(), fault.to_string());
            let fields = [("fault", Field::Text(&text))];
            let event = "kept content is not what was logged";
            kernel
                .log()
                .event(kernel.now(), Some(tenant.id()), event, &fields);
            return Err(Refusal::Internal);
        }
    };
    match kept {
        Some(Kept::Parts(parts)) => {
            let recorded = visit.trail.reads_content(&visit.admission, seq).await;
            recorded.map_err(Refusal::from)?;
            let content = parts.into_iter().map(operate::content_part).collect();
            json(visit, &ContentView { seq, content })
        }
        Some(Kept::Erased) => Err(refused(visit, "read_content", Refusal::Erased).await?),
        None => Err(refused(visit, "read_content", Refusal::NotFound).await?),
    }
}

#[cfg(test)]
mod tests {
    use kernel::{Caller, Purpose};
    use rpc::Command;

    use super::*;
    use crate::tests::House;

    #[tokio::test]
    async fn an_authority_that_ends_while_quotas_are_read_is_told_as_such() {
        let house = House::open().await;
        let created = house.tenant("acme").await;
        let kernel = house.running.as_ref().unwrap().kernel.clone();
        let caller = Caller::from_token(created.token.expose());
        let visit = Visit {
            trail: kernel.open_trail(None).unwrap(),
            admission: kernel.admit_for(caller, Purpose::Read).await.ok().unwrap(),
        };
        let uri = "/tenant/v1/quota".parse().unwrap();
        assert!(quota(&visit, &uri).await.is_ok());
        let suspend = Command::TenantsSuspend {
            id: "acme".parse().unwrap(),
        };
        house.ask(suspend).await.1.unwrap();
        let told = quota(&visit, &uri)
            .await
            .err()
            .map(|refusal| refusal.code());
        assert_eq!(told, Some(Refusal::BadCredential.code()));
    }
}
