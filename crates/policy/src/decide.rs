//! From a question to a decision: permits and forbids are looked at apart, so that a decision can say why.

use std::collections::HashSet;
use std::sync::Arc;

use base::{Role, Timestamp};
use cedar_policy::{
    AuthorizationError, Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet, RestrictedExpression,
};

use crate::request::{Act, Action, Principal, Request};
use crate::rules::{Info, Rules};
use crate::schema::{Types, types};

/// Rules that a decision names; of more, the first.
const NAMED_MAX: usize = 8;

/// Something that a rule may cap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cap {
    /// Tokens of an answer.
    MaxTokens,
    /// Seconds of wall time.
    Seconds,
    /// Bytes read, written or returned.
    Bytes,
}

impl Cap {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::MaxTokens, Self::Seconds, Self::Bytes];

    /// Its name in rules.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }

    pub(crate) fn fits(self, action: Action) -> bool {
        let actions: &[Action] = match self {
            Self::MaxTokens => &[Action::CallModel],
            Self::Seconds => &[Action::InvokeTool, Action::RunCode, Action::OpenTerminal],
            Self::Bytes => &[
                Action::Retrieve,
                Action::InvokeTool,
                Action::RunCode,
                Action::ReadFile,
                Action::WriteFile,
                Action::Egress,
            ],
        };
        actions.contains(&action)
    }
}

/// What lifts a rule that forbids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Obligation {
    Approval(Vec<Role>),
    Cap(Cap, u64),
}

/// What must be done or kept for an act to be allowed.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Obligations {
    approvers: Option<Vec<Role>>,
    caps: [Option<u64>; 3],
}

impl Obligations {
    /// Roles of which one has to approve; `None` where nobody has to.
    #[must_use]
    pub fn approvers(&self) -> Option<&[Role]> {
        self.approvers.as_deref()
    }

    /// The lowest cap of a kind.
    #[must_use]
    pub fn cap(&self, cap: Cap) -> Option<u64> {
        self.caps.get(cap as usize).copied().flatten()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes one more on. `false` where nobody could fulfil both.
    fn add(&mut self, obligation: &Obligation) -> bool {
        match obligation {
            Obligation::Approval(roles) => {
                let known = self.approvers.get_or_insert_with(|| roles.clone());
                known.retain(|role| roles.contains(role));
                !known.is_empty()
            }
            Obligation::Cap(cap, limit) => {
                if let Some(place) = self.caps.get_mut(*cap as usize) {
                    *place = Some(place.map_or(*limit, |known| known.min(*limit)));
                }
                true
            }
        }
    }
}

/// What was decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Allowed, as long as the obligations are kept.
    Allowed(Obligations),
    /// No rule permits it.
    NotPermitted,
    /// The thing is to look as if it did not exist.
    Absent,
    /// A rule forbids it.
    Forbidden,
    /// A rule could not be evaluated: nothing is allowed that it might have forbidden.
    Broken,
}

impl Outcome {
    /// Its name in examples and reports.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allowed(obligations) if obligations.is_empty() => "allow",
            Self::Allowed(obligations) if obligations.approvers().is_some() => "require_approval",
            Self::Allowed(_) => "cap",
            Self::NotPermitted | Self::Forbidden => "deny",
            Self::Absent => "absent",
            Self::Broken => "broken",
        }
    }
}

/// A decision with the rules that made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What was decided.
    pub outcome: Outcome,
    /// The rules that decided, as `origin.id` joined by blanks: `base.callers-work tenant.short-answers`. Empty where no rule did.
    pub rules: Arc<str>,
    /// Whether a rule hides the thing from the asker, whatever else holds.
    pub hidden: bool,
}

impl Decision {
    pub(crate) fn broken(why: &str) -> Self {
        Self {
            outcome: Outcome::Broken,
            rules: why.into(),
            hidden: true,
        }
    }
}

/// What one set said to a question.
#[derive(Default)]
pub(crate) struct Said<'a> {
    pub(crate) satisfied: Vec<&'a Info>,
    pub(crate) broken: Vec<&'a Info>,
}

/// A question in the engine's terms.
pub(crate) struct Posed {
    request: cedar_policy::Request,
    entities: Entities,
}

