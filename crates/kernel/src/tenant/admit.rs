//! From a presented credential to authority: the only door for everybody but the operator.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{Role, TokenName};
use tokio_util::sync::CancellationToken;
use vault::Token;

use super::{Tenant, Via};
use crate::error::KernelError;
use crate::open::Kernel;
use crate::resident::{Status, TokenEntry};
use crate::settings::Settings;

/// A credential as presented, checked for its grammar and nothing else. It opens nothing.
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

/// Why a credential does not open the door.
#[derive(Debug)]
pub enum Refused {
    /// Malformed, unknown, expired or revoked: one answer for all.
    Unknown,
    /// The tenant is suspended.
    Suspended,
    /// The tenant is out of service; the text is for the operator.
    Quarantined(String),
    /// Nobody can be served now.
    Unavailable,
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
    /// Verifies a credential and mints the authority that it stands for.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn admit(&self, caller: Caller) -> Result<Admission, Refused> {
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
        match resident.account.load().status {
            Status::Active => {}
            Status::Suspended => return Err(Refused::Suspended),
            Status::Deleting => return Err(Refused::Unknown),
        }
        if resident.loaded.get().is_none() {
            self.load(resident).await.map_err(refused)?;
        }
        if let Some(why) = resident.quarantine.load_full() {
            return Err(Refused::Quarantined(why.as_str().to_owned()));
        }
        self.poll_overlay(resident, now);
        token.last_used.store(now.day().number(), Ordering::Relaxed);
        let tenant = Tenant::mint(self, resident, Via::Token(Arc::clone(&token)));
        let tenant_ended = resident.ended.load_full();
        let settings = resident.settings.load_full();
        // Between the status check and the mint a suspension may have come: its epoch is the one just taken, so look again.
        if resident.account.load().status != Status::Active {
            return Err(Refused::Suspended);
        }
        Ok(Admission {
            tenant,
            token,
            settings,
            tenant_ended,
        })
    }
}

fn refused(error: KernelError) -> Refused {
    match error {
        KernelError::Quarantined(why) => Refused::Quarantined(why),
        _ => Refused::Unavailable,
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

    /// The natural person, where the credential stands for one. Tokens do not.
    #[must_use]
    pub fn person(&self) -> Option<&str> {
        None
    }

    /// The settings in force when the caller was admitted.
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Resolves when the authority ends: suspension, deletion, rotation, revocation, expiry. Open streams watch it.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let token = self.token.ended.clone();
        let tenant = self.tenant_ended.as_ref().clone();
        async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = tenant.cancelled() => {}
            }
        }
    }

    pub(crate) fn entry(&self) -> &TokenEntry {
        &self.token
    }
}
