//! From what stands in the file to what it means, with every cross reference checked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base::limits;
use gateway::catalog::{
    Catalog, HangUp, Model, ModelName, Provider, ProviderKind, ProviderSpec, Route, Timeouts,
};
use gateway::fair::LineSpec;
use gateway::upstream::{CaBundle, Reach};
use kernel::DiskLimits;
use llm::OutputCapField;

use super::alerts;
use super::low::{LowConfig, LowDisk, LowModel, LowProvider, LowTier, LowTimeouts, LowTls, Text};
use super::value::{At, NAME_RULE, is_name};
use super::{Config, ConfigError, ProviderKey, SecretRef, Tier, TlsRefs, ambient, origins};

const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
const ADMIN_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8081);
/// A CA file with all roots of a system is a quarter of this.
const CA_BYTES_MAX: usize = 1024 * 1024;
/// Providers, and models: names are compared with each other, and a longer list is a fault of whatever generated it.
const LIST_MAX: usize = 2_000;
/// Calls of one provider that run or wait: more than one process holds.
pub(super) const SLOTS_MAX: u32 = 100_000;

const KINDS: &[(&str, ProviderKind)] = &[
    ("openai", ProviderKind::OpenAi),
    ("anthropic", ProviderKind::Anthropic),
];
/// Kinds that have a name already but no code.
const LATER_KINDS: &[&str] = &[
    "azure",
    "azure-openai",
    "bedrock",
    "cohere",
    "deepseek",
    "gemini",
    "groq",
    "mistral",
    "ollama",
    "openrouter",
    "vertex",
    "vllm",
    "xai",
];

pub(super) fn config(low: LowConfig, folder: &Path) -> Result<Config, ConfigError> {
    let mut warnings = Vec::new();
    let listen = address(low.listen.as_ref(), "listen", LISTEN)?;
    let admin = low.admin.and_then(|admin| admin.listen);
    let admin_listen = address(admin.as_ref(), "admin.listen", ADMIN_LISTEN)?;
    if listen == admin_listen && listen.port() != 0 {
        let line = admin.as_ref().map_or(0, |text| text.referenced.line());
        return Err(ConfigError::at(
            line,
            "admin.listen",
            "is the address of listen; operators have a listener of their own",
        ));
    }
    let low_providers = low.providers.unwrap_or_default();
    let (providers, provider_keys) = providers(&low_providers, folder)?;
    let low_models = low.models.unwrap_or_default();
    let models = models(&low_models, &providers, &mut warnings)?;
    let known = |name: &str| models.iter().any(|model| model.name.as_str() == name);
    let tasks = tasks(low.tasks.unwrap_or_default(), &known, &mut warnings)?;
    let tiers = tiers(&low.tiers.unwrap_or_default(), &known, &mut warnings)?;
    let body_limit = low.body_limit.map_or(Ok(limits::BODY_BYTES_MAX), |text| {
        At::new(&text, "body_limit").bytes()
    })?;
    let disk = disk(low.disk.as_ref())?;
    let catalog = Catalog::new(providers, models, tasks)
        .map_err(|error| ConfigError::whole(error.to_string()))?;
    warnings.sort_by_key(|warning| warning.line);
    Ok(Config {
        listen,
        admin_listen,
        tls: low.tls.map(|tls| tls_refs(&tls)).transpose()?,
        catalog,
        provider_keys,
        tiers,
        policy: low.policy.map(|path| folder.join(&path.value)),
        ratecards: low
            .ratecards
            .unwrap_or_default()
            .iter()
            .map(|path| folder.join(&path.value))
            .collect(),
        body_limit,
        alerts: alerts::read(low.alerts, folder)?,
        disk,
        origins: origins::read(&low.origins.unwrap_or_default())?,
        warnings,
        folder: folder.to_owned(),
    })
}

