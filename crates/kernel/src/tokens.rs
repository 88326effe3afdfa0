//! Tokens of a tenant: issue, list, rotate, revoke. The text of a token exists once, in the answer to its issue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{PersonName, Role, Timestamp, TokenName, UtcDay, limits};
use vault::{Secret, Token};

use crate::administer::By;
use crate::audit::Entry;
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::registry::{self, TokenRow};
use crate::resident::{Resident, TokenEntry};
use crate::sweep::Operator;
use crate::tenant::Tenant;

/// The name of the token that a new tenant gets.
pub const FIRST_TOKEN: &str = "default";

/// A token as reports show it.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    /// Its name.
    pub name: TokenName,
    /// What it may do.
    pub role: Role,
    /// The natural person that it stands for.
    pub person: Option<PersonName>,
    /// When it was issued.
    pub created: Timestamp,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
    /// When it was or will be revoked.
    pub revoked: Option<Timestamp>,
    /// Last day of use.
    pub last_used: Option<UtcDay>,
    /// Whether it opens the door now.
    pub valid: bool,
}

/// A token that is to be issued.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its name, unique among the tenant's living tokens.
    pub name: TokenName,
    /// What it may do.
    pub role: Role,
    /// The natural person that it stands for: whose limits it counts against, and whom rows and entries name.
    pub person: Option<PersonName>,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
}

/// A token just issued: the only place where its text stands.
pub struct IssuedToken {
    /// Its name.
    pub name: TokenName,
    /// What it may do.
    pub role: Role,
    /// The natural person that it stands for.
    pub person: Option<PersonName>,
    /// The text to hand over.
    pub text: Secret,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
}

