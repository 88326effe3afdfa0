//! Params and answers of the methods, each with its description. A test holds the two together.

use base::limits::{RPC_PAGE_BYTES_MAX, SECRET_BYTES_MAX};
use base::{PersonName, Role, TenantId, Timestamp, TokenName, UtcDay};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::field::{Described, Field, Kind};
use crate::{
    AuditCheckpoint, Credential, QuotaView, RotatedTokens, SecretName, SecretView, Status, Until,
    UsageRow, text,
};

/// Bytes of a name.
const NAME: Kind = Kind::Text { max: 64 };
/// Bytes of a name that clients choose: of a model, or a person.
const LONG_NAME: Kind = Kind::Text { max: 256 };
const WORD: Kind = Kind::Text { max: 64 };
const NUMBER: Kind = Kind::Count {
    min: 0,
    max: u64::MAX,
};

/// No params.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl Described for Nothing {
    const FIELDS: &'static [Field] = &[];
}

/// A period of usage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsagePeriod {
    /// First day, in UTC.
    #[serde(default, with = "text::option")]
    pub from: Option<UtcDay>,
    /// Last day, in UTC, included.
    #[serde(default, with = "text::option")]
    pub to: Option<UtcDay>,
}

impl Described for UsagePeriod {
    const FIELDS: &'static [Field] = &[
        Field::new("from", Kind::Day, "First day, in UTC."),
        Field::new("to", Kind::Day, "Last day, in UTC, included."),
    ];
}

/// Which tokens to rotate.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Every living token of the tenant in place of the calling one.
    #[serde(default)]
    pub all: Option<bool>,
    /// How long the old text still works.
    #[serde(default, with = "text::option")]
    pub grace: Option<Until>,
}

impl Described for Rotate {
    const FIELDS: &'static [Field] = &[
        Field::new(
            "all",
            Kind::Flag,
            "Every living token in place of the calling one.",
        ),
        Field::new(
            "grace",
            Kind::Until,
            "How long the old text still works; without it, it ends at once.",
        ),
    ];
}

/// A value to be sealed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSecret {
    /// Its name.
    #[serde(with = "text")]
    pub name: SecretName,
    /// The value.
    pub value: Credential,
}

impl Described for SetSecret {
    const FIELDS: &'static [Field] = &[
        Field::must(
            "name",
            NAME,
            "Its name; a provider's name makes it the tenant's own key there.",
        ),
        Field::must(
            "value",
            Kind::Text {
                max: SECRET_BYTES_MAX,
            },
            "The value; no answer shows it.",
        ),
    ];
}

/// A sealed value by its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSecret {
    /// The name.
    #[serde(with = "text")]
    pub name: SecretName,
}

impl Described for NamedSecret {
    const FIELDS: &'static [Field] = &[Field::must("name", NAME, "Its name.")];
}

/// What to look for in the audit log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Where to begin.
    #[serde(default)]
    pub from: Option<u64>,
    /// At most so many.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Entries of this action.
    #[serde(default)]
    pub action: Option<String>,
    /// Entries of this decision.
    #[serde(default)]
    pub decision: Option<String>,
    /// Entries about this model.
    #[serde(default)]
    pub model: Option<String>,
    /// Entries of this person.
    #[serde(default)]
    pub person: Option<String>,
    /// Entries of this token.
    #[serde(default)]
    pub token: Option<String>,
    /// Entries of this request.
    #[serde(default)]
    pub request_id: Option<String>,
    /// From this moment on.
    #[serde(default, with = "text::option")]
    pub since: Option<Timestamp>,
    /// Before this moment.
    #[serde(default, with = "text::option")]
    pub until: Option<Timestamp>,
}

impl Described for AuditQuery {
    const FIELDS: &'static [Field] = &[
        Field::new("from", NUMBER, "The place to begin at; 0 without it."),
        Field::new(
            "limit",
            Kind::Count { min: 1, max: 1_000 },
            "At most so many entries; 100 without it.",
        ),
        Field::new("action", WORD, "Entries of this action."),
        Field::new("decision", WORD, "allow or deny."),
        Field::new("model", LONG_NAME, "Entries about this model."),
        Field::new("person", LONG_NAME, "Entries of this person."),
        Field::new("token", WORD, "Entries of the token of this name."),
        Field::new("request_id", WORD, "Entries of this request."),
        Field::new("since", Kind::Moment, "From this moment on."),
        Field::new("until", Kind::Moment, "Before this moment."),
    ];
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// The place of the first entry that is sent.
    #[serde(default)]
    pub from: Option<u64>,
}

impl Described for Subscribe {
    const FIELDS: &'static [Field] = &[Field::new(
        "from",
        NUMBER,
        "The place of the first entry to send, to go on where a socket broke off; the next one to come without it.",
    )];
}