fn disk(low: Option<&LowDisk>) -> Result<DiskLimits, ConfigError> {
    let DiskLimits { reserve, warn } = DiskLimits::default();
    let room = |text: Option<&Text>, key: &str, default: u64| {
        text.map_or(Ok(default), |text| At::new(text, key).room())
    };
    Ok(DiskLimits {
        reserve: room(
            low.and_then(|low| low.reserve.as_ref()),
            "disk.reserve",
            reserve,
        )?,
        warn: room(low.and_then(|low| low.warn.as_ref()), "disk.warn", warn)?,
    })
}

fn bounded(key: &str, len: usize) -> Result<(), ConfigError> {
    if len <= LIST_MAX {
        return Ok(());
    }
    Err(ConfigError::at(
        0,
        key,
        format!("has {len} entries; at most {LIST_MAX} are allowed"),
    ))
}

fn address(text: Option<&Text>, key: &str, default: SocketAddr) -> Result<SocketAddr, ConfigError> {
    text.map_or(Ok(default), |text| At::new(text, key).address())
}

fn tls_refs(low: &LowTls) -> Result<TlsRefs, ConfigError> {
    let (cert, key) = (At::new(&low.cert, "tls.cert"), At::new(&low.key, "tls.key"));
    Ok(TlsRefs {
        cert: SecretRef::read(&cert)?,
        key: SecretRef::read(&key)?,
        cert_line: cert.line(),
        key_line: key.line(),
    })
}

type Providers = (Vec<Arc<Provider>>, Vec<ProviderKey>);

fn providers(low: &[LowProvider], folder: &Path) -> Result<Providers, ConfigError> {
    let (mut providers, mut keys): Providers =
        (Vec::with_capacity(low.len()), Vec::with_capacity(low.len()));
    bounded("providers", low.len())?;
    for (index, low) in low.iter().enumerate() {
        let at = format!("providers[{index}]");
        let (provider, key) = provider(low, &at, folder)?;
        if providers
            .iter()
            .any(|other| other.name() == provider.name())
        {
            return Err(
                At::new(&low.name, format!("{at}.name")).wrong("another provider has this name")
            );
        }
        providers.push(Arc::new(provider));
        keys.push(key);
    }
    Ok((providers, keys))
}

fn provider(
    low: &LowProvider,
    at: &str,
    folder: &Path,
) -> Result<(Provider, ProviderKey), ConfigError> {
    let key = |name: &str| format!("{at}.{name}");
    let name = At::new(&low.name, key("name")).name()?;
    let kind = kind(&At::new(&low.kind, key("kind")))?;
    let base_url = match (&low.base_url, kind) {
        (Some(url), _) => url.value.clone(),
        (None, ProviderKind::OpenAi) => "https://api.openai.com/v1".to_owned(),
        (None, ProviderKind::Anthropic) => "https://api.anthropic.com".to_owned(),
    };
    let hang_up = low.hang_up.as_ref().map_or(Ok(HangUp::default()), |text| {
        At::new(text, key("hang_up")).one_of(&[("abort", HangUp::Abort), ("drain", HangUp::Drain)])
    })?;
    let max_output_field = low.max_output_field.as_ref().map(|text| {
        let fields = [
            OutputCapField::MaxTokens,
            OutputCapField::MaxCompletionTokens,
        ];
        At::new(text, key("max_output_field")).one_of(&fields.map(|field| (field.as_str(), field)))
    });
    let spec = ProviderSpec {
        name: name.clone(),
        kind,
        base_url,
        allow_private: low
            .allow_private
            .as_ref()
            .map_or(Ok(false), |t| At::new(t, key("allow_private")).flag())?,
        timeouts: low
            .timeouts
            .as_ref()
            .map_or(Ok(Timeouts::default()), |t| timeouts(t, &key("timeouts")))?,
        hang_up,
        region: low.region.as_ref().map(|text| text.value.clone()),
        max_output_field: max_output_field.transpose()?,
        ca: low
            .ca
            .as_ref()
            .map(|text| ca(&At::new(text, key("ca")), folder))
            .transpose()?,
        line: line(low, at)?,
    };
    let url = low.base_url.as_ref().unwrap_or(&low.kind);
    let provider = Provider::new(spec)
        .map_err(|error| At::new(url, key("base_url")).wrong(error.to_string()))?;
    let (secret, line) = match &low.api_key {
        Some(text) => {
            let at = At::new(text, key("api_key"));
            (Some(SecretRef::read(&at)?), at.line())
        }
        None if provider.reach() != Reach::Public => (None, low.name.referenced.line()),
        None => {
            let wrong = "is missing; only a provider on loopback or with allow_private: true may have no key";
            return Err(ConfigError::at(
                low.name.referenced.line(),
                &key("api_key"),
                wrong,
            ));
        }
    };
    let ca = low.ca.as_ref().map(|text| text.value.clone());
    Ok((
        provider,
        ProviderKey {
            provider: name,
            secret,
            at: key("api_key"),
            line,
            ca,
        },
    ))
}

