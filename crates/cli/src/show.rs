//! Answers on the screen: tables and sentences for people, JSON for programs.

use std::net::SocketAddr;

use rpc::report::{Format, JsonArray, Report};
use rpc::{Answer, Closed, Command, Fault, FaultCode, LedgerRow, RouteView, Row, Rows, UsageRow};

use crate::backend::Initialised;
use crate::print::{Meter, Out, note};
use crate::table::{Table, facts};
use crate::view::policy::{policy_checked_text, policy_explained_text, policy_text};
use crate::view::{
    PRICES, SECRETS, TENANTS, TOKENS, cells, content_text, created_text, doctor_text, quota_text,
    repaired_text, routes_text, status_text, tenant_text, token_text, verified_text,
};

/// For whom the answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Text,
    Json,
}

/// Prints rows as they come, then the answer.
pub(crate) struct Printer {
    out: Out,
    style: Style,
    body: Body,
    /// Text between two writes. It begins with the head, so that a command refused at once prints nothing.
    page: String,
    /// `rotate --all` answers with a list, also of one.
    many_tokens: bool,
    /// Each row is for somebody who waits.
    live: bool,
    unknown_attempts: u64,
    progress: Meter,
    failed: Option<Fault>,
}

/// What rows become.
enum Body {
    None,
    Array(JsonArray),
    Lines,
    Table(Table),
    Usage(Report<UsageRow>),
    Ledger(Report<LedgerRow>),
}

impl Printer {
    pub(crate) fn new(out: Out, style: Style, command: &Command) -> Self {
        let (page, body) = beginning(style, command);
        Self {
            out,
            style,
            body,
            page,
            many_tokens: matches!(command, Command::TokenRotate { all: true, .. }),
            live: matches!(command, Command::AuditTail { follow: true, .. }),
            unknown_attempts: 0,
            progress: Meter::default(),
            failed: None,
        }
    }

    /// Prints the end: the answer, or nothing more where the command failed.
    pub(crate) fn finish(mut self, asked: Result<Answer, Fault>) -> Result<(), Fault> {
        if self.out.gone() {
            return Ok(());
        }
        let answer = match (asked, self.failed.take()) {
            (Err(_), Some(fault)) | (Err(fault), None) => {
                self.out.flush()?;
                return Err(fault);
            }
            (Ok(answer), _) => answer,
        };
        let verdict = self.answer(&answer);
        self.out.flush()?;
        if self.unknown_attempts > 0 {
            note(&format!(
                "attempts of unknown usage, which are in no sum: {}; --detail lists them",
                self.unknown_attempts
            ));
        }
        verdict
    }

    fn answer(&mut self, answer: &Answer) -> Result<(), Fault> {
        match answer {
            Answer::End { .. } => self.end_of_rows(None),
            Answer::Ratecard { version, .. } => self.end_of_rows(Some(version)),
            Answer::Done { message } => self.one(
                &serde_json::json!({ "done": true, "message": message }),
                || format!("{message}\n"),
            ),
            Answer::Status(status) => self.one(status, || status_text(status)),
            Answer::TenantCreated(created) => self.one(created, || created_text(created)),
            Answer::Tenant(tenant) => self.one(tenant, || tenant_text(tenant)),
            Answer::Repaired(repaired) => self.one(repaired, || repaired_text(repaired)),
            Answer::Issued(token) => self.one(token, || token_text(token)),
            Answer::Rotated(rotated) => match rotated.tokens.as_slice() {
                [token] if !self.many_tokens => self.one(token, || token_text(token)),
                tokens => self.one(rotated, || {
                    tokens.iter().map(token_text).collect::<Vec<_>>().join("\n")
                }),
            },
            Answer::Quota(quota) => self.one(quota, || quota_text(quota)),
            Answer::AuditVerified(log) => self.one(log, || verified_text(log)),
            // The note itself, so that it can be kept as a file.
            Answer::AuditCheckpoint(signed) => self.one(signed, || signed.checkpoint.clone()),
            Answer::Policy(policy) => self.one(policy, || policy_text(policy)),
            Answer::PolicyChecked(checked) => self.one(checked, || policy_checked_text(checked)),
            Answer::PolicyExplained(why) => self.one(why, || policy_explained_text(why)),
            Answer::RatecardImported(done) => self.one(done, || {
                let head = format!(
                    "rate card {} is in force: {} models imported\n",
                    done.version, done.models
                );
                head + &warnings(&done.warnings)
            }),
            Answer::RatecardChecked(checked) => {
                let head = format!(
                    "rate card {}: {} configured routes have a price\n",
                    checked.version, checked.priced
                );
                let list = |problems: &[String]| {
                    problems
                        .iter()
                        .map(|problem| format!("fail  {problem}\n"))
                        .collect::<String>()
                };
                self.one(checked, || head + &list(&checked.problems))?;
                refused_if(
                    checked.problems.len(),
                    "configured routes without a price",
                    "import a card that prices them",
                )
            }
            Answer::ConfigChecked(checked) => self.one(checked, || {
                let head = format!("ok: {}\n", checked.files.join(", "));
                head + &warnings(&checked.warnings)
            }),
            Answer::Config(view) => self.out.json(&view.config),
            Answer::Doctor(doctor) => {
                self.one(doctor, || doctor_text(doctor))?;
                let failed = doctor
                    .checks
                    .iter()
                    .filter(|check| check.state == rpc::CheckState::Fail)
                    .count();
                refused_if(failed, "failed checks", "each line says what to do")
            }
        }
    }

