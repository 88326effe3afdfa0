//! Makes a data directory: master key, configuration, operator key.

use std::path::{Path, PathBuf};

use kernel::DataRoot;
use kernel::root::MASTER_KEY_FILE;
use rpc::{Credential, Fault, FaultCode};

use crate::assemble::{self, CONFIG_FILE, MASTER_KEY_VARIABLE};
use crate::config::Environment;
use crate::fault::{fault, internal};
use crate::process;

/// The configuration that a new data directory starts with. It works without a provider key.
const DEFAULT_CONFIG: &str = include_str!("default.yaml");

/// Where to make a data directory.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The directory; made where it is missing.
    pub data: PathBuf,
}

/// What `init` made. The operator key is shown once and kept nowhere.
pub struct Initialised {
    /// Opens the admin listener.
    pub operator_key: Credential,
    /// The data directory.
    pub data: PathBuf,
    /// The configuration file in it.
    pub config: PathBuf,
}

/// Makes a data directory: mode 0700, master key (unless it comes from the environment), configuration, operator key.
///
/// # Errors
/// [`FaultCode::Exists`] when it was initialised already; otherwise what could not be made.
pub fn init(options: InitOptions) -> Result<Initialised, Fault> {
    process::keep_private();
    init_in(&options.data, &Environment::of_process())
}

pub(crate) fn init_in(data: &Path, environment: &Environment) -> Result<Initialised, Fault> {
    refuse_strange(data)?;
    DataRoot::create(data).map_err(fault)?;
    let root = assemble::locked_root(data)?;
    // The registry's presence counts too: a second init must not orphan what the first key wraps.
    for made in [MASTER_KEY_FILE, "registry.db"] {
        if root.dir().symlink_metadata(made).is_ok() {
            let text = format!(
                "{} is initialised already ({made} exists); nothing was changed",
                data.display()
            );
            return Err(Fault::new(FaultCode::Exists, text));
        }
    }
    if root.dir().symlink_metadata(CONFIG_FILE).is_err() {
        root.write_private_new(CONFIG_FILE, DEFAULT_CONFIG.as_bytes())
            .map_err(fault)?;
    }
    if environment.variable(MASTER_KEY_VARIABLE).is_none() {
        root.new_master_key().map_err(fault)?;
    }
    let config = root.path().join(CONFIG_FILE);
    let key = assemble::command_runtime()?.block_on(async {
        let (kernel, operator) = assemble::bare_kernel(root, environment).await?;
        let key = kernel.new_operator_key(&operator).await.map_err(fault);
        kernel.close(assemble::CLOSE_WAIT).await;
        key
    })?;
    let text = key.expose_str().unwrap_or_default().to_owned();
    let operator_key =
        Credential::new(text).map_err(|_| internal("an operator key without text was made"))?;
    Ok(Initialised {
        operator_key,
        data: data.to_owned(),
        config,
    })
}

/// An existing directory that holds something else is left alone: its mode would be changed.
fn refuse_strange(data: &Path) -> Result<(), Fault> {
    if data.exists() && !data.is_dir() {
        return Err(Fault::new(
            FaultCode::Refused,
            format!("{} is not a directory", data.display()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::config::Config;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn the_default_configuration_is_valid_and_complete() {
        let config = Config::parse(DEFAULT_CONFIG, Path::new("/")).unwrap();
        let tiers: Vec<_> = config.tiers.keys().map(String::as_str).collect();
        assert_eq!(tiers, ["basic", "enterprise", "pro"]);
        assert!(config.catalog.providers().is_empty());
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:8081");
    }

    #[test]
    fn the_commented_part_of_the_default_configuration_is_valid_too() {
        let uncommented: String = DEFAULT_CONFIG
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n")
            .collect();
        let config = Config::parse(&uncommented, Path::new("/")).unwrap();
        assert_eq!(config.catalog.providers().len(), 2);
        assert!(config.catalog.model("gpt-4o").is_some());
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn a_directory_is_made_once_and_for_its_owner() {
        process::keep_private();
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("deep").join("data");
        let none = Environment::of([]);
        let made = init_in(&data, &none).unwrap();
        let key = made.operator_key.expose();
        assert!(key.starts_with("pk_") && key.len() == 35, "{}", key.len());
        assert_eq!(mode(&data), 0o700);
        for name in [MASTER_KEY_FILE, CONFIG_FILE, "registry.db", "gateway.log"] {
            assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        }
        let again = init_in(&data, &none).err().unwrap();
        assert_eq!(again.code, FaultCode::Exists);
        assert!(
            again.message.contains("initialised already"),
            "{}",
            again.message
        );
    }

    #[test]
    fn a_master_key_of_the_environment_is_not_written_down() {
        let temp = tempfile::tempdir().unwrap();
        let key = "0123456789abcdef".repeat(4);
        let environment = Environment::of([(MASTER_KEY_VARIABLE, key.as_str())]);
        init_in(temp.path(), &environment).unwrap();
        assert!(!temp.path().join(MASTER_KEY_FILE).exists());
        let again = init_in(temp.path(), &environment).err().unwrap();
        assert_eq!(again.code, FaultCode::Exists);
    }
}
