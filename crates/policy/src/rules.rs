//! One set of rules: parsed, checked against the schema, and cut by action and resource.

use std::collections::HashMap;
use std::thread;

use base::{Role, Timestamp};
use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet, ResourceConstraint,
    ValidationMode, Validator,
};

use crate::decide::{Cap, Obligation};
use crate::error::PolicyError;
use crate::request::Action;
use crate::scan::{self, Piece};
use crate::schema::schema;

/// Stack of the thread that reads rules: nothing that fits the limits of [`scan`] needs it all.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Whose rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The operator's: they alone permit.
    Base,
    /// A list of visible models.
    Models,
    /// The tenant's own: they only forbid.
    Tenant,
}

impl Origin {
    /// How the names of its rules begin.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Models => "models",
            Self::Tenant => "tenant",
        }
    }
}

/// A checked set of rules. Immutable.
#[derive(Debug)]
pub struct Rules {
    origin: Origin,
    hash: [u8; 32],
    text: Box<str>,
    pub(crate) infos: Vec<Info>,
    slices: Vec<Slices>,
    /// Moments at which rules begin or cease to hold.
    pub(crate) moments: Vec<Timestamp>,
}

/// What of a rule is not Cedar's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Info {
    /// Origin and id: `tenant.no-code`.
    pub(crate) name: Box<str>,
    pub(crate) line: u64,
    pub(crate) permits: bool,
    /// The thing is to look as if it did not exist.
    pub(crate) hides: bool,
    pub(crate) lifted_by: Option<Obligation>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Info {
    pub(crate) fn holds_at(&self, now: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

/// The rules of one action.
#[derive(Default, Debug)]
struct Slices {
    permits: Slice,
    forbids: Slice,
}

/// Rules that may apply to any resource, and apart from them those that name one.
#[derive(Default, Debug)]
struct Slice {
    general: PolicySet,
    named: HashMap<Box<str>, PolicySet>,
}

impl Slice {
    fn of(&self, resource: &str) -> [Option<&PolicySet>; 2] {
        let general = (!self.general.is_empty()).then_some(&self.general);
        [general, self.named.get(resource)]
    }
}

impl Rules {
    /// Reads a set.
    ///
    /// # Errors
    /// What does not parse, does not fit the schema or could never apply; unknown annotations; two rules of one name; a rule that
    /// permits where only forbidding is allowed; texts above the limits of this crate.
    pub fn read(origin: Origin, text: &str) -> Result<Self, PolicyError> {
        let limits = match origin {
            Origin::Base | Origin::Tenant => scan::Limits::WRITTEN,
            Origin::Models => scan::Limits::MADE,
        };
        let pieces = scan::pieces(text, limits)?;
        // A thread of its own, because a parser's and a checker's stack grows with what somebody else wrote.
        thread::scope(|scope| {
            let reader = thread::Builder::new()
                .name("policy".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || check(origin, text, &pieces))
                .map_err(|error| PolicyError::new(format!("the rules cannot be read: {error}")))?;
            reader
                .join()
                .unwrap_or_else(|_| Err(PolicyError::new("the rules cannot be read")))
        })
    }

    /// Whose they are.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// SHA-256 of origin and text.
    #[must_use]
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// As they were written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.infos.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.infos.is_empty()
    }

    pub(crate) fn permits(&self, action: Action, resource: &str) -> [Option<&PolicySet>; 2] {
        let slices = self.slices.get(action as usize);
        slices.map_or([None; 2], |slices| slices.permits.of(resource))
    }

    pub(crate) fn forbids(&self, action: Action, resource: &str) -> [Option<&PolicySet>; 2] {
        let slices = self.slices.get(action as usize);
        slices.map_or([None; 2], |slices| slices.forbids.of(resource))
    }

    /// Rules in all slices together: what a set costs in memory.
    #[cfg(test)]
    fn copies(&self) -> usize {
        let slice = |slice: &Slice| {
            let named = slice.named.values().map(PolicySet::num_of_policies);
            slice.general.num_of_policies() + named.sum::<usize>()
        };
        let slices = self.slices.iter();
        slices
            .map(|of| slice(&of.permits) + slice(&of.forbids))
            .sum()
    }

    /// The rule that Cedar calls `id`.
    pub(crate) fn info(&self, id: &PolicyId) -> Option<&Info> {
        let text: &str = id.as_ref();
        self.infos.get(text.parse::<usize>().ok()?)
    }
}

fn check(origin: Origin, text: &str, pieces: &[Piece<'_>]) -> Result<Rules, PolicyError> {
    let mut infos: Vec<Info> = Vec::with_capacity(pieces.len());
    let mut policies = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces.iter().enumerate() {
        let policy = parse(index, piece)?;
        let info = info(origin, index, piece.line, &policy)?;
        if infos.iter().any(|other| other.name == info.name) {
            return Err(PolicyError::at(
                piece.line,
                format!("two rules have the id {:?}", short(&info.name, origin)),
            ));
        }
        infos.push(info);
        policies.push(policy);
    }
    validate(&policies, &infos)?;
    let mut hasher = vault::Sha256::new();
    hasher.update(origin.as_str().as_bytes());
    hasher.update(b"\n");
    hasher.update(text.as_bytes());
    let mut moments: Vec<Timestamp> = infos
        .iter()
        .flat_map(|info| [info.from, info.until])
        .flatten()
        .collect();
    moments.sort_unstable();
    moments.dedup();
    Ok(Rules {
        origin,
        hash: hasher.finish(),
        text: text.into(),
        slices: slices(&policies)?,
        infos,
        moments,
    })
}

fn parse(index: usize, piece: &Piece<'_>) -> Result<Policy, PolicyError> {
    let id = PolicyId::new(index.to_string());
    Policy::parse(Some(id), piece.text).map_err(|errors| {
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        PolicyError::at(piece.line, said.join("; "))
    })
}

fn short(name: &str, origin: Origin) -> &str {
    name.strip_prefix(origin.as_str())
        .and_then(|rest| rest.strip_prefix('.'))
        .unwrap_or(name)
}

const ANNOTATIONS: &str = "id, description, answer, require_approval, cap, from, until";

fn info(origin: Origin, index: usize, line: u64, policy: &Policy) -> Result<Info, PolicyError> {
    let permits = policy.effect() == Effect::Permit;
    let refuse = |message: String| PolicyError::at(line, message);
    if permits && origin != Origin::Base {
        return Err(refuse(
            "only the operator's base rules permit; write a forbid rule that says what is left out"
                .to_owned(),
        ));
    }
    let mut info = Info {
        name: format!("{}.{}", origin.as_str(), index + 1).into(),
        line,
        permits,
        hides: false,
        lifted_by: None,
        from: None,
        until: None,
    };
    for (key, value) in policy.annotations() {
        let only_forbids = || match permits {
            true => Err(refuse(format!("@{key} belongs on a forbid rule"))),
            false => Ok(()),
        };
        match key {
            "id" => {
                info.name = format!("{}.{}", origin.as_str(), id(value).map_err(refuse)?).into()
            }
            "description" => {}
            "answer" if value == "absent" => {
                only_forbids()?;
                info.hides = true;
            }
            "answer" => return Err(refuse("@answer: must be \"absent\"".to_owned())),
            "require_approval" | "cap" => {
                only_forbids()?;
                if info.lifted_by.is_some() {
                    return Err(refuse(
                        "one rule, one of @cap and @require_approval".to_owned(),
                    ));
                }
                let obligation = match key {
                    "cap" => cap(value, policy),
                    _ => approvers(value),
                };
                info.lifted_by = Some(obligation.map_err(refuse)?);
            }
            "from" | "until" => {
                let moment: Option<Timestamp> = Timestamp::parse(value);
                let Some(moment) = moment else {
                    return Err(refuse(format!(
                        "@{key}: {value:?} is no moment; write 2026-12-01T00:00:00Z"
                    )));
                };
                match key {
                    "from" => info.from = Some(moment),
                    _ => info.until = Some(moment),
                }
            }
            _ => {
                return Err(refuse(format!("@{key} is unknown; use {ANNOTATIONS}")));
            }
        }
    }
    if info.hides && info.lifted_by.is_some() {
        return Err(refuse(
            "what is hidden cannot be lifted: leave out @answer".to_owned(),
        ));
    }
    Ok(info)
}

fn id(value: &str) -> Result<&str, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=64).contains(&value.len()) && value.bytes().all(good) {
        return Ok(value);
    }
    Err("@id: must be 1 to 64 letters, digits, '-', '_' or '.'".to_owned())
}

