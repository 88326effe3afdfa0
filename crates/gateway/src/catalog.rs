//! What can be asked for and where it is answered: providers, models, tasks.
//!
//! Made whole from the operator's configuration and swapped whole; the pipeline only reads it.
//! Keys are not part of it: they stand beside, in a [`Keyring`], each bound to its origin.

mod provider;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::upstream::Credential;

pub(crate) use provider::Endpoint;
pub use provider::{BaseUrlError, HangUp, Origin, Provider, ProviderKind, ProviderSpec, Timeouts};

/// The name of a model as clients ask for it: 1 to 128 printable ASCII characters without spaces,
/// quotes or backslashes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(Arc<str>);

/// A text that cannot be the name of a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModelNameError;

impl fmt::Display for ModelNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a model name: 1 to 128 printable ASCII characters without spaces, quotes or backslashes")
    }
}

impl std::error::Error for ModelNameError {}

impl ModelName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = ModelNameError;

    fn from_str(text: &str) -> Result<Self, ModelNameError> {
        let plain =
            |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'`' | b'<' | b'>');
        if (1..=128).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(ModelNameError)
        }
    }
}

impl std::borrow::Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One place where a model is answered.
#[derive(Clone, Debug)]
pub struct Route {
    /// Who answers.
    pub provider: Arc<Provider>,
    /// The model's name there.
    pub model: Arc<str>,
    /// Share of calls among the routes of a model, at least 1.
    pub weight: u32,
}

/// One model that clients may ask for.
#[derive(Clone, Debug)]
pub struct Model {
    /// The name clients use.
    pub name: ModelName,
    /// Where it is answered, at least one.
    pub routes: Vec<Route>,
    /// Models tried after all routes failed, in order.
    pub fallback: Vec<ModelName>,
}

/// Who may serve a model, and where: what rules speak of. In order, each once.
#[derive(Clone, Default, Debug)]
pub(crate) struct Servers {
    pub(crate) providers: Vec<String>,
    /// `unknown` for a provider of which the operator has not said it.
    pub(crate) regions: Vec<String>,
}

impl Servers {
    fn of(model: &Model) -> Self {
        let providers = model.routes.iter().map(|route| route.provider.name());
        // What is not said may be anywhere, and a rule must be able to see that.
        let regions = model.routes.iter();
        let regions = regions.map(|route| route.provider.region().unwrap_or("unknown"));
        let once = |names: &mut dyn Iterator<Item = &str>| {
            let names: BTreeSet<String> = names.map(str::to_owned).collect();
            names.into_iter().collect()
        };
        Self {
            providers: once(&mut { providers }),
            regions: once(&mut { regions }),
        }
    }
}

/// A broken reference between parts of a catalog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatalogError {
    /// Two providers of one name.
    DuplicateProvider(String),
    /// Two models of one name.
    DuplicateModel(ModelName),
    /// A model without routes, or a route of weight 0.
    NoRoute(ModelName),
    /// A fallback names a model that does not exist.
    UnknownFallback(ModelName, ModelName),
    /// A task names a model that does not exist.
    UnknownTaskModel(String, ModelName),
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateProvider(name) => write!(f, "two providers are named {name}"),
            Self::DuplicateModel(name) => write!(f, "two models are named {name}"),
            Self::NoRoute(name) => write!(f, "model {name} has no route of positive weight"),
            Self::UnknownFallback(name, to) => {
                write!(f, "model {name} falls back to {to}, which is not a model")
            }
            Self::UnknownTaskModel(task, to) => {
                write!(f, "task {task} names {to}, which is not a model")
            }
        }
    }
}

impl std::error::Error for CatalogError {}

/// Everything that can be called. Immutable; a reload makes a new one.
#[derive(Debug, Default)]
pub struct Catalog {
    providers: Vec<Arc<Provider>>,
    models: Vec<Model>,
    /// Who may serve each model, itself and what it falls back to apart.
    servers: Vec<Servers>,
    by_name: HashMap<ModelName, usize>,
    tasks: BTreeMap<String, ModelName>,
}

