//! One request from its head to its answer: routes, keys, orders, faults.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base::limits;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};

use crate::answer::{Tokens, compose};
use crate::body::Played;
use crate::call::{BadRequest, Call, Wire, digest};
use crate::directive::{self, Directives, Fault};
use crate::frame::{Frame, Script, Step};
use crate::ledger::{Entry, Ledger};
use crate::models::{Kind, Model, model};
use crate::routes::{
    Operation, answer_id, dress, models, operation, plain, presented_key, refuse, request_id,
    unauthorized, wire_of,
};
use crate::{Options, embeddings, gzip, refusal, wire_anthropic, wire_openai};

/// What every connection shares.
pub(crate) struct Service {
    pub(crate) options: Options,
    pub(crate) ledger: Ledger,
}

/// One request on its way.
struct Exchange {
    wire: Wire,
    key: String,
    id: String,
    entry: Entry,
    orders: Directives,
    reset: Arc<AtomicBool>,
}

impl Service {
    /// Answers one request. An error closes the connection without an answer, as ordered.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        reset: Arc<AtomicBool>,
    ) -> io::Result<Response<Played>> {
        let path = request.uri().path().to_owned();
        if self.options.control && path.starts_with("/sim/") {
            return Ok(self.control(request.method(), &path));
        }
        let wire = wire_of(&path, request.headers());
        let mut entry = self.ledger.open(&path, request.headers());
        let seq = entry.record.seq;
        let key = match presented_key(wire, request.headers()) {
            Some(key)
                if self
                    .options
                    .api_key
                    .as_ref()
                    .is_none_or(|right| *right == key) =>
            {
                key
            }
            _ => return Ok(refuse(entry, wire, 401, &unauthorized(wire, seq), seq)),
        };
        let Some(operation) = operation(request.method(), &path) else {
            let body = refusal::body(
                wire,
                404,
                &format!("Invalid URL ({} {path})", request.method()),
                &request_id(seq),
            );
            return Ok(refuse(entry, wire, 404, &body, seq));
        };
        if operation == Operation::Models {
            return Ok(models(entry, wire, &path, seq));
        }
        if wire == Wire::Anthropic && !request.headers().contains_key("anthropic-version") {
            let bad = BadRequest::new("anthropic-version: header is required");
            let body = refusal::bad_request(wire, &bad, &request_id(seq));
            return Ok(refuse(entry, wire, 400, &body, seq));
        }
        let Ok(body) = Limited::new(request.into_body(), limits::BODY_BYTES_MAX)
            .collect()
            .await
        else {
            let body = refusal::body(
                wire,
                413,
                "Request body too large or broken off.",
                &request_id(seq),
            );
            return Ok(refuse(entry, wire, 413, &body, seq));
        };
        let body = body.to_bytes();
        entry.body(&body);
        let exchange = Exchange {
            wire,
            key,
            id: answer_id(wire, seq),
            entry,
            orders: Directives::default(),
            reset,
        };
        self.model_call(exchange, operation, &body).await
    }

    async fn model_call(
        &self,
        mut exchange: Exchange,
        operation: Operation,
        body: &[u8],
    ) -> io::Result<Response<Played>> {
        let (body, model) = match parse(&mut exchange, body) {
            Ok(parsed) => parsed,
            Err(refused) => return Ok(exchange.refuse(refused)),
        };
        let parsed = match operation {
            Operation::Embeddings => {
                embeddings::read(&body, &mut exchange.orders).map(Work::Embeddings)
            }
            Operation::Chat => wire_openai::read(&body, model, &mut exchange.orders)
                .map(Box::new)
                .map(Work::Chat),
            _ => {
                let counting = operation == Operation::CountTokens;
                wire_anthropic::read(&body, model, &mut exchange.orders, counting)
                    .map(Box::new)
                    .map(Work::Chat)
            }
        };
        let parsed = parsed.and_then(|work| fits(work, model));
        let work = match parsed {
            Ok(work) => work,
            Err(bad) => return Ok(exchange.refuse(Refused::Bad(bad))),
        };
        self.settle_orders(&mut exchange, model);
        if !exchange.orders.delay.is_zero() {
            tokio::time::sleep(exchange.orders.delay).await;
        }
        let mut exchange = match exchange.fault_before_answer().await? {
            Ok(response) => return Ok(response),
            Err(exchange) => exchange,
        };
        match work {
            Work::Embeddings(inputs) => {
                let billed = billed_embedding(inputs.tokens, &exchange.orders);
                exchange.entry.bill(&billed);
                let reply = embeddings::reply(&inputs, model, &billed, &exchange.orders);
                Ok(exchange.whole(&reply))
            }
            Work::Chat(call) if operation == Operation::CountTokens => {
                Ok(exchange.whole(&json!({"input_tokens": call.input_tokens})))
            }
            Work::Chat(call) => Ok(self.chat(exchange, &call)),
        }
    }

    fn chat(&self, mut exchange: Exchange, call: &Call) -> Response<Played> {
        let account = digest(9, exchange.key.as_bytes());
        let cache = self
            .ledger
            .cache(account, &call.prefixes, call.wire == Wire::Anthropic);
        let answer = compose(call, &exchange.orders, cache);
        exchange.entry.bill(&answer.usage);
        exchange.entry.record.stream = call.stream;
        match (call.stream, call.wire) {
            (false, Wire::OpenAi) => {
                let reply = wire_openai::reply(&answer, call, &exchange.orders, &exchange.id);
                exchange.whole(&reply)
            }
            (false, Wire::Anthropic) => {
                let reply = wire_anthropic::reply(&answer, call, &exchange.orders, &exchange.id);
                exchange.whole(&reply)
            }
            (true, Wire::OpenAi) => {
                let frames = wire_openai::frames(answer, call, &exchange.orders, &exchange.id);
                exchange.stream(frames)
            }
            (true, Wire::Anthropic) => {
                let frames = wire_anthropic::frames(answer, call, &exchange.orders, &exchange.id);
                exchange.stream(frames)
            }
        }
    }

    /// Takes the faults back where `on` names another model or `times` are used up.
    fn settle_orders(&self, exchange: &mut Exchange, model: &Model) {
        let orders = std::mem::take(&mut exchange.orders);
        let elsewhere = orders.on.as_ref().is_some_and(|on| on != model.name);
        let spent = !elsewhere
            && orders
                .times
                .is_some_and(|times| self.ledger.times(&exchange.key, &orders.written) >= times);
        exchange.orders = if elsewhere || spent {
            orders.without_faults()
        } else {
            orders
        };
    }

    fn control(&self, method: &Method, path: &str) -> Response<Played> {
        let body = match (method, path) {
            (&Method::GET, "/sim/stats") => json!(self.ledger.stats()),
            (&Method::GET, "/sim/requests") => json!(self.ledger.records()),
            (&Method::POST, "/sim/reset") => {
                self.ledger.reset();
                json!({"reset": true})
            }
            _ => {
                return plain(
                    404,
                    &json!({"error": "GET /sim/stats, GET /sim/requests, POST /sim/reset"}),
                    None,
                );
            }
        };
        plain(200, &body, None)
    }
}

