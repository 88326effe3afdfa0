//! Money and tokens set aside before a call can spend them.

use std::sync::Arc;

use base::{Markup, Money};
use kernel::ledger::Reserved;
use kernel::quota::{Demand, Standing, Unit};
use kernel::share::Part;
use kernel::{AttemptFacts, CallSlot, Settings, Tenant, Trail, UnwrittenAttempt};
use llm::prices::{ModelPrices, RateCard};
use llm::{Dialect, Operation, Request};

use crate::Gateway;
use crate::catalog::{HangUp, Model, Provider};
use crate::policy::Permit;
use crate::refusal::Refusal;
use crate::route::Choice;

/// Output that is bought for a call that names no maximum, at least.
const OUTPUT_MIN: u64 = 256;
/// Output of a model whose maximum nobody knows.
const OUTPUT_UNKNOWN: u64 = 4_096;
/// Input of a part whose size nobody knows, for a model whose context window nobody knows.
const CONTEXT_UNKNOWN: u64 = 1_048_576;
const ROUTING_MEMBERS: [&str; 4] = ["models", "plugins", "provider", "route"];

/// A permitted call with its worst case set aside. Dropping it gives back what no attempt has taken over.
#[must_use = "dropping a hold gives the reservation back"]
pub struct Hold {
    permit: Permit,
    card: Arc<RateCard>,
    reserved: Option<Reserved>,
    attempts: u32,
    /// Whether the row of an attempt counts the call.
    counted: bool,
    /// Whether it is the last attempt's.
    counted_last: bool,
    /// The output per choice that was bought when the call was reserved; later attempts buy no more.
    cap: Option<u64>,
    place: CallPlace,
    /// Where the caller's limits stand, this call counted at its worst.
    standing: Standing,
}

/// A call's place: among the tenant's requests and among all calls of the process. Free when it is dropped.
pub(crate) struct CallPlace {
    _slot: CallSlot,
    _place: Option<Part>,
}

/// One attempt's price tag.
#[derive(Clone, Copy)]
pub(crate) struct Quote {
    pub(crate) demand: Demand,
    /// Output per choice that goes into the outbound request; `None` for embeddings.
    pub(crate) max_output: Option<u64>,
    /// The bound of the input, in tokens.
    pub(crate) input: u64,
}

/// Sets the dearest of the model's routes aside under every limit of the tenant.
///
/// # Errors
/// Unpriced models, exceeded quotas, and overload.
pub async fn reserve(gw: &Gateway, mut permit: Permit) -> Result<Box<Hold>, Refusal> {
    let card = gw.prices();
    let mut dearest: Option<Demand> = None;
    let mut cap: Option<u64> = None;
    billable(&permit.call.request)?;
    let model = permit.model().ok_or(Refusal::Internal)?;
    let public = model.name.as_str();
    for route in &model.routes {
        if !route.provider.answers(permit.call.request.operation()) {
            continue;
        }
        let quote = quote(&permit, &card, &route.provider, &route.model, public, None)?;
        cap = cap.into_iter().chain(quote.max_output).min();
        dearest = Some(dearest.map_or(quote.demand, |other| worse(other, quote.demand)));
    }
    let demand = dearest.ok_or_else(|| Refusal::ModelNotFound {
        model: permit.call.request.model().to_owned(),
    })?;
    let (slot, reserved, standing) = permit
        .admission
        .tenant()
        .enter(demand)
        .map_err(|over| Refusal::quota(&over, permit.admission.tenant().now()))?;
    let place = permit.call.place.take();
    // Boxed: it is handed from stage to stage, and each would carry a copy of its own.
    Ok(Box::new(Hold {
        permit,
        card,
        reserved: Some(reserved),
        attempts: 0,
        counted: false,
        counted_last: false,
        cap,
        place: CallPlace {
            _slot: slot,
            _place: place,
        },
        standing,
    }))
}