impl Catalog {
    /// A catalog whose references all hold.
    ///
    /// # Errors
    /// When a name is taken twice or a reference leads nowhere.
    pub fn new(
        providers: Vec<Arc<Provider>>,
        models: Vec<Model>,
        tasks: BTreeMap<String, ModelName>,
    ) -> Result<Self, CatalogError> {
        for (index, provider) in providers.iter().enumerate() {
            if providers[..index]
                .iter()
                .any(|p| p.name() == provider.name())
            {
                return Err(CatalogError::DuplicateProvider(provider.name().to_owned()));
            }
        }
        let mut by_name = HashMap::with_capacity(models.len());
        for (index, model) in models.iter().enumerate() {
            if model.routes.is_empty() || model.routes.iter().any(|route| route.weight == 0) {
                return Err(CatalogError::NoRoute(model.name.clone()));
            }
            if by_name.insert(model.name.clone(), index).is_some() {
                return Err(CatalogError::DuplicateModel(model.name.clone()));
            }
        }
        for model in &models {
            if let Some(gone) = model.fallback.iter().find(|to| !by_name.contains_key(*to)) {
                return Err(CatalogError::UnknownFallback(
                    model.name.clone(),
                    gone.clone(),
                ));
            }
        }
        if let Some((task, to)) = tasks.iter().find(|(_, to)| !by_name.contains_key(*to)) {
            return Err(CatalogError::UnknownTaskModel(task.clone(), to.clone()));
        }
        Ok(Self {
            providers,
            servers: models.iter().map(Servers::of).collect(),
            models,
            by_name,
            tasks,
        })
    }

    /// All providers, in the order of the configuration.
    #[must_use]
    pub fn providers(&self) -> &[Arc<Provider>] {
        &self.providers
    }

    /// The provider of that name.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers
            .iter()
            .find(|provider| provider.name() == name)
    }

    /// All models, in the order of the configuration.
    #[must_use]
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The model of exactly that name.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.by_name
            .get(name)
            .and_then(|index| self.models.get(*index))
    }

    /// The place of a model among all.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Who may serve the model at a place.
    pub(crate) fn servers(&self, index: usize) -> Option<&Servers> {
        self.servers.get(index)
    }

    /// Providers and regions that may serve the model of exactly that name; none where it does not exist.
    #[must_use]
    pub fn served_by(&self, name: &str) -> (Vec<String>, Vec<String>) {
        let servers = self.position(name).and_then(|index| self.servers(index));
        servers.map_or_else(Default::default, |servers| {
            (servers.providers.clone(), servers.regions.clone())
        })
    }

    /// The operator's tasks and their models.
    #[must_use]
    pub fn tasks(&self) -> &BTreeMap<String, ModelName> {
        &self.tasks
    }

    /// The model that `asked` means: a model of that name, else the model of a task of that name.
    /// `own_tasks` are the tenant's, which come before the operator's.
    #[must_use]
    pub fn resolve(&self, asked: &str, own_tasks: &BTreeMap<String, String>) -> Option<&Model> {
        if let Some(model) = self.model(asked) {
            return Some(model);
        }
        let task = own_tasks.get(asked).map(String::as_str);
        self.model(task.or_else(|| self.tasks.get(asked).map(ModelName::as_str))?)
    }

    /// The models that a caller may see, in the catalog's order.
    pub fn visible<'a>(
        &'a self,
        sees: impl Fn(&str) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Model> {
        self.models
            .iter()
            .filter(move |model| sees(model.name.as_str()))
    }
}

/// The operator's own keys, one per provider, each bound to its provider's origin.
#[derive(Default)]
pub struct Keyring {
    keys: HashMap<Box<str>, Arc<Credential>>,
}

impl Keyring {
    /// Puts a key in its place, over one that was there.
    pub fn insert(&mut self, credential: Credential) {
        self.keys
            .insert(credential.provider().into(), Arc::new(credential));
    }

    /// The operator's key for a provider.
    #[must_use]
    pub fn key(&self, provider: &str) -> Option<&Arc<Credential>> {
        self.keys.get(provider)
    }
}
