//! A tenant's own configuration: `tenants/<id>/config.yaml`.
//!
//! Its type has no field for anything that is the operator's (credentials, prices, limits), so an overlay cannot express it.
//! Anchors, aliases, merge keys, tags and duplicate keys are refused: what a reader sees is what holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base::limits;
use policy::{ModelList, yaml};
use serde::Deserialize;

use crate::alerts::{CheckpointSchedule, TenantReceiver, thresholds};
use crate::audit::level::Level;
use crate::egress::{AllowedHost, Destination};

/// What a tenant has set for itself. Everything absent falls back to the tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// The model of a call that names none.
    pub model: Option<String>,
    /// Models that the tenant's users can see; narrows the tier's list.
    pub models: Option<ModelList>,
    /// Output of a call that gives no maximum; never above the tier's cap.
    pub max_tokens: Option<u64>,
    /// Sampling temperature of a call that gives none: decimal text from 0 to 2.
    pub temperature: Option<String>,
    /// Text that precedes the client's own system prompt.
    pub system_prompt: Option<String>,
    /// Task name to model name.
    pub tasks: BTreeMap<String, String>,
    /// Where the tenant is told of its budgets.
    pub receiver: Option<TenantReceiver>,
    /// Percents of a limit at which it is told.
    pub thresholds: Option<Arc<[u8]>>,
    /// How long audit entries are kept.
    pub audit_retention: Option<Duration>,
    /// How much the audit entry of a call says, where that is to be less than the tier's.
    pub audit_level: Option<Level>,
}

/// Why an overlay was not taken. The text names the key and the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayError {
    /// Line in the file, from 1.
    pub line: Option<u64>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for OverlayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "config.yaml: line {line}: {}", self.message),
            None => write!(f, "config.yaml: {}", self.message),
        }
    }
}

impl std::error::Error for OverlayError {}

/// Keys that an operator sets and a tenant cannot. Only for a better message; the type already has no place for them.
const OPERATOR_KEYS: &[&str] = &[
    "admin",
    "api_key",
    "base_url",
    "cost_per_day_usd",
    "cost_per_month_usd",
    "limits",
    "listen",
    "markup",
    "providers",
    "quota",
    "quotas",
    "ratecards",
    "requests_per_day",
    "requests_per_minute",
    "requests_per_second",
    "tier",
    "tiers",
    "tls",
    "tokens_per_day",
    "tokens_per_minute",
];

