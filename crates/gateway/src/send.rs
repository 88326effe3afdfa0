//! Attempts, one after the other, until one answers: each reserves for itself, is recorded as sent and is settled.

use std::sync::Arc;

use kernel::audit::level::Level;
use kernel::audit::notes::Asked;
use kernel::digest::sha256;
use kernel::log::Field;
use kernel::{OpenAttempt, Secret, Settlement, Tenant, Trail, UnwrittenAttempt};
use llm::splice::{Edits, splice};
use llm::{Dialect, Request};

use crate::Gateway;
use crate::fair::{Busy, Patience, Slot};
use crate::heavy::HEAVY_BYTES;
use crate::meter::Meter;
use crate::note;
use crate::quota::{Hold, Quote};
use crate::refusal::Refusal;
use crate::route::{self, Choice};
use crate::upstream::{Credential, OutboundCall, Passage, Response, SendError, passage, retryable};

/// Bytes of a provider's error answer that are read for its message.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A provider's answer that began, with the attempt that it belongs to.
pub(crate) struct Sent {
    pub(crate) hold: Box<Hold>,
    pub(crate) attempt: OpenAttempt,
    pub(crate) meter: Meter,
    pub(crate) choice: Choice,
    pub(crate) response: Response,
    /// The attempt's slot at the provider, until the provider is done.
    pub(crate) slot: Slot,
}

/// The choices that are left, with a slot at the first of them.
pub(crate) struct Queued {
    choices: Vec<Choice>,
    slot: Option<Slot>,
    patience: Patience,
}

