//! The configuration: checked and shown, for the deployment and as one tenant's overlay makes it.

use std::path::Path;

use base::TenantId;
use kernel::Operator;
use rpc::{Answer, ConfigChecked, ConfigView, Fault, FaultCode};
use serde_json::value::{RawValue, to_raw_value};

use super::Office;
use crate::assemble;
use crate::fault::{fault, internal};
use crate::settings_view;

impl Office {
    pub(super) fn check_config(
        &self,
        operator: &Operator,
        tenant: Option<&TenantId>,
    ) -> Result<Answer, Fault> {
        let mut checked = checked_file(&self.config)?;
        if let Some(id) = tenant {
            let tenant = self.tenant(operator, id)?;
            let overlay = format!("tenants/{id}/config.yaml");
            self.kernel.check_overlay(&tenant).map_err(|error| {
                Fault::new(
                    FaultCode::BadConfig,
                    format!("{overlay}: {}", fault(error).message),
                )
            })?;
            checked.files.push(overlay);
        }
        Ok(Answer::ConfigChecked(checked))
    }

    pub(super) fn show_config(
        &self,
        operator: &Operator,
        tenant: Option<&TenantId>,
    ) -> Result<Answer, Fault> {
        let Some(id) = tenant else {
            return show_file(&self.config);
        };
        let tenant = self.tenant(operator, id)?;
        if let Some(error) = self.kernel.overlay_error(&tenant) {
            let text = format!("tenants/{id}/config.yaml: {error}; the last good one is in force");
            return Err(Fault::new(FaultCode::BadConfig, text));
        }
        let files = vec![
            self.config.display().to_string(),
            format!("tenants/{id}/config.yaml"),
        ];
        let config = settings_view::json(&tenant)?;
        Ok(Answer::Config(ConfigView { files, config }))
    }
}

/// Checks a file and the price files that it names.
pub(crate) fn check_file(path: &Path) -> Result<Answer, Fault> {
    checked_file(path).map(Answer::ConfigChecked)
}

fn checked_file(path: &Path) -> Result<ConfigChecked, Fault> {
    let config = assemble::load(path)?;
    let mut files = vec![path.display().to_string()];
    for (path, text) in config.ratecards.iter().zip(assemble::card_texts(&config)?) {
        crate::cards::parsed(&text).map_err(|fault| {
            Fault::new(fault.code, format!("{}: {}", path.display(), fault.message))
        })?;
        files.push(path.display().to_string());
    }
    assemble::base_rules(&config)?;
    files.extend(config.policy.iter().map(|path| path.display().to_string()));
    let warnings = config.warnings.iter().map(ToString::to_string).collect();
    Ok(ConfigChecked { files, warnings })
}

/// Shows a file as it works.
pub(crate) fn show_file(path: &Path) -> Result<Answer, Fault> {
    let config = assemble::load(path)?;
    Ok(Answer::Config(ConfigView {
        files: vec![path.display().to_string()],
        config: as_json(&config.show())?,
    }))
}

fn as_json(yaml: &str) -> Result<Box<RawValue>, Fault> {
    let value: serde_json::Value =
        serde_saphyr::from_str(yaml).map_err(|error| internal(error.to_string()))?;
    to_raw_value(&value).map_err(|error| internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_shown_as_json() {
        let json = as_json(
            "listen: \"127.0.0.1:8080\"\ntiers:\n  \"a\": { max_tokens: 5, temperature: 0.7 }\n",
        )
        .unwrap();
        assert_eq!(
            json.get(),
            r#"{"listen":"127.0.0.1:8080","tiers":{"a":{"max_tokens":5,"temperature":0.7}}}"#
        );
    }
}