impl Hold {
    pub(crate) fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Whether a provider that may be asked bills an answer whole even if nobody waits for it.
    pub(crate) fn outlives_client(&self) -> bool {
        let drains = |model: &Model| {
            model
                .routes
                .iter()
                .any(|route| route.provider.hang_up() == HangUp::Drain)
        };
        self.permit.model().is_some_and(drains)
    }

    pub(crate) fn card(&self) -> &Arc<RateCard> {
        &self.card
    }

    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The exact price tag of one choice.
    pub(crate) fn quote(&self, choice: &Choice) -> Result<Quote, Refusal> {
        quote(
            &self.permit,
            &self.card,
            &choice.provider,
            &choice.provider_model,
            choice.model.as_str(),
            self.cap,
        )
    }

    /// Lends one attempt: its own reservation, recorded as sent.
    pub(crate) fn attempt(
        &mut self,
        trail: &Trail,
        choice: &Choice,
        quote: &Quote,
        request_sent: [u8; 32],
    ) -> Result<UnwrittenAttempt, Refusal> {
        let tenant = self.permit.admission.tenant();
        let held = self.reserved.take().filter(|held| {
            let held = held.demand();
            // A fallback can be dearer than what the model's own routes made the call set aside: that goes back whole.
            quote.demand.tokens <= held.tokens && quote.demand.cost <= held.cost
        });
        let reserved = match held {
            Some(mut reserved) => {
                reserved.shrink_to(quote.demand);
                reserved
            }
            // A further attempt is part of the same call: it counts as no further request.
            None => tenant
                .reserve(Demand {
                    requests: 0,
                    ..quote.demand
                })
                .map_err(|over| Refusal::quota(&over, tenant.now()))?,
        };
        self.attempts += 1;
        let counts_call = !std::mem::replace(&mut self.counted, true);
        self.counted_last = counts_call;
        let facts = AttemptFacts {
            request: *trail.request_id(),
            attempt: self.attempts,
            counts_call,
            model: self
                .permit
                .model()
                .map(|model| model.name.as_str().to_owned())
                .unwrap_or_default(),
            provider: choice.provider.name().to_owned(),
            provider_model: choice.provider_model.to_string(),
            ratecard_version: Arc::from(self.card.version()),
            rule: self.permit.rules_for(choice.model.as_str()),
            region: choice.provider.region().map(str::to_owned),
            trace: trail.trace(),
            standing: self.standing,
            request_received: self.permit.call.received,
            request_sent,
        };
        reserved
            .open_attempt(&self.permit.admission, facts)
            .map_err(Refusal::from)
    }

    /// The last attempt never left and has no row: where it was to count the call, the next one does.
    pub(crate) fn left_no_row(&mut self) {
        self.counted &= !self.counted_last;
    }

    /// The call's place among all calls; it is free when this is dropped.
    pub(crate) fn into_parts(self) -> (Permit, CallPlace) {
        (self.permit, self.place)
    }
}

/// Refuses by name what would be billed by something that no card of this version prices: it could not be bounded beforehand.
fn billable(request: &Request) -> Result<(), Refusal> {
    let refused = |param: &str, why: &str| Refusal::BadRequest {
        message: format!("{param}: {why}"),
        param: Some(param.to_owned()),
    };
    // Members by which routers of other vendors choose a model or a service of their own, past the catalog and the card.
    if let Some(member) = ROUTING_MEMBERS
        .into_iter()
        .find(|member| request.member(member).is_some())
    {
        return Err(refused(
            member,
            "would choose another model or service than the one that is priced; leave it out",
        ));
    }
    if let Some(member) = request.priced_apart() {
        return Err(refused(
            member,
            "asks for service at another price than the rate card's; leave it out",
        ));
    }
    if request.server_tools() {
        return Err(refused(
            "tools",
            "tools that run at the provider are not available in this version",
        ));
    }
    Ok(())
}