/// Keys of the surface whose feature is not in this version.
const LATER_KEYS: &[&str] = &[
    "cache", "channels", "cron", "mcp", "policies", "skills", "tools",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model: Option<String>,
    models: Option<Vec<String>>,
    max_tokens: Option<u64>,
    temperature: Option<f64>,
    system_prompt: Option<String>,
    tasks: Option<BTreeMap<String, String>>,
    alerts: Option<FileAlerts>,
    audit: Option<FileAudit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAudit {
    retention_days: Option<u32>,
    level: Option<String>,
}

impl FileAudit {
    fn read(self) -> Result<(Option<Duration>, Option<Level>), String> {
        let keep = self.retention_days.map(retention).transpose();
        let keep = keep.map_err(|error| format!("audit.retention_days: {error}"))?;
        let level = self.level.as_deref().map(level).transpose();
        let level = level.map_err(|error| format!("audit.level: {error}"))?;
        Ok((keep, level))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAlerts {
    webhook: String,
    secret: String,
    thresholds: Option<Vec<u8>>,
    checkpoints: Option<CheckpointSchedule>,
}

/// A receiver, and the thresholds that go with it.
type ReadAlerts = (TenantReceiver, Option<Arc<[u8]>>);

impl FileAlerts {
    fn read(self) -> Result<ReadAlerts, String> {
        Destination::check_text(&self.webhook)
            .map_err(|error| format!("alerts.webhook: {error}"))?;
        let named = self.secret.strip_prefix("vault:");
        let secret = named.filter(|name| name.parse::<base::TokenName>().is_ok());
        // What stands there is not shown: it may be the secret itself.
        let secret = secret.ok_or(
            "alerts.secret: a secret does not belong in this file: seal it and write vault:NAME",
        )?;
        let thresholds = self.thresholds.map(thresholds).transpose();
        let thresholds = thresholds.map_err(|error| format!("alerts.thresholds: {error}"))?;
        let receiver = TenantReceiver {
            url: self.webhook.as_str().into(),
            secret: secret.into(),
            checkpoints: self.checkpoints,
        };
        Ok((receiver, thresholds))
    }
}

impl Overlay {
    /// Reads an overlay file. Empty text is an empty overlay.
    ///
    /// # Errors
    /// Unknown, duplicate or out-of-range keys, anchors, merge keys, and files above the size limit.
    pub fn parse(text: &str) -> Result<Self, OverlayError> {
        if text.len() > limits::OVERLAY_BYTES_MAX {
            let message = format!(
                "larger than the limit of {} bytes",
                limits::OVERLAY_BYTES_MAX
            );
            return Err(OverlayError {
                line: None,
                message,
            });
        }
        if yaml::says_nothing(text) {
            return Ok(Self::default());
        }
        let file: File = yaml::read(text).map_err(|error| refusal(&error, text))?;
        let message = |message| OverlayError {
            line: None,
            message,
        };
        let alerts = file.alerts.map(FileAlerts::read).transpose();
        let (receiver, thresholds) = alerts.map_err(message)?.unzip();
        let audit = file.audit.map(FileAudit::read).transpose();
        let (audit_retention, audit_level) = audit.map_err(message)?.unwrap_or_default();
        let overlay = Self {
            audit_retention,
            audit_level,
            model: file.model,
            models: file.models.map(ModelList::from),
            max_tokens: file.max_tokens,
            temperature: file.temperature.map(|value| value.to_string()),
            system_prompt: file.system_prompt,
            tasks: file.tasks.unwrap_or_default(),
            receiver,
            thresholds: thresholds.flatten(),
        };
        overlay.in_range(file.temperature).map_err(message)?;
        Ok(overlay)
    }

    fn in_range(&self, temperature: Option<f64>) -> Result<(), String> {
        if self.max_tokens == Some(0) {
            return Err("max_tokens: must be at least 1".to_owned());
        }
        if temperature.is_some_and(|value| !(0.0..=2.0).contains(&value)) {
            return Err("temperature: must be from 0 to 2".to_owned());
        }
        let names = self
            .model
            .iter()
            .chain(self.models.iter().flat_map(ModelList::names))
            .chain(self.tasks.values());
        for name in names {
            if name.is_empty() || name.len() > 256 {
                return Err("model names: must have 1 to 256 bytes".to_owned());
            }
        }
        Ok(())
    }

    /// Checks where alerts would go. `hosts` are those that may be private.
    ///
    /// # Errors
    /// Names the key and the rule that the URL breaks.
    pub fn check_receiver(&self, hosts: &BTreeSet<AllowedHost>) -> Result<(), OverlayError> {
        let checked = self.receiver.iter().map(|to| to.destination(hosts));
        match checked.collect::<Result<Vec<_>, _>>() {
            Ok(_) => Ok(()),
            Err(error) => Err(OverlayError {
                line: None,
                message: format!("alerts.webhook: {error}"),
            }),
        }
    }

    /// Checks that every model named here is one of `known`.
    ///
    /// # Errors
    /// Names the key and the model that does not exist.
    pub fn check_models(&self, known: impl Fn(&str) -> bool) -> Result<(), OverlayError> {
        let model = self.model.iter().map(|name| ("model".to_owned(), name));
        let models = self
            .models
            .iter()
            .flat_map(ModelList::names)
            .map(|name| ("models".to_owned(), name));
        let tasks = self
            .tasks
            .iter()
            .map(|(task, name)| (format!("tasks.{task}"), name));
        for (key, name) in model.chain(models).chain(tasks) {
            if !known(name) {
                return Err(OverlayError {
                    line: None,
                    message: format!("{key}: there is no model {name:?}"),
                });
            }
        }
        Ok(())
    }
}

/// How long entries are kept, from whole days.
///
/// # Errors
/// The range, for fewer days than [`limits::AUDIT_RETENTION_MIN`] or more than 100 years.
pub fn retention(days: u32) -> Result<Duration, String> {
    let least = limits::AUDIT_RETENTION_MIN.as_secs() / 86_400;
    if u64::from(days) < least || days > RETENTION_DAYS_MAX {
        return Err(format!("must be from {least} to {RETENTION_DAYS_MAX} days"));
    }
    Ok(Duration::from_secs(u64::from(days) * 86_400))
}

/// A logging level, from its name.
///
/// # Errors
/// The names there are.
pub fn level(name: &str) -> Result<Level, String> {
    Level::from_name(name).ok_or_else(|| "must be basic, detailed or full".to_owned())
}

const RETENTION_DAYS_MAX: u32 = 36_500;

fn refusal(error: &serde_saphyr::Error, file: &str) -> OverlayError {
    let line = error
        .location()
        .map(|at| at.line())
        .filter(|line| *line > 0);
    let text = error.without_snippet().to_string();
    let rest = text.split_once("unknown field").map(|(_, rest)| rest);
    let mut quoted = rest
        .into_iter()
        .flat_map(|rest| rest.split(['`', '\'', '"']));
    let unknown = quoted.nth(1);
    // What is expected in its place tells where it stands.
    let expected: Vec<&str> = quoted.collect();
    let within = |key: &str| expected.iter().any(|expected| expected.contains(key));
    let message = match unknown {
        Some(key) if within("webhook") => {
            format!("alerts.{key}: unknown key; known are webhook, secret, thresholds, checkpoints")
        }
        Some(key) if within("retention_days") => {
            format!("audit.{key}: unknown key; known are retention_days, level")
        }
        Some(key) if OPERATOR_KEYS.contains(&key) => {
            format!("{key}: is set by the operator and cannot stand in a tenant's configuration")
        }
        Some(key) if LATER_KEYS.contains(&key) => {
            format!("{key}: is not available in this version")
        }
        Some(key) => format!(
            "{key}: unknown key; known are model, models, max_tokens, temperature, system_prompt, tasks, alerts, audit"
        ),
        None => {
            let what = text.lines().next().unwrap_or("not valid YAML");
            let what = what.rsplit_once(" at line ").map_or(what, |(what, _)| what);
            key_on(file, line).map_or_else(|| what.to_owned(), |key| format!("{key}: {what}"))
        }
    };
    OverlayError { line, message }
}

/// The key that stands on a line of the file, if one does.
fn key_on(file: &str, line: Option<u64>) -> Option<&str> {
    let index = usize::try_from(line?).ok()?.checked_sub(1)?;
    let (key, _) = file.lines().nth(index)?.split_once(':')?;
    let key = key.trim().trim_matches(['"', '\'']);
    (!key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_a_tenant_may_set() {
        let overlay = Overlay::parse(
            "model: gpt-4o\nmodels: [gpt-4o, sim-fast]\nmax_tokens: 1000\ntemperature: 0.3\nsystem_prompt: You answer for Acme.\ntasks: { reasoning: claude-sonnet }\n",
        )
        .unwrap();
        assert_eq!(overlay.model.as_deref(), Some("gpt-4o"));
        assert_eq!(overlay.temperature.as_deref(), Some("0.3"));
        assert_eq!(overlay.tasks["reasoning"], "claude-sonnet");
        assert_eq!(Overlay::parse("").unwrap(), Overlay::default());
        assert_eq!(Overlay::parse("# nothing\n\n").unwrap(), Overlay::default());
    }

    #[test]
    fn audit_entries_cannot_be_kept_for_less_than_half_a_year() {
        let days = |days: &str| Overlay::parse(&format!("audit: {{ retention_days: {days} }}"));
        assert_eq!(
            days("183").unwrap().audit_retention,
            Some(limits::AUDIT_RETENTION_MIN)
        );
        for bad in ["182", "0", "36501"] {
            let error = days(bad).unwrap_err().to_string();
            assert!(
                error.contains("audit.retention_days: must be from 183 to 36500"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_logging_level_is_one_of_three() {
        for level in Level::ALL {
            let text = format!("audit: {{ level: {} }}", level.as_str());
            let overlay = Overlay::parse(&text).unwrap();
            assert_eq!(
                (overlay.audit_level, overlay.audit_retention),
                (Some(level), None)
            );
        }
        let error = Overlay::parse("audit: { level: everything }").unwrap_err();
        assert_eq!(
            error.message,
            "audit.level: must be basic, detailed or full"
        );
    }

    #[test]
    fn refuses_by_name_and_line() {
        for (text, line, part) in [
            (
                "model: a\nproviders: []\n",
                2,
                "providers: is set by the operator",
            ),
            (
                "cost_per_day_usd: 5\n",
                1,
                "cost_per_day_usd: is set by the operator",
            ),
            (
                "model: a\n\ncolour: red\n",
                3,
                "colour: unknown key; known are model, models, max_tokens, temperature, system_prompt, tasks, alerts, audit",
            ),
            ("webhook: x\n", 1, "webhook: unknown key; known are model"),
            (
                "alerts:\n  webhok: x\n",
                2,
                "alerts.webhok: unknown key; known are webhook, secret, thresholds, checkpoints",
            ),
            (
                "alerts: { webhook: 'https://h/', secret: 'vault:s', checkpoints: weekly }\n",
                1,
                "weekly",
            ),
            (
                "audit: { levle: full }\n",
                1,
                "audit.levle: unknown key; known are retention_days, level",
            ),
            ("cache: { exact: true }\n", 1, "cache: is not available"),
            ("model: a\nmodel: b\n", 2, "uplicate"),
            ("model: &x a\nsystem_prompt: *x\n", 1, "anchor"),
            ("<<: { model: a }\n", 1, "erge"),
            ("max_tokens: many\n", 1, "max_tokens: "),
        ] {
            let error = Overlay::parse(text).unwrap_err();
            assert_eq!(error.line, Some(line), "{text}: {error}");
            assert!(error.message.contains(part), "{text}: {error}");
        }
        assert!(
            Overlay::parse("max_tokens: 0")
                .unwrap_err()
                .message
                .contains("max_tokens")
        );
        assert!(
            Overlay::parse("temperature: 3")
                .unwrap_err()
                .message
                .contains("temperature")
        );
        assert!(Overlay::parse("temperature: .nan").is_err());
        assert!(Overlay::parse(&" ".repeat(limits::OVERLAY_BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _checked = Overlay::parse(&text);
        }
    }
}
