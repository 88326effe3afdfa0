//! The rules that hold in a tenant: the operator's base set, lists of visible models, the tenant's own set.
//!
//! A tenant's own set is kept in its database, each version of it, and is checked, tested with its own examples and recorded before
//! it holds. **Invariant:** a stored set that cannot be read, or is not the one that the log says was set, denies everything until
//! it is set anew: what a tenant wanted forbidden never becomes allowed by a fault.

use std::sync::{Arc, LazyLock, OnceLock};

use base::Timestamp;
use policy::{
    Act, Asked, BASE, Decision, Document, Explained, Failed, Layers, ModelList, Origin, Outcome,
    Principal, Request, Rules,
};
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};
use tokio::sync::Semaphore;

use crate::administer::{Administrator, By};
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::resident::Resident;
use crate::sweep::Operator;
use crate::tenant::Tenant;
use crate::tenant::admit::Admission;

/// Versions of a tenant's set that are kept; older ones go.
const VERSIONS_MAX: i64 = 100;
/// The version of a set that was lost.
const LOST: &str = "lost";

/// The operator's rules. By default those of [`policy::BASE`].
#[derive(Clone, Debug)]
pub struct BaseRules(Option<Arc<Rules>>);

static BUILT_IN: OnceLock<Arc<Rules>> = OnceLock::new();

impl Default for BaseRules {
    fn default() -> Self {
        if let Some(rules) = BUILT_IN.get() {
            return Self(Some(Arc::clone(rules)));
        }
        // What could not be read now, for want of a thread, may be read the next time.
        let read = Rules::read(Origin::Base, BASE).ok().map(Arc::new);
        Self(read.map(|rules| Arc::clone(BUILT_IN.get_or_init(|| rules))))
    }
}

/// A list that shows no model.
pub(crate) fn no_models() -> ModelList {
    static NONE: LazyLock<ModelList> = LazyLock::new(|| ModelList::from(Vec::new()));
    // Read once, so that its copies need no reading of their own.
    let _read = NONE.rules();
    NONE.clone()
}

impl From<Rules> for BaseRules {
    fn from(rules: Rules) -> Self {
        Self(Some(Arc::new(rules)))
    }
}

impl BaseRules {
    /// The rules; `None` denies everything.
    #[must_use]
    pub fn rules(&self) -> Option<&Arc<Rules>> {
        self.0.as_ref()
    }
}

/// A tenant's own set, as it was set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnPolicy {
    /// The document: rules and examples.
    pub document: Arc<str>,
    /// SHA-256 of the document, in hex.
    pub version: Arc<str>,
    /// When it was set.
    pub set_at: Timestamp,
}

/// A set that was taken, or would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyChecked {
    /// SHA-256 of the document, in hex.
    pub version: String,
    /// Its rules.
    pub rules: u64,
    /// Its examples.
    pub tests: u64,
    /// Examples that are not decided as they must be. A set is taken only without any.
    pub failed: Vec<Failed>,
}

/// A decision, and every rule that had a say in it.
#[derive(Clone, Debug)]
pub struct PolicyExplained {
    /// The version of all rules in force together, as in audit entries.
    pub version: Arc<str>,
    /// The decision.
    pub decision: Decision,
    /// The rules.
    pub rules: Vec<Explained>,
}

/// What the process holds of a tenant's own set.
#[derive(Default, Debug)]
pub(crate) struct Own {
    pub(crate) set: Option<OwnPolicy>,
    rules: Option<Arc<Rules>>,
    /// Why it denies everything.
    unreadable: Option<Box<str>>,
}

/// A set with its rules, and what its examples said.
type Tested = (PolicyChecked, OwnPolicy, Arc<Rules>);

impl Own {
    fn of(set: OwnPolicy, rules: Arc<Rules>) -> Self {
        Self {
            set: Some(set),
            rules: Some(rules),
            unreadable: None,
        }
    }

    /// Takes what was stored, whatever state it is in.
    fn open(stored: OwnPolicy) -> Self {
        let opened = match stored.version == version_of(&stored.document).into() {
            true => read(&stored.document).map(|(rules, _)| rules),
            false => Err("it is not the one that was set".to_owned()),
        };
        let (rules, unreadable) = match opened {
            Ok(rules) => (Some(Arc::new(rules)), None),
            Err(why) => (None, Some(why.into())),
        };
        Self {
            set: Some(stored),
            rules,
            unreadable,
        }
    }
}

