//! The flags of limits: one for each quota of the table.

use base::{Limits, Quota, Scope};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, Error, FromArgMatches};
use rpc::{Change, Changes, LimitsChange, Until};

/// Limits of a tenant's own.
pub(crate) struct OwnLimits(Box<Limits>);

impl From<OwnLimits> for Limits {
    fn from(typed: OwnLimits) -> Self {
        *typed.0
    }
}

impl Args for OwnLimits {
    fn augment_args(command: Command) -> Command {
        command.args(Quota::ALL.map(|quota| {
            let read = move |text: &str| quota.read(text);
            flag(quota, "").value_parser(read)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OwnLimits {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut own = Self(Box::default());
        own.update_from_arg_matches(matches)?;
        Ok(own)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for quota in Quota::ALL {
            if let Some(limit) = matches.get_one::<i128>(quota.name()) {
                self.0.set(quota, Some(*limit));
            }
        }
        Ok(())
    }
}

/// Changes of limits; at least one, or another tier.
pub(crate) struct QuotaChange(Box<LimitsChange>);

impl From<QuotaChange> for LimitsChange {
    fn from(typed: QuotaChange) -> Self {
        *typed.0
    }
}

const TIER: &str = "tier";
const SCOPE: &str = "scope";
const UNTIL: &str = "until";

impl Args for QuotaChange {
    fn augment_args(command: Command) -> Command {
        let limits = Quota::ALL.map(|quota| {
            let read = move |text: &str| match text {
                "none" => Ok(Change::Clear),
                text => quota.read(text).map(Change::Set),
            };
            flag(quota, "|none").value_parser(read)
        });
        let changes = limits.iter().map(|arg| arg.get_id().clone());
        let group = ArgGroup::new("change")
            .args(changes)
            .arg(TIER)
            .required(true)
            .multiple(true);
        command
            .arg(Arg::new(TIER).long(TIER).help("Move to another tier"))
            .arg(
                Arg::new(SCOPE)
                    .long(SCOPE)
                    .value_name("SCOPE")
                    .value_parser(|text: &str| text.parse::<Scope>())
                    .help("Whose limits: tenant, each-token, token:NAME, each-person or person:NAME [default: tenant]"),
            )
            .arg(
                Arg::new(UNTIL)
                    .long(UNTIL)
                    .value_name("WHEN")
                    .value_parser(|text: &str| text.parse::<Until>())
                    .help("When these limits end by themselves: 2h, 30d, or RFC 3339; then the former ones hold again"),
            )
            .args(limits)
            .group(group)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for QuotaChange {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut change = Self(Box::default());
        change.update_from_arg_matches(matches)?;
        Ok(change)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        let mut limits = Changes::default();
        for quota in Quota::ALL {
            if let Some(change) = matches.get_one::<Change<i128>>(quota.name()) {
                limits.set(quota, *change);
            }
        }
        *self.0 = LimitsChange {
            tier: matches.get_one::<String>(TIER).cloned(),
            scope: matches.get_one::<Scope>(SCOPE).cloned().unwrap_or_default(),
            until: matches.get_one::<Until>(UNTIL).copied(),
            limits,
        };
        self.0
            .check()
            .map_err(|message| Error::raw(ErrorKind::ArgumentConflict, message))
    }
}

/// The flag of one quota.
fn flag(quota: Quota, or: &'static str) -> Arg {
    let value = match (quota.unit(), or) {
        (base::quota::Unit::Cost, "") => "X",
        (base::quota::Unit::Cost, _) => "X|none",
        (_, "") => "N",
        _ => "N|none",
    };
    Arg::new(quota.name())
        .long(quota.flag())
        .value_name(value)
        .help(quota.doc())
        .action(ArgAction::Set)
}
