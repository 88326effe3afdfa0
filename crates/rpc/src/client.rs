//! The client's side of the registry: a typed call becomes a message, an answer becomes the type that belongs to it. No I/O:
//! whoever carries the bytes is the caller's affair.

use serde::{Deserialize, Serialize};

use crate::jsonrpc::ErrorObject;
use crate::method::Method;

/// Why a client has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoAnswer {
    /// The gateway refused the call.
    Refused(Box<ErrorObject>),
    /// What came is no answer to this call.
    NotUnderstood(String),
}

#[derive(Serialize)]
struct Ask<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: P,
}

#[derive(Deserialize)]
#[serde(bound = "A: Deserialize<'de>")]
struct Told<A> {
    jsonrpc: String,
    id: Option<u64>,
    result: Option<A>,
    error: Option<ErrorObject>,
}

/// The message of a call of method `M`.
///
/// # Errors
/// When the params cannot be written.
pub fn message<M: Method>(id: u64, params: &M::Params) -> Result<String, NoAnswer> {
    written(id, M::ROW.name, params)
}

/// The message of a call whose method and params are only known as text.
///
/// # Errors
/// When the params cannot be written.
pub fn written(id: u64, method: &str, params: &impl Serialize) -> Result<String, NoAnswer> {
    let ask = Ask {
        jsonrpc: "2.0",
        id,
        method,
        params,
    };
    serde_json::to_string(&ask).map_err(|error| NoAnswer::NotUnderstood(error.to_string()))
}

/// The answer to the call of method `M` with that id.
///
/// # Errors
/// [`NoAnswer::Refused`] with the gateway's reason, [`NoAnswer::NotUnderstood`] for anything that is no answer to it.
pub fn answer<M: Method>(id: u64, text: &str) -> Result<M::Answer, NoAnswer> {
    read(id, text)
}

/// The answer to the call with that id, as any type that it fits.
///
/// # Errors
/// As [`answer`].
pub fn read<A: for<'de> Deserialize<'de>>(id: u64, text: &str) -> Result<A, NoAnswer> {
    let odd = |what: &str| NoAnswer::NotUnderstood(what.to_owned());
    let told: Told<A> = serde_json::from_str(text).map_err(|error| odd(&error.to_string()))?;
    if told.jsonrpc != "2.0" {
        return Err(odd("the answer is not JSON-RPC 2.0"));
    }
    match (told.result, told.error) {
        (None, Some(error)) => Err(NoAnswer::Refused(Box::new(error))),
        (Some(result), None) if told.id == Some(id) => Ok(result),
        (Some(_), None) => Err(odd("the answer is to another call")),
        _ => Err(odd("the answer has neither result nor error, or both")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonrpc::{self, Failure, Message};
    use crate::method::{AuditSubscribe, Health, METHODS};
    use crate::params::{Nothing, Subscribe, Subscribed};

    #[test]
    fn what_the_client_writes_the_gateway_reads_and_back() {
        let text = message::<AuditSubscribe>(7, &Subscribe { from: Some(3) }).unwrap();
        let Ok(Message::One(Ok(request))) = Message::read(&text) else {
            panic!("not a request: {text}");
        };
        assert_eq!(request.method, "audit.subscribe");
        assert_eq!(request.params.unwrap().get(), "{\"from\":3}");
        let result = serde_json::value::to_raw_value(&Subscribed {
            subscription: "s".to_owned(),
            next: 3,
        })
        .unwrap();
        let told = jsonrpc::answer(request.id.unwrap(), &result);
        assert_eq!(answer::<AuditSubscribe>(7, &told).unwrap().next, 3);
        assert!(matches!(
            answer::<AuditSubscribe>(8, &told),
            Err(NoAnswer::NotUnderstood(_))
        ));
        let refused = jsonrpc::refusal(request.id, &Failure::not_found(), "req_1");
        let Err(NoAnswer::Refused(error)) = answer::<AuditSubscribe>(7, &refused) else {
            panic!("not refused: {refused}");
        };
        assert_eq!(
            (error.code, error.data.code.as_str()),
            (-32_004, "not_found")
        );
    }

    #[test]
    fn answers_that_are_none_are_not_understood() {
        assert!(
            message::<Health>(1, &Nothing {})
                .unwrap()
                .contains("\"health\"")
        );
        for text in [
            "",
            "{}",
            "{\"jsonrpc\":\"2.0\",\"id\":1}",
            "[]",
            "{\"jsonrpc\":\"1.0\",\"id\":1,\"result\":{}}",
        ] {
            assert!(
                matches!(
                    read::<serde_json::Value>(1, text),
                    Err(NoAnswer::NotUnderstood(_))
                ),
                "{text}"
            );
        }
        assert!(METHODS.len() > 10);
    }
}