/// Everything that holds in one tenant. What cannot be read closes it.
pub(crate) fn layers(
    base: &BaseRules,
    lists: [Option<&policy::ModelList>; 2],
    own: &Own,
) -> Layers {
    if own.unreadable.is_some() {
        return Layers::closed("tenant.unreadable");
    }
    let Some(base) = base.rules() else {
        return Layers::closed("base.unreadable");
    };
    let mut layers = vec![Arc::clone(base)];
    for list in lists.into_iter().flatten() {
        let Some(rules) = list.rules() else {
            return Layers::closed("models.unreadable");
        };
        layers.push(rules);
    }
    layers.extend(own.rules.clone());
    Layers::new(layers)
}

fn version_of(document: &str) -> String {
    vault::digest::hex(&vault::sha256(document.as_bytes()))
}

fn read(document: &str) -> Result<(Rules, Document), String> {
    let read = Document::read(document).and_then(|document| {
        let rules = Rules::read(Origin::Tenant, &document.policy)?;
        Ok((rules, document))
    });
    read.map_err(|error| format!("policy: {error}"))
}

/// The set that holds, as stored: the last one that is marked, or that the log has an entry of because a crash came before the mark.
pub(crate) fn stored(tx: &ReadTx<'_>) -> Result<Option<OwnPolicy>, StoreError> {
    let sql = "SELECT document, version, set_ms FROM policy WHERE in_force = 1 OR EXISTS (
            SELECT 1 FROM audit WHERE seq >= policy.after AND json_extract(entry, '$.action') = 'policy.set'
            AND json_extract(entry, '$.detail.version') = policy.version)
        ORDER BY number DESC LIMIT 1";
    tx.query_one(sql, params![], |row| {
        let (document, version): (String, String) = (row.get(0)?, row.get(1)?);
        Ok(OwnPolicy {
            document: document.into(),
            version: version.into(),
            set_at: Timestamp::from_unix_ms(row.get(2)?),
        })
    })
}

/// Puts a set down, which holds once it is marked or the log has its entry.
fn insert(tx: &mut WriteTx<'_>, set: &OwnPolicy, after: u64) -> Result<(), StoreError> {
    let sql = "INSERT INTO policy (document, version, set_ms, after, in_force) VALUES (?1, ?2, ?3, ?4, 0)";
    let (set_ms, after) = (
        set.set_at.unix_ms(),
        i64::try_from(after).unwrap_or(i64::MAX),
    );
    tx.execute(sql, params![&*set.document, &*set.version, set_ms, after])?;
    Ok(())
}

/// Marks the last set that was put down, and forgets the oldest.
fn mark(tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
    let sql = "UPDATE policy SET in_force = 1 WHERE number = (SELECT MAX(number) FROM policy)";
    tx.execute(sql, params![])?;
    let sql = "DELETE FROM policy WHERE number <= (SELECT MAX(number) FROM policy) - ?1";
    tx.execute(sql, params![VERSIONS_MAX])?;
    Ok(())
}

/// Notes that the set which the log names last is not there any more: nothing is allowed until one is set.
/// Where the log has lost that entry too, nothing says that there was a set.
pub(crate) fn note_if_lost(tx: &mut WriteTx<'_>, now: Timestamp) -> Result<(), StoreError> {
    let sql = "SELECT json_extract(entry, '$.detail.version') FROM audit
        WHERE json_extract(entry, '$.action') = 'policy.set' ORDER BY seq DESC LIMIT 1";
    let logged = tx.query_one(sql, params![], |row| Ok(row.get::<_, Option<String>>(0)?))?;
    let Some(logged) = logged.flatten() else {
        return Ok(());
    };
    let sql = "SELECT version FROM policy WHERE version = ?1";
    let kept = tx.query_one(sql, params![logged], |row| Ok(row.get::<_, String>(0)?))?;
    if kept.is_some() {
        return Ok(());
    }
    let lost = OwnPolicy {
        document: "".into(),
        version: LOST.into(),
        set_at: now,
    };
    insert(tx, &lost, 0)?;
    mark(tx)
}