/// A subscription by its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSubscription {
    /// The name, as the socket got it.
    pub subscription: String,
}

impl Described for NamedSubscription {
    const FIELDS: &'static [Field] = &[Field::must(
        "subscription",
        WORD,
        "Its name on this socket.",
    )];
}

/// The page that a ticket is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketWish {
    /// The origin of the page.
    pub origin: String,
}

impl Described for TicketWish {
    const FIELDS: &'static [Field] = &[Field::must(
        "origin",
        LONG_NAME,
        "The origin of the page that will open the socket, one of the deployment's list.",
    )];
}

/// That the tenant is served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Partywall's version.
    pub version: String,
    /// The gateway's clock.
    #[serde(with = "text")]
    pub time: Timestamp,
}

impl Described for Health {
    const FIELDS: &'static [Field] = &[
        Field::must("status", WORD, "ok."),
        Field::must("version", WORD, "Partywall's version."),
        Field::must("time", Kind::Moment, "The gateway's clock."),
    ];
}

/// A tenant as its own callers see it, and the caller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnTenant {
    /// Its id.
    #[serde(with = "text")]
    pub id: TenantId,
    /// Where it stands.
    pub status: Status,
    /// Its tier.
    pub tier: String,
    /// When it was made.
    #[serde(with = "text")]
    pub created_at: Timestamp,
    /// The key that verifies its audit log.
    pub audit_vkey: String,
    /// Who asks.
    pub caller: OwnToken,
}

/// The credential that asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnToken {
    /// Its name.
    #[serde(with = "text")]
    pub token: TokenName,
    /// What it may do.
    #[serde(with = "text")]
    pub role: Role,
    /// The natural person that it stands for.
    #[serde(with = "text::option")]
    pub person: Option<PersonName>,
}

impl Described for OwnTenant {
    const FIELDS: &'static [Field] = &[
        Field::must("id", NAME, "Its id."),
        Field::must("status", WORD, "active or frozen."),
        Field::must("tier", LONG_NAME, "Its tier."),
        Field::must("created_at", Kind::Moment, "When it was made."),
        Field::must(
            "audit_vkey",
            LONG_NAME,
            "The key that verifies its audit log.",
        ),
        Field::must(
            "caller",
            Kind::Object,
            "The credential that asks: token, role, person.",
        ),
    ];
}

/// Usage by day and model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UsagePage {
    /// One row for each day and model.
    pub rows: Vec<UsageRow>,
}

impl Described for UsagePage {
    const FIELDS: &'static [Field] = &[Field::must(
        "rows",
        Kind::List,
        "One row for each day and model.",
    )];
}

impl Described for QuotaView {
    const FIELDS: &'static [Field] = &[
        Field::must("tenant", NAME, "The tenant."),
        Field::must("tier", LONG_NAME, "Its tier."),
        Field::must("markup", WORD, "Always null: the operator's own."),
        Field::must(
            "quotas",
            Kind::List,
            "One line for each quota of the tenant.",
        ),
        Field::must(
            "persons",
            Kind::List,
            "Those of persons that the caller may see.",
        ),
        Field::must(
            "tokens",
            Kind::List,
            "Those of tokens that the caller may see.",
        ),
        Field::must(
            "overrides",
            Kind::List,
            "What the operator set over the tier's limits.",
        ),
        Field::must(
            "storage",
            Kind::Object,
            "Bytes on disk; null where they cannot be read.",
        ),
    ];
}

impl Described for RotatedTokens {
    const FIELDS: &'static [Field] = &[Field::must(
        "tokens",
        Kind::List,
        "The new tokens: shown here and never again.",
    )];
}

/// A JSON document that is made elsewhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Document(pub Box<RawValue>);

impl Described for Document {
    const FIELDS: &'static [Field] = &[];
}

/// The sealed values of a tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretList {
    /// Their names and ages.
    pub secrets: Vec<SecretView>,
}

impl Described for SecretList {
    const FIELDS: &'static [Field] = &[Field::must(
        "secrets",
        Kind::List,
        "Name and age of each; never a value.",
    )];
}

/// A change that has nothing to show.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Done {
    /// Always `true`.
    pub done: bool,
}

impl Described for Done {
    const FIELDS: &'static [Field] = &[Field::must("done", Kind::Flag, "true.")];
}

/// A page of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditPage {
    /// The entries, byte for byte as they were signed.
    pub entries: Vec<Box<RawValue>>,
    /// Where the next page begins; `None` at the end of the log.
    pub next: Option<u64>,
    /// Entries of the log.
    pub length: u64,
}

