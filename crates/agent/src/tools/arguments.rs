//! The arguments of a call: what a model wrote, read strictly.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use super::{Param, What};

/// Arguments that are what their tool takes.
#[derive(Debug)]
pub(crate) struct Arguments(BTreeMap<String, Value>);

/// An object in which no name stands twice.
struct Members(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name stands there twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

impl Arguments {
    /// Reads them.
    ///
    /// # Errors
    /// The first that is wrong, for the model.
    pub(crate) fn read(params: &[Param], text: &str) -> Result<Self, String> {
        let members: Members = serde_json::from_str(text)
            .map_err(|_| "the arguments are not one JSON object with distinct names".to_owned())?;
        let mut members = members.0;
        // Models write null for what they leave out.
        members.retain(|_, value| !value.is_null());
        for (name, value) in &members {
            let shown: String = name.chars().take(64).collect();
            let param = params.iter().find(|param| param.name == name);
            let param =
                param.ok_or_else(|| format!("{shown:?} is not an argument of this tool"))?;
            check(param, value)?;
        }
        match params
            .iter()
            .find(|param| param.required && !members.contains_key(param.name))
        {
            Some(missing) => Err(format!("{} is missing", missing.name)),
            None => Ok(Self(members)),
        }
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    /// A flag; `false` without it.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
}

fn check(param: &Param, value: &Value) -> Result<(), String> {
    let name = param.name;
    match param.what {
        What::Text(max) => match value.as_str() {
            Some(text) if text.len() <= max => Ok(()),
            Some(_) => Err(format!("{name} is longer than {max} bytes")),
            None => Err(format!("{name} must be a text")),
        },
        What::Number(max) => match value.as_u64() {
            Some(number) if number <= max => Ok(()),
            _ => Err(format!("{name} must be a whole number from 0 to {max}")),
        },
        What::Flag => match value.is_boolean() {
            true => Ok(()),
            false => Err(format!("{name} must be true or false")),
        },
    }
}