/// Puts a question into the engine's terms; `None` where it cannot be (a bug of ours: it denies).
pub(crate) fn pose(request: &Request<'_>) -> Option<Posed> {
    let types = types()?;
    let mut entities = Vec::with_capacity(4);
    let principal = principal(types, &request.principal, &mut entities)?;
    let resource = resource(types, &request.act, &mut entities)?;
    let action = uid(&types.action, request.act.name());
    let request =
        cedar_policy::Request::new(principal, action, resource, context(&request.act)?, None);
    Some(Posed {
        request: request.ok()?,
        entities: Entities::from_entities(entities, None).ok()?,
    })
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn texts(values: &[String]) -> RestrictedExpression {
    RestrictedExpression::new_set(values.iter().map(|value| text(value)))
}

fn principal(
    types: &Types,
    asker: &Principal<'_>,
    entities: &mut Vec<Entity>,
) -> Option<EntityUid> {
    let role = uid(&types.role, asker.role.as_str());
    entities.push(Entity::with_uid(role.clone()));
    let mut named = |uid: &EntityUid, name: &str, parents: HashSet<EntityUid>| {
        let attributes = [("name".to_owned(), text(name))].into();
        entities.push(Entity::new(uid.clone(), attributes, parents).ok()?);
        Some(())
    };
    let mut parents = HashSet::from([role]);
    if let Some(name) = asker.person {
        let person = uid(&types.person, name);
        if asker.token.is_none() {
            named(&person, name, parents)?;
            return Some(person);
        }
        named(&person, name, HashSet::new())?;
        parents.insert(person);
    }
    let name = asker.token?;
    let token = uid(&types.token, name);
    named(&token, name, parents)?;
    Some(token)
}

fn resource(types: &Types, act: &Act<'_>, entities: &mut Vec<Entity>) -> Option<EntityUid> {
    let kind = match act {
        Act::CallModel { .. } => &types.model,
        Act::Retrieve { .. } => &types.collection,
        Act::InvokeTool { .. } => &types.tool,
        Act::RunCode { .. } => &types.runtime,
        Act::ReadFile { .. } | Act::WriteFile { .. } => &types.file,
        Act::Egress { .. } => &types.host,
        Act::OpenTerminal { .. } => &types.terminal,
        Act::ReadAudit { .. } => &types.log,
        Act::ChangeConfig { .. } => &types.setting,
    };
    let name = act.resource();
    let mut attributes = Vec::with_capacity(3);
    match act {
        Act::ReadFile { .. } | Act::WriteFile { .. } => attributes.push(("path", text(name))),
        _ => attributes.push(("name", text(name))),
    }
    match act {
        Act::CallModel {
            providers, regions, ..
        } => {
            attributes.push(("providers", texts(providers)));
            attributes.push(("regions", texts(regions)));
        }
        Act::Egress { port, .. } => {
            attributes.push(("port", RestrictedExpression::new_long(i64::from(*port))));
        }
        _ => {}
    }
    let attributes = attributes
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let uid = uid(kind, name);
    entities.push(Entity::new(uid.clone(), attributes, HashSet::new()).ok()?);
    Some(uid)
}

fn context(act: &Act<'_>) -> Option<Context> {
    let Act::CallModel {
        operation,
        stream,
        tools,
        ..
    } = act
    else {
        return Some(Context::empty());
    };
    let pairs = [
        ("operation", text(operation)),
        ("stream", RestrictedExpression::new_bool(*stream)),
        ("tools", RestrictedExpression::new_bool(*tools)),
    ];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value));
    Context::from_pairs(pairs).ok()
}

/// What the rules of `set` say that hold at `now`. `None` where one spoke that `rules` does not know (a bug of ours: it denies).
pub(crate) fn ask<'a>(
    rules: &'a Rules,
    set: Option<&PolicySet>,
    posed: &Posed,
    now: Timestamp,
) -> Option<Said<'a>> {
    let Some(set) = set else {
        return Some(Said::default());
    };
    let response = Authorizer::new().is_authorized(&posed.request, set, &posed.entities);
    let mut said = Said::default();
    for id in response.diagnostics().reason() {
        said.satisfied.push(rules.info(id)?);
    }
    for error in response.diagnostics().errors() {
        let AuthorizationError::PolicyEvaluationError(error) = error;
        said.broken.push(rules.info(error.policy_id())?);
    }
    said.satisfied.retain(|info| info.holds_at(now));
    said.broken.retain(|info| info.holds_at(now));
    said.satisfied.sort_by_key(|info| info.line);
    said.broken.sort_by_key(|info| info.line);
    Some(said)
}

/// Weighs what all layers said.
pub(crate) fn weigh(permits: &Said<'_>, forbids: &Said<'_>) -> Decision {
    let hiding = forbids.satisfied.iter().filter(|info| info.hides);
    // What a broken rule might have hidden is hidden.
    let hidden = hiding.clone().next().is_some() || forbids.broken.iter().any(|info| info.hides);
    let decision = |outcome, rules| Decision {
        outcome,
        rules,
        hidden,
    };
    let broken: Vec<&Info> = permits
        .broken
        .iter()
        .chain(&forbids.broken)
        .copied()
        .collect();
    if !broken.is_empty() {
        return decision(Outcome::Broken, names(broken));
    }
    if permits.satisfied.is_empty() {
        return decision(Outcome::NotPermitted, "".into());
    }
    if hidden {
        return decision(Outcome::Absent, names(hiding.copied()));
    }
    let firm = forbids
        .satisfied
        .iter()
        .filter(|info| info.lifted_by.is_none());
    if firm.clone().next().is_some() {
        return decision(Outcome::Forbidden, names(firm.copied()));
    }
    let mut obligations = Obligations::default();
    for info in &forbids.satisfied {
        let lifted = info
            .lifted_by
            .as_ref()
            .is_some_and(|by| obligations.add(by));
        if !lifted {
            return decision(Outcome::Forbidden, names(forbids.satisfied.iter().copied()));
        }
    }
    let by = permits.satisfied.iter().chain(&forbids.satisfied).copied();
    decision(Outcome::Allowed(obligations), names(by))
}

fn names<'a>(infos: impl IntoIterator<Item = &'a Info>) -> Arc<str> {
    let names: Vec<&str> = infos
        .into_iter()
        .take(NAMED_MAX)
        .map(|info| &*info.name)
        .collect();
    names.join(" ").into()
}