    fn one(
        &mut self,
        value: &impl serde::Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Fault> {
        match self.style {
            Style::Json => self.out.json(value),
            Style::Text => self.out.text(&text()),
        }
    }

    fn end_of_rows(&mut self, version: Option<&str>) -> Result<(), Fault> {
        match &mut self.body {
            Body::Array(array) => {
                array.tail(&mut self.page);
                if let Some(version) = version {
                    // The head of this page opened an object around the array.
                    self.page.push_str(&format!(
                        ",\"version\":{}}}\n",
                        serde_json::Value::from(version)
                    ));
                }
            }
            Body::Table(table) => {
                table.finish(&mut self.page);
                if let Some(version) = version {
                    self.page.push_str(&format!("rate card {version}\n"));
                }
            }
            Body::Usage(report) => report.tail(&mut self.page),
            Body::Ledger(report) => report.tail(&mut self.page),
            Body::None | Body::Lines => {}
        }
        self.turn_page()
    }

    fn turn_page(&mut self) -> Result<(), Fault> {
        self.out.text(&self.page)?;
        self.page.clear();
        if self.live { self.out.flush() } else { Ok(()) }
    }
}

impl Rows for Printer {
    fn push(&mut self, row: Row) -> Result<(), Closed> {
        let pushed = self.page_row(row).and_then(|()| self.turn_page());
        if let Err(fault) = pushed {
            self.failed = Some(fault);
            return Err(Closed);
        }
        if self.out.gone() { Err(Closed) } else { Ok(()) }
    }
}

impl Printer {
    fn page_row(&mut self, row: Row) -> Result<(), Fault> {
        let page = &mut self.page;
        let written = match (&mut self.body, row) {
            (Body::Usage(report), Row::Usage(row)) => {
                self.unknown_attempts = self.unknown_attempts.saturating_add(row.unknown_attempts);
                report.row(&row, page)
            }
            (Body::Ledger(report), Row::Ledger(row)) => report.row(&row, page),
            (Body::Lines, Row::Audit(entry)) => {
                page.extend([entry.get(), "\n"]);
                Ok(())
            }
            (Body::Lines, Row::Content(part)) => {
                page.push_str(&content_text(&part));
                Ok(())
            }
            (Body::Array(array), Row::Content(row)) => array.push(&row, page),
            (Body::Array(array), Row::Tenant(row)) => array.push(&row, page),
            (Body::Array(array), Row::Token(row)) => array.push(&row, page),
            (Body::Array(array), Row::Secret(row)) => array.push(&row, page),
            (Body::Array(array), Row::Price(row)) => array.push(&row, page),
            (Body::Array(array), Row::Audit(entry)) => array.push(&entry, page),
            (_, Row::Progress(progress)) => {
                self.progress.show(progress);
                Ok(())
            }
            (Body::Table(table), row) => {
                if let Some(cells) = cells(&row) {
                    table.row(cells, page);
                }
                Ok(())
            }
            _ => {
                return Err(Fault::new(
                    FaultCode::Unreachable,
                    "the gateway sent rows of another kind; is it another version?",
                ));
            }
        };
        written.map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))
    }
}