impl Kernel {
    /// Issues a named token.
    ///
    /// # Errors
    /// [`KernelError::Exists`] when a valid token of that name exists, [`KernelError::Refused`] past the number of tokens.
    pub async fn issue_token(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        new: NewToken,
    ) -> Result<IssuedToken, KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        let now = self.now();
        let valid = self.valid_tokens(tenant.resident(), now);
        if valid.iter().any(|token| token.name == new.name) {
            return Err(KernelError::Exists(format!(
                "{} has a token named {} already; rotate or revoke it",
                tenant.id(),
                new.name
            )));
        }
        if valid.len() >= limits::TOKENS_PER_TENANT_MAX {
            let max = limits::TOKENS_PER_TENANT_MAX;
            return Err(KernelError::Refused(format!(
                "a tenant may have {max} tokens; revoke one first"
            )));
        }
        if new.expires.is_some_and(|at| at <= now) {
            return Err(KernelError::Refused(
                "the expiry lies in the past".to_owned(),
            ));
        }
        self.load(tenant.resident()).await?;
        let mut detail = BTreeMap::from([
            ("name", new.name.to_string()),
            ("role", new.role.to_string()),
        ]);
        if let Some(person) = &new.person {
            detail.insert("person", person.to_string());
        }
        self.record_change(operator, tenant.resident(), "token.issue", detail)
            .await?;
        self.add_token(tenant.resident(), new).await
    }

    /// The tokens of a tenant, revoked and expired ones included.
    #[must_use]
    pub fn list_tokens(&self, _operator: &Operator, tenant: &Tenant) -> Vec<TokenInfo> {
        let now = self.now();
        let at = |ms: i64| (ms != i64::MAX).then(|| Timestamp::from_unix_ms(ms));
        let info = |token: &Arc<TokenEntry>| TokenInfo {
            name: token.name.clone(),
            role: token.role,
            person: token.person.clone(),
            created: token.created,
            expires: at(token.expires_ms.load(Ordering::Relaxed)),
            revoked: at(token.revoked_ms.load(Ordering::Relaxed)),
            last_used: Some(token.last_used.load(Ordering::Relaxed))
                .filter(|day| *day != i32::MIN)
                .map(UtcDay::from_number),
            valid: token.valid_at(now),
        };
        self.directory()
            .tokens_of(tenant.resident())
            .iter()
            .map(info)
            .collect()
    }

    /// Replaces a token's text: the old one ends at once, or after `grace`.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] when no valid token of that name exists.
    pub async fn rotate_token(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        name: &TokenName,
        grace: Option<Duration>,
    ) -> Result<IssuedToken, KernelError> {
        self.rotate_by(&By::Operator(operator), tenant.resident(), name, grace)
            .await
    }

    pub(crate) async fn rotate_by(
        &self,
        by: &By<'_>,
        resident: &Arc<Resident>,
        name: &TokenName,
        grace: Option<Duration>,
    ) -> Result<IssuedToken, KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        by.may_rotate()?;
        self.load(resident).await?;
        self.rotate_one(by, resident, name, grace).await
    }

    /// Rotates every valid token of the tenant.
    ///
    /// # Errors
    /// As [`Kernel::rotate_token`].
    pub async fn rotate_all_tokens(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        grace: Option<Duration>,
    ) -> Result<Vec<IssuedToken>, KernelError> {
        self.rotate_all_by(&By::Operator(operator), tenant.resident(), grace)
            .await
    }

    pub(crate) async fn rotate_all_by(
        &self,
        by: &By<'_>,
        resident: &Arc<Resident>,
        grace: Option<Duration>,
    ) -> Result<Vec<IssuedToken>, KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        by.may_rotate()?;
        self.load(resident).await?;
        let mut names: Vec<_> = self
            .valid_tokens(resident, self.now())
            .iter()
            .map(|token| token.name.clone())
            .collect();
        names.dedup();
        // An admin's own comes last: with it ends the authority to change the others.
        names.sort_by_key(|name| by.is_own_token(name));
        let mut issued = Vec::with_capacity(names.len());
        for name in &names {
            issued.push(self.rotate_one(by, resident, name, grace).await?);
        }
        Ok(issued)
    }

    /// Ends a token at once.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] when no valid token of that name exists.
    pub async fn revoke_token(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        name: &TokenName,
    ) -> Result<(), KernelError> {
        let resident = tenant.resident();
        let mut named = self.valid_named(resident, name)?;
        // Ended before its turn comes: nobody's other changes keep a lost token alive.
        for token in &named {
            token
                .revoked_ms
                .fetch_min(self.now().unix_ms(), Ordering::SeqCst);
            token.ended.cancel();
        }
        let _changes_one_at_a_time = self.changes().lock().await;
        self.load(resident).await?;
        // A rotation may have come before: its token goes too.
        named.extend(self.valid_named(resident, name).unwrap_or_default());
        self.record_change(
            operator,
            resident,
            "token.revoke",
            [("name", name.to_string())].into(),
        )
        .await?;
        self.end_tokens(&named, self.now()).await
    }

    pub(crate) async fn add_token(
        &self,
        resident: &Arc<Resident>,
        new: NewToken,
    ) -> Result<IssuedToken, KernelError> {
        // Drawn, not counted: it comes no second time, whatever rows are gone.
        let serial = i64::from_le_bytes(vault::random::<8>());
        self.add_token_of(resident, new, serial).await
    }

    async fn add_token_of(
        &self,
        resident: &Arc<Resident>,
        new: NewToken,
        serial: i64,
    ) -> Result<IssuedToken, KernelError> {
        let (text, hash) = Token::generate(&resident.id);
        let row = TokenRow {
            hash,
            uid: resident.uid,
            name: new.name.clone(),
            serial,
            role: new.role,
            person: new.person.clone(),
            created: self.now(),
            expires: new.expires.map(Timestamp::unix_ms),
            revoked: None,
            last_used: None,
        };
        let stored = row.clone();
        self.registry_write(move |tx| registry::insert_token(tx, &stored))
            .await?;
        self.directory().add_token(row.entry(resident));
        Ok(IssuedToken {
            name: new.name,
            role: new.role,
            person: new.person,
            text,
            expires: new.expires,
        })
    }

    async fn rotate_one(
        &self,
        by: &By<'_>,
        resident: &Arc<Resident>,
        name: &TokenName,
        grace: Option<Duration>,
    ) -> Result<IssuedToken, KernelError> {
        let named = self.valid_named(resident, name)?;
        let newest = named
            .iter()
            .max_by_key(|token| token.created)
            .ok_or(KernelError::Busy)?;
        let expires = newest.expires_ms.load(Ordering::Relaxed);
        let expires = (expires != i64::MAX).then(|| Timestamp::from_unix_ms(expires));
        let grace = grace.unwrap_or_default();
        let detail = [
            ("name", name.to_string()),
            ("grace_ms", grace.as_millis().to_string()),
        ]
        .into();
        self.record_by(by, resident, "token.rotate", detail).await?;
        let fresh = NewToken {
            name: name.clone(),
            role: newest.role,
            person: newest.person.clone(),
            expires,
        };
        let issued = self.add_token_of(resident, fresh, newest.serial).await?;
        self.end_tokens(&named, self.now().plus(grace)).await?;
        Ok(issued)
    }

    fn valid_tokens(&self, resident: &Resident, now: Timestamp) -> Vec<Arc<TokenEntry>> {
        let mut tokens = self.directory().tokens_of(resident);
        // A token in its grace period no longer owns its name.
        tokens.retain(|token| {
            token.valid_at(now) && token.revoked_ms.load(Ordering::Relaxed) == i64::MAX
        });
        tokens
    }

    fn valid_named(
        &self,
        resident: &Resident,
        name: &TokenName,
    ) -> Result<Vec<Arc<TokenEntry>>, KernelError> {
        let now = self.now();
        let mut named = self.directory().tokens_of(resident);
        named.retain(|token| token.valid_at(now) && token.name == *name);
        if named.is_empty() {
            return Err(KernelError::NotFound(format!(
                "{} has no valid token named {name}",
                resident.id
            )));
        }
        Ok(named)
    }

    async fn end_tokens(
        &self,
        tokens: &[Arc<TokenEntry>],
        at: Timestamp,
    ) -> Result<(), KernelError> {
        let hashes: Vec<_> = tokens.iter().map(|token| token.hash).collect();
        let at_ms = at.unix_ms();
        self.registry_write(move |tx| {
            hashes
                .iter()
                .try_for_each(|hash| registry::revoke_token(tx, hash, at_ms))
        })
        .await?;
        for token in tokens {
            // A second rotation shortens a grace period, it never lengthens one.
            token.revoked_ms.fetch_min(at_ms, Ordering::SeqCst);
            if at <= self.now() {
                token.ended.cancel();
            }
        }
        Ok(())
    }

    /// Records that the operator looked into a tenant's data; returns when it is durable.
    ///
    /// # Errors
    /// When the journal cannot be written: nothing is to be shown then.
    pub async fn record_operator_access(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        what: &'static str,
    ) -> Result<(), KernelError> {
        if tenant.quarantine().is_some() {
            // Nothing is written to its log, which is evidence.
            let fields = [("read", Field::Text(what))];
            let event = "the operator looked at a quarantined tenant";
            self.log()
                .event(self.now(), Some(tenant.id()), event, &fields);
            return Ok(());
        }
        self.load(tenant.resident()).await?;
        let detail = [("read", what.to_owned())].into();
        self.record_change(operator, tenant.resident(), "operator.access", detail)
            .await
    }

    /// Records a change by the operator in the tenant's log; returns when it is durable.
    pub(crate) async fn record_change(
        &self,
        _operator: &Operator,
        resident: &Resident,
        action: &'static str,
        detail: BTreeMap<&'static str, String>,
    ) -> Result<(), KernelError> {
        self.record_done(resident, "operator", action, |_seq| detail)
            .await
    }

    /// Records what `actor` did in the tenant's log; `detail` is told the entry's place. Returns when it is durable.
    pub(crate) async fn record_done(
        &self,
        resident: &Resident,
        actor: &'static str,
        action: &'static str,
        detail: impl FnOnce(u64) -> BTreeMap<&'static str, String>,
    ) -> Result<(), KernelError> {
        let time = self.now().to_string();
        let seq = self.record_event(resident, |seq| Entry {
            action,
            actor: Some(actor),
            decision: "allow",
            detail: detail(seq),
            seq,
            tenant: resident.id.as_str(),
            time,
            ..Entry::default()
        })?;
        self.durable(seq).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;
    use crate::fixture::{acme, app_token, begun, open};

    async fn id_of(kernel: &Kernel, issued: &IssuedToken) -> String {
        let caller = Caller::from_token(issued.text.expose_str().unwrap());
        kernel.admit(caller).await.ok().unwrap().credential_id()
    }

    #[tokio::test]
    async fn a_credential_is_the_same_through_rotations_and_another_when_issued_anew() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        let (kernel, operator) = begun(&path).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let issue = |name| kernel.issue_token(&operator, &tenant, app_token(name));
        let (ci, web) = (issue("ci").await.unwrap(), issue("web").await.unwrap());
        let first = id_of(&kernel, &ci).await;
        assert_ne!(first, id_of(&kernel, &web).await);
        let name = &ci.name;
        let grace = Some(Duration::from_secs(60));
        let rotated = kernel.rotate_token(&operator, &tenant, name, grace).await;
        let rotated = rotated.unwrap();
        for token in [&ci, &rotated] {
            assert_eq!(id_of(&kernel, token).await, first);
        }
        let all = kernel.rotate_all_tokens(&operator, &tenant, None).await;
        let all = all.unwrap();
        let last = all.iter().find(|token| token.name == *name).unwrap();
        assert_eq!(id_of(&kernel, last).await, first);
        kernel.revoke_token(&operator, &tenant, name).await.unwrap();
        let anew = issue("ci").await.unwrap();
        let second = id_of(&kernel, &anew).await;
        assert_ne!(second, first);
        drop((kernel, operator, tenant));
        let (kernel, operator) = open(&path).await;
        assert_eq!(id_of(&kernel, &anew).await, second);
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let rotated = kernel.rotate_token(&operator, &tenant, name, None).await;
        assert_eq!(id_of(&kernel, &rotated.unwrap()).await, second);
    }
}
