//! What all of `/rpc` shares: whom it lets in, tickets, and how much each token does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::limits::{
    RPC_CALLS_BURST, RPC_CALLS_PER_SECOND, RPC_SOCKETS_PER_TENANT, RPC_SOCKETS_PER_TOKEN,
};
use base::{TenantUid, TokenName};
use gateway::refusal::Refusal;
use http::HeaderMap;
use http::header::ORIGIN;
use kernel::ticket::Tickets;
use tokio::time::Instant;

use super::rate::Rate;
use crate::config::Origins;

/// A token by its tenant and name.
pub(super) type Key = (TenantUid, TokenName);

/// Rates that are remembered before those that are full again are forgotten.
const RATES_KEPT: usize = 4_096;

/// Shared by every request to `/rpc`.
#[derive(Default)]
pub(crate) struct Desk {
    origins: Origins,
    pub(super) tickets: Tickets,
    // Both are taken for a moment: by a POST, and when a socket opens or closes.
    posts: Mutex<HashMap<Key, Rate>>,
    sockets: Arc<Mutex<HashMap<TenantUid, HashMap<TokenName, usize>>>>,
}

impl Desk {
    pub(crate) fn new(origins: Origins) -> Self {
        Self {
            origins,
            ..Self::default()
        }
    }

    /// The origin of the web page that asks; `None` for who is no web page.
    pub(super) fn origin<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a str>, Refusal> {
        let mut given = headers.get_all(ORIGIN).iter();
        let Some(first) = given.next() else {
            return Ok(None);
        };
        let origin = first.to_str().ok().filter(|origin| self.lets_in(origin));
        if given.next().is_some() || origin.is_none() {
            return Err(Refusal::ForeignOrigin);
        }
        Ok(origin)
    }

    pub(super) fn lets_in(&self, origin: &str) -> bool {
        self.origins.hold(origin)
    }

    /// Takes one call over HTTP from a token's rate.
    pub(super) fn post(&self, token: &Key) -> Result<(), Duration> {
        let now = Instant::now();
        let mut posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        if posts.len() >= RATES_KEPT {
            posts.retain(|_, rate| !rate.is_full(now));
        }
        posts
            .entry(token.clone())
            .or_insert_with(|| Rate::new(RPC_CALLS_PER_SECOND, RPC_CALLS_BURST, now))
            .take(now)
    }

    /// A place for one more socket of a token; `None` when it or its tenant has too many.
    pub(super) fn socket(&self, (tenant, token): Key) -> Option<Place> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let own = sockets.entry(tenant).or_default();
        let open: usize = own.values().sum();
        let held = own.get(&token).copied().unwrap_or_default();
        if open >= RPC_SOCKETS_PER_TENANT || held >= RPC_SOCKETS_PER_TOKEN {
            return None;
        }
        own.insert(token.clone(), held + 1);
        Some(Place {
            sockets: Arc::clone(&self.sockets),
            tenant,
            token,
        })
    }
}

/// The place of one open socket; given back when dropped.
pub(super) struct Place {
    sockets: Arc<Mutex<HashMap<TenantUid, HashMap<TokenName, usize>>>>,
    tenant: TenantUid,
    token: TokenName,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = sockets.get_mut(&self.tenant) else {
            return;
        };
        if let Some(held) = own.get_mut(&self.token) {
            *held -= 1;
            if *held == 0 {
                own.remove(&self.token);
            }
        }
        if own.is_empty() {
            sockets.remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: u8, token: &str) -> Key {
        (TenantUid::from_bytes([tenant; 16]), token.parse().unwrap())
    }

    #[test]
    fn sockets_are_bounded_by_token_and_tenant_and_places_come_back() {
        let desk = Desk::default();
        let held: Vec<_> = (0..RPC_SOCKETS_PER_TOKEN)
            .map(|_| desk.socket(key(1, "a")))
            .collect();
        assert!(held.iter().all(Option::is_some) && desk.socket(key(1, "a")).is_none());
        let mut others = Vec::new();
        for token in 0..RPC_SOCKETS_PER_TENANT {
            others.extend(desk.socket(key(1, &format!("t{token}"))));
        }
        assert_eq!(held.len() + others.len(), RPC_SOCKETS_PER_TENANT);
        assert!(
            desk.socket(key(2, "a")).is_some(),
            "another tenant has its own"
        );
        drop((held, others));
        assert!(desk.socket(key(1, "a")).is_some());
        assert!(desk.sockets.lock().unwrap().is_empty());
    }

    #[test]
    fn who_is_no_web_page_has_no_origin_and_two_are_none() {
        let desk = Desk::default();
        let mut headers = HeaderMap::new();
        assert_eq!(desk.origin(&headers), Ok(None));
        headers.insert(ORIGIN, "https://a.example".parse().unwrap());
        assert_eq!(desk.origin(&headers), Err(Refusal::ForeignOrigin));
    }

    #[test]
    fn the_rate_of_posts_is_the_tokens_own() {
        let desk = Desk::default();
        let passed = |token| {
            (0..1_000)
                .filter(|_| desk.post(&key(1, token)).is_ok())
                .count()
        };
        let first = passed("a");
        assert!((100..300).contains(&first), "{first}");
        assert!(passed("b") >= 100);
    }
}
