//! How news of a run are shown: in words for a person, or as one JSON object a line.

use rpc::run::RunView;
use serde_json::{Value, json};

use crate::chat::follow::{Call, News, Question};
use crate::clean;

/// Characters of a call's arguments in passing.
const ARGUMENTS_SHOWN: usize = 100;
/// Characters of a result in passing.
const RESULT_SHOWN: usize = 160;
/// Changed files that are named.
const FILES_SHOWN: usize = 5;

/// What a person is shown.
pub(crate) enum Shown {
    /// What the model said: the reply.
    Reply(String),
    /// What happens meanwhile, a line each.
    Aside(Vec<String>),
}

/// News in words, clean for a terminal.
pub(crate) fn words(news: &News) -> Shown {
    let lines = match news {
        News::Said(text) => return Shown::Reply(clean::plain(text)),
        News::Began(call) => vec![format!("{}: {}", line(&call.tool), brief(&call.arguments))],
        News::Ended(call, text) => vec![format!("{}: {}", line(&call.tool), outcome(text).1)],
        News::Asks(question) => asked(question),
        News::Decided { call, approved, by } => {
            let word = if *approved { "approved" } else { "denied" };
            vec![format!("{}: {word} by {}", line(&call.tool), line(by))]
        }
        // Whoever sent the message says it, as its outcome.
        News::Over(_) => Vec::new(),
    };
    Shown::Aside(lines)
}

/// What a person decides about: whole, and with nothing hidden.
fn asked(question: &Question) -> Vec<String> {
    let Question {
        call,
        approvers,
        until,
    } = question;
    let until = until.as_deref().unwrap_or("its time is over");
    let roles = line(&approvers.join(" or "));
    vec![
        format!(
            "{} waits for an approval by {roles}, until {}",
            line(&call.tool),
            line(until)
        ),
        format!("  {}", clean::visible(&call.arguments)),
    ]
}

/// How to decide elsewhere.
pub(crate) fn how_to_decide(run: &str, call: &Call) -> Vec<String> {
    let params = clean::visible(&json!({ "id": run, "call": call.id }).to_string());
    let command = |method: &str| format!("  partywall rpc {method} '{params}' --token-file FILE");
    vec![command("runs.approve"), command("runs.deny")]
}

/// Why a run has no answer.
pub(crate) fn why(run: &RunView) -> String {
    let why = run.why.as_deref().map(|why| format!(": {}", line(why)));
    why.unwrap_or_default()
}

/// The arguments of a call in passing: the text of the one that matters, where there is one.
fn brief(arguments: &str) -> String {
    let read: Value = serde_json::from_str(arguments).unwrap_or_default();
    let names = ["command", "code", "path", "text"];
    let known = names.iter().find_map(|name| read[*name].as_str());
    clean::short(&line(known.unwrap_or(arguments)), ARGUMENTS_SHOWN)
}

/// What a result says of a call: a word for programs, and a line for people.
fn outcome(text: &str) -> (&'static str, String) {
    let Ok(Value::Object(result)) = serde_json::from_str::<Value>(text) else {
        return ("text", clean::short(&line(text), RESULT_SHOWN));
    };
    let (word, end) = match (
        &result.get("exit_code"),
        &result.get("signal"),
        &result.get("ended_by_limit"),
    ) {
        (Some(code), ..) if **code == json!(0) => ("ok", "exit 0".to_owned()),
        (Some(code), ..) => ("failed", format!("exit {code}")),
        (_, Some(signal), _) => ("failed", format!("ended by signal {signal}")),
        (.., Some(limit)) => (
            "limited",
            format!(
                "ended by its limit of {}",
                limit.as_str().unwrap_or_default()
            ),
        ),
        _ => return ("text", clean::short(&line(text), RESULT_SHOWN)),
    };
    let mut shown = vec![end];
    shown.extend(
        result
            .get("files")
            .and_then(Value::as_array)
            .map(|files| changed(files)),
    );
    for name in ["stdout", "stderr"] {
        let output = result.get(name).and_then(Value::as_str).map(str::trim);
        shown.extend(output.filter(|text| !text.is_empty()).map(str::to_owned));
    }
    (word, clean::short(&line(&shown.join("; ")), RESULT_SHOWN))
}

fn changed(files: &[Value]) -> String {
    let named = files.iter().take(FILES_SHOWN).map(|file| {
        let text = |name: &str| file[name].as_str().unwrap_or_default();
        format!("{} {}", text("change"), text("path"))
    });
    let named: Vec<_> = named.collect();
    let more = files.len().saturating_sub(FILES_SHOWN);
    match more {
        0 => named.join(", "),
        more => format!("{}, {more} more", named.join(", ")),
    }
}