/// Why no answer came.
pub(crate) enum Stop {
    /// Refused before anything was sent: still to be recorded.
    Refused(Refusal),
    /// Attempts were made; their settlements are recorded and durable.
    Failed(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The call's routes in the order in which they are tried: weighted by a draw from the request's own random id.
pub(crate) fn choices(hold: &Hold, trail: &Trail) -> Vec<Choice> {
    let permit = hold.permit();
    let Some(model) = permit.model() else {
        return Vec::new();
    };
    let operation = permit.call.request.operation();
    route::choose(&permit.catalog, model, operation, trail.draw(), |name| {
        permit.may_fall_back_to(name)
    })
}

/// Waits for a slot at the first choice. Where its line is full or too slow, the next one is taken: of all that a provider can refuse
/// a call for, this costs nobody anything.
pub(crate) async fn queue(hold: &Hold, mut choices: Vec<Choice>) -> Result<Queued, Stop> {
    let caller = &hold.permit().admission;
    let mut patience = Patience::default();
    let mut first: Option<Busy> = None;
    let mut found = None;
    for (index, choice) in choices.iter().enumerate() {
        match choice.provider.line().slot(caller, &mut patience).await {
            Ok(slot) => {
                found = Some((index, slot));
                break;
            }
            Err(busy) => {
                first.get_or_insert(busy);
            }
        }
    }
    let slot = match (found, first) {
        (Some((index, slot)), _) => {
            choices.drain(..index);
            Some(slot)
        }
        (None, Some(busy)) => return Err(Stop::Refused(busy.into())),
        (None, None) => None,
    };
    Ok(Queued {
        choices,
        slot,
        patience,
    })
}

/// Tries the choices in order. A further one is tried only before the first byte of an answer, within the provider's retry budget, and
/// if its own reservation fits.
pub(crate) async fn send(
    gw: &Arc<Gateway>,
    trail: &Trail,
    mut hold: Box<Hold>,
    queued: Queued,
) -> Result<Sent, Stop> {
    let (choices, mut first, mut patience) = (queued.choices, queued.slot, queued.patience);
    let mut last: Option<Refusal> = None;
    let budgets = gw.retry_budgets();
    if let Some(first) = choices.first() {
        budgets.earn(&first.provider);
    }
    let mut rest = choices.into_iter().peekable();
    while let Some(choice) = rest.next() {
        let first = first.take();
        let is_heavy = hold.permit().call.request.body().len() > HEAVY_BYTES;
        let prepared = if is_heavy {
            let (lent, prepared) = Box::pin(prepare_below(gw, hold, &choice)).await?;
            hold = lent;
            prepared
        } else {
            prepare(gw, &hold, &choice)
        };
        let mut prepared = match prepared {
            Ok(prepared) => prepared,
            // The first failure is the one to report: a fallback that cannot be priced or translated changes nothing.
            Err(refusal) => {
                last.get_or_insert(refusal);
                continue;
            }
        };
        let slot = match slot(first, &hold, &choice, &mut patience).await {
            Ok(slot) => slot,
            Err(busy) => {
                last.get_or_insert(busy.into());
                continue;
            }
        };
        let attempt = match attempt(&mut hold, trail, &choice, &mut prepared).await {
            Ok(attempt) => attempt,
            Err(refusal) => return Err(stop(&hold, last, refusal)),
        };
        let attempt = attempt
            .written()
            .await
            .map_err(|error| stop(&hold, None, error.into()))?;
        let answered = gw
            .upstream()
            .send(&choice.provider, &prepared.credential, prepared.call)
            .await;
        let failure = match answered {
            Ok(response) if passage(response.status) == Passage::Answer => {
                let meter = prepared.meter;
                return Ok(Sent {
                    hold,
                    attempt,
                    meter,
                    choice,
                    response,
                    slot,
                });
            }
            Ok(response) => status(attempt, response).await?,
            Err(error) => unanswered(attempt, error).await?,
        };
        if !failure.loaded {
            hold.left_no_row();
        }
        last = Some(failure.refusal);
        let allowed = || !failure.loaded || budgets.spend(&choice.provider, gw.instant());
        if !failure.elsewhere || rest.peek().is_none() || !allowed() {
            break;
        }
    }
    Err(stop(&hold, last, Refusal::UpstreamUnreachable))
}

/// The slot that the call has, or one at the provider of a further choice.
async fn slot(
    had: Option<Slot>,
    hold: &Hold,
    choice: &Choice,
    patience: &mut Patience,
) -> Result<Slot, Busy> {
    match had {
        Some(slot) => Ok(slot),
        None => {
            let caller = &hold.permit().admission;
            choice.provider.line().slot(caller, patience).await
        }
    }
}

/// Lends one attempt, recorded as sent, with what its entry is to say above the lowest logging level.
async fn attempt(
    hold: &mut Hold,
    trail: &Trail,
    choice: &Choice,
    prepared: &mut Prepared,
) -> Result<UnwrittenAttempt, Refusal> {
    let notes = match prepared.asked.take() {
        None => None,
        Some(asked) => {
            let permit = hold.permit();
            let body = permit.call.request.body();
            // Boxed, so that the calls that say no more do not carry it.
            Some(Box::pin(permit.admission.begin_notes(*asked, body)).await?)
        }
    };
    let attempt = hold.attempt(trail, choice, &prepared.quote, prepared.digest)?;
    Ok(attempt.noted(notes))
}

struct Failure {
    refusal: Refusal,
    /// Whether another route may be tried.
    elsewhere: bool,
    /// Whether the provider had work from it: only then does a retry cost budget.
    loaded: bool,
}

fn stop(hold: &Hold, first: Option<Refusal>, refusal: Refusal) -> Stop {
    stop_after(hold.attempts(), first.unwrap_or(refusal))
}

fn stop_after(attempts: u32, refusal: Refusal) -> Stop {
    if attempts > 0 {
        Stop::Failed(refusal)
    } else {
        Stop::Refused(refusal)
    }
}

/// An answer with an error status: the attempt failed, at no cost.
async fn status(attempt: OpenAttempt, mut response: Response) -> Result<Failure, Stop> {
    let status = response.status;
    let body = error_body(&mut response).await;
    let settling = attempt.settle(&Settlement {
        answer_received: Some(sha256(&body)),
        ..Settlement::failed()
    });
    durable(settling).await?;
    let refusal = Refusal::upstream(status, &body, response.retry_after_s);
    Ok(Failure {
        refusal,
        elsewhere: retryable(status),
        loaded: true,
    })
}

/// No answer: nothing was sent (no row), or nobody knows (a row `unknown`, charged at its hold).
async fn unanswered(attempt: OpenAttempt, error: SendError) -> Result<Failure, Stop> {
    let settling = match error {
        SendError::NotSent(_) => attempt.not_sent(),
        SendError::Unknown(_) => attempt.settle(&Settlement::unknown()),
    };
    durable(settling).await?;
    Ok(Failure {
        refusal: error.into(),
        elsewhere: true,
        loaded: matches!(error, SendError::Unknown(_)),
    })
}

async fn durable(
    settling: Result<kernel::ledger::Settling, kernel::KernelError>,
) -> Result<(), Stop> {
    let settled = match settling {
        Ok(settling) => settling.durable().await,
        Err(error) => Err(error),
    };
    settled.map_err(|error| Stop::Failed(error.into()))
}

async fn error_body(response: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < ERROR_BYTES_MAX {
        match response.body.chunk().await {
            Ok(Some(chunk)) => {
                body.extend_from_slice(&chunk[..chunk.len().min(ERROR_BYTES_MAX - body.len())])
            }
            Ok(None) | Err(_) => break,
        }
    }
    body
}

struct Prepared {
    call: OutboundCall,
    /// SHA-256 of the body as it is sent.
    digest: [u8; 32],
    /// What the call asks for, where its entry is to say so.
    asked: Option<Box<Asked>>,
    credential: Arc<Credential>,
    quote: Quote,
    meter: Meter,
}

/// Prepares a large outbound request in the lower class. The hold goes along and comes back.
async fn prepare_below(
    gw: &Arc<Gateway>,
    hold: Box<Hold>,
    choice: &Choice,
) -> Result<(Box<Hold>, Result<Prepared, Refusal>), Stop> {
    let caller = hold.permit().admission.clone();
    let (gateway, choice) = (Arc::clone(gw), choice.clone());
    let attempts = hold.attempts();
    let work = move || {
        let prepared = prepare(&gateway, &hold, &choice);
        (hold, prepared)
    };
    let done = gw.heavy().run(&caller, work).await;
    done.map_err(|refusal| stop_after(attempts, refusal))
}

/// The outbound request of one choice: spliced where the dialects agree, translated where they differ.
fn prepare(gw: &Gateway, hold: &Hold, choice: &Choice) -> Result<Prepared, Refusal> {
    let permit = hold.permit();
    let (request, settings, tenant) = (
        &permit.call.request,
        permit.admission.settings(),
        permit.admission.tenant(),
    );
    let quote = hold.quote(choice)?;
    let (credential, shared) = match tenant.secret(choice.provider.name()) {
        Some(own) => (Arc::new(own_key(gw, tenant, choice, &own)?), false),
        None => (operator_key(gw, choice)?, true),
    };
    let tag = if shared {
        Some(tenant.upstream_tag()?)
    } else {
        None
    };
    let dialect = choice.provider.dialect();
    let edits = Edits {
        model: (request.model() != &*choice.provider_model).then_some(&*choice.provider_model),
        max_output: quote
            .max_output
            .filter(|cap| request.max_output() != Some(*cap)),
        max_output_field: choice.provider.max_output_field(),
        include_usage: request.stream() && dialect == Dialect::OpenAi,
        temperature: settings.temperature.as_deref(),
        system_prompt: settings.system_prompt.as_deref(),
        user_tag: tag.as_deref(),
    };
    let body = outbound(request, dialect, &edits)?;
    let call = OutboundCall {
        operation: request.operation(),
        body,
        stream: request.stream(),
        anthropic_beta: permit.call.beta.clone(),
    };
    let meter = Meter {
        card: Arc::clone(hold.card()),
        provider: choice.provider.name().to_owned(),
        provider_model: choice.provider_model.to_string(),
        public: choice.model.as_str().to_owned(),
        markup: settings.markup,
        input_bound: quote.input,
        bought: quote.max_output.map(|output| {
            let output = output.saturating_add(request.extra_output_bound());
            (output, request.choices())
        }),
    };
    Ok(Prepared {
        digest: sha256(&call.body),
        asked: (settings.audit_level > Level::Basic).then(|| Box::new(note::asked(request))),
        call,
        credential,
        quote,
        meter,
    })
}

fn own_key(
    gw: &Gateway,
    tenant: &Tenant,
    choice: &Choice,
    own: &Secret,
) -> Result<Credential, Refusal> {
    Credential::bind(&choice.provider, own).map_err(|_| {
        let provider = [("provider", Field::Text(choice.provider.name()))];
        gw.kernel().log().event(
            gw.kernel().now(),
            Some(tenant.id()),
            "the tenant's provider key is not usable",
            &provider,
        );
        Refusal::UpstreamUnreachable
    })
}

fn operator_key(gw: &Gateway, choice: &Choice) -> Result<Arc<Credential>, Refusal> {
    gw.operator_key(&choice.provider).ok_or_else(|| {
        let provider = [("provider", Field::Text(choice.provider.name()))];
        gw.kernel()
            .log()
            .event(gw.kernel().now(), None, "no key for a provider", &provider);
        Refusal::UpstreamUnreachable
    })
}

fn outbound(
    request: &Request,
    dialect: Dialect,
    edits: &Edits<'_>,
) -> Result<bytes::Bytes, Refusal> {
    if request.operation().dialect() == dialect {
        return Ok(splice(request, edits));
    }
    llm::translate::request(request, dialect, edits).map_err(|error| Refusal::BadRequest {
        message: error.message,
        param: error.param,
    })
}
