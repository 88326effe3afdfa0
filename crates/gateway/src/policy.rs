//! Who may call which model, as the rules in force decide. The answer is a value: without a [`Permit`] nothing behind this stage can
//! be reached.

use std::sync::Arc;

use ::policy::{Act, Cap, Decision, Outcome};
use kernel::share::Part;
use kernel::{Admission, setting_of};
use llm::{Operation, Request};

use crate::catalog::{Catalog, Model};
use crate::refusal::{PolicyRefusal, Refusal};
use crate::upstream::AnthropicBeta;

/// Names by which a client asks for the model that its tenant has chosen.
const DEFAULT_NAMES: [&str; 2] = ["default", "auto"];

/// A decoded call: what the client asked, as it came.
pub struct Call {
    pub(crate) request: Request,
    /// SHA-256 of the body as it came.
    pub(crate) received: [u8; 32],
    pub(crate) beta: Option<AnthropicBeta>,
    /// The client wants to read what its call cost.
    pub(crate) show_cost: bool,
    /// The answer's headers carry the audit log's latest checkpoint.
    pub(crate) show_checkpoint: bool,
    /// Its place among all calls under way, until the hold takes it over.
    pub(crate) place: Option<Part>,
    /// What a large body takes of the room for bodies.
    pub(crate) _room: Option<Part>,
}

impl Call {
    /// The model's name as the client asked.
    #[must_use]
    pub fn model(&self) -> &str {
        self.request.model()
    }
}

/// The right to make one call, bound to the caller who was admitted. It moves from stage to stage: it can be neither copied nor
/// paired with another caller or call.
pub struct Permit {
    pub(crate) admission: Admission,
    pub(crate) call: Call,
    /// The model in the catalog; the name asked stands in the call.
    model: usize,
    decision: Arc<Decision>,
    pub(crate) catalog: Arc<Catalog>,
}

impl Permit {
    pub(crate) fn model(&self) -> Option<&Model> {
        self.catalog.models().get(self.model)
    }

    /// The rules that allowed the call of this model: the one asked for, or one that it falls back to.
    pub(crate) fn rules_for(&self, name: &str) -> Arc<str> {
        let asked = self
            .model()
            .is_some_and(|model| model.name.as_str() == name);
        match asked {
            true => Arc::clone(&self.decision.rules),
            false => Arc::clone(&self.decision_for(name).rules),
        }
    }

    fn decision_for(&self, name: &str) -> Arc<Decision> {
        let catalog = &self.catalog;
        let act = act(catalog, catalog.position(name), &self.call);
        self.admission.decide(act)
    }

    /// Output that the rules let the call have at most.
    pub(crate) fn max_tokens_cap(&self) -> Option<u64> {
        match &self.decision.outcome {
            Outcome::Allowed(obligations) => obligations.cap(Cap::MaxTokens),
            _ => None,
        }
    }

    /// Whether the same call of another model would be allowed under the same conditions.
    pub(crate) fn may_fall_back_to(&self, name: &str) -> bool {
        let decision = self.decision_for(name);
        !decision.hidden && decision.outcome == self.decision.outcome
    }
}

/// Decides one call by the rules in force: who calls, which model, how. A hidden model and an absent one give the same refusal.
///
/// # Errors
/// [`Refusal::Forbidden`], [`Refusal::ModelNotFound`] or [`Refusal::Policy`].
pub fn authorize(
    catalog: Arc<Catalog>,
    admission: Admission,
    call: Call,
) -> Result<Permit, Refusal> {
    let settings = admission.settings();
    let asked = call.request.model();
    let name = match settings.model.as_deref() {
        Some(own) if asked.is_empty() || DEFAULT_NAMES.contains(&asked) => own,
        _ => asked,
    };
    let found = catalog.resolve(name, &settings.tasks);
    let index = found.and_then(|model| catalog.position(model.name.as_str()));
    let decision = admission.decide(act(&catalog, index, &call));
    let shown = index.filter(|_| !decision.hidden);
    let Some(model) = shown else {
        return Err(absent(&catalog, &admission, &call));
    };
    match refusal(&admission, &decision) {
        None => Ok(Permit {
            admission,
            call,
            model,
            decision,
            catalog,
        }),
        Some(refusal) => Err(refusal),
    }
}