fn line(low: &LowProvider, at: &str) -> Result<LineSpec, ConfigError> {
    let key = |name: &str| format!("{at}.{name}");
    let default = LineSpec::default();
    Ok(LineSpec {
        slots: low.concurrency.as_ref().map_or(Ok(default.slots), |text| {
            At::new(text, key("concurrency")).within(1..=SLOTS_MAX)
        })?,
        queue: low
            .queue_length
            .as_ref()
            .map_or(Ok(default.queue), |text| {
                At::new(text, key("queue_length")).within(0..=SLOTS_MAX)
            })?,
        wait: low.queue_wait.as_ref().map_or(Ok(default.wait), |text| {
            At::new(text, key("queue_wait")).duration()
        })?,
    })
}

fn kind(at: &At<'_>) -> Result<ProviderKind, ConfigError> {
    if LATER_KINDS.contains(&at.text()) {
        return Err(at.wrong(format!(
            "the kind {} is not in this version; available are openai (with every compatible server) and anthropic",
            at.text()
        )));
    }
    at.one_of(KINDS)
}

pub(super) fn ca(at: &At<'_>, folder: &Path) -> Result<CaBundle, ConfigError> {
    let path = at
        .text()
        .strip_prefix("file:")
        .filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| at.wrong("a CA file is written file:PATH"))?;
    let pem = ambient::read(&folder.join(path), CA_BYTES_MAX)
        .map_err(|reason| at.wrong(format!("{path}: {reason}")))?;
    CaBundle::parse(&pem).map_err(|error| at.wrong(format!("{path}: {error}")))
}

fn timeouts(low: &LowTimeouts, at: &str) -> Result<Timeouts, ConfigError> {
    let default = Timeouts::default();
    let read = |text: &Option<Text>, name: &str, default| {
        text.as_ref().map_or(Ok(default), |text| {
            At::new(text, format!("{at}.{name}")).duration()
        })
    };
    Ok(Timeouts {
        connect: read(&low.connect, "connect", default.connect)?,
        first_byte: read(&low.first_byte, "first_byte", default.first_byte)?,
        idle: read(&low.idle, "idle", default.idle)?,
        total: read(&low.total, "total", default.total)?,
    })
}

