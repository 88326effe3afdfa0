//! An agent: what a tenant's admin makes of a model. Each change is a new version, and a run keeps the one it began with.

use base::Timestamp;
use kernel::sql::params;
use kernel::{Admission, Deed, ReadTx, StoreError, Trail, WriteTx};
use serde::{Deserialize, Serialize};

use crate::error::AgentError;
use crate::limits::{AGENTS_MAX, INSTRUCTIONS_BYTES_MAX};
use crate::tools;

/// What an agent is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSettings {
    /// The model or task that it thinks with; the tenant's own without it.
    pub model: Option<String>,
    /// What it is told before every conversation.
    pub instructions: Option<String>,
    /// Names of the tools that it may call.
    pub tools: Vec<String>,
    /// Sampling temperature, from 0 to 2.
    pub temperature: Option<f64>,
    /// Output of one step, in tokens.
    pub max_tokens: Option<u64>,
    /// Calls of the model in one run, 1 to 100.
    pub max_steps: Option<u64>,
    /// Seconds of one run, without waiting for approvals, 1 to 3600.
    pub max_seconds: Option<u64>,
    /// Dollars of one run: decimal text. A run that has spent so much makes no further step.
    pub max_cost_usd: Option<String>,
}

/// A version of an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// 1 for the first.
    pub version: i64,
    /// What it is made of.
    pub settings: AgentSettings,
    /// When it was set.
    pub set_at: Timestamp,
}

/// Steps of a run where the agent says nothing.
const STEPS: u64 = 20;
/// Seconds of a run where the agent says nothing.
const SECONDS: u64 = 300;

impl AgentSettings {
    /// Calls of the model in one run.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.max_steps.unwrap_or(STEPS)
    }

    /// Seconds of one run.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.max_seconds.unwrap_or(SECONDS)
    }

    pub(crate) fn cost_max(&self) -> Option<base::Money> {
        self.max_cost_usd
            .as_deref()
            .and_then(|text| base::Money::parse_usd(text).ok())
            .filter(|max| *max >= base::Money::default())
    }

    /// Whether each part is what it must be.
    ///
    /// # Errors
    /// The first that is not, with its limit.
    pub fn check(&self) -> Result<(), AgentError> {
        let within = |field, value: Option<u64>, min: u64, max: u64| match value {
            Some(value) if value < min || value > max => Err(AgentError::wrong(
                field,
                format!("must be from {min} to {max}"),
            )),
            _ => Ok(()),
        };
        within("max_steps", self.max_steps, 1, 100)?;
        within("max_seconds", self.max_seconds, 1, 3_600)?;
        within("max_tokens", self.max_tokens, 1, 1_000_000)?;
        if self
            .instructions
            .as_ref()
            .is_some_and(|text| text.len() > INSTRUCTIONS_BYTES_MAX)
        {
            let text = format!("is longer than {INSTRUCTIONS_BYTES_MAX} bytes");
            return Err(AgentError::wrong("instructions", text));
        }
        if self
            .model
            .as_ref()
            .is_some_and(|name| name.len() > 256 || name.is_empty())
        {
            return Err(AgentError::wrong("model", "must be the name of a model"));
        }
        if self
            .model
            .as_ref()
            .is_some_and(|name| name.starts_with(gateway::agents::PREFIX))
        {
            return Err(AgentError::wrong(
                "model",
                "an agent thinks with a model, not with an agent",
            ));
        }
        if self
            .temperature
            .is_some_and(|value| !(0.0..=2.0).contains(&value))
        {
            return Err(AgentError::wrong("temperature", "must be from 0 to 2"));
        }
        if self.max_cost_usd.is_some() && self.cost_max().is_none() {
            return Err(AgentError::wrong(
                "max_cost_usd",
                "must be dollars as decimal text, such as 0.50",
            ));
        }
        for (place, name) in self.tools.iter().enumerate() {
            if tools::find(name).is_none() {
                let names: Vec<_> = tools::TOOLS.iter().map(|tool| tool.name).collect();
                let text = format!(
                    "there is no tool {:?}; there are {}",
                    shown(name),
                    names.join(", ")
                );
                return Err(AgentError::wrong("tools", text));
            }
            if self.tools.iter().take(place).any(|other| other == name) {
                return Err(AgentError::wrong(
                    "tools",
                    format!("{name} stands there twice"),
                ));
            }
        }
        Ok(())
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// `[a-z]([a-z0-9-]{0,62}[a-z0-9])?`
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(plain)
}

