//! What a model is sent of a conversation: a view over the stored messages, which themselves never change.

use serde_json::{Value, json};

/// One stored message.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Its run's number.
    pub(crate) run: i64,
    /// Chat completions' JSON.
    pub(crate) body: String,
}

/// What stands before the messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before<'a> {
    /// The agent's instructions.
    pub(crate) instructions: Option<&'a str>,
    /// A summary of the runs up to a number, which are left out.
    pub(crate) summary: Option<(i64, &'a str)>,
}

/// What is said of a call whose run ended before its result came.
const NO_RESULT: &str = "There is no result: the run was ended while this call was under way. Whether it took effect is not known.";

/// The messages for the model, as JSON texts, in at most so many bytes: where there are more, whole runs are left out from the
/// oldest on, and never the newest. Each call of a tool has a result behind it, whatever happened to its run.
pub(crate) fn view(before: &Before<'_>, stored: &[Stored], bytes_max: usize) -> Vec<String> {
    let upto = before.summary.map_or(i64::MIN, |(upto, _)| upto);
    let kept: Vec<&Stored> = stored.iter().filter(|message| message.run > upto).collect();
    let newest = kept.last().map_or(0, |message| message.run);
    let mut bytes: usize = kept.iter().map(|message| message.body.len()).sum();
    let mut from = i64::MIN;
    for message in &kept {
        if bytes <= bytes_max || message.run == newest {
            break;
        }
        // A run goes as a whole: its later messages do not stand without its first.
        from = message.run + 1;
        bytes -= message.body.len();
    }
    let shown: Vec<&Stored> = kept
        .into_iter()
        .filter(|message| message.run >= from)
        .collect();
    let mut out = Vec::with_capacity(shown.len() + 2);
    if let Some(text) = before.instructions {
        out.push(json!({ "role": "system", "content": text }).to_string());
    }
    if let Some((_, text)) = before.summary {
        // It repeats what people and tools said: it has no more authority than they.
        let text = format!("[What was said before, summed up by the assistant]\n{text}");
        out.push(json!({ "role": "user", "content": text }).to_string());
    }
    let mut shown = shown;
    answer_before_what_it_had_not_seen(&mut shown, newest);
    let mut calls = Calls::default();
    for message in shown {
        calls.next(message, &mut out);
    }
    calls.settle(&mut out);
    out
}

/// A run that was told something while its model answered has that answer behind it: it goes before, so that the model has something to
/// answer still.
fn answer_before_what_it_had_not_seen(shown: &mut [&Stored], newest: i64) {
    let role = |message: &Stored| {
        let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
        let calls = body["tool_calls"].is_array();
        let said = body["role"].as_str().unwrap_or_default().to_owned();
        (said, calls)
    };
    let first = shown.partition_point(|message| message.run < newest);
    let Some(own) = shown.get_mut(first..) else {
        return;
    };
    let Some((last, before)) = own.split_last() else {
        return;
    };
    if role(last) != ("assistant".to_owned(), false) {
        return;
    }
    let users = before
        .iter()
        .rev()
        .take_while(|message| role(message).0 == "user");
    // The first message of a run is what the answer is to.
    let place = (before.len() - users.count()).max(1);
    if let Some(rest) = own.get_mut(place..) {
        rest.rotate_right(1);
    }
}

/// Calls whose results have not come yet, and what was said meanwhile.
#[derive(Default)]
struct Calls {
    run: i64,
    waiting: Vec<String>,
    said: Vec<String>,
}

impl Calls {
    fn next(&mut self, message: &Stored, out: &mut Vec<String>) {
        if message.run != self.run {
            self.settle(out);
            self.run = message.run;
        }
        let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
        if body["role"] == "tool" {
            let id = body["tool_call_id"].as_str().unwrap_or_default();
            // A result without its call is refused by every provider.
            let Some(place) = self.waiting.iter().position(|call| call == id) else {
                return;
            };
            self.waiting.remove(place);
            out.push(message.body.clone());
            if self.waiting.is_empty() {
                out.append(&mut self.said);
            }
            return;
        }
        if !self.waiting.is_empty() {
            // What is said while calls are under way comes after their results.
            self.said.push(message.body.clone());
            return;
        }
        self.waiting.extend(called(&body));
        out.push(message.body.clone());
    }

