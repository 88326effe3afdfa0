//! Rules of a tenant: shown, tested, set, explained.

use base::{Role, TenantId, Timestamp};
use kernel::{BaseRules, Operator, OwnPolicy, PolicyChecked, Tenant};
use policy::{Asked, Cap, Context, Document, Explained, Layers, Origin, Outcome, Rules};
use rpc::{Answer, Fault, FaultCode, PolicyExplained, PolicyQuestion, PolicyRule, PolicyView};

use super::Office;
use crate::fault::fault;

impl Office {
    pub(super) async fn show_policy(
        &self,
        operator: &Operator,
        id: &TenantId,
        base: bool,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let own = self.kernel.own_policy(&tenant).await.map_err(fault)?;
        let mut view = policy_view(&tenant, own);
        if base {
            let tiers = self.kernel.tiers();
            let text = tiers.base.rules().map(|rules| rules.text().to_owned());
            view.document = text.unwrap_or_default();
        }
        Ok(Answer::Policy(Box::new(view)))
    }

    /// With a document, as if it were set; without one, what is set.
    pub(super) async fn test_policy(
        &self,
        operator: &Operator,
        id: &TenantId,
        document: Option<String>,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let own = self.kernel.own_policy(&tenant).await.map_err(fault)?;
        let stored = || {
            own.as_ref()
                .map_or_else(String::new, |own| own.document.to_string())
        };
        let in_force = document.is_none();
        let document = document.unwrap_or_else(stored);
        let checked = self.kernel.check_policy(&tenant, &document).await;
        let checked = checked.map_err(fault)?;
        match checked.refusal() {
            Some(refusal) => Err(Fault::new(FaultCode::Refused, refusal)),
            None => Ok(answer(id, checked, in_force)),
        }
    }

    pub(super) async fn set_policy(
        &self,
        operator: &Operator,
        id: &TenantId,
        document: &str,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let set = self.kernel.set_policy(operator, &tenant, document).await;
        Ok(answer(id, set.map_err(fault)?, true))
    }

    pub(super) async fn explain_policy(
        &self,
        operator: &Operator,
        question: PolicyQuestion,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, &question.tenant)?;
        let (providers, regions) = self.desk.catalog().served_by(&question.resource);
        let person = question.person.map(|person| person.as_str().to_owned());
        let asked = Asked {
            role: question.role,
            token: Some(question.token.as_str().to_owned()),
            person,
            action: question.action,
            resource: question.resource,
            context: Context {
                operation: question.operation,
                stream: question.stream,
                tools: question.tools,
                providers,
                regions,
                port: question.port,
            },
        };
        let explained = self.kernel.explain_policy(&tenant, &asked).await;
        let explained = explained.map_err(fault)?;
        let decision = explained.decision;
        let (approvers, caps) = match &decision.outcome {
            Outcome::Allowed(obligations) => (
                obligations.approvers().unwrap_or_default().to_vec(),
                caps(obligations),
            ),
            _ => (Vec::new(), Vec::new()),
        };
        Ok(Answer::PolicyExplained(Box::new(PolicyExplained {
            tenant: question.tenant,
            in_force: explained.version.to_string(),
            decision: decision.outcome.as_str().to_owned(),
            approvers: approvers.iter().map(Role::to_string).collect(),
            caps,
            decided_by: decision.rules.to_string(),
            rules: explained.rules.iter().map(rule).collect(),
        })))
    }
}

fn caps(obligations: &policy::Obligations) -> Vec<String> {
    let capped = |cap: &Cap| {
        let limit = obligations.cap(*cap)?;
        Some(format!("{}={limit}", cap.as_str()))
    };
    Cap::ALL.iter().filter_map(capped).collect()
}

fn rule(rule: &Explained) -> PolicyRule {
    let effect = match (rule.broken, rule.permits, rule.conditional) {
        (true, ..) => "broke",
        (false, true, _) => "permits",
        (false, false, true) => "asks",
        (false, false, false) => "forbids",
    };
    PolicyRule {
        rule: rule.name.to_string(),
        line: rule.line,
        effect: effect.to_owned(),
    }
}

fn answer(id: &TenantId, checked: PolicyChecked, in_force: bool) -> Answer {
    Answer::PolicyChecked(policy_checked(id, checked, in_force))
}

pub(crate) fn policy_checked(
    id: &TenantId,
    checked: PolicyChecked,
    in_force: bool,
) -> rpc::PolicyChecked {
    rpc::PolicyChecked {
        tenant: id.clone(),
        version: checked.version,
        rules: checked.rules,
        tests: checked.tests,
        in_force,
    }
}

/// The tenant's own set.
pub(crate) fn policy_view(tenant: &Tenant, own: Option<OwnPolicy>) -> PolicyView {
    let document = own.as_ref().map(|own| own.document.to_string());
    PolicyView {
        tenant: tenant.id().clone(),
        in_force: tenant.settings().policy_version().to_string(),
        version: own.as_ref().map(|own| own.version.to_string()),
        set_at: own.as_ref().map(|own| own.set_at),
        document: document.unwrap_or_default(),
    }
}

/// Reads an operator's base rules and puts their own examples to them.
pub(crate) fn base_rules(text: &str, now: Timestamp) -> Result<BaseRules, String> {
    let read = Document::read(text).and_then(|document| {
        let rules = Rules::read(Origin::Base, &document.policy)?;
        Ok((rules, document))
    });
    let (rules, document) = read.map_err(|error| error.to_string())?;
    let rules = BaseRules::from(rules);
    let layers = Layers::new(rules.rules().cloned().into_iter().collect());
    let failed = policy::run_examples(&layers, &document.tests, now);
    match failed.first() {
        None => Ok(rules),
        Some(first) => Err(format!(
            "its own test {:?} fails: {}",
            first.name, first.message
        )),
    }
}
