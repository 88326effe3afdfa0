//! From a presented credential to authority: the only door for everybody but the operator.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{PersonName, Role, TokenName};
use store::StoreError;
use tokio_util::sync::CancellationToken;
use vault::Token;

use super::{Purpose, Tenant, Via};
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::resident::{Resident, Status, TokenEntry};
use crate::settings::Settings;

/// A credential as presented, checked for its grammar and nothing else. It opens nothing.
#[derive(Clone)]
pub struct Caller {
    hash: [u8; 32],
    tenant_shown: Option<Box<str>>,
}

impl Caller {
    /// Takes a presented token. Malformed text is accepted here and fails in [`Kernel::admit`] after the same work as a
    /// well-formed stranger.
    #[must_use]
    pub fn from_token(text: &str) -> Self {
        let parsed = Token::parse(text);
        let tenant_shown = parsed.map(|parts| Box::from(parts.tenant));
        // Hashed in any case, so that the grammar does not show in the time taken.
        Self {
            hash: vault::sha256(text.as_bytes()),
            tenant_shown,
        }
    }
}

impl Caller {
    /// What the credential is verified by, to be kept where what it began is kept: a run goes on after a restart as long as its
    /// credential holds. It is no credential: nobody can present it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.hash
    }

    /// The caller of [`Caller::to_bytes`].
    #[must_use]
    pub fn from_bytes(hash: [u8; 32]) -> Self {
        Self {
            hash,
            tenant_shown: None,
        }
    }
}

/// Why a credential does not open the door.
#[derive(Debug)]
pub enum Refused {
    /// Malformed, unknown, expired or revoked: one answer for all.
    Unknown,
    /// The tenant is suspended.
    Suspended,
    /// The tenant is frozen, and the caller came for more than reading.
    Frozen,
    /// The tenant is out of service; the text is for the operator.
    Quarantined(String),
    /// Nothing can be recorded, so nobody can be served.
    Unavailable,
    /// The tenant could not be opened just now; a second try may find it open.
    NotOpened,
    /// The disk has no room for more than what is under way: only reading is served.
    NoRoom,
}

/// The standing of an admission. It opens nothing.
#[derive(Clone)]
pub struct Authority {
    token: CancellationToken,
    tenant: Arc<CancellationToken>,
}

impl Authority {
    /// Whether it has ended, as [`Admission::ended`] says.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.token.is_cancelled() || self.tenant.is_cancelled()
    }

    /// Resolves when it has ended.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.token.cancelled() => {}
            () = self.tenant.cancelled() => {}
        }
    }
}

/// A tenant, and who acts in it. Made by [`Kernel::admit`] only; tenant and caller cannot be paired anew.
#[derive(Clone)]
pub struct Admission {
    tenant: Tenant,
    token: Arc<TokenEntry>,
    settings: Arc<Settings>,
    tenant_ended: Arc<CancellationToken>,
}

impl Kernel {
    /// Verifies a credential and mints the authority to act that it stands for.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn admit(&self, caller: Caller) -> Result<Admission, Refused> {
        self.admit_for(caller, Purpose::Act).await
    }

    /// Verifies a credential for `purpose`. Reading is what a frozen tenant is left.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn admit_for(&self, caller: Caller, purpose: Purpose) -> Result<Admission, Refused> {
        if self.journal().poisoned() {
            return Err(Refused::Unavailable);
        }
        let now = self.now();
        let Some(token) = self
            .directory()
            .token(&caller.hash)
            .filter(|token| token.valid_at(now))
        else {
            if let Some(shown) = &caller.tenant_shown {
                self.directory().count_failed_auth(shown);
            }
            return Err(Refused::Unknown);
        };
        let resident = &token.resident;
        open_for(resident.account.load().status, purpose)?;
        if purpose == Purpose::Act && self.is_short_of_disk() {
            return Err(Refused::NoRoom);
        }
        if resident.loaded.get().is_none() {
            let opened = self.load(resident).await;
            opened.map_err(|error| self.not_opened(resident, &error))?;
        }
        if let Some(found) = resident.quarantine.load_full() {
            return Err(Refused::Quarantined(found.why.clone()));
        }
        self.poll_overlay(resident, now);
        token.last_used.store(now.day().number(), Ordering::Relaxed);
        let tenant = Tenant::mint(self, resident, Via::Token(Arc::clone(&token), purpose));
        let tenant_ended = match purpose {
            Purpose::Act => resident.acting_ended.load_full(),
            Purpose::Read => resident.ended.load_full(),
        };
        let settings = resident.settings.load_full();
        // Between the status check and the mint a suspension may have come: its epoch is the one just taken, so look again.
        open_for(resident.account.load().status, purpose)?;
        Ok(Admission {
            tenant,
            token,
            settings,
            tenant_ended,
        })
    }
}

