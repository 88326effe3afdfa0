//! Agents and their tools: what is asked about them, and what comes back.

use base::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::field::{Described, Field, Kind, list};
use crate::text;

const NAME: Kind = Kind::Text { max: 64 };
const LONG_NAME: Kind = Kind::Text { max: 256 };
const PLACE: Kind = Kind::Count {
    min: 0,
    max: i64::MAX as u64,
};

/// An agent by its name: `agents.get`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedAgent {
    /// The name.
    pub name: String,
}

impl Described for NamedAgent {
    const FIELDS: &'static [Field] = &[Field::must("name", NAME, "Its name.")];
}

/// What an agent is to be: `agents.set`. What is left out is as if it had never been set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAgent {
    /// Its name.
    pub name: String,
    /// The model or task that it thinks with.
    #[serde(default)]
    pub model: Option<String>,
    /// What it is told before every conversation.
    #[serde(default)]
    pub instructions: Option<String>,
    /// Tools that it may call.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Sampling temperature.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Output of one step, in tokens.
    #[serde(default)]
    pub max_tokens: Option<u64>,
    /// Calls of the model in one run.
    #[serde(default)]
    pub max_steps: Option<u64>,
    /// Seconds of one run.
    #[serde(default)]
    pub max_seconds: Option<u64>,
    /// Dollars of one run.
    #[serde(default)]
    pub max_cost_usd: Option<String>,
}

impl Described for SetAgent {
    const FIELDS: &'static [Field] = &[
        Field::must(
            "name",
            NAME,
            "Its name: lower-case letters, digits and hyphens.",
        ),
        Field::new(
            "model",
            LONG_NAME,
            "The model or task that it thinks with; the tenant's own without it.",
        ),
        Field::new(
            "instructions",
            Kind::Text { max: 64 * 1024 },
            "What it is told before every conversation.",
        ),
        Field::new(
            "tools",
            Kind::Texts { items: 64, max: 64 },
            "Names of the tools that it may call, as tools.list has them.",
        ),
        Field::new(
            "temperature",
            Kind::Number { min: 0, max: 2 },
            "Sampling temperature.",
        ),
        Field::new(
            "max_tokens",
            Kind::Count {
                min: 1,
                max: 1_000_000,
            },
            "Output of one step, in tokens.",
        ),
        Field::new(
            "max_steps",
            Kind::Count { min: 1, max: 100 },
            "Calls of the model in one run; 20 without it.",
        ),
        Field::new(
            "max_seconds",
            Kind::Count { min: 1, max: 3_600 },
            "Seconds of one run, without waiting for approvals; 300 without it.",
        ),
        Field::new(
            "max_cost_usd",
            Kind::Text { max: 32 },
            "Dollars, as decimal text: a run that has spent so much makes no further step.",
        ),
    ];
}

/// An agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name.
    pub name: String,
    /// 1 for the first.
    pub version: u64,
    /// When this version was set.
    #[serde(with = "text")]
    pub set_at: Timestamp,
    /// The model or task that it thinks with.
    pub model: Option<String>,
    /// What it is told before every conversation.
    pub instructions: Option<String>,
    /// Tools that it may call.
    pub tools: Vec<String>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Output of one step, in tokens.
    pub max_tokens: Option<u64>,
    /// Calls of the model in one run.
    pub max_steps: u64,
    /// Seconds of one run.
    pub max_seconds: u64,
    /// Dollars of one run.
    pub max_cost_usd: Option<String>,
}

impl Described for AgentView {
    const FIELDS: &'static [Field] = &[
        Field::must("name", NAME, "Its name."),
        Field::must(
            "version",
            PLACE,
            "1 for the first; a change makes a new one, and a run keeps the one it began with.",
        ),
        Field::must("set_at", Kind::Moment, "When this version was set."),
        Field::must(
            "model",
            LONG_NAME,
            "The model or task that it thinks with; null: the tenant's own.",
        ),
        Field::must(
            "instructions",
            Kind::Text { max: 64 * 1024 },
            "What it is told before every conversation.",
        ),
        Field::must("tools", Kind::List, "Tools that it may call."),
        Field::must(
            "temperature",
            Kind::Number { min: 0, max: 2 },
            "Sampling temperature.",
        ),
        Field::must("max_tokens", PLACE, "Output of one step, in tokens."),
        Field::must("max_steps", PLACE, "Calls of the model in one run."),
        Field::must(
            "max_seconds",
            PLACE,
            "Seconds of one run, without waiting for approvals.",
        ),
        Field::must(
            "max_cost_usd",
            Kind::Text { max: 32 },
            "Dollars of one run.",
        ),
    ];
}

list!(
    /// All agents.
    AgentList, agents: AgentView, "Each in the version in force, as agents.get shows it."
);
list!(
    /// Every tool.
    ToolList, tools: ToolView, "Name, description and the JSON schema of the arguments of each."
);

/// A tool that agents may have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ToolView {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The JSON schema of its arguments.
    pub parameters: Box<RawValue>,
}