enum Work {
    Chat(Box<Call>),
    Embeddings(embeddings::Inputs),
}

enum Refused {
    Bad(BadRequest),
    NoSuchModel(String),
}

impl Exchange {
    fn refuse(self, refused: Refused) -> Response<Played> {
        let seq = self.entry.record.seq;
        let (status, body) = match refused {
            Refused::Bad(bad) => (400, refusal::bad_request(self.wire, &bad, &request_id(seq))),
            Refused::NoSuchModel(name) => {
                let message = match self.wire {
                    Wire::OpenAi => format!(
                        "The model `{name}` does not exist or you do not have access to it."
                    ),
                    Wire::Anthropic => format!("model: {name}"),
                };
                (
                    404,
                    refusal::body(self.wire, 404, &message, &request_id(seq)),
                )
            }
        };
        refuse(self.entry, self.wire, status, &body, seq)
    }

    /// Faults that replace the answer as a whole.
    async fn fault_before_answer(self) -> io::Result<Result<Response<Played>, Self>> {
        for fault in self.orders.faults.clone() {
            match fault {
                Fault::Disconnect => return Err(io::Error::other("disconnect as ordered")),
                Fault::Hang => std::future::pending::<()>().await,
                Fault::Status { code, retry_after } => {
                    return Ok(Ok(self.status(code, retry_after)));
                }
                Fault::Redirect => {
                    let mut response = self.plain(302, &json!({"moved": true}));
                    let target =
                        HeaderValue::from_static("http://169.254.169.254/latest/meta-data/");
                    response.headers_mut().insert(header::LOCATION, target);
                    return Ok(Ok(response));
                }
                _ => {}
            }
        }
        Ok(Err(self))
    }