fn warnings(texts: &[String]) -> String {
    let lines = texts.iter().map(|text| format!("warning: {text}\n"));
    lines.collect()
}

/// The head of the output and what its rows become.
fn beginning(style: Style, command: &Command) -> (String, Body) {
    let mut page = String::new();
    let format = if style == Style::Json {
        Format::Json
    } else {
        Format::Csv
    };
    let table = |columns| {
        if style == Style::Json {
            Body::Array(JsonArray::default())
        } else {
            Body::Table(Table::new(columns))
        }
    };
    let body = match command {
        Command::BillingReport { detail: false, .. } => Body::Usage(Report::new(format)),
        Command::BillingReport { detail: true, .. } => Body::Ledger(Report::new(format)),
        Command::AuditTail { follow: false, .. } if style == Style::Json => {
            Body::Array(JsonArray::default())
        }
        Command::AuditContent { .. } if style == Style::Json => Body::Array(JsonArray::default()),
        Command::AuditTail { .. } | Command::AuditContent { .. } => Body::Lines,
        Command::TenantsList => table(TENANTS),
        Command::TokenList { .. } => table(TOKENS),
        Command::SecretsList { .. } => table(SECRETS),
        Command::RatecardShow => table(PRICES),
        _ => Body::None,
    };
    match &body {
        Body::Usage(report) => report.head(&mut page),
        Body::Ledger(report) => report.head(&mut page),
        Body::Array(array) => {
            if matches!(command, Command::RatecardShow) {
                page.push_str("{\"models\":");
            }
            array.head(&mut page);
        }
        Body::None | Body::Lines | Body::Table(_) => {}
    }
    (page, body)
}

fn refused_if(count: usize, what: &str, advice: &str) -> Result<(), Fault> {
    if count == 0 {
        Ok(())
    } else {
        Err(Fault::new(
            FaultCode::Refused,
            format!("{what}: {count}; {advice}"),
        ))
    }
}

/// The route table.
pub(crate) fn routes(routes: &[RouteView], json: bool) -> Result<(), Fault> {
    let mut out = Out::new();
    if json {
        out.json(&routes)?;
    } else {
        out.text(&routes_text(routes))?;
    }
    out.flush()
}

/// What `init` made, with the operator key.
pub(crate) fn initialised(done: &Initialised, json: bool) -> Result<(), Fault> {
    let mut out = Out::new();
    let (data, config) = (
        done.data.display().to_string(),
        done.config.display().to_string(),
    );
    if json {
        out.json(&serde_json::json!({ "operator_key": done.operator_key, "data": data, "config": config }))?;
    } else {
        let key = done.operator_key.expose().to_owned();
        out.text(&facts(&[
            ("data", data.clone()),
            ("config", config),
            ("operator key", key),
        ]))?;
        out.text(&format!(
            "\nThe operator key is shown this once; keep it now. Keep a copy of {data}/master.key in another place:\n\
             without it nothing in the directory can be read.\n\n\
             Next: name your providers and models in the configuration, then\n  \
             partywall serve --data {data}\n  partywall tenants create acme --data {data}\n"
        ))?;
    }
    out.flush()
}

/// That the gateway accepts connections.
pub(crate) fn listening(public: SocketAddr, admin: SocketAddr, json: bool) {
    let mut out = Out::new();
    let printed = if json {
        out.text(&format!(
            "{}\n",
            serde_json::json!({ "listen": public.to_string(), "admin_listen": admin.to_string() })
        ))
    } else {
        out.text(&facts(&[
            ("public", format!("http://{public}/v1")),
            ("admin", format!("http://{admin}")),
        ]))
    };
    // A gateway whose standard output is closed serves all the same.
    if let Err(fault) = printed.and_then(|()| out.flush()) {
        note(&fault.message);
    }
}