/// Puts a version of an agent in force. Runs under way keep theirs.
pub(crate) async fn set(
    trail: &Trail,
    admission: &Admission,
    name: &str,
    settings: AgentSettings,
) -> Result<Agent, AgentError> {
    if !is_name(name) {
        let text =
            "must be 1 to 64 lower-case letters, digits and hyphens, beginning with a letter";
        return Err(AgentError::wrong("name", text));
    }
    settings.check()?;
    let body = serde_json::to_string(&settings).map_err(|_| AgentError::NotFound)?;
    let digest = hex::encode(kernel::digest::sha256(body.as_bytes()));
    let detail = [("name", name.to_owned()), ("sha256", digest)].into();
    let deed = Deed {
        action: "agent.set",
        detail,
        ..Deed::default()
    };
    trail.record(admission, deed).await?;
    let (name, now) = (name.to_owned(), admission.tenant().now());
    let put = move |tx: &mut WriteTx<'_>| put(tx, &name, &settings, &body, now);
    admission.tenant().write(put).await?.ok_or_else(|| {
        let text = format!("a tenant has at most {AGENTS_MAX} agents");
        AgentError::refused("too_many_agents", text)
    })
}

fn put(
    tx: &mut WriteTx<'_>,
    name: &str,
    settings: &AgentSettings,
    body: &str,
    now: Timestamp,
) -> Result<Option<Agent>, StoreError> {
    let last = latest(tx, name)?;
    if last.is_none() {
        let sql = "SELECT COUNT(DISTINCT name) FROM agent";
        let count: Option<i64> = tx.query_one(sql, params![], |row| Ok(row.get(0)?))?;
        if count.is_some_and(|count| usize::try_from(count).unwrap_or(usize::MAX) >= AGENTS_MAX) {
            return Ok(None);
        }
    }
    if let Some(same) = last.as_ref().filter(|last| last.settings == *settings) {
        return Ok(Some(same.clone()));
    }
    let version = last.map_or(1, |last| last.version + 1);
    let sql = "INSERT INTO agent (name, version, body, set_ms) VALUES (?1, ?2, ?3, ?4)";
    tx.execute(sql, params![name, version, body, now.unix_ms()])?;
    Ok(Some(Agent {
        name: name.to_owned(),
        version,
        settings: settings.clone(),
        set_at: now,
    }))
}

/// The version in force.
pub(crate) fn latest(tx: &ReadTx<'_>, name: &str) -> Result<Option<Agent>, StoreError> {
    let sql = "SELECT name, version, body, set_ms FROM agent WHERE name = ?1 ORDER BY version DESC LIMIT 1";
    tx.query_one(sql, params![name], agent)
}

/// A version that a run keeps.
pub(crate) fn version(
    tx: &ReadTx<'_>,
    name: &str,
    version: i64,
) -> Result<Option<Agent>, StoreError> {
    let sql = "SELECT name, version, body, set_ms FROM agent WHERE name = ?1 AND version = ?2";
    tx.query_one(sql, params![name, version], agent)
}

/// All agents, each in the version in force.
pub(crate) fn all(tx: &ReadTx<'_>) -> Result<Vec<Agent>, StoreError> {
    let sql = "SELECT name, version, body, set_ms FROM agent AS a
        WHERE version = (SELECT MAX(version) FROM agent WHERE name = a.name) ORDER BY name";
    tx.query(sql, params![], AGENTS_MAX, agent)
}

fn agent(row: &kernel::sql::Row<'_>) -> Result<Agent, StoreError> {
    let body: String = row.get(2)?;
    Ok(Agent {
        name: row.get(0)?,
        version: row.get(1)?,
        // What was stored was checked; what this version cannot read is damage.
        settings: serde_json::from_str(&body).map_err(|_| StoreError::Damaged)?,
        set_at: Timestamp::from_unix_ms(row.get(3)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "analyst", "a-1", &"a".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "1a", "a-", "a_b", "a/b", "ä", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let wrong = |settings: AgentSettings| match settings.check() {
            Err(AgentError::Wrong { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let of = AgentSettings::default;
        assert!(of().check().is_ok());
        assert_eq!(
            wrong(AgentSettings {
                max_steps: Some(0),
                ..of()
            }),
            "max_steps"
        );
        assert_eq!(
            wrong(AgentSettings {
                max_seconds: Some(3_601),
                ..of()
            }),
            "max_seconds"
        );
        assert_eq!(
            wrong(AgentSettings {
                temperature: Some(2.1),
                ..of()
            }),
            "temperature"
        );
        assert_eq!(
            wrong(AgentSettings {
                temperature: Some(f64::NAN),
                ..of()
            }),
            "temperature"
        );
        assert_eq!(
            wrong(AgentSettings {
                max_cost_usd: Some("x".into()),
                ..of()
            }),
            "max_cost_usd"
        );
        assert_eq!(
            wrong(AgentSettings {
                model: Some("agent/x".into()),
                ..of()
            }),
            "model"
        );
        assert_eq!(
            wrong(AgentSettings {
                tools: vec!["rm".into()],
                ..of()
            }),
            "tools"
        );
        let twice = vec!["exec".into(), "exec".into()];
        assert_eq!(
            wrong(AgentSettings {
                tools: twice,
                ..of()
            }),
            "tools"
        );
    }
}