fn line(text: &str) -> String {
    clean::plain(text)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// News as an object, with the types that `sessions.subscribe` has where it knows the same.
pub(crate) fn object(run: &str, news: &News) -> Value {
    let of = |kind: &str, call: &Call, more: Value| {
        let mut object = json!({ "type": kind, "run": run, "call": call.id, "tool": call.tool });
        if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
            object.extend(more);
        }
        object
    };
    match news {
        News::Said(text) => json!({ "type": "message", "run": run, "text": text }),
        News::Began(call) => of("tool.started", call, json!({ "arguments": call.arguments })),
        News::Ended(call, text) => {
            let more = json!({ "outcome": outcome(text).0, "result": text });
            of("tool.ended", call, more)
        }
        News::Asks(Question {
            call,
            approvers,
            until,
        }) => {
            let more =
                json!({ "arguments": call.arguments, "approvers": approvers, "until": until });
            of("approval.requested", call, more)
        }
        News::Decided { call, approved, by } => of(
            "approval.decided",
            call,
            json!({ "approved": approved, "by": by }),
        ),
        News::Over(view) => json!({
            "type": "run.ended", "run": run, "state": view.state, "why": view.why, "steps": view.steps,
            "cost_usd": view.cost_usd.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &str) -> Call {
        Call {
            id: "call_1".to_owned(),
            tool: "exec".to_owned(),
            arguments: arguments.to_owned(),
        }
    }

    fn aside(news: &News) -> String {
        match words(news) {
            Shown::Aside(lines) => lines.join("\n"),
            Shown::Reply(text) => panic!("a reply: {text}"),
        }
    }

    #[test]
    fn what_a_call_does_is_one_short_line() {
        let began = News::Began(call("{\"command\":\"ls\\n -l\\u001b[2J\"}"));
        assert_eq!(aside(&began), "exec: ls -l");
        for (result, shown) in [
            (
                r#"{"exit_code":0,"stdout":"15 sold\n","stderr":"","files":[{"path":"a.svg","change":"created","bytes":3}]}"#,
                "exec: exit 0; created a.svg; 15 sold",
            ),
            (
                r#"{"exit_code":2,"stdout":"","stderr":"no\u001b]0;x\u0007 file"}"#,
                "exec: exit 2; no file",
            ),
            (
                r#"{"signal":9,"stdout":"","stderr":""}"#,
                "exec: ended by signal 9",
            ),
            (
                r#"{"ended_by_limit":"wall_time","stdout":""}"#,
                "exec: ended by its limit of wall_time",
            ),
            (
                "A person denied this call.",
                "exec: A person denied this call.",
            ),
            ("[1]", "exec: [1]"),
            (r#"{"a":1}"#, r#"exec: {"a":1}"#),
        ] {
            assert_eq!(aside(&News::Ended(call("{}"), result.to_owned())), shown);
        }
        let long = News::Ended(call("{}"), "x".repeat(5_000));
        assert!(aside(&long).chars().count() < 200);
    }

    #[test]
    fn who_decides_sees_all_of_what_is_asked() {
        let long = format!(
            "{{\"command\":\"rm -r a{}b\u{202e}c\nd\"}}",
            " ".repeat(3_000)
        );
        let asks = News::Asks(Question {
            call: call(&long),
            approvers: vec!["admin".to_owned()],
            until: Some("2026-11-23T10:00:00.000Z".to_owned()),
        });
        let text = aside(&asks);
        assert!(
            text.lines().count() == 2 && text.contains("b\\u{202e}c\\u{a}d"),
            "{text}"
        );
        assert!(text.contains(&" ".repeat(3_000)) && text.contains("by admin, until 2026-11-23"));
        let how = how_to_decide("run_1", &call("{}")).join("\n");
        assert!(
            how.contains("runs.approve '{")
                && how.contains(r#""call":"call_1""#)
                && how.contains(r#""id":"run_1""#),
            "{how}"
        );
    }

    #[test]
    fn replies_are_clean_and_objects_complete() {
        let said = News::Said("a\u{1b}[2Jb\n\tc".to_owned());
        assert!(matches!(words(&said), Shown::Reply(text) if text == "ab\n\tc"));
        let ended = News::Ended(call("{}"), r#"{"exit_code":1}"#.to_owned());
        let object = object("run_1", &ended);
        assert_eq!(
            (
                object["type"].as_str(),
                object["outcome"].as_str(),
                object["call"].as_str()
            ),
            (Some("tool.ended"), Some("failed"), Some("call_1"))
        );
    }
}