impl AuditPage {
    /// Bytes of entries in one page.
    pub const BYTES_MAX: usize = RPC_PAGE_BYTES_MAX;
}

impl Described for AuditPage {
    const FIELDS: &'static [Field] = &[
        Field::must(
            "entries",
            Kind::List,
            "The entries, oldest first, as they were signed; at most 1 MiB of them.",
        ),
        Field::must(
            "next",
            NUMBER,
            "Where the next page begins; null at the end of the log.",
        ),
        Field::must("length", NUMBER, "Entries of the log."),
    ];
}

impl Described for AuditCheckpoint {
    const FIELDS: &'static [Field] = &[
        Field::must("tenant", NAME, "The tenant."),
        Field::must("vkey", LONG_NAME, "The key that verifies it."),
        Field::must("checkpoint", Kind::Text { max: 4_096 }, "A signed note."),
    ];
}

/// A subscription that began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// Its name on this socket.
    pub subscription: String,
    /// The place of the first entry that will be sent.
    pub next: u64,
}

impl Described for Subscribed {
    const FIELDS: &'static [Field] = &[
        Field::must("subscription", WORD, "Its name on this socket."),
        Field::must(
            "next",
            NUMBER,
            "The place of the first entry that will be sent.",
        ),
    ];
}

/// One new entry, on its way to a subscriber.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditEvent {
    /// The subscription.
    pub subscription: String,
    /// The entry's place: the next subscription goes on at one more.
    pub seq: u64,
    /// The entry, byte for byte as it was signed.
    pub entry: Box<RawValue>,
}

/// A single-use ticket for a browser's socket.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ticket {
    /// The ticket; it is shown here and opens one socket.
    pub ticket: Credential,
    /// The subprotocol to offer beside [`crate::method::SUBPROTOCOL`].
    pub protocol: Credential,
    /// When it ends unused.
    #[serde(with = "text")]
    pub expires_at: Timestamp,
}

impl Described for Ticket {
    const FIELDS: &'static [Field] = &[
        Field::must(
            "ticket",
            WORD,
            "The ticket: shown here, good for one socket.",
        ),
        Field::must("protocol", LONG_NAME, "The subprotocol that carries it."),
        Field::must("expires_at", Kind::Moment, "When it ends unused."),
    ];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn described<T: Described + Serialize>(value: &T) {
        let value = serde_json::to_value(value).unwrap();
        let written: BTreeSet<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let fields: BTreeSet<&str> = T::FIELDS.iter().map(|field| field.name).collect();
        assert_eq!(written, fields, "{}", std::any::type_name::<T>());
    }

    #[test]
    fn what_is_asked_is_what_is_described() {
        let name = || "a".to_owned();
        let credential = || Credential::new(name()).unwrap();
        described(&Nothing {});
        described(&UsagePeriod::default());
        described(&Rotate::default());
        described(&SetSecret {
            name: "a".parse().unwrap(),
            value: credential(),
        });
        described(&NamedSecret {
            name: "a".parse().unwrap(),
        });
        described(&AuditQuery::default());
        described(&Subscribe::default());
        described(&NamedSubscription {
            subscription: name(),
        });
        described(&TicketWish { origin: name() });
        described(&crate::policy::SetPolicy { document: name() });
        described(&crate::policy::TestPolicy::default());
    }

    #[test]
    fn what_is_answered_is_what_is_described() {
        let at = Timestamp::default;
        let name = || "a".to_owned();
        let credential = || Credential::new(name()).unwrap();
        described(&Health {
            status: name(),
            version: name(),
            time: at(),
        });
        described(&UsagePage { rows: Vec::new() });
        described(&RotatedTokens { tokens: Vec::new() });
        described(&SecretList {
            secrets: Vec::new(),
        });
        described(&Done { done: true });
        described(&AuditPage {
            entries: Vec::new(),
            next: None,
            length: 0,
        });
        described(&Subscribed {
            subscription: name(),
            next: 0,
        });
        described(&Ticket {
            ticket: credential(),
            protocol: credential(),
            expires_at: at(),
        });
        described(&AuditCheckpoint {
            tenant: "a".parse().unwrap(),
            vkey: name(),
            checkpoint: name(),
        });
        let caller = OwnToken {
            token: "a".parse().unwrap(),
            role: Role::Admin,
            person: None,
        };
        described(&OwnTenant {
            id: "a".parse().unwrap(),
            status: Status::Active,
            tier: name(),
            created_at: at(),
            audit_vkey: name(),
            caller,
        });
        described(&QuotaView {
            tenant: "a".parse().unwrap(),
            tier: name(),
            markup: None,
            quotas: Vec::new(),
            persons: Vec::new(),
            tokens: Vec::new(),
            overrides: Vec::new(),
            storage: None,
        });
    }
}
