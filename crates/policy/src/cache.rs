//! Decisions that were made before, by everything that they were made from.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::decide::Decision;
use crate::request::{Act, Request};

/// Decisions kept of one tenant under one version of its rules. Of more, all are forgotten.
const KEPT_MAX: usize = 1_024;
/// Bytes of a question whose decision is kept.
const KEY_BYTES_MAX: usize = 512;

/// Decisions by question. One tenant's, under one version of its rules: nobody learns by its speed what another has asked.
#[derive(Default, Debug)]
pub struct Decided {
    by_question: RwLock<HashMap<Box<[u8]>, Arc<Decision>>>,
}

impl Decided {
    pub(crate) fn known_or(
        &self,
        request: &Request<'_>,
        era: u32,
        make: impl FnOnce() -> Decision,
    ) -> Arc<Decision> {
        let key = key(request, era);
        let known = self.by_question.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(decision) = known.get(key.as_slice()) {
            return Arc::clone(decision);
        }
        drop(known);
        let made = Arc::new(make());
        if key.len() <= KEY_BYTES_MAX {
            let known = self.by_question.write();
            let mut known = known.unwrap_or_else(PoisonError::into_inner);
            if known.len() >= KEPT_MAX {
                known.clear();
            }
            known.insert(key.into(), Arc::clone(&made));
        }
        made
    }
}

/// Everything that a decision is made from, each part with its length: two questions never have one key.
fn key(request: &Request<'_>, era: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(192);
    let text = |key: &mut Vec<u8>, text: &str| {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        key.extend_from_slice(&length.to_le_bytes());
        key.extend_from_slice(text.as_bytes());
    };
    let asker = &request.principal;
    let present = u8::from(asker.token.is_some()) | u8::from(asker.person.is_some()) << 1;
    key.extend_from_slice(&era.to_le_bytes());
    key.extend_from_slice(&[asker.role as u8, request.act.action() as u8, present]);
    text(&mut key, asker.token.unwrap_or_default());
    text(&mut key, asker.person.unwrap_or_default());
    text(&mut key, request.act.resource());
    match request.act {
        Act::CallModel {
            providers,
            regions,
            operation,
            stream,
            tools,
            ..
        } => {
            key.push(u8::from(stream) | u8::from(tools) << 1);
            text(&mut key, operation);
            for list in [providers, regions] {
                let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
                key.extend_from_slice(&count.to_le_bytes());
                for item in list {
                    text(&mut key, item);
                }
            }
        }
        Act::Egress { port, .. } => key.extend_from_slice(&port.to_le_bytes()),
        _ => {}
    }
    key
}