/// Prices one route of a call at its worst case.
fn quote(
    permit: &Permit,
    card: &RateCard,
    provider: &Provider,
    provider_model: &str,
    public: &str,
    bought: Option<u64>,
) -> Result<Quote, Refusal> {
    let request = &permit.call.request;
    let settings = permit.admission.settings();
    let unpriced = |bucket: &str| Refusal::Unpriced {
        model: public.to_owned(),
        bucket: bucket.to_owned().into(),
    };
    let prices = card
        .lookup(provider.name(), provider_model, public)
        .ok_or_else(|| unpriced("input"))?;
    prices
        .supports_input(&request.input_bound())
        .map_err(|bucket| unpriced(bucket.bucket))?;
    let input = input_bound(
        request,
        settings,
        provider.dialect(),
        provider_model,
        prices.max_input_tokens(),
    );
    let (per_choice, choices) = match request.operation() {
        Operation::Embeddings => (None, 0),
        _ => (
            Some(bought.unwrap_or_else(|| output_cap(permit, settings, prices, input))),
            request.choices(),
        ),
    };
    let output = per_choice
        .unwrap_or(0)
        .saturating_add(request.extra_output_bound())
        .saturating_mul(choices);
    let cost = prices
        .bound(input, output, settings.markup)
        .map_err(|bucket| unpriced(bucket.bucket))?;
    let demand = Demand {
        requests: 1,
        tokens: input.saturating_add(output),
        cost,
    };
    Ok(Quote {
        demand,
        max_output: per_choice,
        input,
    })
}

fn input_bound(
    request: &Request,
    settings: &Settings,
    dialect: Dialect,
    provider_model: &str,
    window: Option<u64>,
) -> u64 {
    let bound = request.input_bound();
    let bound = settings
        .system_prompt
        .as_deref()
        .map_or(bound, |prompt| bound.with_system_prompt(prompt));
    // A provider refuses more than its window, without charge.
    let window = window.unwrap_or(CONTEXT_UNKNOWN);
    bound
        .tokens(dialect, provider_model, Some(window))
        .unwrap_or(window)
        .min(window)
}

/// The output per choice that is reserved and sent: the client's number under the tier's cap; without one, the tenant's default
/// under the model's maximum, cut to what the limits still buy.
fn output_cap(permit: &Permit, settings: &Settings, prices: &ModelPrices, input: u64) -> u64 {
    let request = &permit.call.request;
    let caps = [settings.max_tokens_cap, permit.max_tokens_cap()];
    let cap = caps.into_iter().flatten().min().unwrap_or(u64::MAX);
    if let Some(explicit) = request.max_output() {
        return explicit.min(cap);
    }
    let model_max = prices.max_output_tokens().unwrap_or(OUTPUT_UNKNOWN);
    let wanted = settings
        .max_tokens_default
        .unwrap_or(model_max)
        .min(model_max)
        .min(cap);
    let affordable = affordable(
        permit.admission.tenant(),
        prices,
        settings.markup,
        input,
        wanted,
    ) / request.choices().max(1);
    wanted.min(affordable.max(OUTPUT_MIN)).max(1)
}

/// Output tokens that the limits still buy after the input, over all choices.
fn affordable(
    tenant: &Tenant,
    prices: &ModelPrices,
    markup: Markup,
    input: u64,
    wanted: u64,
) -> u64 {
    let tokens = tenant
        .left(Unit::Tokens)
        .map_or(u64::MAX, |left| clamp(left).saturating_sub(input));
    let Some(left) = tenant.left(Unit::Cost) else {
        return tokens;
    };
    let fits = |output: u64| {
        prices
            .bound(input, output, markup)
            .is_ok_and(|cost| cost <= Money::from_pico(left))
    };
    if fits(wanted.min(tokens)) {
        return tokens;
    }
    // The bound grows with the output: the largest that fits, by halving.
    let (mut low, mut high) = (0, wanted.min(tokens));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle
        } else {
            high = middle - 1
        }
    }
    low
}

fn clamp(value: i128) -> u64 {
    u64::try_from(value.max(0)).unwrap_or(u64::MAX)
}

fn worse(a: Demand, b: Demand) -> Demand {
    Demand {
        requests: a.requests.max(b.requests),
        tokens: a.tokens.max(b.tokens),
        cost: a.cost.max(b.cost),
    }
}
