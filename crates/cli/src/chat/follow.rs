//! What is new of a run: found by looking at it again and again. No I/O.

use std::collections::VecDeque;

use rpc::run::RunView;
use rpc::session::Message;
use serde_json::Value;

/// One thing that happened in a run.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// The model said something.
    Said(String),
    /// A call of a tool took effect.
    Began(Call),
    /// Its result is there: the text that the model gets.
    Ended(Call, String),
    /// It waits for an approval.
    Asks(Question),
    /// Somebody approved or denied it.
    Decided {
        /// The call.
        call: Call,
        /// Approved.
        approved: bool,
        /// A role and the name of a credential.
        by: String,
    },
    /// The run has ended.
    Over(Box<RunView>),
}

/// A call of a tool, as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) tool: String,
    pub(crate) arguments: String,
}

/// A call that somebody has to approve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    pub(crate) call: Call,
    pub(crate) approvers: Vec<String>,
    pub(crate) until: Option<String>,
}

/// How much has been told of a call.
#[derive(Clone, Copy, Default)]
struct Told {
    asked: bool,
    decided: bool,
    began: bool,
    ended: bool,
}

/// What has been told of one run.
pub(crate) struct Follow {
    run: String,
    calls: Vec<Told>,
    /// Messages that speak of a call which the run does not show yet.
    held: VecDeque<Value>,
    /// Results that have come, which is the number of the call that the next one belongs to: calls are carried out in order.
    results: usize,
}

impl Follow {
    /// Nothing has been told yet.
    pub(crate) fn new(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            calls: Vec::new(),
            held: VecDeque::new(),
            results: 0,
        }
    }

    /// What is new, in the order in which it happened. `messages` are those since the last look, read after `run` was.
    pub(crate) fn look(&mut self, run: &RunView, messages: &[Message]) -> Vec<News> {
        let own = messages.iter().filter(|message| message.run == self.run);
        let own = own.filter_map(|message| serde_json::from_str(message.message.get()).ok());
        self.held.extend(own);
        self.calls
            .resize(run.calls.len().max(self.calls.len()), Told::default());
        let mut news = Vec::new();
        while let Some(message) = self.held.pop_front() {
            match message["role"].as_str() {
                Some("tool") if !self.result(run, message["content"].as_str(), &mut news) => {
                    self.held.push_front(message);
                    break;
                }
                Some("assistant") => news.extend(said(&message).map(News::Said)),
                // What the user said is known to whoever sent it.
                _ => {}
            }
        }
        for place in 0..run.calls.len() {
            self.steps(run, place, &mut news);
        }
        if run.ended_at.is_some() {
            news.push(News::Over(Box::new(run.clone())));
        }
        news
    }

    /// Tells the result of the call whose turn it is. `false` where that call is not shown as ended yet.
    fn result(&mut self, run: &RunView, text: Option<&str>, news: &mut Vec<News>) -> bool {
        let place = self.results;
        if run
            .calls
            .get(place)
            .is_none_or(|call| call.state != "ended")
        {
            return false;
        }
        self.steps(run, place, news);
        if let (Some(view), Some(told)) = (run.calls.get(place), self.calls.get_mut(place)) {
            told.ended = true;
            self.results += 1;
            news.push(News::Ended(call(view), text.unwrap_or_default().to_owned()));
        }
        true
    }

    /// What came before a call's result.
    fn steps(&mut self, run: &RunView, place: usize, news: &mut Vec<News>) {
        let (Some(view), Some(told)) = (run.calls.get(place), self.calls.get_mut(place)) else {
            return;
        };
        if told.ended {
            return;
        }
        let waits = view.state == "waiting";
        if waits && !told.asked {
            told.asked = true;
            told.decided = false;
            news.push(News::Asks(Question {
                call: call(view),
                approvers: view.approvers.clone(),
                until: view.until.map(|until| until.to_string()),
            }));
        }
        if let Some(by) = view.decided_by.as_ref().filter(|_| !waits && !told.decided) {
            told.decided = true;
            told.asked = false;
            news.push(News::Decided {
                call: call(view),
                approved: view.state == "approved" || view.begun_at.is_some(),
                by: by.clone(),
            });
        }
        if view.begun_at.is_some() && !told.began {
            told.began = true;
            news.push(News::Began(call(view)));
        }
    }
}