impl Kernel {
    /// Takes what the database holds of a tenant's own set.
    pub(crate) async fn open_policy(&self, resident: &Resident, stored: Option<OwnPolicy>) {
        let own = match stored {
            None => Own::default(),
            // Reading takes milliseconds of pure work: not on a thread that serves.
            Some(stored) => {
                let opened = tokio::task::spawn_blocking(move || Own::open(stored)).await;
                opened.unwrap_or_else(|_| Own {
                    unreadable: Some("reading it failed".into()),
                    ..Own::default()
                })
            }
        };
        if let Some(why) = &own.unreadable {
            let fields = [("error", Field::Text(why))];
            let tenant = Some(&resident.id);
            let event = "the tenant's own rules cannot be read: everything is denied";
            self.log().event(self.now(), tenant, event, &fields);
        }
        resident.policy.store(Arc::new(own));
        self.refresh_settings(resident);
    }

    /// The tenant's own set.
    ///
    /// # Errors
    /// When the tenant does not open.
    pub async fn own_policy(&self, tenant: &Tenant) -> Result<Option<OwnPolicy>, KernelError> {
        tenant.live()?;
        self.load(tenant.resident()).await?;
        Ok(tenant.resident().policy.load().set.clone())
    }

    /// Reads a set and puts its examples to it, together with what else holds for the tenant. Nothing is changed.
    ///
    /// # Errors
    /// What is wrong with the document, by line.
    pub async fn check_policy(
        &self,
        tenant: &Tenant,
        document: &str,
    ) -> Result<PolicyChecked, KernelError> {
        tenant.live()?;
        let resident = tenant.resident();
        self.load(resident).await?;
        Ok(self.tested(resident, document).await?.0)
    }

    /// Reads a set and puts its examples to it, in a turn of its own: that may take as long as its author likes, up to some seconds.
    async fn tested(
        &self,
        resident: &Arc<Resident>,
        document: &str,
    ) -> Result<Tested, KernelError> {
        let _one_at_a_time = READING.acquire().await;
        let (kernel, resident) = (self.clone(), Arc::clone(resident));
        let document = document.to_owned();
        let work = move || {
            let read = read(&document).map_err(KernelError::Refused)?;
            Ok(kernel.put_to_examples(&resident, &document, read))
        };
        let failed = |_| KernelError::Refused("the rules cannot be read".to_owned());
        tokio::task::spawn_blocking(work).await.map_err(failed)?
    }

    fn put_to_examples(
        &self,
        resident: &Resident,
        document: &str,
        (rules, parsed): (Rules, Document),
    ) -> Tested {
        let version = version_of(document);
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let set = OwnPolicy {
            document: document.into(),
            version: version.as_str().into(),
            set_at: self.now(),
        };
        let rules = Arc::new(rules);
        let layers = self.layers_with(resident, &Own::of(set.clone(), Arc::clone(&rules)));
        let checked = PolicyChecked {
            version,
            rules: count(rules.len()),
            tests: count(parsed.tests.len()),
            failed: policy::run_examples(&layers, &parsed.tests, self.now()),
        };
        (checked, set, rules)
    }

    /// Puts a tenant's own set in force, if all its examples are decided as they must be; calls that start after this are decided
    /// by it.
    ///
    /// # Errors
    /// What is wrong with the document, or the first examples that fail; then nothing has changed.
    pub async fn set_policy(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        document: &str,
    ) -> Result<PolicyChecked, KernelError> {
        self.put_policy(&By::Operator(operator), tenant, document)
            .await
    }

    pub(crate) async fn put_policy(
        &self,
        by: &By<'_>,
        tenant: &Tenant,
        document: &str,
    ) -> Result<PolicyChecked, KernelError> {
        let resident = tenant.resident();
        self.load(resident).await?;
        let (checked, set, rules) = self.tested(resident, document).await?;
        if let Some(refusal) = checked.refusal() {
            return Err(KernelError::Refused(refusal));
        }
        let own = Own::of(set.clone(), rules);
        let _changes_one_at_a_time = self.changes().lock().await;
        let detail = [
            ("version", checked.version.clone()),
            ("rules", checked.rules.to_string()),
            ("tests", checked.tests.to_string()),
        ];
        // Put down before its entry and marked after it: whenever the process dies, the log and what holds agree.
        let after = resident.books().audit_next;
        tenant.write(move |tx| insert(tx, &set, after)).await?;
        self.record_by(by, resident, "policy.set", detail.into())
            .await?;
        resident.policy.store(Arc::new(own));
        self.refresh_settings(resident);
        // Without the mark it holds by its entry.
        let _held_by_its_entry = tenant.write(mark).await;
        Ok(checked)
    }

