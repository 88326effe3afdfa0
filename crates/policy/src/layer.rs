//! The rules of one tenant, layer over layer, as they hold together.

use std::fmt;
use std::sync::Arc;

use base::Timestamp;

use crate::cache::Decided;
use crate::decide::{Decision, Posed, Said, ask, pose, weigh};
use crate::request::Request;
use crate::rules::Rules;

/// Everything that holds for one tenant. Immutable but for what it remembers of its own decisions.
pub struct Layers {
    layers: Vec<Arc<Rules>>,
    /// What cannot be read, where everything is denied.
    closed: Option<&'static str>,
    version: Arc<str>,
    moments: Vec<Timestamp>,
    decided: Decided,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Layers").field(&self.version).finish()
    }
}

impl Layers {
    /// Puts layers together; any of them may forbid, those of the operator may permit.
    #[must_use]
    pub fn new(layers: Vec<Arc<Rules>>) -> Self {
        let mut hasher = vault::Sha256::new();
        hasher.update(crate::SCHEMA.as_bytes());
        for rules in &layers {
            hasher.update(rules.hash());
        }
        let mut moments: Vec<Timestamp> = layers
            .iter()
            .flat_map(|rules| rules.moments.iter().copied())
            .collect();
        moments.sort_unstable();
        moments.dedup();
        let version = vault::digest::hex(&hasher.finish());
        Self {
            version: version.get(..16).unwrap_or(&version).into(),
            layers,
            closed: None,
            moments,
            decided: Decided::default(),
        }
    }

    /// Denies everything: what holds where `what` cannot be read. It stands where the names of rules do.
    #[must_use]
    pub fn closed(what: &'static str) -> Self {
        Self {
            layers: Vec::new(),
            closed: Some(what),
            version: "closed".into(),
            moments: Vec::new(),
            decided: Decided::default(),
        }
    }

    /// The first 16 hex digits of a SHA-256 over schema and rules: part of each audit entry.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Decides. The same question under the same rules gets the same answer; only moments that rules name make a difference.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>, now: Timestamp) -> Arc<Decision> {
        let era = self.moments.partition_point(|moment| *moment <= now);
        let era = u32::try_from(era).unwrap_or(u32::MAX);
        self.decided
            .known_or(request, era, || self.decide_anew(request, now))
    }

    /// Decides without a look at earlier decisions.
    #[must_use]
    pub fn decide_anew(&self, request: &Request<'_>, now: Timestamp) -> Decision {
        if let Some(what) = self.closed {
            return Decision::broken(what);
        }
        let decided = pose(request).and_then(|posed| {
            let (permits, forbids) = self.ask(request, &posed, now)?;
            Some(weigh(&permits, &forbids))
        });
        decided.unwrap_or_else(|| Decision::broken("engine"))
    }

    fn ask(
        &self,
        request: &Request<'_>,
        posed: &Posed,
        now: Timestamp,
    ) -> Option<(Said<'_>, Said<'_>)> {
        let (mut permits, mut forbids) = (Said::default(), Said::default());
        let (action, resource) = (request.act.action(), request.act.resource());
        for rules in &self.layers {
            let permitting = rules.permits(action, resource);
            let forbidding = rules.forbids(action, resource);
            for (sets, into) in [(permitting, &mut permits), (forbidding, &mut forbids)] {
                for set in sets {
                    let said = ask(rules, set, posed, now)?;
                    into.satisfied.extend(said.satisfied);
                    into.broken.extend(said.broken);
                }
            }
        }
        Some((permits, forbids))
    }

    /// Every rule that is satisfied by a question or breaks on it: its name, its line, whether it permits, whether it broke.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>, now: Timestamp) -> Vec<Explained> {
        let Some(posed) = pose(request) else {
            return Vec::new();
        };
        let Some((permits, forbids)) = self.ask(request, &posed, now) else {
            return Vec::new();
        };
        let satisfied = permits.satisfied.iter().chain(&forbids.satisfied);
        let broken = permits.broken.iter().chain(&forbids.broken);
        satisfied
            .map(|info| (info, false))
            .chain(broken.map(|info| (info, true)))
            .map(|(info, broken)| Explained {
                name: info.name.clone(),
                line: info.line,
                permits: info.permits,
                conditional: info.lifted_by.is_some(),
                broken,
            })
            .collect()
    }
}

/// A rule that had a say in a decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// `origin.id`.
    pub name: Box<str>,
    /// Its line in its set, from 1.
    pub line: u64,
    /// It permits; otherwise it forbids.
    pub permits: bool,
    /// It forbids unless an obligation is kept.
    pub conditional: bool,
    /// It could not be evaluated.
    pub broken: bool,
}