    fn settle(&mut self, out: &mut Vec<String>) {
        let lost = self.waiting.drain(..).map(|id| result(&id, NO_RESULT));
        out.extend(lost);
        out.append(&mut self.said);
    }
}

fn called(body: &Value) -> impl Iterator<Item = String> + '_ {
    let calls = body["tool_calls"].as_array().into_iter().flatten();
    calls.filter_map(|call| call["id"].as_str().map(str::to_owned))
}

/// The message that carries a tool's result.
pub(crate) fn result(call: &str, content: &str) -> String {
    json!({ "role": "tool", "tool_call_id": call, "content": content }).to_string()
}

/// The text of an assistant's message.
pub(crate) fn text_of(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    match &body["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(run: i64, body: Value) -> Stored {
        let body = body.to_string();
        Stored { run, body }
    }

    fn user(run: i64, text: &str) -> Stored {
        at(run, json!({ "role": "user", "content": text }))
    }

    fn calls(run: i64, ids: &[&str]) -> Stored {
        let call = |id: &&str| json!({ "id": id, "type": "function", "function": { "name": "exec", "arguments": "{}" } });
        let calls: Vec<_> = ids.iter().map(call).collect();
        at(
            run,
            json!({ "role": "assistant", "content": null, "tool_calls": calls }),
        )
    }

    fn told(run: i64, id: &str) -> Stored {
        let body = result(id, "done");
        Stored { run, body }
    }

    fn roles(view: &[String]) -> Vec<String> {
        let parse = |text: &String| serde_json::from_str::<Value>(text).unwrap();
        view.iter()
            .map(|text| parse(text)["role"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn every_call_has_a_result_whatever_became_of_its_run() {
        let stored = [
            user(1, "a"),
            calls(1, &["x", "y"]),
            told(1, "y"),
            user(2, "b"),
            told(2, "stray"),
        ];
        let view = view(&Before::default(), &stored, usize::MAX);
        assert_eq!(roles(&view), ["user", "assistant", "tool", "tool", "user"]);
        assert!(view[3].contains("no result") && view[3].contains("\"x\""));
    }

    #[test]
    fn what_is_said_while_a_tool_works_comes_after_its_result() {
        let stored = [
            user(1, "a"),
            calls(1, &["x"]),
            user(1, "also b"),
            told(1, "x"),
        ];
        let view = view(&Before::default(), &stored, usize::MAX);
        assert_eq!(roles(&view), ["user", "assistant", "tool", "user"]);
        assert!(view[2].contains("done") && view[3].contains("also b"));
    }

    #[test]
    fn an_answer_stands_before_what_was_said_while_it_was_made() {
        let answer = at(1, json!({ "role": "assistant", "content": "first" }));
        let stored = [user(1, "a"), user(1, "also b"), answer];
        let view = view(&Before::default(), &stored, usize::MAX);
        assert_eq!(roles(&view), ["user", "assistant", "user"]);
        assert!(view[2].contains("also b"));
        let one = [
            user(1, "a"),
            at(1, json!({ "role": "assistant", "content": "x" })),
        ];
        assert_eq!(
            roles(&super::view(&Before::default(), &one, usize::MAX)),
            ["user", "assistant"]
        );
    }

    #[test]
    fn a_summary_stands_in_place_of_its_runs() {
        let stored = [user(1, "old"), user(2, "old"), user(3, "new")];
        let before = Before {
            instructions: Some("be brief"),
            summary: Some((2, "they spoke")),
        };
        let view = view(&before, &stored, usize::MAX);
        assert_eq!(roles(&view), ["system", "user", "user"]);
        assert!(view[1].contains("they spoke") && view[2].contains("new"));
    }

    #[test]
    fn what_does_not_fit_is_left_out_by_whole_runs_and_never_the_newest() {
        let stored = [
            user(1, &"a".repeat(500)),
            calls(1, &["x"]),
            told(1, "x"),
            user(2, "b"),
            user(3, &"c".repeat(900)),
        ];
        let view = view(&Before::default(), &stored, 1_200);
        assert_eq!(roles(&view), ["user", "user"]);
        let tiny = super::view(&Before::default(), &stored, 1);
        assert_eq!(roles(&tiny), ["user"]);
        assert!(tiny[0].contains("ccc"));
    }
}