fn approvers(value: &str) -> Result<Obligation, String> {
    let mut roles = Vec::new();
    for name in value
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let role: Role = name
            .parse()
            .map_err(|_| format!("@require_approval: {name:?} is no role"))?;
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    if roles.is_empty() {
        roles.push(Role::Admin);
    }
    Ok(Obligation::Approval(roles))
}

fn cap(value: &str, policy: &Policy) -> Result<Obligation, String> {
    let named = value.split_once('=');
    let read = named.and_then(|(name, limit)| {
        let cap = Cap::ALL
            .into_iter()
            .find(|cap| cap.as_str() == name.trim())?;
        Some((cap, limit.trim().parse::<u64>().ok()?))
    });
    let Some((cap, limit)) = read else {
        return Err(
            "@cap: must be max_tokens=N, seconds=N or bytes=N, with a whole number".to_owned(),
        );
    };
    for action in actions(policy) {
        if !cap.fits(action) {
            return Err(format!("@cap: {} has no {}", action.as_str(), cap.as_str()));
        }
    }
    if limit == 0 {
        return Err("@cap: a cap of 0 allows nothing; leave it out".to_owned());
    }
    Ok(Obligation::Cap(cap, limit))
}

/// The actions that a rule may apply to.
fn actions(policy: &Policy) -> Vec<Action> {
    let named = |uid: &EntityUid| {
        let name = uid.id().unescaped();
        Action::ALL
            .into_iter()
            .find(|action| action.as_str() == name)
    };
    let mut actions = match policy.action_constraint() {
        ActionConstraint::Any => Action::ALL.to_vec(),
        ActionConstraint::Eq(uid) => named(&uid).into_iter().collect(),
        ActionConstraint::In(uids) => uids.iter().filter_map(named).collect(),
    };
    // A rule about one thing is one about what can be done to things of its type.
    if let ResourceConstraint::Eq(uid) = policy.resource_constraint() {
        let kind = uid.type_name().basename().to_owned();
        actions.retain(|action| action.resource_type() == kind);
    }
    actions
}

