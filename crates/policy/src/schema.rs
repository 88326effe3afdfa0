//! The schema that every rule is checked against, and the base rules of who has written none.

use std::sync::LazyLock;

use cedar_policy::{EntityTypeName, Schema};

use crate::error::PolicyError;

/// The schema, in Cedar's own language.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// The base rules where the operator has written none.
pub const BASE: &str = include_str!("base.cedar");

static PARSED: LazyLock<Result<Schema, PolicyError>> = LazyLock::new(|| {
    Schema::from_cedarschema_str(SCHEMA)
        .map(|(schema, _)| schema)
        .map_err(|error| PolicyError::new(format!("the schema does not parse: {error}")))
});

/// The schema as the engine takes it.
pub(crate) fn schema() -> Result<&'static Schema, PolicyError> {
    PARSED.as_ref().map_err(Clone::clone)
}

/// Names of entity types, parsed once.
pub(crate) struct Types {
    pub(crate) role: EntityTypeName,
    pub(crate) person: EntityTypeName,
    pub(crate) token: EntityTypeName,
    pub(crate) action: EntityTypeName,
    pub(crate) model: EntityTypeName,
    pub(crate) collection: EntityTypeName,
    pub(crate) tool: EntityTypeName,
    pub(crate) runtime: EntityTypeName,
    pub(crate) file: EntityTypeName,
    pub(crate) host: EntityTypeName,
    pub(crate) terminal: EntityTypeName,
    pub(crate) log: EntityTypeName,
    pub(crate) setting: EntityTypeName,
}

static TYPES: LazyLock<Option<Types>> = LazyLock::new(|| {
    Some(Types {
        role: "Role".parse().ok()?,
        person: "Person".parse().ok()?,
        token: "Token".parse().ok()?,
        action: "Action".parse().ok()?,
        model: "Model".parse().ok()?,
        collection: "Collection".parse().ok()?,
        tool: "Tool".parse().ok()?,
        runtime: "Runtime".parse().ok()?,
        file: "File".parse().ok()?,
        host: "Host".parse().ok()?,
        terminal: "Terminal".parse().ok()?,
        log: "Log".parse().ok()?,
        setting: "Setting".parse().ok()?,
    })
});

/// The types; `None` never, as a test shows.
pub(crate) fn types() -> Option<&'static Types> {
    TYPES.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Action;

    #[test]
    fn the_schema_holds_every_action_and_type() {
        let schema = schema().unwrap();
        assert!(types().is_some());
        let mut known: Vec<String> = schema
            .actions()
            .map(|action| action.id().unescaped().to_owned())
            .collect();
        known.sort_unstable();
        let mut ours: Vec<String> = Action::ALL
            .iter()
            .map(|action| action.as_str().to_owned())
            .collect();
        ours.sort_unstable();
        assert_eq!(known, ours);
    }
}
