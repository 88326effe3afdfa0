//! Runs: what is asked about them, and what comes back.

use base::{Money, Timestamp};
use serde::{Deserialize, Serialize};

use crate::field::{Described, Field, Kind, list};
use crate::text;

const ID: Kind = Kind::Text { max: 64 };
const NAME: Kind = Kind::Text { max: 64 };
const LONG_NAME: Kind = Kind::Text { max: 256 };
const PLACE: Kind = Kind::Count {
    min: 0,
    max: i64::MAX as u64,
};
const PAGE: Kind = Kind::Count { min: 1, max: 200 };

list!(
    /// A page of runs.
    RunList, runs: RunView, "Newest first, without their calls."
);

/// Which runs: `runs.list`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunsWish {
    /// Of this session.
    #[serde(default)]
    pub session: Option<String>,
    /// Those before this run.
    #[serde(default)]
    pub before: Option<String>,
    /// At most so many.
    #[serde(default)]
    pub limit: Option<u64>,
}

impl Described for RunsWish {
    const FIELDS: &'static [Field] = &[
        Field::new("session", ID, "Of this session; of all without it."),
        Field::new("before", ID, "Those before this run."),
        Field::new("limit", PAGE, "At most so many; 50 without it."),
    ];
}

/// A run by its id.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedRun {
    /// The id.
    pub id: String,
}

impl Described for NamedRun {
    const FIELDS: &'static [Field] = &[Field::must("id", ID, "Its id.")];
}

/// A call of a tool that waits for an approval: `runs.approve`, `runs.deny`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedCall {
    /// The run.
    pub id: String,
    /// The call.
    pub call: String,
}

impl Described for NamedCall {
    const FIELDS: &'static [Field] = &[
        Field::must("id", ID, "The run."),
        Field::must("call", ID, "The call."),
    ];
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunView {
    /// `run_` and 32 hex digits; these are the `trace_id` of its ledger rows and audit entries.
    pub id: String,
    /// Its session.
    pub session: String,
    /// Its agent.
    pub agent: Option<String>,
    /// The version that it keeps.
    pub agent_version: Option<u64>,
    /// The credential that began it.
    pub token: String,
    /// Where it stands.
    pub state: String,
    /// Why it failed.
    pub why: Option<String>,
    /// Calls of the model so far.
    pub steps: u64,
    /// What they cost.
    #[serde(with = "text")]
    pub cost_usd: Money,
    /// When it was asked for.
    #[serde(with = "text")]
    pub created_at: Timestamp,
    /// When it began to work.
    #[serde(with = "text::option")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(with = "text::option")]
    pub ended_at: Option<Timestamp>,
    /// Its calls of tools.
    pub calls: Vec<CallView>,
}

impl Described for RunView {
    const FIELDS: &'static [Field] = &[
        Field::must(
            "id",
            ID,
            "run_ and 32 hex digits, which are the trace_id of its ledger rows and audit entries.",
        ),
        Field::must("session", ID, "Its session."),
        Field::must("agent", NAME, "Its agent."),
        Field::must("agent_version", PLACE, "The version that it keeps."),
        Field::must(
            "token",
            NAME,
            "The credential that began it, as which each step is admitted.",
        ),
        Field::must(
            "state",
            NAME,
            "queued, running, waiting, finished, failed or cancelled.",
        ),
        Field::must("why", LONG_NAME, "Why it failed: a stable code."),
        Field::must("steps", PLACE, "Calls of the model so far."),
        Field::must("cost_usd", NAME, "What they cost, as far as it is known."),
        Field::must("created_at", Kind::Moment, "When it was asked for."),
        Field::must("started_at", Kind::Moment, "When it began to work."),
        Field::must("ended_at", Kind::Moment, "When it ended."),
        Field::must(
            "calls",
            Kind::List,
            "Its calls of tools, in order; empty in a list of runs.",
        ),
    ];
}

/// A call of a tool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallView {
    /// `call_` and 32 hex digits.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// Its arguments, as the model wrote them.
    pub arguments: String,
    /// Where it stands: `proposed`, `waiting`, `approved`, `denied`, `begun` or `ended`.
    pub state: String,
    /// Roles of which one has to approve, where one has to.
    pub approvers: Vec<String>,
    /// Who decided.
    pub decided_by: Option<String>,
    /// Until when it waits, or waited.
    #[serde(with = "text::option")]
    pub until: Option<Timestamp>,
    /// When it began to take effect.
    #[serde(with = "text::option")]
    pub begun_at: Option<Timestamp>,
    /// When its result was there.
    #[serde(with = "text::option")]
    pub ended_at: Option<Timestamp>,
}
