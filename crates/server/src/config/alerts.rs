//! The operator's alerts: where they go, and which private hosts tenants' own may reach.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use kernel::alerts::{OperatorReceiver, ReceiverError, operator_destination, thresholds};
use kernel::egress::{AllowedHost, CaBundle, NoHost};

use super::low::{LowAlerts, Text};
use super::value::At;
use super::{Config, ConfigError, Environment, SecretRef, meaning};

/// Hosts of tenants that may be private: each is a hole in a wall.
const HOSTS_MAX: usize = 100;

/// What the configuration says of alerts.
#[derive(Clone, Debug, Default)]
pub struct Alerts {
    /// Where the operator is told.
    pub webhook: Option<AlertWebhook>,
    /// Hosts, each with or without its port, that tenants' webhooks may reach though their addresses are private.
    pub tenant_hosts: BTreeSet<AllowedHost>,
}

/// The operator's receiver.
#[derive(Clone, Debug)]
pub struct AlertWebhook {
    /// Its URL.
    pub url: String,
    /// Where its signing secret is kept.
    pub secret: SecretRef,
    /// Lets its host have a private address.
    pub allow_private: bool,
    // Read with the file; its reference is kept for showing.
    pub(super) ca: Option<(String, CaBundle)>,
    line: u64,
}

pub(super) fn read(low: Option<LowAlerts>, folder: &Path) -> Result<Alerts, ConfigError> {
    let Some(low) = low else {
        return Ok(Alerts::default());
    };
    let webhook = match (&low.webhook, &low.secret) {
        (Some(url), Some(secret)) => Some(webhook(&low, url, secret, folder)?),
        (Some(url), None) => {
            return Err(At::new(url, "alerts.secret").wrong(
                "is missing: alerts are signed; make one with: echo whsec_$(openssl rand -base64 32)",
            ));
        }
        (None, Some(text)) => {
            return Err(At::new(text, "alerts.webhook").wrong("is missing"));
        }
        (None, None) => {
            if let Some(text) = low.allow_private.as_ref().or(low.ca.as_ref()) {
                return Err(At::new(text, "alerts.webhook").wrong("is missing"));
            }
            None
        }
    };
    let hosts = low.tenant_hosts.unwrap_or_default();
    let hosts = hosts.iter().enumerate().map(|(index, text)| {
        let at = At::new(text, format!("alerts.tenant_hosts[{index}]"));
        if index >= HOSTS_MAX {
            return Err(at.wrong(format!("at most {HOSTS_MAX} hosts are allowed")));
        }
        at.text()
            .parse()
            .map_err(|error: NoHost| at.wrong(error.to_string()))
    });
    Ok(Alerts {
        webhook,
        tenant_hosts: hosts.collect::<Result<_, _>>()?,
    })
}

fn webhook(
    low: &LowAlerts,
    url: &Text,
    secret: &Text,
    folder: &Path,
) -> Result<AlertWebhook, ConfigError> {
    let secret = At::new(secret, "alerts.secret");
    let allow_private = low.allow_private.as_ref().map_or(Ok(false), |text| {
        At::new(text, "alerts.allow_private").flag()
    })?;
    let ca = low.ca.as_ref().map(|text| {
        let bundle = meaning::ca(&At::new(text, "alerts.ca"), folder)?;
        Ok::<_, ConfigError>((text.value.clone(), bundle))
    });
    let at = At::new(url, "alerts.webhook");
    operator_destination(at.text(), allow_private).map_err(|error| at.wrong(error.to_string()))?;
    let reference = SecretRef::read(&secret)?;
    Ok(AlertWebhook {
        url: at.text().to_owned(),
        secret: reference,
        allow_private,
        ca: ca.transpose()?,
        line: secret.line(),
    })
}

pub(super) fn percents(texts: &[Text], at: &str) -> Result<Arc<[u8]>, ConfigError> {
    let read = |text: &Text| {
        let at = At::new(text, at);
        let percent = at.count()?;
        u8::try_from(percent).map_err(|_| at.wrong("a percent is at most 100"))
    };
    let percents = texts.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let line = texts.first().map_or(0, |text| text.referenced.line());
    thresholds(percents).map_err(|error| ConfigError::at(line, at, error))
}

