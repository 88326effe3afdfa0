//! The table of quotas: what can be limited, in which window, for whom. Enforcement, headers, the command line, the API, the
//! configuration and the documentation are made from it.

use std::fmt;
use std::str::FromStr;

use crate::{Money, PersonName, Timestamp, TokenName};

/// One limit of the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(usize)]
pub enum Quota {
    /// Calls in any second.
    RequestsPerSecond,
    /// Calls in any minute.
    RequestsPerMinute,
    /// Calls in a UTC day.
    RequestsPerDay,
    /// Tokens in any minute, input and output.
    TokensPerMinute,
    /// Tokens in a UTC day, input and output.
    TokensPerDay,
    /// Cost in a UTC day.
    CostPerDay,
    /// Cost in a UTC month.
    CostPerMonth,
    /// Calls at the same time.
    ConcurrentRequests,
    /// Bytes on disk: database, files, cache and logs.
    StorageBytes,
}

/// What a quota counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Calls.
    Requests,
    /// Tokens.
    Tokens,
    /// pico-USD.
    Cost,
    /// Bytes.
    Bytes,
}

/// When what was used is free again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// When it is so many milliseconds old.
    Sliding {
        /// Length of the window.
        ms: i64,
    },
    /// At the next midnight in UTC.
    Day,
    /// At the first midnight of the next month in UTC.
    Month,
    /// When the call is over.
    WhileOpen,
    /// When data is deleted.
    Stored,
}

struct Rule {
    name: &'static str,
    flag: &'static str,
    unit: Unit,
    window: Window,
    doc: &'static str,
}

const fn rule(
    name: &'static str,
    flag: &'static str,
    unit: Unit,
    window: Window,
    doc: &'static str,
) -> Rule {
    Rule {
        name,
        flag,
        unit,
        window,
        doc,
    }
}

const MINUTE: Window = Window::Sliding { ms: 60_000 };

/// In the order of [`Quota`]'s variants; a test compares.
#[rustfmt::skip]
const RULES: [Rule; Quota::COUNT] = [
    rule("requests_per_second", "requests-per-second", Unit::Requests, Window::Sliding { ms: 1_000 }, "Calls in any second"),
    rule("requests_per_minute", "requests-per-minute", Unit::Requests, MINUTE, "Calls in any minute"),
    rule("requests_per_day", "requests-per-day", Unit::Requests, Window::Day, "Calls per UTC day"),
    rule("tokens_per_minute", "tokens-per-minute", Unit::Tokens, MINUTE, "Tokens, input and output, in any minute"),
    rule("tokens_per_day", "tokens-per-day", Unit::Tokens, Window::Day, "Tokens, input and output, per UTC day"),
    rule("cost_per_day_usd", "cost-per-day-usd", Unit::Cost, Window::Day, "USD per UTC day"),
    rule("cost_per_month_usd", "cost-per-month-usd", Unit::Cost, Window::Month, "USD per UTC month"),
    rule("concurrent_requests", "concurrent-requests", Unit::Requests, Window::WhileOpen, "Calls at the same time"),
    rule("storage_bytes", "storage-bytes", Unit::Bytes, Window::Stored, "Bytes on disk: database, files, cache and logs"),
];

impl Quota {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// Every quota, in the order in which they are checked and shown.
    pub const ALL: [Self; Self::COUNT] = [
        Self::RequestsPerSecond,
        Self::RequestsPerMinute,
        Self::RequestsPerDay,
        Self::TokensPerMinute,
        Self::TokensPerDay,
        Self::CostPerDay,
        Self::CostPerMonth,
        Self::ConcurrentRequests,
        Self::StorageBytes,
    ];

    const fn rule(self) -> &'static Rule {
        &RULES[self as usize]
    }

    /// The name in configuration, headers, messages and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.rule().name
    }

    /// The name on the command line, without its dashes.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        self.rule().flag
    }

    /// What it limits, for people.
    #[must_use]
    pub const fn doc(self) -> &'static str {
        self.rule().doc
    }

    /// The quota of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quota| quota.name() == name)
    }

    /// What it counts.
    #[must_use]
    pub const fn unit(self) -> Unit {
        self.rule().unit
    }

    /// When what was used is free again.
    #[must_use]
    pub const fn window(self) -> Window {
        self.rule().window
    }

    /// Whether it can be set for a person or a token. Storage is the tenant's as a whole.
    #[must_use]
    pub const fn is_personal(self) -> bool {
        !matches!(self, Self::StorageBytes)
    }

    /// An amount as people and programs read it: a whole number, or plain USD.
    #[must_use]
    pub fn shown(self, amount: i128) -> String {
        match self.unit() {
            Unit::Cost => Money::from_pico(amount).to_string(),
            Unit::Requests | Unit::Tokens | Unit::Bytes => amount.to_string(),
        }
    }

    /// Reads a limit: a whole number of 0 or more, or an amount in USD.
    ///
    /// # Errors
    /// The sentence says what would be right; it does not repeat the text.
    pub fn read(self, text: &str) -> Result<i128, &'static str> {
        if self.unit() == Unit::Cost {
            return match Money::parse_usd(text) {
                Ok(amount) if amount < Money::ZERO => Err("an amount below zero"),
                // What a row of the ledger holds, so that percents and sums of limits stay in range.
                Ok(amount) if amount.pico() > i128::from(i64::MAX) => {
                    Err("an amount above 9 million USD, which is no limit")
                }
                Ok(amount) => Ok(amount.pico()),
                Err(_) => Err("not an amount in USD, as 20 or 0.5"),
            };
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // Half the range, so that sums of limits stay in range.
        text.parse::<u64>()
            .ok()
            .filter(|count| digits && *count <= u64::MAX / 2)
            .map(i128::from)
            .ok_or("not a whole number of 0 or more")
    }
}