fn open_for(status: Status, purpose: Purpose) -> Result<(), Refused> {
    match (status, purpose) {
        (Status::Active, _) | (Status::Frozen, Purpose::Read) => Ok(()),
        (Status::Frozen, Purpose::Act) => Err(Refused::Frozen),
        (Status::Suspended, _) => Err(Refused::Suspended),
        (Status::Deleting, _) => Err(Refused::Unknown),
    }
}

impl Kernel {
    /// What a caller is told whose tenant does not open. What is no quarantine is in the log: nothing else would say why.
    fn not_opened(&self, resident: &Resident, error: &KernelError) -> Refused {
        if let KernelError::Quarantined(why) = error {
            return Refused::Quarantined(why.clone());
        }
        let text = error.to_string();
        let fields = [("error", Field::Text(&text))];
        let tenant = Some(&resident.id);
        self.log()
            .event(self.now(), tenant, "a tenant does not open", &fields);
        match error {
            KernelError::JournalDown => Refused::Unavailable,
            KernelError::Store(StoreError::Full) => Refused::NoRoom,
            _ => Refused::NotOpened,
        }
    }
}

impl Admission {
    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// What the credential may do.
    #[must_use]
    pub fn role(&self) -> Role {
        self.token.role
    }

    /// The credential's name.
    #[must_use]
    pub fn token_name(&self) -> &TokenName {
        &self.token.name
    }

    /// What tells this credential from every other of its tenant, those of the same name before and after it among them. It stays
    /// when the token is rotated, and is drawn anew when one is issued. It is no secret, and opens nothing.
    #[must_use]
    pub fn credential_id(&self) -> String {
        format!("{:016x}", self.token.serial)
    }

    /// The natural person, where the credential stands for one.
    #[must_use]
    pub fn person(&self) -> Option<&str> {
        self.token.person.as_ref().map(PersonName::as_str)
    }

    /// The settings in force when the caller was admitted.
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Resolves when the authority ends: suspension, deletion, rotation, revocation, expiry, and a freeze where it is to do more
    /// than read. Open streams watch it.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let authority = self.authority();
        async move { authority.ended().await }
    }

    /// Whether the authority still stands, for whoever cannot wait for its end.
    #[must_use]
    pub fn authority(&self) -> Authority {
        Authority {
            token: self.token.ended.clone(),
            tenant: Arc::clone(&self.tenant_ended),
        }
    }

    /// What the same credential would be refused with if it called now; `None` while it would not be.
    #[must_use]
    pub fn refused_now(&self) -> Option<Refused> {
        let resident = &self.tenant.resident;
        if self.token.ended.is_cancelled() || !self.token.valid_at(self.tenant.now()) {
            return Some(Refused::Unknown);
        }
        let purpose = match self.tenant.via {
            Via::Token(_, purpose) => purpose,
            Via::Operator => Purpose::Act,
        };
        if let Err(refused) = open_for(resident.account.load().status, purpose) {
            return Some(refused);
        }
        let found = resident.quarantine.load_full()?;
        Some(Refused::Quarantined(found.why.clone()))
    }

    pub(crate) fn entry(&self) -> &TokenEntry {
        &self.token
    }

    /// The credential, to be verified anew by whoever presents it later.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            hash: self.token.hash,
            tenant_shown: None,
        }
    }
}