impl Config {
    /// Fetches the signing secret of the operator's receiver and makes it ready.
    ///
    /// # Errors
    /// A reference that leads nowhere, or to something that is not a signing secret.
    pub fn operator_receiver(
        &self,
        environment: &Environment,
    ) -> Result<Option<OperatorReceiver>, ConfigError> {
        let Some(webhook) = &self.alerts.webhook else {
            return Ok(None);
        };
        let wrong = |key: &str, message: String| ConfigError::at(webhook.line, key, message);
        let secret = webhook
            .secret
            .fetch(&self.folder, environment)
            .map_err(|message| wrong("alerts.secret", message))?;
        let ca = webhook.ca.as_ref().map(|(_, bundle)| bundle.clone());
        OperatorReceiver::new(&webhook.url, webhook.allow_private, ca, &secret)
            .map(Some)
            .map_err(|error| match error {
                ReceiverError::Url(error) => wrong("alerts.webhook", error.to_string()),
                ReceiverError::Secret(error) => {
                    wrong("alerts.secret", format!("{}: {error}", webhook.secret))
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/partywall"))
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn alerts_are_read_shown_and_read_again() {
        assert!(parse("").unwrap().alerts.webhook.is_none());
        let text = "alerts:\n  webhook: https://ops.example/hook?key=1\n  secret: env:ALERTS\n  tenant_hosts: [Hooks.Internal, '10.0.0.9:08443', '[::1]', '[::1]:9']\ntiers:\n  t: { alert_thresholds: [100, 90, 90] }\n";
        let config = parse(text).unwrap();
        let hosts = config.alerts.tenant_hosts.iter();
        let hosts: Vec<_> = hosts.map(ToString::to_string).collect();
        assert_eq!(
            hosts,
            ["10.0.0.9:8443", "[::1]", "[::1]:9", "hooks.internal"]
        );
        assert_eq!(
            config.tiers["t"].alert_thresholds.as_deref(),
            Some(&[90, 100][..])
        );
        let again = parse(&config.show()).unwrap();
        assert_eq!(again.show(), config.show());
        let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let with = |secret: &str| {
            let environment = Environment::of([("ALERTS", secret)]);
            config.operator_receiver(&environment)
        };
        assert!(with(good).unwrap().is_some());
        let said = with("sk-canary").err().unwrap().to_string();
        assert!(
            said.starts_with("config: line 3: alerts.secret: env:ALERTS: not a signing secret")
        );
        assert!(!said.contains("canary"));
        assert!(with("").err().unwrap().to_string().contains("not set"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expect) in [
            (
                "alerts: { webhook: https://a.b/ }",
                "config: line 1: alerts.secret: is missing",
            ),
            (
                "alerts: { secret: env:A }",
                "config: line 1: alerts.webhook: is missing",
            ),
            (
                "alerts: { allow_private: true }",
                "config: line 1: alerts.webhook: is missing",
            ),
            (
                "alerts: { tenant_hosts: [a.b], ca: file:roots.pem }",
                "config: line 1: alerts.webhook: is missing",
            ),
            (
                "alerts: { webhook: http://a.b/, secret: env:A }",
                "config: line 1: alerts.webhook: must be https",
            ),
            (
                "alerts: { webhook: 'https://10.0.0.1/', secret: env:A }",
                "config: line 1: alerts.webhook: its address is not a public one",
            ),
            (
                "alerts: { webhook: 'https://u:p@a.b/', secret: env:A }",
                "config: line 1: alerts.webhook: credentials do not belong in a URL",
            ),
            (
                "alerts: { webhook: https://a.b/, secret: whsec_canary }",
                "config: line 1: alerts.secret: a secret does not belong in this file",
            ),
            (
                "alerts: { webhook: https://a.b/, secret: 'vault:alerts' }",
                "config: line 1: alerts.secret: the operator's own secrets are not kept in a vault",
            ),
            (
                "alerts: { tenant_hosts: ['a/b'] }",
                "config: line 1: alerts.tenant_hosts[0]: not a host",
            ),
            (
                "tiers: { t: { alert_thresholds: [101] } }",
                "config: line 1: tiers.t.alert_thresholds: thresholds are up to ten whole percents from 1 to 100",
            ),
            (
                "tiers: { t: { alert_thresholds: [half] } }",
                "config: line 1: tiers.t.alert_thresholds: \"half\" is not a whole number of 0 or more",
            ),
        ] {
            let said = error(text);
            assert!(said.starts_with(expect), "{text}: {said}");
            assert!(!said.contains("canary"));
        }
        // This machine, in the clear; a private network where it is allowed.
        for text in [
            "alerts: { webhook: 'http://127.0.0.1:9/', secret: env:A }",
            "alerts: { webhook: 'http://10.0.0.1/', secret: env:A, allow_private: true }",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }
}
