//! The admin API: the operator key, then the same commands as on the control socket. Answers are those of `--json`.

use std::str::FromStr;
use std::sync::Arc;

use base::limits::{BODY_TIME_MAX, RATECARD_BYTES_MAX};
use base::{PersonName, Role, TenantId, TokenName};
use bytes::Bytes;
use gateway::identify;
use gateway::refusal::Refusal;
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use kernel::Operator;
use llm::{Dialect, ErrorFacts, error_body};
use rpc::{Command, Fault, FaultCode, LimitsChange, NewTenant, Row, Until, text};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::body::AnswerBody;
use crate::dispatch::{Answer, App, PathParams, bad_request, finished, refuse};
use crate::fault::internal;
use crate::feed::Feed;
use crate::query::Query;
use crate::report_body;
use crate::routes::AdminAction;
use crate::tenant_views::report_wish;

/// A command of the API is a few short values.
const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// What was asked, or why it is refused.
enum No {
    Refused(Refusal),
    Fault(Fault),
}

impl From<Fault> for No {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Verifies the operator key and answers.
pub(crate) async fn answer(
    app: &Arc<App>,
    action: AdminAction,
    headers: &HeaderMap,
    uri: &Uri,
    params: &PathParams<'_>,
    body: Incoming,
) -> Answer {
    let operator = identify::presented(headers, uri).and_then(|presented| {
        app.gateway
            .kernel()
            .operator(presented.expose_str())
            .ok_or(Refusal::BadCredential)
    });
    let operator = match operator {
        Ok(operator) => operator,
        Err(refusal) => return refuse(app, &refusal, Dialect::OpenAi),
    };
    match carried_out(app, operator, action, uri, params, body).await {
        Ok(answer) => answer,
        Err(No::Refused(refusal)) => refuse(app, &refusal, Dialect::OpenAi),
        Err(No::Fault(fault)) => failed(app, &fault),
    }
}

async fn carried_out(
    app: &Arc<App>,
    operator: Operator,
    action: AdminAction,
    uri: &Uri,
    params: &PathParams<'_>,
    body: Incoming,
) -> Result<Answer, No> {
    let query = Query::parse(uri.query(), known_parameters(action)).map_err(bad_request)?;
    if action == AdminAction::Usage {
        return usage(app, operator, &query);
    }
    if action == AdminAction::Providers {
        return Ok(json(app, StatusCode::OK, &providers(app)));
    }
    let command = command(action, &query, params, body).await?;
    let status = if matches!(action, AdminAction::TenantsCreate | AdminAction::TokenIssue) {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let (feed, mut rows) = Feed::new();
    let mut collected: Vec<Row> = Vec::new();
    let collect = async {
        while let Some(row) = rows.recv().await {
            collected.push(row);
        }
    };
    let work = async {
        let answer = app.office.carry_out(&operator, command, &feed).await;
        drop(feed);
        answer
    };
    let (answer, ()) = tokio::join!(work, collect);
    let value =
        answer_json(answer?, &collected).map_err(|error| No::Fault(internal(error.to_string())))?;
    Ok(json(app, status, &value))
}

fn known_parameters(action: AdminAction) -> &'static [&'static str] {
    match action {
        AdminAction::TenantDelete => &["confirm"],
        AdminAction::Usage => &["from", "to", "tenant", "format", "detail"],
        AdminAction::RatecardImport => &["name"],
        _ => &[],
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Issue {
    #[serde(with = "text")]
    name: TokenName,
    #[serde(with = "text")]
    role: Role,
    #[serde(default, with = "text::option")]
    person: Option<PersonName>,
    #[serde(default, with = "text::option")]
    expires: Option<Until>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Rotate {
    #[serde(default, with = "text::option")]
    grace: Option<Until>,
}

async fn command(
    action: AdminAction,
    query: &Query<'_>,
    params: &PathParams<'_>,
    body: Incoming,
) -> Result<Command, No> {
    let tenant = || named::<TenantId>(params, 0);
    let token = || named::<TokenName>(params, 1);
    Ok(match action {
        AdminAction::TenantsList => Command::TenantsList,
        AdminAction::TenantsCreate => Command::TenantsCreate(read::<NewTenant>(body).await?),
        AdminAction::TenantShow => Command::TenantsShow { id: tenant()? },
        AdminAction::TenantDelete => {
            let confirm = query.text("confirm").unwrap_or_default().parse();
            let confirm = confirm
                .map_err(|_| bad_request("confirm is the tenant's id again: ?confirm=ID"))?;
            Command::TenantsDelete {
                id: tenant()?,
                confirm,
            }
        }
        AdminAction::TenantSuspend => Command::TenantsSuspend { id: tenant()? },
        AdminAction::TenantFreeze => Command::TenantsFreeze { id: tenant()? },
        AdminAction::TenantResume => Command::TenantsResume { id: tenant()? },
        AdminAction::QuotaShow => Command::QuotaShow { id: tenant()? },
        AdminAction::QuotaSet => Command::QuotaSet {
            id: tenant()?,
            change: read::<LimitsChange>(body).await?,
        },
        AdminAction::TokenList => Command::TokenList { id: tenant()? },
        AdminAction::TokenIssue => {
            let id = tenant()?;
            let Issue {
                name,
                role,
                person,
                expires,
            } = read(body).await?;
            Command::TokenIssue {
                id,
                name,
                role,
                person,
                expires,
            }
        }
        AdminAction::TokenRevoke => Command::TokenRevoke {
            id: tenant()?,
            name: token()?,
        },
        AdminAction::TokenRotate => {
            let (id, name) = (tenant()?, Some(token()?));
            let Rotate { grace } = read_or_default(body).await?;
            Command::TokenRotate {
                id,
                name,
                all: false,
                grace,
            }
        }
        AdminAction::RatecardShow => Command::RatecardShow,
        AdminAction::RatecardImport => {
            let name = query.text("name").unwrap_or("admin API").to_owned();
            let card = String::from_utf8(bytes(body, RATECARD_BYTES_MAX).await?.into());
            Command::RatecardImport {
                name,
                card: card.map_err(|_| bad_request("the card is not UTF-8"))?,
            }
        }
        AdminAction::Usage | AdminAction::Providers => return Err(Refusal::NotFound.into()),
    })
}

/// A name outside the grammar is the name of nothing.
fn named<T: FromStr>(params: &PathParams<'_>, place: usize) -> Result<T, No> {
    let name = params.at(place).parse();
    name.map_err(|_| Refusal::NotFound.into())
}

fn usage(app: &Arc<App>, operator: Operator, query: &Query<'_>) -> Result<Answer, No> {
    let (period, format, detail) = report_wish(query).map_err(bad_request)?;
    let tenant = match query.text("tenant") {
        None => None,
        Some(text) => {
            let id: TenantId = text.parse().map_err(|_| Refusal::NotFound)?;
            // Looked up now: once the first bytes are out, a missing tenant could only break the body.
            app.gateway
                .kernel()
                .tenant(&operator, &id)
                .map_err(crate::fault::fault)?;
            Some(id)
        }
    };
    let command = Command::BillingReport {
        tenant,
        from: period.from,
        to: period.to,
        detail,
    };
    let office = Arc::clone(&app.office);
    let body = report_body::body(
        app.gateway.kernel().tasks(),
        format,
        detail,
        |feed| async move {
            office
                .carry_out(&operator, command, &feed)
                .await
                .map(|_answer| ())
        },
    );
    let id = app.gateway.kernel().new_request_id();
    Ok(finished(
        &id,
        StatusCode::OK,
        report_body::media_type(format),
        body,
    ))
}

#[derive(Serialize)]
struct ProviderView {
    name: String,
    kind: &'static str,
    base_url: String,
    region: Option<String>,
}

fn providers(app: &App) -> Vec<ProviderView> {
    let catalog = app.gateway.catalog();
    let view = |provider: &Arc<gateway::catalog::Provider>| ProviderView {
        name: provider.name().to_owned(),
        kind: provider.kind().as_str(),
        base_url: format!("{}{}", provider.origin(), provider.base_path()),
        region: provider.region().map(str::to_owned),
    };
    catalog.providers().iter().map(view).collect()
}

#[derive(Serialize)]
struct Prices {
    version: String,
    prices: Vec<Box<RawValue>>,
}

/// What `--json` prints: one object, or a list of the rows.
fn answer_json(answer: rpc::Answer, rows: &[Row]) -> Result<Box<RawValue>, serde_json::Error> {
    let rows = || rows.iter().map(row_json).collect::<Result<Vec<_>, _>>();
    match answer {
        rpc::Answer::End { .. } => to_raw_value(&rows()?),
        rpc::Answer::Ratecard { version, .. } => to_raw_value(&Prices {
            version,
            prices: rows()?,
        }),
        rpc::Answer::Done { message } => {
            to_raw_value(&serde_json::json!({ "done": true, "message": message }))
        }
        rpc::Answer::Status(value) => to_raw_value(&value),
        rpc::Answer::TenantCreated(value) => to_raw_value(&value),
        rpc::Answer::Tenant(value) => to_raw_value(&value),
        rpc::Answer::Repaired(value) => to_raw_value(&value),
        rpc::Answer::Issued(value) => to_raw_value(&value),
        rpc::Answer::Rotated(value) => match value.tokens.as_slice() {
            // The API rotates one token at a time.
            [token] => to_raw_value(token),
            _ => to_raw_value(&value),
        },
        rpc::Answer::Quota(value) => to_raw_value(&value),
        rpc::Answer::AuditVerified(value) => to_raw_value(&value),
        rpc::Answer::AuditCheckpoint(value) => to_raw_value(&value),
        rpc::Answer::Policy(value) => to_raw_value(&value),
        rpc::Answer::PolicyChecked(value) => to_raw_value(&value),
        rpc::Answer::PolicyExplained(value) => to_raw_value(&value),
        rpc::Answer::RatecardImported(value) => to_raw_value(&value),
        rpc::Answer::RatecardChecked(value) => to_raw_value(&value),
        rpc::Answer::ConfigChecked(value) => to_raw_value(&value),
        rpc::Answer::Config(value) => to_raw_value(&value),
        rpc::Answer::Doctor(value) => to_raw_value(&value),
    }
}

fn row_json(row: &Row) -> Result<Box<RawValue>, serde_json::Error> {
    match row {
        Row::Tenant(row) => to_raw_value(row),
        Row::Token(row) => to_raw_value(row),
        Row::Secret(row) => to_raw_value(row),
        Row::Usage(row) => to_raw_value(row),
        Row::Ledger(row) => to_raw_value(row),
        Row::Audit(row) => to_raw_value(row),
        Row::Price(row) => to_raw_value(row),
        Row::Content(row) => to_raw_value(row),
        Row::File(row) => to_raw_value(row),
        Row::Progress(row) => to_raw_value(row),
    }
}

fn json(app: &App, status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let id = app.gateway.kernel().new_request_id();
            finished(&id, status, "application/json", AnswerBody::bytes(bytes))
        }
        Err(_) => refuse(app, &Refusal::Internal, Dialect::OpenAi),
    }
}

/// The operator reads the fault itself; it names no secret.
fn failed(app: &App, fault: &Fault) -> Answer {
    let status = match fault.code {
        FaultCode::Invalid | FaultCode::BadConfig => StatusCode::BAD_REQUEST,
        FaultCode::NotFound => StatusCode::NOT_FOUND,
        FaultCode::Erased => StatusCode::GONE,
        FaultCode::Exists | FaultCode::Refused => StatusCode::CONFLICT,
        FaultCode::NotAvailable => StatusCode::NOT_IMPLEMENTED,
        FaultCode::NotInitialised
        | FaultCode::Locked
        | FaultCode::Quarantined
        | FaultCode::Busy => StatusCode::SERVICE_UNAVAILABLE,
        FaultCode::Unreachable | FaultCode::Io | FaultCode::Internal => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let id = app.gateway.kernel().new_request_id();
    let facts = ErrorFacts {
        http_status: status.as_u16(),
        kind: if status.is_server_error() {
            "server_error"
        } else {
            "invalid_request_error"
        },
        code: Some(fault.code.as_str()),
        param: None,
        message: &fault.message,
        request_id: id.as_str(),
    };
    let body = error_body::error_body(Dialect::OpenAi, &facts);
    finished(&id, status, "application/json", AnswerBody::bytes(body))
}

async fn read<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, No> {
    let bytes = bytes(body, COMMAND_BYTES_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|error| bad_request(error.to_string()).into())
}

async fn read_or_default<T: serde::de::DeserializeOwned + Default>(
    body: Incoming,
) -> Result<T, No> {
    let bytes = bytes(body, COMMAND_BYTES_MAX).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| bad_request(error.to_string()).into())
}

async fn bytes(body: Incoming, max: usize) -> Result<Bytes, No> {
    match tokio::time::timeout(BODY_TIME_MAX, Limited::new(body, max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Refusal::TooLarge { limit: max }.into())
        }
        Ok(Err(_broken)) => Err(bad_request("the body broke off").into()),
        Err(_late) => Err(Refusal::BodyTimeout.into()),
    }
}
