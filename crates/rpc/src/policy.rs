//! Rules that hold in a tenant: what is asked about them, and what comes back.

use base::{PersonName, Role, TenantId, Timestamp, TokenName};
use serde::{Deserialize, Serialize};

use base::limits::POLICY_BYTES_MAX;

use crate::field::{Described, Field, Kind};
use crate::text;

const DOCUMENT: Kind = Kind::Text {
    max: POLICY_BYTES_MAX,
};
const HASH: Kind = Kind::Text { max: 64 };
const COUNT: Kind = Kind::Count {
    min: 0,
    max: u64::MAX,
};

/// A document of rules to be put in force: `policy.set`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPolicy {
    /// Rules and tests, in YAML; empty: no rules of its own.
    pub document: String,
}

impl Described for SetPolicy {
    const FIELDS: &'static [Field] = &[Field::must(
        "document",
        DOCUMENT,
        "Rules and tests, in YAML; empty: no rules of its own.",
    )];
}

/// A document whose tests are to be run: `policy.test`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestPolicy {
    /// Rules and tests, in YAML; without it, those that are set.
    #[serde(default)]
    pub document: Option<String>,
}

impl Described for TestPolicy {
    const FIELDS: &'static [Field] = &[Field::new(
        "document",
        DOCUMENT,
        "Rules and tests, in YAML; without it, those that are set.",
    )];
}

impl Described for PolicyView {
    const FIELDS: &'static [Field] = &[
        Field::must("tenant", Kind::Text { max: 32 }, "The tenant."),
        Field::must(
            "in_force",
            HASH,
            "The version of everything that holds together, as in audit entries.",
        ),
        Field::new("version", HASH, "SHA-256 of the document, in hex."),
        Field::new("set_at", Kind::Moment, "When it was set."),
        Field::must(
            "document",
            DOCUMENT,
            "The tenant's own document, byte for byte.",
        ),
    ];
}

impl Described for PolicyChecked {
    const FIELDS: &'static [Field] = &[
        Field::must("tenant", Kind::Text { max: 32 }, "The tenant."),
        Field::must("version", HASH, "SHA-256 of the document, in hex."),
        Field::must("rules", COUNT, "Its rules."),
        Field::must("tests", COUNT, "Its tests, all of which hold."),
        Field::must("in_force", Kind::Flag, "Whether it is in force."),
    ];
}

/// Who would do what to which thing: `policy.explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyQuestion {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The role of who would act.
    #[serde(with = "text")]
    pub role: Role,
    /// The name of its credential.
    #[serde(with = "text")]
    pub token: TokenName,
    /// The natural person that it stands for.
    #[serde(
        default,
        with = "text::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub person: Option<PersonName>,
    /// `call_model`, `run_code`, …
    pub action: String,
    /// The name of what is acted on.
    pub resource: String,
    /// Of a call of a model: `chat.completions` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Of a call of a model: its answer comes in pieces.
    #[serde(default)]
    pub stream: bool,
    /// Of a call of a model: it names tools.
    #[serde(default)]
    pub tools: bool,
    /// Of a connection; 443 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A set of rules: the tenant's own, or the operator's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The version of everything that holds together, as in audit entries.
    pub in_force: String,
    /// SHA-256 of the tenant's own document in hex; `None` where it has set none.
    pub version: Option<String>,
    /// When that was set.
    #[serde(with = "text::option")]
    pub set_at: Option<Timestamp>,
    /// The tenant's own document, byte for byte, empty where it has set none; or the operator's rules, where those were asked for.
    pub document: String,
}

/// A set of rules that was tested, and taken where it was to be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChecked {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// SHA-256 of the document in hex.
    pub version: String,
    /// Its rules.
    pub rules: u64,
    /// Its tests, all of which hold.
    pub tests: u64,
    /// Whether it is in force.
    pub in_force: bool,
}

/// A decision, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyExplained {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The version of everything that holds together, as in audit entries.
    pub in_force: String,
    /// `allow`, `require_approval`, `cap`, `deny`, `absent` or `broken`.
    pub decision: String,
    /// Roles of which one has to approve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Caps as `name=limit`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    /// The rules that decided, as `origin.id` joined by blanks.
    pub decided_by: String,
    /// Every rule that the question satisfies.
    pub rules: Vec<PolicyRule>,
}

/// A rule that a question satisfies, or that breaks on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// `origin.id`.
    pub rule: String,
    /// Its line in its set, from 1.
    pub line: u64,
    /// `permits`, `forbids`, `asks` (forbids unless an obligation is kept) or `broke`.
    pub effect: String,
}
