//! What people read: rows as cells, answers as short pages.

use rpc::text::shown;
use rpc::{
    Doctor, IssuedToken, PriceRow, QuotaView, RouteView, Row, StatusView, TenantCreated,
    TenantView, TokenView,
};

use crate::table::{Align, Table, facts};

pub(crate) const TENANTS: &[(&str, Align)] = &[
    ("TENANT", Align::Left),
    ("STATUS", Align::Left),
    ("TIER", Align::Left),
    ("TOKENS", Align::Right),
    ("CREATED", Align::Left),
];
pub(crate) const TOKENS: &[(&str, Align)] = &[
    ("NAME", Align::Left),
    ("ROLE", Align::Left),
    ("STATE", Align::Left),
    ("PREFIX", Align::Left),
    ("CREATED", Align::Left),
    ("EXPIRES", Align::Left),
    ("LAST USED", Align::Left),
];
pub(crate) const SECRETS: &[(&str, Align)] = &[("NAME", Align::Left), ("SET", Align::Left)];
pub(crate) const PRICES: &[(&str, Align)] = &[
    ("MODEL", Align::Left),
    ("INPUT USD/TOKEN", Align::Right),
    ("OUTPUT USD/TOKEN", Align::Right),
    ("CACHE READ", Align::Right),
    ("CACHE WRITE", Align::Right),
    ("NOTE", Align::Left),
];
pub(crate) const QUOTAS: &[(&str, Align)] = &[
    ("LIMIT", Align::Left),
    ("ALLOWED", Align::Right),
    ("USED", Align::Right),
    ("SET BY", Align::Left),
    ("RESETS", Align::Left),
];
pub(crate) const CHECKS: &[(&str, Align)] = &[
    ("STATE", Align::Left),
    ("CHECK", Align::Left),
    ("FOUND", Align::Left),
];
pub(crate) const ROUTES: &[(&str, Align)] = &[
    ("METHOD", Align::Left),
    ("PATH", Align::Left),
    ("ACCESS", Align::Left),
    ("OBJECTS", Align::Left),
];

pub(crate) fn cells(row: &Row) -> Option<Vec<String>> {
    Some(match row {
        Row::Tenant(row) => vec![
            row.id.to_string(),
            row.status.as_str().to_owned(),
            row.tier.clone(),
            row.tokens.to_string(),
            row.created_at.to_string(),
        ],
        Row::Token(row) => token_cells(row),
        Row::Secret(row) => vec![row.name.to_string(), row.created_at.to_string()],
        Row::Price(row) => price_cells(row),
        Row::Usage(_) | Row::Ledger(_) | Row::Audit(_) => return None,
    })
}

fn token_cells(row: &TokenView) -> Vec<String> {
    vec![
        row.name.to_string(),
        row.role.to_string(),
        row.state.as_str().to_owned(),
        row.prefix.clone(),
        row.created_at.to_string(),
        row.expires_at
            .map_or_else(|| "never".to_owned(), |at| at.to_string()),
        row.last_used_day
            .map_or_else(|| "never".to_owned(), |day| day.to_string()),
    ]
}

fn price_cells(row: &PriceRow) -> Vec<String> {
    let price = |price: &Option<String>| price.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        row.model.clone(),
        price(&row.input_cost_per_token),
        price(&row.output_cost_per_token),
        price(&row.cache_read_input_token_cost),
        price(&row.cache_creation_input_token_cost),
        row.refused.clone().unwrap_or_default(),
    ]
}

fn table_text(
    columns: &'static [(&'static str, Align)],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let (mut table, mut text) = (Table::new(columns), String::new());
    rows.into_iter().for_each(|row| table.row(row, &mut text));
    table.finish(&mut text);
    text
}

pub(crate) fn created_text(created: &TenantCreated) -> String {
    facts(&[
        ("tenant", created.id.to_string()),
        ("status", created.status.as_str().to_owned()),
        ("tier", created.tier.clone()),
        ("token", created.token.expose().to_owned()),
        ("role", format!("{} ({})", created.role, created.token_name)),
        ("audit key", created.audit_vkey.clone()),
    ]) + KEEP
}

const KEEP: &str = "\nThe token is shown this once. Keep it now; `partywall tenants token rotate` makes a new one.\n";