/// What is said of a model that does not exist, and in the same way of one that is hidden: nothing of the model enters here.
fn absent(catalog: &Catalog, admission: &Admission, call: &Call) -> Refusal {
    let decision = admission.decide(act(catalog, None, call));
    let refusal = refusal(admission, &decision);
    let of_all = |refusal: &Refusal| match refusal {
        Refusal::Forbidden { .. } => true,
        Refusal::Policy { why, .. } => *why == PolicyRefusal::Broken,
        _ => false,
    };
    refusal.filter(of_all).unwrap_or(Refusal::ModelNotFound {
        model: call.model().to_owned(),
    })
}

/// What is asked of the rules. A model that does not exist has no name there: who asks learns of it what holds for all.
fn act<'a>(catalog: &'a Catalog, index: Option<usize>, call: &'a Call) -> Act<'a> {
    let request = &call.request;
    let tools = ["tools", "functions"];
    call_model(
        catalog,
        index,
        request.operation().as_str(),
        request.stream(),
        tools.iter().any(|name| request.member(name).is_some()),
    )
}

fn call_model<'a>(
    catalog: &'a Catalog,
    index: Option<usize>,
    operation: &'a str,
    stream: bool,
    tools: bool,
) -> Act<'a> {
    let model = index.and_then(|index| catalog.models().get(index));
    let servers = index.and_then(|index| catalog.servers(index));
    Act::CallModel {
        model: model.map_or("", |model| model.name.as_str()),
        providers: servers.map_or(&[], |servers| &servers.providers),
        regions: servers.map_or(&[], |servers| &servers.regions),
        operation,
        stream,
        tools,
    }
}

/// Whether a caller may know of a model. Everybody of a tenant may, whom no rule hides it from.
#[must_use]
pub fn sees(catalog: &Catalog, admission: &Admission, name: &str) -> bool {
    let Some(index) = catalog.position(name) else {
        return false;
    };
    let operation = Operation::ChatCompletions.as_str();
    !admission
        .decide(call_model(catalog, Some(index), operation, false, false))
        .hidden
}

/// What the rules refuse of anything but a call of a model, by the action of its audit entry. Looks that no rule speaks of are the
/// route's to decide.
pub(crate) fn of_action(admission: &Admission, action: &str) -> Option<Refusal> {
    let act = match (action, setting_of(action)) {
        ("read_audit", _) => Act::ReadAudit { log: "audit" },
        ("read_content", _) => Act::ReadAudit { log: "content" },
        (_, Some(setting)) => Act::ChangeConfig { setting },
        (_, None) => return None,
    };
    refusal(admission, &admission.decide(act))
}

/// What a decision refuses with; `None` where it allows. [`Refusal::NotFound`] stands for what looks absent.
#[must_use]
pub fn refusal(admission: &Admission, decision: &Decision) -> Option<Refusal> {
    let policy = |why| {
        Some(Refusal::Policy {
            why,
            rules: Arc::clone(&decision.rules),
        })
    };
    match &decision.outcome {
        Outcome::Allowed(obligations) if obligations.approvers().is_none() => None,
        Outcome::Allowed(_) => policy(PolicyRefusal::NeedsApproval),
        Outcome::NotPermitted => Some(Refusal::Forbidden {
            role: admission.role().as_str(),
        }),
        Outcome::Absent => Some(Refusal::NotFound),
        Outcome::Forbidden => policy(PolicyRefusal::Forbidden),
        Outcome::Broken => policy(PolicyRefusal::Broken),
    }
}
