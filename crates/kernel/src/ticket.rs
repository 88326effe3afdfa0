//! Single-use tickets for browsers, which cannot send a credential in a header of a WebSocket.
//!
//! A ticket is kept in memory only, as its hash, and stands for the token that asked for it: who redeems it is admitted as that
//! token, with all that has happened to it since.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use base::limits::{TICKET_LIFE, TICKETS_MAX, TICKETS_PER_TOKEN};
use base::{TenantUid, Timestamp, TokenName};
use vault::Secret;

use crate::error::KernelError;
use crate::tenant::admit::{Admission, Caller};

/// The tickets of one process that are not redeemed yet.
#[derive(Default)]
pub struct Tickets {
    // Taken for a moment when a ticket is made or presented.
    open: Mutex<HashMap<[u8; 32], Ticket>>,
    made: AtomicU64,
}

struct Ticket {
    caller: Caller,
    owner: (TenantUid, TokenName),
    origin: Box<str>,
    made: Timestamp,
    /// Its place among all that were made: the clock does not tell two of one moment apart.
    number: u64,
}

impl Tickets {
    /// A ticket for the admitted token, good for one socket of a page of `origin`, and when it ends unused.
    ///
    /// # Errors
    /// [`KernelError::Busy`] when too many of all tenants wait, [`KernelError::Revoked`] when the authority has ended.
    pub fn issue(
        &self,
        admission: &Admission,
        origin: &str,
    ) -> Result<(Secret, Timestamp), KernelError> {
        let tenant = admission.tenant();
        tenant.live()?;
        let now = tenant.now();
        let owner = (tenant.uid(), admission.token_name().clone());
        let text = hex::encode(vault::random::<32>());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, ticket| !ticket.is_over(now));
        let mut own: Vec<_> = open
            .iter()
            .filter(|(_, ticket)| ticket.owner == owner)
            .map(|(hash, ticket)| (ticket.number, *hash))
            .collect();
        if own.len() >= TICKETS_PER_TOKEN {
            own.sort_unstable();
            own.iter()
                .take(own.len() + 1 - TICKETS_PER_TOKEN)
                .for_each(|(_, hash)| {
                    open.remove(hash);
                });
        } else if open.len() >= TICKETS_MAX {
            return Err(KernelError::Busy);
        }
        let ticket = Ticket {
            caller: admission.caller(),
            owner,
            origin: origin.into(),
            made: now,
            number: self.made.fetch_add(1, Ordering::Relaxed),
        };
        open.insert(vault::sha256(text.as_bytes()), ticket);
        let text = Secret::from_text(text).map_err(|_| KernelError::Busy)?;
        Ok((text, now.plus(TICKET_LIFE)))
    }

    /// The caller that a presented ticket stands for. Whatever the outcome, the ticket is used up.
    #[must_use]
    pub fn redeem(&self, text: &str, origin: &str, now: Timestamp) -> Option<Caller> {
        let hash = vault::sha256(text.as_bytes());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = open.remove(&hash)?;
        let fits = !ticket.is_over(now) && *ticket.origin == *origin;
        fits.then_some(ticket.caller)
    }
}

impl Ticket {
    fn is_over(&self, now: Timestamp) -> bool {
        self.made.plus(TICKET_LIFE) <= now
    }
}