pub(crate) fn token_text(token: &IssuedToken) -> String {
    let mut lines = vec![
        ("tenant", token.tenant.to_string()),
        ("name", token.name.to_string()),
        ("role", token.role.to_string()),
        ("token", token.token.expose().to_owned()),
        (
            "expires",
            token
                .expires_at
                .map_or_else(|| "never".to_owned(), |at| at.to_string()),
        ),
    ];
    if let Some(until) = token.old_valid_until {
        lines.push(("old until", until.to_string()));
    }
    facts(&lines) + KEEP
}

pub(crate) fn tenant_text(tenant: &TenantView) -> String {
    let database = match (&tenant.database.reason, tenant.database.bytes) {
        (Some(reason), _) => format!("{}: {reason}", tenant.database.state.as_str()),
        (None, Some(bytes)) => format!(
            "{}, {} KiB",
            tenant.database.state.as_str(),
            bytes.div_ceil(1024)
        ),
        (None, None) => tenant.database.state.as_str().to_owned(),
    };
    let head = facts(&[
        ("tenant", tenant.id.to_string()),
        ("uid", tenant.uid.to_string()),
        ("status", tenant.status.as_str().to_owned()),
        ("tier", tenant.tier.clone()),
        (
            "markup",
            tenant
                .markup
                .as_ref()
                .map_or_else(|| "none: list prices".to_owned(), shown),
        ),
        ("own limits", limits_text(&tenant.limits)),
        ("database", database),
        ("audit key", tenant.audit_vkey.clone()),
        ("created", tenant.created_at.to_string()),
    ]);
    format!(
        "{head}\n{}",
        table_text(TOKENS, tenant.tokens.iter().map(token_cells))
    )
}

fn limits_text(limits: &rpc::Limits) -> String {
    let count = |limit: Option<u64>| limit.map(|limit| limit.to_string());
    let usd = |limit: Option<base::Money>| limit.map(|limit| limit.to_string());
    let set: Vec<String> = [
        ("requests_per_second", count(limits.requests_per_second)),
        ("requests_per_minute", count(limits.requests_per_minute)),
        ("requests_per_day", count(limits.requests_per_day)),
        ("tokens_per_minute", count(limits.tokens_per_minute)),
        ("tokens_per_day", count(limits.tokens_per_day)),
        ("cost_per_day_usd", usd(limits.cost_per_day_usd)),
        ("cost_per_month_usd", usd(limits.cost_per_month_usd)),
        ("concurrent_requests", count(limits.concurrent_requests)),
    ]
    .into_iter()
    .filter_map(|(name, limit)| limit.map(|limit| format!("{name} {limit}")))
    .collect();
    if set.is_empty() {
        "none: those of the tier".to_owned()
    } else {
        set.join(", ")
    }
}

pub(crate) fn quota_text(quota: &QuotaView) -> String {
    let rows = quota.quotas.iter().map(|line| {
        vec![
            line.name.clone(),
            line.limit.clone().unwrap_or_else(|| "unlimited".to_owned()),
            line.used.clone(),
            line.source.clone(),
            line.resets_at.map_or_else(String::new, |at| at.to_string()),
        ]
    });
    let head = facts(&[
        ("tenant", quota.tenant.to_string()),
        ("tier", quota.tier.clone()),
    ]);
    format!("{head}\n{}", table_text(QUOTAS, rows))
}

pub(crate) fn status_text(status: &StatusView) -> String {
    if !status.running {
        return format!("no gateway runs; tenants: {}\n", status.tenants);
    }
    let unknown = || "-".to_owned();
    facts(&[
        ("gateway", format!("running, version {}", status.version)),
        ("public", status.listen.clone().unwrap_or_else(unknown)),
        ("admin", status.admin_listen.clone().unwrap_or_else(unknown)),
        (
            "since",
            status.started_at.map_or_else(unknown, |at| at.to_string()),
        ),
        ("tenants", status.tenants.to_string()),
    ])
}

pub(crate) fn doctor_text(doctor: &Doctor) -> String {
    let rows = doctor.checks.iter().map(|check| {
        let advice = check
            .advice
            .as_ref()
            .map(|advice| format!(" -> {advice}"))
            .unwrap_or_default();
        vec![
            check.state.as_str().to_owned(),
            check.name.clone(),
            format!("{}{advice}", check.found),
        ]
    });
    table_text(CHECKS, rows)
}

pub(crate) fn routes_text(routes: &[RouteView]) -> String {
    let cells = |route: &RouteView| {
        vec![
            route.method.clone(),
            route.path.clone(),
            route.access.clone(),
            route.objects.join(", "),
        ]
    };
    table_text(ROUTES, routes.iter().map(cells))
}