/// A limit for each quota; an absent one does not limit, a limit of 0 admits nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits([Option<i128>; Quota::COUNT]);

impl Limits {
    /// One limit: a count, or pico-USD for costs.
    #[must_use]
    pub fn limit(&self, quota: Quota) -> Option<i128> {
        self.0[quota as usize]
    }

    /// Sets one limit, or lifts it.
    pub fn set(&mut self, quota: Quota, limit: Option<i128>) {
        self.0[quota as usize] = limit.map(|value| value.max(0));
    }

    /// These limits, replaced by those that `over` has.
    #[must_use]
    pub fn overridden_by(&self, over: &Self) -> Self {
        let mut merged = *self;
        for (slot, replacement) in merged.0.iter_mut().zip(over.0) {
            if replacement.is_some() {
                *slot = replacement;
            }
        }
        merged
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The limits that are set, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (Quota, i128)> + '_ {
        Quota::ALL
            .into_iter()
            .filter_map(|quota| self.limit(quota).map(|limit| (quota, limit)))
    }
}

impl fmt::Display for Limits {
    /// `tokens_per_day 500, cost_per_day_usd 5`; `none` where nothing is limited.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (place, (quota, limit)) in self.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", quota.name(), quota.shown(limit))?;
        }
        Ok(())
    }
}

/// Whom a limit holds for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Scope {
    /// The tenant as a whole.
    #[default]
    Tenant,
    /// Each person of the tenant, apart.
    EachPerson,
    /// Each token of the tenant, apart.
    EachToken,
    /// One person, in place of what holds for each.
    Person(Box<str>),
    /// One token, in place of what holds for each.
    Token(TokenName),
}

/// A text that names no scope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScopeError;

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a scope: tenant, each-person, each-token, person:NAME or token:NAME")
    }
}

impl std::error::Error for ScopeError {}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        Ok(match text {
            "tenant" => Self::Tenant,
            "each-person" => Self::EachPerson,
            "each-token" => Self::EachToken,
            _ => match text.split_once(':') {
                Some(("token", name)) => Self::Token(name.parse().map_err(|_| ScopeError)?),
                Some(("person", name)) => {
                    let name: PersonName = name.parse().map_err(|_| ScopeError)?;
                    Self::Person(name.as_str().into())
                }
                _ => return Err(ScopeError),
            },
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant => f.write_str("tenant"),
            Self::EachPerson => f.write_str("each-person"),
            Self::EachToken => f.write_str("each-token"),
            Self::Person(name) => write!(f, "person:{name}"),
            Self::Token(name) => write!(f, "token:{name}"),
        }
    }
}

/// One limit that the operator set over a tier's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Override {
    /// For whom.
    pub scope: Scope,
    /// Which quota.
    pub quota: Quota,
    /// The limit: a count, or pico-USD.
    pub limit: i128,
    /// When it ends by itself; `None`: never.
    pub until: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_one_line_for_each_quota() {
        for (place, quota) in Quota::ALL.into_iter().enumerate() {
            assert_eq!(quota as usize, place);
            assert_eq!(Quota::from_name(quota.name()), Some(quota));
            assert_eq!(quota.flag(), quota.name().replace('_', "-"));
            let limit = quota.read("7").unwrap();
            assert_eq!(quota.read(&quota.shown(limit)), Ok(limit));
            for bad in ["", "-1", "1e400", "none", "9223372036854775808000000000"] {
                assert!(quota.read(bad).is_err(), "{}: {bad}", quota.name());
            }
        }
        assert_eq!(Quota::CostPerDay.read("0.5"), Ok(500_000_000_000));
        assert!(Quota::TokensPerDay.read("0.5").is_err());
        assert_eq!(
            Quota::CostPerMonth.read("9223372.036854775807"),
            Ok(i128::from(i64::MAX))
        );
        assert!(Quota::CostPerMonth.read("9223372.036854775808").is_err());
    }

    #[test]
    fn the_page_has_the_rows_of_the_table() {
        let page = include_str!("../../../docs/quotas.md");
        let rows: Vec<&str> = page
            .lines()
            .filter(|line| line.contains("` | `--"))
            .collect();
        let expected = Quota::ALL.map(|quota| {
            let personal = if quota.is_personal() { "yes" } else { "no" };
            let (name, flag, doc) = (quota.name(), quota.flag(), quota.doc());
            format!("| `{name}` | `--{flag}` | {doc} | {personal} |")
        });
        assert_eq!(rows, expected);
    }

    #[test]
    fn scopes_read_what_they_write() {
        for text in [
            "tenant",
            "each-person",
            "each-token",
            "person:ann@example.com",
            "token:ci",
        ] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "token",
            "token:",
            "token:No Name",
            "person:",
            "person:a b",
            "person:a\n",
            "tenant:acme",
        ] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_say_what_is_set() {
        let mut limits = Limits::default();
        assert_eq!(limits.to_string(), "none");
        limits.set(Quota::CostPerDay, Some(500_000_000_000));
        limits.set(Quota::RequestsPerDay, Some(0));
        assert_eq!(
            limits.to_string(),
            "requests_per_day 0, cost_per_day_usd 0.5"
        );
    }
}