/// Strictly: what the schema does not know is an error, and so is what could never apply.
fn validate(policies: &[Policy], infos: &[Info]) -> Result<(), PolicyError> {
    let set = PolicySet::from_policies(policies.iter().cloned())
        .map_err(|error| PolicyError::new(error.to_string()))?;
    let found = Validator::new(schema()?.clone()).validate(&set, ValidationMode::Strict);
    let line = |id: &PolicyId| {
        let text: &str = id.as_ref();
        let index = text.parse::<usize>().ok();
        index
            .and_then(|index| infos.get(index))
            .map(|info| info.line)
    };
    let errors = found
        .validation_errors()
        .map(|error| (line(error.policy_id()), error.to_string()));
    let warnings = found
        .validation_warnings()
        .map(|warning| (line(warning.policy_id()), warning.to_string()));
    let mut said: Vec<(Option<u64>, String)> = errors.chain(warnings).collect();
    said.sort();
    match said.into_iter().next() {
        None => Ok(()),
        Some((line, text)) => Err(PolicyError {
            line,
            message: in_words(&text),
        }),
    }
}

/// Cedar's text without its own numbering of the rules.
fn in_words(text: &str) -> String {
    let rest = text.strip_prefix("for policy `");
    let rest = rest.and_then(|rest| rest.split_once("`, "));
    rest.map_or(text, |(_, rest)| rest).to_owned()
}

fn slices(policies: &[Policy]) -> Result<Vec<Slices>, PolicyError> {
    let mut slices: Vec<Slices> = Action::ALL.iter().map(|_| Slices::default()).collect();
    for action in Action::ALL {
        let Some(slices) = slices.get_mut(action as usize) else {
            continue;
        };
        let of_action = policies
            .iter()
            .filter(|policy| actions(policy).contains(&action));
        for effect in [Effect::Permit, Effect::Forbid] {
            let rules: Vec<&Policy> = of_action
                .clone()
                .filter(|policy| policy.effect() == effect)
                .collect();
            let slice = slice(&rules).map_err(|error| PolicyError::new(error.to_string()))?;
            match effect {
                Effect::Permit => slices.permits = slice,
                Effect::Forbid => slices.forbids = slice,
            }
        }
    }
    Ok(slices)
}

fn slice(rules: &[&Policy]) -> Result<Slice, Box<cedar_policy::PolicySetError>> {
    let mut slice = Slice::default();
    for rule in rules {
        let set = match rule.resource_constraint() {
            ResourceConstraint::Eq(uid) => {
                slice.named.entry(uid.id().unescaped().into()).or_default()
            }
            ResourceConstraint::Any
            | ResourceConstraint::In(_)
            | ResourceConstraint::Is(_)
            | ResourceConstraint::IsIn(..) => &mut slice.general,
        };
        set.add((*rule).clone())?;
    }
    Ok(slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RULES_MAX;

    /// What is read is held once for each action that it may apply to, however the rules are mixed.
    #[test]
    fn no_set_grows_beyond_its_rules_times_its_actions() {
        let half = RULES_MAX / 2;
        let general = "forbid (principal, action, resource);\n".repeat(half);
        let named: String = (0..half)
            .map(|n| format!("forbid (principal, action, resource == Model::\"m{n}\");\n"))
            .collect();
        let rules = Rules::read(Origin::Tenant, &(general + &named)).unwrap();
        assert_eq!(rules.copies(), half * Action::ALL.len() + half);
    }
}