fn models(
    low: &[LowModel],
    providers: &[Arc<Provider>],
    warnings: &mut Vec<ConfigError>,
) -> Result<Vec<Model>, ConfigError> {
    let mut models: Vec<Model> = Vec::with_capacity(low.len());
    bounded("models", low.len())?;
    for (index, model) in low.iter().enumerate() {
        let at = At::new(&model.name, format!("models[{index}].name"));
        let name = model_name(&at)?;
        if models.iter().any(|other| other.name == name) {
            return Err(at.wrong("another model has this name"));
        }
        if model.routes.is_empty() {
            let message = "is empty; a model needs at least one route";
            return Err(ConfigError::at(
                at.line(),
                &format!("models[{index}].routes"),
                message,
            ));
        }
        let routes = model.routes.iter().enumerate().map(|(route_index, route)| {
            let key = |name: &str| format!("models[{index}].routes[{route_index}].{name}");
            let to = At::new(&route.provider, key("provider"));
            let provider = providers
                .iter()
                .find(|provider| provider.name() == to.text());
            let provider = provider
                .ok_or_else(|| to.wrong(format!("there is no provider {:?}", to.text())))?;
            Ok(Route {
                provider: Arc::clone(provider),
                model: model_name(&At::new(&route.model, key("model")))?
                    .as_str()
                    .into(),
                weight: route
                    .weight
                    .as_ref()
                    .map_or(Ok(1), |text| At::new(text, key("weight")).weight())?,
            })
        });
        models.push(Model {
            name,
            routes: routes.collect::<Result<_, ConfigError>>()?,
            fallback: Vec::new(),
        });
    }
    for (index, low) in low.iter().enumerate() {
        let mut fallback = Vec::new();
        for (to_index, to) in low.fallback.iter().flatten().enumerate() {
            let at = At::new(to, format!("models[{index}].fallback[{to_index}]"));
            let name = model_name(&at)?;
            if models.iter().any(|model| model.name == name) {
                fallback.push(name);
            } else {
                warnings.push(unknown(&at, "it is passed over"));
            }
        }
        models[index].fallback = fallback;
    }
    Ok(models)
}

fn model_name(at: &At<'_>) -> Result<ModelName, ConfigError> {
    at.text()
        .parse()
        .map_err(|error: gateway::catalog::ModelNameError| at.wrong(error.to_string()))
}

/// A name that leads nowhere harms nobody (it is never served), and a configuration may name what
/// another part of a deployment adds: it is said, not refused.
fn unknown(at: &At<'_>, effect: &str) -> ConfigError {
    at.wrong(format!("there is no model {:?}; {effect}", at.text()))
}

fn tasks(
    low: BTreeMap<String, Text>,
    known: &dyn Fn(&str) -> bool,
    warnings: &mut Vec<ConfigError>,
) -> Result<BTreeMap<String, ModelName>, ConfigError> {
    let mut tasks = BTreeMap::new();
    for (task, text) in low {
        let at = At::new(&text, format!("tasks.{task}"));
        if !is_name(&task) {
            return Err(at.wrong(format!("the task is not {NAME_RULE}")));
        }
        let name = model_name(&at)?;
        if known(name.as_str()) {
            tasks.insert(task, name);
        } else {
            warnings.push(unknown(&at, "calls for this task find no model"));
        }
    }
    Ok(tasks)
}

fn tiers(
    low: &BTreeMap<String, LowTier>,
    known: &dyn Fn(&str) -> bool,
    warnings: &mut Vec<ConfigError>,
) -> Result<BTreeMap<String, Tier>, ConfigError> {
    let mut tiers = BTreeMap::new();
    for (name, low) in low {
        let at = format!("tiers.{name}");
        if !is_name(name) {
            return Err(ConfigError {
                line: None,
                key: at,
                message: format!("is not {NAME_RULE}"),
            });
        }
        let listed = low.models.iter().flatten().enumerate();
        let listed =
            listed.map(|(index, text)| (text, format!("{at}.models[{index}]"), "nobody sees it"));
        let default = low.model.iter().map(|text| {
            (
                text,
                format!("{at}.model"),
                "calls that name no model find none",
            )
        });
        for (text, key, effect) in listed.chain(default) {
            let at = At::new(text, key);
            if !known(model_name(&at)?.as_str()) {
                warnings.push(unknown(&at, effect));
            }
        }
        let tier = Tier::read(low, &at)?;
        if let (Some(model), Some(models), Some(text)) = (&tier.model, &tier.models, &low.model)
            && !models.contains(model)
        {
            return Err(
                At::new(text, format!("{at}.model")).wrong("is not in the models of this tier")
            );
        }
        tiers.insert(name.clone(), tier);
    }
    Ok(tiers)
}
