//! Scripts: rounds of tool calls that the caller ordered ahead with `[[sim:script=...]]`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use crate::answer::ToolCall;
use crate::directive::{Directives, split, take};

/// The rounds of one script, each the calls of one assistant message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rounds(Vec<Vec<ToolCall>>);

/// How far a conversation has come since the user message that carries its script. A script in the
/// model name runs anew from each user message.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Text of the last user message that carries a script.
    carrier: Option<String>,
    /// Whether the user said something else after that.
    later: bool,
    rounds: usize,
}

/// One call as the order writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    arguments: Option<Value>,
}

impl Rounds {
    /// Reads base64url without padding of a JSON list of rounds.
    pub(crate) fn decode(order: &str) -> Option<Self> {
        let json = URL_SAFE_NO_PAD.decode(order).ok()?;
        let rounds: Vec<Vec<Written>> = serde_json::from_slice(&json).ok()?;
        let calls = |round: Vec<Written>| round.into_iter().map(ToolCall::from).collect();
        Some(Self(rounds.into_iter().map(calls).collect()))
    }
}

impl Progress {
    /// Notes a text message of the user.
    pub(crate) fn said(&mut self, text: &str) {
        if carries(text) {
            self.carrier = Some(text.to_owned());
            self.later = false;
            self.rounds = 0;
        } else if self.carrier.is_some() {
            self.later = true;
        } else {
            self.rounds = 0;
        }
    }

    /// Notes an assistant message that called tools.
    pub(crate) fn called(&mut self) {
        self.rounds += 1;
    }

    /// The calls that are due, none for a text answer. `None` leaves the answer to the model: no
    /// script was ordered, or it is over and the user has said something else. `orders` are those
    /// of the last user message.
    ///
    /// # Errors
    /// A sentence that names the order which is not known or not well formed.
    pub(crate) fn due(self, orders: &Directives) -> Result<Option<Vec<ToolCall>>, String> {
        let script = match self.carrier.filter(|_| self.later) {
            Some(text) => {
                let mut earlier = Directives::default();
                take(&text, &mut earlier)?;
                earlier.script
            }
            None => orders.script.clone(),
        };
        let Some(Rounds(rounds)) = script else {
            return Ok(None);
        };
        match rounds.into_iter().nth(self.rounds) {
            Some(calls) => Ok(Some(calls)),
            None if self.later => Ok(None),
            None => Ok(Some(Vec::new())),
        }
    }
}

impl From<Written> for ToolCall {
    fn from(written: Written) -> Self {
        Self {
            name: written.name,
            arguments: match written.arguments {
                None => "{}".to_owned(),
                Some(Value::String(verbatim)) => verbatim,
                Some(value) => value.to_string(),
            },
        }
    }
}

/// Whether a text has a script among its orders.
pub(crate) fn carries(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, orders, after)) = split(rest) {
        if orders
            .split_whitespace()
            .any(|order| order.starts_with("script="))
        {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(progress: Progress, orders: &Directives) -> Option<Vec<String>> {
        let calls = progress.due(orders).unwrap()?;
        Some(calls.into_iter().map(|call| call.arguments).collect())
    }

    fn order(json: &str) -> String {
        format!("go [[sim:script={}]]", URL_SAFE_NO_PAD.encode(json))
    }

    #[test]
    fn arguments_are_json_or_verbatim_text() {
        let text = order(
            r#"[[{"name":"a","arguments":{"x":[1]}},{"name":"b","arguments":"{\"x"},{"name":"c"}]]"#,
        );
        let mut orders = Directives::default();
        assert_eq!(take(&text, &mut orders).as_deref(), Ok("go"));
        assert!(carries(&text));
        let want = [r#"{"x":[1]}"#, r#"{"x"#, "{}"].map(str::to_owned);
        assert_eq!(due(Progress::default(), &orders), Some(want.to_vec()));
    }

    #[test]
    fn what_is_no_script_is_refused() {
        for bad in [
            "{}",
            "[[{}]]",
            "[{\"name\":\"a\"}]",
            "[[{\"name\":\"a\",\"x\":1}]]",
            "[",
        ] {
            let refused = take(&order(bad), &mut Directives::default());
            assert!(
                refused.is_err_and(|message| message.contains("script=")),
                "{bad}"
            );
        }
        for bad in ["[[sim:script=W10=]]", "[[sim:script=+/]]"] {
            assert!(take(bad, &mut Directives::default()).is_err(), "{bad}");
        }
        assert!(!carries("script= [[sim:delay=1ms]] script= [[sim:script="));
    }

    #[test]
    fn a_script_goes_on_past_other_words_until_it_is_over() {
        let text = order(r#"[[{"name":"a","arguments":"0"}],[{"name":"a","arguments":"1"}]]"#);
        let after = |later: &str, rounds: usize| {
            let mut progress = Progress::default();
            for message in ["before", &text, later] {
                progress.called();
                progress.said(message);
            }
            (0..rounds).for_each(|_| progress.called());
            let mut orders = Directives::default();
            take(later, &mut orders).unwrap();
            due(progress, &orders)
        };
        let called = |arguments: &str| Some(vec![arguments.to_owned()]);
        assert_eq!(after(&text, 0), called("0"));
        assert_eq!(after(&text, 1), called("1"));
        assert_eq!(after(&text, 2), Some(Vec::new()));
        assert_eq!(after(&text, 3), Some(Vec::new()));
        assert_eq!(
            after("go on", 0),
            called("1"),
            "one round came before these words"
        );
        assert_eq!(after("go on", 1), None);
        assert_eq!(after(&order("[]"), 0), Some(Vec::new()));
    }
}