fn call(view: &rpc::run::CallView) -> Call {
    Call {
        id: view.id.clone(),
        tool: view.tool.clone(),
        arguments: view.arguments.clone(),
    }
}

/// The text of a model's message, where it has one.
fn said(message: &Value) -> Option<String> {
    let text = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect(),
        _ => String::new(),
    };
    Some(text).filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(state: &str, calls: Value) -> RunView {
        let ended = matches!(state, "finished" | "failed").then_some("2026-11-23T10:00:09.000Z");
        serde_json::from_value(json!({
            "id": "run_1", "session": "ses_1", "agent": null, "agent_version": null, "token": "default", "state": state,
            "why": null, "steps": 1, "cost_usd": "0.1", "created_at": "2026-11-23T10:00:00.000Z", "started_at": null,
            "ended_at": ended, "calls": calls,
        }))
        .unwrap()
    }

    fn called(id: &str, state: &str, by: Option<&str>) -> Value {
        let begun = matches!(state, "begun" | "ended").then_some("2026-11-23T10:00:01.000Z");
        json!({
            "id": id, "tool": "python", "arguments": "{}", "state": state, "approvers": ["admin"], "decided_by": by,
            "until": "2026-11-23T10:10:00.000Z", "begun_at": begun, "ended_at": null,
        })
    }

    fn message(run: &str, body: Value) -> Message {
        let at = "2026-11-23T10:00:00.000Z";
        serde_json::from_value(json!({ "seq": 1, "run": run, "at": at, "message": body })).unwrap()
    }

    fn words(news: &[News]) -> Vec<String> {
        let word = |news: &News| match news {
            News::Said(text) => format!("said {text}"),
            News::Began(call) => format!("began {}", call.id),
            News::Ended(call, text) => format!("ended {} {text}", call.id),
            News::Asks(question) => format!("asks {}", question.call.id),
            News::Decided { call, approved, by } => format!("decided {} {approved} {by}", call.id),
            News::Over(run) => format!("over {}", run.state),
        };
        news.iter().map(word).collect()
    }

    #[test]
    fn a_run_is_told_once_and_in_order() {
        let mut follow = Follow::new("run_1");
        let sent = message("run_1", json!({ "role": "user", "content": "hi" }));
        let other = message("run_0", json!({ "role": "assistant", "content": "old" }));
        assert!(words(&follow.look(&run("queued", json!([])), &[other, sent])).is_empty());
        let thinks = message(
            "run_1",
            json!({ "role": "assistant", "content": "I look." }),
        );
        let one = run(
            "running",
            json!([called("a", "begun", None), called("b", "proposed", None)]),
        );
        assert_eq!(
            words(&follow.look(&one, &[thinks])),
            ["said I look.", "began a"]
        );
        assert!(follow.look(&one, &[]).is_empty());
        // A result that is newer than the look at the run waits for the next.
        let result = message("run_1", json!({ "role": "tool", "content": "15" }));
        assert!(follow.look(&one, &[result]).is_empty());
        let end = run(
            "finished",
            json!([called("a", "ended", None), called("b", "ended", None)]),
        );
        let last = [
            message("run_1", json!({ "role": "tool", "content": "16" })),
            message("run_1", json!({ "role": "assistant", "content": "done" })),
        ];
        let told = [
            "ended a 15",
            "began b",
            "ended b 16",
            "said done",
            "over finished",
        ];
        assert_eq!(words(&follow.look(&end, &last)), told);
    }

    #[test]
    fn approvals_are_asked_for_once_each_time() {
        let mut follow = Follow::new("run_1");
        let waiting = run("waiting", json!([called("a", "waiting", None)]));
        assert_eq!(words(&follow.look(&waiting, &[])), ["asks a"]);
        assert!(follow.look(&waiting, &[]).is_empty());
        let going = run(
            "running",
            json!([called("a", "begun", Some("admin:default"))]),
        );
        assert_eq!(
            words(&follow.look(&going, &[])),
            ["decided a true admin:default", "began a"]
        );
        let denied = run(
            "running",
            json!([called("a", "denied", Some("admin:default"))]),
        );
        let mut follow = Follow::new("run_1");
        assert_eq!(
            words(&follow.look(&denied, &[])),
            ["decided a false admin:default"]
        );
        // Rules that changed meanwhile may ask again.
        assert_eq!(words(&follow.look(&waiting, &[])), ["asks a"]);
    }
}
