//! Calls of `agent/<name>`: handed over to whoever runs agents, who stands above this crate. What an agent asks of models comes back
//! through the pipeline, as calls of their own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};

use http::Response;
use kernel::{Admission, Trail};
use llm::{Operation, Request};

use crate::Gateway;
use crate::policy::Call;
use crate::refusal::Refusal;
use crate::reply::ReplyBody;

/// What the name of an agent begins with, where a model's name is asked for.
pub const PREFIX: &str = "agent/";

/// An answer on its way.
pub type Answering<'a> =
    Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, Refusal>> + Send + 'a>>;

/// Whoever runs agents.
pub trait Agents: Send + Sync + 'static {
    /// Answers a call, in the dialect of chat completions.
    fn answer<'a>(
        &'a self,
        trail: &'a Arc<Trail>,
        admission: Admission,
        request: Request,
    ) -> Answering<'a>;
}

/// Where they are found, once they are there.
#[derive(Default)]
pub(crate) struct Place(OnceLock<Weak<dyn Agents>>);

/// What a decoded call asks for.
pub(crate) enum Asked {
    Model(Call),
    Agent(Request),
}

/// Tells the two apart. Other operations know no agents: there the name is that of a model that does not exist.
pub(crate) fn asked(call: Call) -> Asked {
    let request = &call.request;
    if request.operation() == Operation::ChatCompletions && request.model().starts_with(PREFIX) {
        return Asked::Agent(call.request);
    }
    Asked::Model(call)
}

/// The agent's answer.
pub(crate) async fn answer(
    gw: &Gateway,
    trail: &Arc<Trail>,
    admission: Admission,
    request: Request,
) -> Result<Response<ReplyBody>, Refusal> {
    match gw.agents.0.get().and_then(Weak::upgrade) {
        Some(agents) => agents.answer(trail, admission, request).await,
        None => Err(Refusal::ModelNotFound {
            model: request.model().to_owned(),
        }),
    }
}

impl Gateway {
    /// Names who runs agents, once.
    pub fn set_agents(&self, agents: Weak<dyn Agents>) {
        // A second one would be a mistake of assembly; the first stays.
        let _second = self.agents.0.set(agents);
    }
}