    fn status(self, code: u16, retry_after: Option<u64>) -> Response<Played> {
        let request_id = request_id(self.entry.record.seq);
        let mut message = format!("Simulated error {code}, as ordered.");
        if self.orders.has(&Fault::EchoKey) {
            message.push_str(&format!(" The key was {}.", self.key));
        }
        let body = refusal::body(self.wire, code, &message, &request_id);
        let mut response = self.plain(code, &body);
        let seconds = retry_after.or((code == 429).then_some(1));
        if let Some(seconds) = seconds {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn plain(mut self, status: u16, body: &Value) -> Response<Played> {
        self.entry.record.status = status;
        let mut headers = HeaderMap::new();
        dress(&mut headers, self.wire, self.entry.record.seq);
        self.echo(&mut headers);
        let mut response = plain(status, body, Some(self.entry));
        response.headers_mut().extend(headers);
        response
    }

    fn whole(mut self, reply: &Value) -> Response<Played> {
        let mut body = reply.to_string().into_bytes();
        for fault in &self.orders.faults {
            if let Fault::At { what, .. } = fault {
                body = spoil(body, *what);
            }
        }
        if self.orders.has(&Fault::Gzip) {
            body = gzip::stored(&body);
        }
        let length = body.len();
        self.entry.record.status = 200;
        let script = Script::whole(body, &self.orders);
        let mut response = self.played(script, "application/json");
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }

    fn stream(mut self, frames: impl Iterator<Item = Frame> + Send + 'static) -> Response<Played> {
        self.entry.record.status = 200;
        let mut script = Script::new(frames, self.wire, &self.orders);
        if self.orders.has(&Fault::Gzip) {
            let sent = script.by_ref().filter_map(|step| match step {
                Step::Send(bytes) => Some(bytes),
                _ => None,
            });
            let plain: Vec<u8> = sent.flatten().collect();
            script = Script::whole(gzip::stored(&plain), &Directives::default());
        }
        let mut response = self.played(script, "text/event-stream; charset=utf-8");
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    fn played(self, script: Script, content_type: &'static str) -> Response<Played> {
        let seq = self.entry.record.seq;
        let mut headers = HeaderMap::new();
        dress(&mut headers, self.wire, seq);
        self.echo(&mut headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        for fault in &self.orders.faults {
            match fault {
                Fault::Gzip => {
                    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                }
                Fault::ContentType(kind) => {
                    let kind = HeaderValue::from_str(kind)
                        .unwrap_or(HeaderValue::from_static("text/html"));
                    headers.insert(header::CONTENT_TYPE, kind);
                }
                _ => {}
            }
        }
        let mut response = Response::new(Played::script(script, self.entry, self.reset));
        *response.headers_mut() = headers;
        response
    }

    fn echo(&self, headers: &mut HeaderMap) {
        if self.orders.has(&Fault::EchoKey)
            && let Ok(key) = HeaderValue::from_str(&self.key)
        {
            headers.insert("x-echo-key", key.clone());
            headers.insert(header::AUTHORIZATION, key);
        }
    }
}

fn parse(exchange: &mut Exchange, body: &[u8]) -> Result<(Value, &'static Model), Refused> {
    let bad = |message: String| Refused::Bad(BadRequest::new(message));
    let body: Value = serde_json::from_slice(body).map_err(|error| {
        bad(format!(
            "We could not parse the JSON body of your request: {error}"
        ))
    })?;
    let named = body["model"].as_str().unwrap_or_default();
    exchange.entry.record.model = named.chars().take(256).collect();
    if named.is_empty() {
        let missing = BadRequest::at("model", "you must provide a model parameter");
        return Err(Refused::Bad(missing));
    }
    let name = directive::take(named, &mut exchange.orders).map_err(bad)?;
    match model(&name) {
        Some(model) => Ok((body, model)),
        None => Err(Refused::NoSuchModel(name)),
    }
}

/// Refuses what the model has no room or no gift for.
fn fits(work: Work, model: &Model) -> Result<Work, BadRequest> {
    let (tokens, embedding) = match &work {
        Work::Chat(call) => (call.input_tokens, false),
        Work::Embeddings(inputs) => (inputs.tokens, true),
    };
    if embedding != (model.kind == Kind::Embedding) {
        return Err(BadRequest::at(
            "model",
            format!("{} does not do this operation.", model.name),
        ));
    }
    if tokens > model.max_input {
        return Err(BadRequest {
            message: format!(
                "This model's maximum context length is {} tokens. Your input has {tokens} tokens.",
                model.max_input
            ),
            param: Some("messages".to_owned()),
            code: Some("context_length_exceeded"),
        });
    }
    Ok(work)
}

fn billed_embedding(tokens: u64, orders: &Directives) -> Tokens {
    Tokens {
        input: orders.fixed_usage.map_or(tokens, |(input, _)| input),
        ..Tokens::default()
    }
}

/// The body with one fault in it, where a body that is no stream can have it.
fn spoil(mut body: Vec<u8>, what: directive::Break) -> Vec<u8> {
    match what {
        directive::Break::Malformed => body.truncate(body.len() * 2 / 3),
        directive::Break::BadUtf8 => {
            if let Some(at) = body.windows(9).position(|window| window == b"simulated") {
                body[at] = 0xff;
            }
        }
        directive::Break::LongLine(bytes) => {
            body.pop();
            body.extend_from_slice(format!(",\"padding\":\"{}\"}}", "x".repeat(bytes)).as_bytes());
        }
        _ => {}
    }
    body
}
