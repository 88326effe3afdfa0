//! The operator's configuration, `partywall.yaml`.
//!
//! Text becomes [`low::LowConfig`] (what stands there, with lines), which becomes [`Config`] (what
//! it means). After that nothing is checked again. Keys and certificates are not in a `Config`:
//! it names them, and [`Config::keyring`] and [`Config::tls_pem`] fetch them.

mod alerts;
mod ambient;
mod error;
mod keys;
mod low;
mod meaning;
mod origins;
mod secret_ref;
mod show;
mod tier;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use gateway::catalog::{Catalog, Keyring};
use gateway::upstream::Credential;
use kernel::{DiskLimits, Secret};

pub use alerts::{AlertWebhook, Alerts};
pub use ambient::Environment;
pub use error::ConfigError;
pub use keys::schema;
pub use origins::Origins;
pub use secret_ref::SecretRef;
pub use tier::Tier;

/// A configuration file above this size is refused: a thousand models fit in a fifth of it.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;

/// The operator's configuration, checked as a whole.
#[derive(Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators connect.
    pub admin_listen: SocketAddr,
    /// Certificate and key of both listeners; without them a balancer in front speaks TLS.
    pub tls: Option<TlsRefs>,
    /// Providers, models and tasks. References to models that do not exist are left out and stand
    /// in [`Config::warnings`].
    pub catalog: Catalog,
    /// Where the operator's key of each provider is kept.
    pub provider_keys: Vec<ProviderKey>,
    /// Tiers by name.
    pub tiers: BTreeMap<String, Tier>,
    /// The document with the operator's base rules; the path is complete. Without it those of [`policy::BASE`] hold.
    pub policy: Option<PathBuf>,
    /// Rate cards, later ones win; paths are complete.
    pub ratecards: Vec<PathBuf>,
    /// Largest request body in bytes.
    pub body_limit: usize,
    /// Where the operator is told what is out of hand.
    pub alerts: Alerts,
    /// Room that is to be left on the file system of the data directory.
    pub disk: DiskLimits,
    /// Web pages that may use `/rpc`.
    pub origins: Origins,
    /// What is accepted and probably not meant, in the order of the file.
    pub warnings: Vec<ConfigError>,
    // Relative references start here.
    folder: PathBuf,
}

/// Where the listeners' certificate chain and private key are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsRefs {
    /// PEM of the chain, leaf first.
    pub cert: SecretRef,
    /// PEM of the private key.
    pub key: SecretRef,
    pub(crate) cert_line: u64,
    pub(crate) key_line: u64,
}

/// Where the operator's key of one provider is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProviderKey {
    /// The provider.
    pub provider: String,
    /// The reference; `None` for a provider that asks for no key.
    pub secret: Option<SecretRef>,
    pub(crate) at: String,
    pub(crate) line: u64,
    // The provider's CA file as it was written.
    pub(crate) ca: Option<String>,
}

impl Config {
    /// Reads and checks a file. References in it start at the file's folder.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = ambient::read(path, CONFIG_BYTES_MAX)
            .map_err(|reason| ConfigError::whole(format!("{}: {reason}", path.display())))?;
        let text =
            String::from_utf8(bytes).map_err(|_| ConfigError::whole("the file is not UTF-8"))?;
        let path =
            std::path::absolute(path).map_err(|error| ConfigError::whole(error.to_string()))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("/")))
    }

    /// Checks a text. `folder` is where relative references start. Only CA files of providers are
    /// read; empty text is a configuration without providers.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and key.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, ConfigError> {
        meaning::config(low::parse(text)?, folder)
    }

    /// Fetches the operator's keys and binds each to its provider.
    ///
    /// # Errors
    /// The first reference that leads nowhere, or to something that is not a key.
    pub fn keyring(&self, environment: &Environment) -> Result<Keyring, ConfigError> {
        let mut keyring = Keyring::default();
        for key in &self.provider_keys {
            let Some(provider) = self.catalog.provider(&key.provider) else {
                continue;
            };
            let wrong = |message: String| ConfigError::at(key.line, &key.at, message);
            keyring.insert(match &key.secret {
                None => Credential::keyless(provider),
                Some(reference) => {
                    let secret = reference.fetch(&self.folder, environment).map_err(wrong)?;
                    Credential::bind(provider, &secret)
                        .map_err(|error| wrong(format!("{reference}: {error}")))?
                }
            });
        }
        Ok(keyring)
    }

    /// Fetches certificate chain and private key, in this order, as PEM.
    ///
    /// # Errors
    /// The reference that leads nowhere.
    pub fn tls_pem(
        &self,
        environment: &Environment,
    ) -> Result<Option<(Secret, Secret)>, ConfigError> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let fetch = |reference: &SecretRef, line, key: &str| {
            reference
                .fetch(&self.folder, environment)
                .map_err(|message| ConfigError::at(line, key, message))
        };
        let cert = fetch(&tls.cert, tls.cert_line, "tls.cert")?;
        Ok(Some((cert, fetch(&tls.key, tls.key_line, "tls.key")?)))
    }

    /// What is in force, as YAML that [`Config::parse`] accepts: defaults filled in, secrets as
    /// references.
    #[must_use]
    pub fn show(&self) -> String {
        show::yaml(self)
    }
}
