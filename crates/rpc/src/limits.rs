//! Limits in JSON: one member per quota of the table, counts as numbers, money as text.

use std::fmt;

use base::{Limits, Quota};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::names::Change;

/// Writes every quota, `null` where it does not limit.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(limits: &Limits, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(Quota::COUNT))?;
    for quota in Quota::ALL {
        map.serialize_entry(
            quota.name(),
            &limits.limit(quota).map(|at| Shown(quota, at)),
        )?;
    }
    map.end()
}

/// Reads the quotas that are there.
///
/// # Errors
/// For a name that is no quota's, a name that comes twice, and what is no limit.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Limits, D::Error> {
    let mut limits = Limits::default();
    from.deserialize_map(Members(|quota, limit| limits.set(quota, limit)))?;
    Ok(limits)
}

/// What happens to each quota: absent keeps it, a value sets it, `null` clears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Changes([Change<i128>; Quota::COUNT]);

impl Changes {
    /// What happens to one.
    #[must_use]
    pub fn of(&self, quota: Quota) -> Change<i128> {
        self.0[quota as usize]
    }

    /// Says what happens to one.
    pub fn set(&mut self, quota: Quota, change: Change<i128>) {
        self.0[quota as usize] = change;
    }

    /// Those that change, and to what; `None` clears.
    #[must_use]
    pub fn list(&self) -> Vec<(Quota, Option<i128>)> {
        let change = |quota: Quota| match self.of(quota) {
            Change::Keep => None,
            Change::Set(limit) => Some((quota, Some(limit))),
            Change::Clear => Some((quota, None)),
        };
        Quota::ALL.into_iter().filter_map(change).collect()
    }
}

impl Serialize for Changes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let list = self.list();
        let mut map = to.serialize_map(Some(list.len()))?;
        for (quota, limit) in list {
            map.serialize_entry(quota.name(), &limit.map(|at| Shown(quota, at)))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Changes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut changes = Self::default();
        from.deserialize_map(Members(|quota, limit: Option<i128>| {
            changes.set(quota, limit.map_or(Change::Clear, Change::Set));
        }))?;
        Ok(changes)
    }
}

/// A limit in its form: a number, or plain USD as text.
struct Shown(Quota, i128);

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match (self.0.unit(), u64::try_from(self.1)) {
            (base::quota::Unit::Cost, _) | (_, Err(_)) => to.serialize_str(&self.0.shown(self.1)),
            (_, Ok(count)) => to.serialize_u64(count),
        }
    }
}

/// Hands each member to a function.
struct Members<F>(F);

impl<'de, F: FnMut(Quota, Option<i128>)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limits by the names of quotas")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen = [false; Quota::COUNT];
        while let Some(name) = map.next_key::<String>()? {
            let Some(quota) = Quota::from_name(&name) else {
                let names = Quota::ALL.map(Quota::name).join(", ");
                return Err(A::Error::custom(format!(
                    "unknown field {name:?}, expected one of {names}"
                )));
            };
            if std::mem::replace(&mut seen[quota as usize], true) {
                return Err(A::Error::duplicate_field(quota.name()));
            }
            (self.0)(quota, map.next_value_seed(OfQuota(quota))?);
        }
        Ok(())
    }
}

/// The limit of one quota, or `null`.
struct OfQuota(Quota);

impl<'de> DeserializeSeed<'de> for OfQuota {
    type Value = Option<i128>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for OfQuota {
    type Value = Option<i128>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.unit() {
            base::quota::Unit::Cost => "an amount in USD as text, or null",
            _ => "a whole number of 0 or more, or null",
        })
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let wrong = |why| E::custom(format!("invalid value for {}: {why}", self.0.name()));
        self.0.read(text).map(Some).map_err(wrong)
    }
}
