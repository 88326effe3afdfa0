//! What people read: rows as cells, answers as short pages.

pub(crate) mod policy;

use rpc::text::shown;
use rpc::{
    AuditVerified, ContentPart, Doctor, IssuedToken, PriceRow, QuotaLine, QuotaView, Repaired,
    RouteView, Row, StatusView, TenantCreated, TenantView, TokenView,
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
    ("PERSON", Align::Left),
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
    ("HELD", Align::Right),
    ("LEFT", Align::Right),
    ("SET BY", Align::Left),
    ("RESETS", Align::Left),
];
const OVERRIDES: &[(&str, Align)] = &[
    ("SET FOR", Align::Left),
    ("LIMIT", Align::Left),
    ("ALLOWED", Align::Right),
    ("UNTIL", Align::Left),
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
    ("LISTENER", Align::Left),
];

pub(crate) fn cells(row: &Row) -> Option<Vec<String>> {
    Some(match row {
        Row::Tenant(row) => vec![
            row.id.to_string(),
            match row.quarantined {
                true => format!("{}, quarantined", row.status.as_str()),
                false => row.status.as_str().to_owned(),
            },
            row.tier.clone(),
            row.tokens.to_string(),
            row.created_at.to_string(),
        ],
        Row::Token(row) => token_cells(row),
        Row::Secret(row) => vec![row.name.to_string(), row.created_at.to_string()],
        Row::Price(row) => price_cells(row),
        Row::Usage(_)
        | Row::Ledger(_)
        | Row::Audit(_)
        | Row::Content(_)
        | Row::File(_)
        | Row::Progress(_) => {
            return None;
        }
    })
}

fn token_cells(row: &TokenView) -> Vec<String> {
    vec![
        row.name.to_string(),
        row.role.to_string(),
        row.person
            .as_ref()
            .map_or_else(|| "-".to_owned(), ToString::to_string),
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

/// One side of a call. Whoever said it must not write on the reader's terminal: control characters are shown as such.
pub(crate) fn content_text(part: &ContentPart) -> String {
    let said = part.text.as_deref().or(part.base64.as_deref());
    let said = said.unwrap_or_default();
    let cut = match (&part.text, part.bytes) {
        (Some(text), bytes) if text.len() as u64 == bytes => String::new(),
        (Some(text), _) => format!(", the first {}", text.len()),
        (None, _) => ", in base64".to_owned(),
    };
    let shown: String = said
        .chars()
        .map(|letter| match letter {
            '\n' | '\t' => letter,
            other if other.is_control() => '\u{fffd}',
            other => other,
        })
        .collect();
    format!(
        "{}: {} bytes{cut}\n{}\n\n",
        part.part,
        part.bytes,
        shown.trim_end()
    )
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

pub(crate) fn verified_text(log: &AuditVerified) -> String {
    let mut lines = vec![
        ("tenant", log.tenant.to_string()),
        ("verified", format!("{} entries", log.entries)),
    ];
    if log.first > 0 {
        lines.push(("dropped", format!("the first {}, by retention", log.first)));
    }
    if let Some(since) = log.since {
        lines.push((
            "since",
            format!("begins with the {since} entries of the kept checkpoint"),
        ));
    }
    lines.push(("root", log.root.clone()));
    lines.push(("audit key", log.vkey.clone()));
    for key in &log.retired_vkeys {
        lines.push(("earlier key", key.clone()));
    }
    facts(&lines)
}

pub(crate) fn repaired_text(repaired: &Repaired) -> String {
    let head = match (repaired.in_place, repaired.whole) {
        (true, true) => "repaired: nothing is known to be lost",
        (true, false) => "repaired, with losses",
        (false, true) => "dry run: nothing would be lost",
        (false, false) => "dry run: something would be lost",
    };
    let listed = |text: &str| match text.is_empty() {
        true => "none".to_owned(),
        false => text.to_owned(),
    };
    facts(&[
        ("tenant", repaired.tenant.to_string()),
        ("state", head.to_owned()),
        ("databases read", repaired.sources.to_string()),
        ("damaged tables", listed(&repaired.damaged_tables.join(" "))),
        (
            "from the journal",
            format!("{} records", repaired.from_journal),
        ),
        ("ledger rows", repaired.rows.to_string()),
        ("lost rows", repaired.lost_rows.to_string()),
        ("audit entries", repaired.entries.to_string()),
        ("lost entries", listed(&repaired.lost_entries)),
        ("replaced entries", listed(&repaired.replaced_entries)),
        (
            "checkpoints",
            match repaired.goes_on {
                true => "the log goes on from those known",
                false => "the log does not go on from earlier ones",
            }
            .to_owned(),
        ),
        ("secrets", repaired.secrets.to_string()),
        ("lost secrets", listed(&repaired.lost_secrets.join(" "))),
    ])
}

pub(crate) fn tenant_text(tenant: &TenantView) -> String {
    let since = tenant
        .database
        .since
        .map_or_else(String::new, |since| format!(" since {since}"));
    let database = match (&tenant.database.reason, tenant.database.bytes) {
        (Some(reason), _) => format!("{}{since}: {reason}", tenant.database.state.as_str()),
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

fn limits_text(limits: &base::Limits) -> String {
    if limits.is_empty() {
        "none: those of the tier".to_owned()
    } else {
        limits.to_string()
    }
}

pub(crate) fn quota_text(quota: &QuotaView) -> String {
    let mut head = vec![
        ("tenant", quota.tenant.to_string()),
        ("tier", quota.tier.clone()),
    ];
    if let Some(stored) = &quota.storage {
        let (database, files) = (stored.database_bytes, stored.files_bytes);
        let (cache, logs) = (stored.cache_bytes, stored.logs_bytes);
        let text = format!("database {database}, files {files}, cache {cache}, logs {logs} bytes");
        head.push(("storage", text));
    }
    let mut text = format!(
        "{}\n{}",
        facts(&head),
        table_text(QUOTAS, quota.quotas.iter().map(quota_cells))
    );
    for (kind, parties) in [("person", &quota.persons), ("token", &quota.tokens)] {
        for party in parties {
            // Of persons and tokens, what limits them.
            let limited = party.quotas.iter().filter(|line| line.limit.is_some());
            let rows: Vec<_> = limited.map(quota_cells).collect();
            if !rows.is_empty() {
                let table = table_text(QUOTAS, rows);
                text.push_str(&format!("\n{kind} {}\n{table}", party.name));
            }
        }
    }
    if !quota.overrides.is_empty() {
        let rows = quota.overrides.iter().map(|over| {
            vec![
                over.scope.to_string(),
                over.name.clone(),
                over.limit.clone(),
                over.until
                    .map_or_else(|| "-".to_owned(), |at| at.to_string()),
            ]
        });
        text.push_str(&format!("\n{}", table_text(OVERRIDES, rows)));
    }
    text
}

fn quota_cells(line: &QuotaLine) -> Vec<String> {
    let unlimited = || "unlimited".to_owned();
    vec![
        line.name.clone(),
        line.limit.clone().unwrap_or_else(unlimited),
        line.used.clone(),
        line.held.clone(),
        line.left.clone().unwrap_or_else(unlimited),
        line.source.clone(),
        line.resets_at.map_or_else(String::new, |at| at.to_string()),
    ]
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
            route.listener.clone(),
        ]
    };
    table_text(ROUTES, routes.iter().map(cells))
}