    /// What would be decided now, and why.
    ///
    /// # Errors
    /// When the schema has no such action, or the tenant does not open.
    pub async fn explain_policy(
        &self,
        tenant: &Tenant,
        asked: &Asked,
    ) -> Result<PolicyExplained, KernelError> {
        tenant.live()?;
        let resident = tenant.resident();
        self.load(resident).await?;
        let settings = resident.settings.load_full();
        let (layers, now) = (&settings.policy, self.now());
        asked
            .put(|request| PolicyExplained {
                version: Arc::clone(layers.version()),
                decision: layers.decide_anew(request, now),
                rules: layers.explain(request, now),
            })
            .map_err(|error| KernelError::Refused(error.to_string()))
    }
}

/// Sets that are read at the same time.
static READING: Semaphore = Semaphore::const_new(1);

/// The part of the configuration that an action of the audit log changes, where rules decide over it.
#[must_use]
pub fn setting_of(action: &str) -> Option<&'static str> {
    match action {
        "policy.set" => Some("policy"),
        "secret.set" | "secret.delete" => Some("secrets"),
        "token.rotate" => Some("tokens"),
        "agent.set" => Some("agents"),
        _ => None,
    }
}

/// Failing examples that a refusal names.
const NAMED_MAX: usize = 5;

impl PolicyChecked {
    /// Why a set is not taken: the first of its examples that fail. `None` where all hold.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let said: Vec<String> = self
            .failed
            .iter()
            .take(NAMED_MAX)
            .map(|failed| format!("{:?}: {}", failed.name, failed.message))
            .collect();
        let more = match self.failed.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!("; {more} more"),
        };
        let text = format!("policy: its own tests fail: {}{more}", said.join("; "));
        (!said.is_empty()).then_some(text)
    }
}

impl Administrator<'_> {
    /// Puts the tenant's own set in force, if all its examples are decided as they must be.
    ///
    /// # Errors
    /// As [`Kernel::set_policy`].
    pub async fn set_policy(&self, document: &str) -> Result<PolicyChecked, KernelError> {
        let tenant = self.tenant();
        let kernel = tenant.kernel();
        kernel.put_policy(&By::Admin(self), tenant, document).await
    }
}

impl Kernel {
    /// Whether the rules that hold now, not those of its admission, let an admin make a change. Asked when its turn has come.
    pub(crate) fn still_allows(
        &self,
        admission: &Admission,
        action: &str,
    ) -> Result<(), KernelError> {
        let Some(setting) = setting_of(action) else {
            return Ok(());
        };
        let settings = admission.tenant().resident().settings.load_full();
        let decision = admission.decided_by(&settings.policy, Act::ChangeConfig { setting });
        match &decision.outcome {
            Outcome::Allowed(obligations) if obligations.approvers().is_none() => Ok(()),
            _ => Err(KernelError::Refused(format!(
                "the policy forbids this: {}",
                decision.rules
            ))),
        }
    }
}

impl Admission {
    /// The tenant's own set.
    ///
    /// # Errors
    /// When the tenant does not open.
    pub async fn own_policy(&self) -> Result<Option<OwnPolicy>, KernelError> {
        let tenant = self.tenant();
        tenant.kernel().own_policy(tenant).await
    }

    /// Reads a set and puts its examples to it; nothing is changed.
    ///
    /// # Errors
    /// What is wrong with the document, by line.
    pub async fn check_policy(&self, document: &str) -> Result<PolicyChecked, KernelError> {
        let tenant = self.tenant();
        tenant.kernel().check_policy(tenant, document).await
    }

    /// Decides what the caller would do, by the rules in force when it was admitted.
    #[must_use]
    pub fn decide(&self, act: Act<'_>) -> Arc<Decision> {
        self.decided_by(&self.settings().policy, act)
    }

    fn decided_by(&self, layers: &Layers, act: Act<'_>) -> Arc<Decision> {
        let principal = Principal {
            role: self.role(),
            token: Some(self.token_name().as_str()),
            person: self.person(),
        };
        let request = Request { principal, act };
        layers.decide(&request, self.tenant().now())
    }
}

#[cfg(test)]
mod tests;
