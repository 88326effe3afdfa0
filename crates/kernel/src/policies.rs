//! The rules that hold in a tenant: the operator's base set, lists of visible models, the tenant's own set.
//!
//! A tenant's own set is kept in its database, each version of it, and is checked, tested with its own examples and recorded before
//! it holds. **Invariant:** a stored set that cannot be read, or is not the one that the log says was set, denies everything until
//! it is set anew: what a tenant wanted forbidden never becomes allowed by a fault.

use std::sync::{Arc, LazyLock};

use base::Timestamp;
use policy::{
    Act, Asked, BASE, Decision, Document, Explained, Failed, Layers, Origin, Principal, Request,
    Rules,
};
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};

use crate::administer::{Administrator, By};
use crate::error::KernelError;
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

static BUILT_IN: LazyLock<Option<Arc<Rules>>> =
    LazyLock::new(|| Rules::read(Origin::Base, BASE).ok().map(Arc::new));

impl Default for BaseRules {
    fn default() -> Self {
        Self(BUILT_IN.clone())
    }
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

impl Own {
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
    if let Some(why) = &own.unreadable {
        return Layers::closed(&format!("the tenant's own rules cannot be read: {why}"));
    }
    let Some(base) = base.rules() else {
        return Layers::closed("the base rules cannot be read");
    };
    let mut layers = vec![Arc::clone(base)];
    for list in lists.into_iter().flatten() {
        let Some(rules) = list.rules() else {
            return Layers::closed("a list of models cannot be read");
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

/// The set that holds, as stored.
pub(crate) fn stored(tx: &ReadTx<'_>) -> Result<Option<OwnPolicy>, StoreError> {
    let sql = "SELECT document, version, set_ms FROM policy ORDER BY number DESC LIMIT 1";
    tx.query_one(sql, params![], |row| {
        let (document, version): (String, String) = (row.get(0)?, row.get(1)?);
        Ok(OwnPolicy {
            document: document.into(),
            version: version.into(),
            set_at: Timestamp::from_unix_ms(row.get(2)?),
        })
    })
}

fn insert(tx: &mut WriteTx<'_>, set: &OwnPolicy) -> Result<(), StoreError> {
    let sql = "INSERT INTO policy (document, version, set_ms) VALUES (?1, ?2, ?3)";
    let set_ms = set.set_at.unix_ms();
    tx.execute(sql, params![&*set.document, &*set.version, set_ms])?;
    let sql = "DELETE FROM policy WHERE number <= (SELECT MAX(number) FROM policy) - ?1";
    tx.execute(sql, params![VERSIONS_MAX])?;
    Ok(())
}

/// Notes that the set which the log names last is not there any more: nothing is allowed until one is set.
pub(crate) fn note_if_lost(tx: &mut WriteTx<'_>, now: Timestamp) -> Result<(), StoreError> {
    let sql = "SELECT json_extract(entry, '$.detail.version') FROM audit
        WHERE json_extract(entry, '$.action') = 'policy.set' ORDER BY seq DESC LIMIT 1";
    let logged = tx.query_one(sql, params![], |row| Ok(row.get::<_, Option<String>>(0)?))?;
    let Some(logged) = logged.flatten() else {
        return Ok(());
    };
    let sql = "SELECT version FROM policy ORDER BY number DESC LIMIT 1";
    let kept = tx.query_one(sql, params![], |row| Ok(row.get::<_, String>(0)?))?;
    if kept.as_deref() == Some(logged.as_str()) {
        return Ok(());
    }
    let lost = OwnPolicy {
        document: "".into(),
        version: LOST.into(),
        set_at: now,
    };
    insert(tx, &lost)
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
        let read = read_apart(document).await?;
        Ok(self.tested(resident, document, read).0)
    }

    fn tested(
        &self,
        resident: &Resident,
        document: &str,
        (rules, parsed): (Rules, Document),
    ) -> (PolicyChecked, Own) {
        let version = version_of(document);
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let (of_rules, of_tests) = (count(rules.len()), count(parsed.tests.len()));
        let own = Own {
            set: Some(OwnPolicy {
                document: document.into(),
                version: version.as_str().into(),
                set_at: self.now(),
            }),
            rules: Some(Arc::new(rules)),
            unreadable: None,
        };
        let layers = self.layers_with(resident, &own);
        let checked = PolicyChecked {
            version,
            rules: of_rules,
            tests: of_tests,
            failed: policy::run_examples(&layers, &parsed.tests, self.now()),
        };
        (checked, own)
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
        let read = read_apart(document).await?;
        let _changes_one_at_a_time = self.changes().lock().await;
        let resident = tenant.resident();
        self.load(resident).await?;
        let (checked, own) = self.tested(resident, document, read);
        if let Some(refusal) = checked.refusal() {
            return Err(KernelError::Refused(refusal));
        }
        let Some(set) = own.set.clone() else {
            return Ok(checked);
        };
        let detail = [
            ("version", checked.version.clone()),
            ("rules", checked.rules.to_string()),
            ("tests", checked.tests.to_string()),
        ];
        self.record_by(by, resident, "policy.set", detail.into())
            .await?;
        tenant.write(move |tx| insert(tx, &set)).await?;
        resident.policy.store(Arc::new(own));
        self.refresh_settings(resident);
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

async fn read_apart(document: &str) -> Result<(Rules, Document), KernelError> {
    let document = document.to_owned();
    let reading = tokio::task::spawn_blocking(move || read(&document));
    let failed = || KernelError::Refused("the rules cannot be read".to_owned());
    let read = reading.await.map_err(|_| failed())?;
    read.map_err(KernelError::Refused)
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
        let principal = Principal {
            role: self.role(),
            token: Some(self.token_name().as_str()),
            person: self.person(),
        };
        let request = Request { principal, act };
        self.settings().policy.decide(&request, self.tenant().now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base::Role;
    use policy::{Context, Outcome};

    use super::*;
    use crate::fixture::{acme, begun, open};
    use crate::repair::Extent;

    const STOP: &str =
        "policy: '@id(\"stop\") forbid (principal, action == Action::\"call_model\", resource);'";

    fn a_call() -> Asked {
        Asked {
            role: Role::App,
            token: Some("ci".to_owned()),
            person: None,
            action: "call_model".to_owned(),
            resource: "m".to_owned(),
            context: Context::default(),
        }
    }

    async fn decided(kernel: &Kernel, operator: &Operator) -> Outcome {
        let tenant = kernel.tenant(operator, &acme()).unwrap();
        let explained = kernel.explain_policy(&tenant, &a_call()).await;
        explained.unwrap().decision.outcome
    }

    fn is_allowed(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Allowed(_))
    }

    #[tokio::test]
    async fn a_set_holds_over_a_restart_and_an_empty_one_takes_it_away() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        let (kernel, operator) = begun(&path).await;
        assert!(is_allowed(&decided(&kernel, &operator).await));
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let set = kernel.set_policy(&operator, &tenant, STOP).await.unwrap();
        assert_eq!(decided(&kernel, &operator).await, Outcome::Forbidden);
        drop(tenant);
        kernel.tasks().shut_down(Duration::from_secs(5)).await;
        drop((kernel, operator));

        let (kernel, operator) = open(&path).await;
        assert_eq!(decided(&kernel, &operator).await, Outcome::Forbidden);
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let own = kernel.own_policy(&tenant).await.unwrap().unwrap();
        assert_eq!(
            (&*own.document, &*own.version),
            (STOP, set.version.as_str())
        );
        kernel.set_policy(&operator, &tenant, "").await.unwrap();
        assert!(is_allowed(&decided(&kernel, &operator).await));
    }

    #[tokio::test]
    async fn no_more_versions_are_kept_than_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let (kernel, operator) = begun(&home.path().join("data")).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        kernel.load(tenant.resident()).await.unwrap();
        let count = |tx: &ReadTx<'_>| {
            tx.query_one("SELECT COUNT(*) FROM policy", params![], |row| {
                Ok(row.get::<_, i64>(0)?)
            })
        };
        for number in 0..VERSIONS_MAX + 3 {
            let set = OwnPolicy {
                document: format!("# {number}\n").into(),
                version: number.to_string().into(),
                set_at: kernel.now(),
            };
            tenant.write(move |tx| insert(tx, &set)).await.unwrap();
        }
        assert_eq!(tenant.read(count).await.unwrap(), Some(VERSIONS_MAX));
    }

    /// Whoever changes what is stored, or loses it, opens nothing by that.
    #[tokio::test]
    async fn a_set_that_was_altered_or_lost_denies_everything() {
        for sql in [
            "UPDATE policy SET document = ''",
            "UPDATE policy SET document = 'policy: permit (principal, action, resource);'",
            "DELETE FROM policy",
        ] {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("data");
            let (kernel, operator) = begun(&path).await;
            let tenant = kernel.tenant(&operator, &acme()).unwrap();
            kernel.set_policy(&operator, &tenant, STOP).await.unwrap();
            // Its entry is in the log for whoever repairs.
            tenant.audit_length().await.unwrap();
            let altered = tenant.write(move |tx| tx.execute(sql, params![])).await;
            altered.unwrap();
            kernel.quarantine(tenant.resident(), "a test");
            while kernel.set_ready(tenant.resident(), false).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let repaired = kernel.repair_tenant(&operator, &tenant, Extent::Repair);
            assert!(repaired.await.unwrap().in_place, "{sql}");
            assert_eq!(decided(&kernel, &operator).await, Outcome::Broken, "{sql}");
            let tenant = kernel.tenant(&operator, &acme()).unwrap();
            kernel.set_policy(&operator, &tenant, STOP).await.unwrap();
            assert_eq!(
                decided(&kernel, &operator).await,
                Outcome::Forbidden,
                "{sql}"
            );
        }
    }
}
