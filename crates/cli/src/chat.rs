//! `partywall chat`: a conversation from a terminal. Each line is sent with a key of its own, so that it is said once however often the
//! connection breaks; what the run that answers does is looked for until it has ended.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use rpc::method::{
    ChatHistory, RunsApprove, RunsCancel, RunsDeny, RunsGet, SessionsCreate, SessionsGet,
    SessionsSend, TenantGet,
};
use rpc::params::Nothing;
use rpc::run::{NamedCall, NamedRun, RunView};
use rpc::session::{
    HistoryWish, Message, NamedSession, NewSession, SendMessage, SentMessage, SessionView,
};
use rpc::{Fault, FaultCode};
use serde_json::json;

use crate::backend::Place;
use crate::flags::Chat;
use crate::print::{self, Doing, Out};
use crate::wire::{self, Unanswered, Wire};
use crate::{clean, files};
use ears::{Ears, Heard};
use follow::{Call, Follow, News};
use patience::Patience;
use show::Shown;

mod ears;
mod follow;
mod patience;
mod show;

/// Messages of one page.
const PAGE: u64 = 50;
/// How long a run works before that is shown.
const QUIET: Duration = Duration::from_secs(1);
/// The model where neither an agent nor a model is named: the tenant's own.
const OWN_MODEL: &str = "default";

/// Talks until there is nothing more to say.
pub(crate) fn run(place: &Place, asked: &Chat, json: bool) -> Result<(), Fault> {
    let token = files::token(asked.token_file.as_deref(), asked.message.is_some())?;
    let at = match &asked.url {
        Some(url) => wire::address(url)?,
        None => wire::listening(place)?,
    };
    let wire = Wire::new(at, token);
    let tenant = wire.ask::<TenantGet>(&Nothing {}).map_err(|no| no.fault)?;
    if tenant.id != asked.tenant {
        let text = format!("the token is of {}, not of {}", tenant.id, asked.tenant);
        return Err(Fault::new(FaultCode::Refused, text));
    }
    let session = session(&wire, asked).map_err(|no| no.fault)?;
    let mut talk = Talk::new(wire, session.id.clone(), tenant.caller.role.as_str(), json)?;
    talk.greet(&session)?;
    match &asked.message {
        Some(message) => {
            let run = talk.say(message)?;
            (run.state == "finished")
                .then_some(())
                .ok_or_else(|| no_answer(&run))
        }
        None => talk.each_line(),
    }
}

fn session(wire: &Wire, asked: &Chat) -> Result<SessionView, Unanswered> {
    if let Some(id) = &asked.session {
        return wire.ask::<SessionsGet>(&NamedSession { id: id.clone() });
    }
    let model = match (&asked.agent, &asked.model) {
        (None, None) => Some(OWN_MODEL.to_owned()),
        (_, model) => model.clone(),
    };
    wire.ask::<SessionsCreate>(&NewSession {
        agent: asked.agent.clone(),
        model,
        title: None,
    })
}

fn no_answer(run: &RunView) -> Fault {
    let text = format!(
        "there is no answer: the run is {}{}",
        run.state,
        show::why(run)
    );
    Fault::new(FaultCode::Refused, text)
}

/// One conversation from this terminal.
struct Talk {
    wire: Wire,
    session: String,
    /// Of whoever talks: it says which calls may be decided here.
    role: &'static str,
    json: bool,
    ears: Ears,
    out: Out,
    doing: Doing,
    /// Whether somebody is there to be asked.
    asks: bool,
    /// Ctrl-C ended it.
    interrupted: bool,
    /// Lines that were typed while something was asked.
    pending: VecDeque<String>,
    /// The last message that was read.
    after: u64,
    /// Messages of one page: fewer where they are long.
    page: u64,
    /// What keys begin with, and how many there were.
    keys: (u64, u64),
}

impl Talk {
    fn new(wire: Wire, session: String, role: &'static str, json: bool) -> Result<Self, Fault> {
        let ears = Ears::open()?;
        Ok(Self {
            wire,
            session,
            role,
            json,
            asks: !json && std::io::stdin().is_terminal(),
            ears,
            out: Out::new(),
            doing: Doing::default(),
            interrupted: false,
            pending: VecDeque::new(),
            after: 0,
            page: PAGE,
            // The standard library seeds it from the system's randomness: no two conversations have the same.
            keys: (std::hash::RandomState::new().build_hasher().finish(), 0),
        })
    }

    fn greet(&mut self, session: &SessionView) -> Result<(), Fault> {
        if self.json {
            let told = json!({ "type": "session", "session": session.id, "agent": session.agent, "model": session.model });
            return self.out.json_line(&told);
        }
        print::note(&format!(
            "session {}; --session goes on with it",
            session.id
        ));
        Ok(())
    }

    /// Sends each line until there are no more.
    fn each_line(&mut self) -> Result<(), Fault> {
        let mut unanswered = false;
        while let Some(line) = self.next_line()? {
            if line.trim().is_empty() {
                continue;
            }
            let fault = match self.say(&line) {
                Ok(run) if run.state == "finished" => None,
                Ok(run) => Some(no_answer(&run)),
                Err(fault) if self.interrupted || fault.code == FaultCode::Unreachable => {
                    return Err(fault);
                }
                Err(fault) => Some(fault),
            };
            if let Some(fault) = fault {
                print::error(&fault.message);
                unanswered = true;
            }
            if self.out.gone() {
                break;
            }
        }
        // A person has seen it; a program that sent the lines sees the exit code.
        if unanswered && !self.ears.is_terminal() {
            let text = "not every line was answered";
            return Err(Fault::new(FaultCode::Refused, text));
        }
        Ok(())
    }

    fn next_line(&mut self) -> Result<Option<String>, Fault> {
        if let Some(line) = self.pending.pop_front() {
            return Ok(Some(line));
        }
        if self.asks {
            print::prompt("> ");
        }
        let heard = self.ears.listen(None)?;
        if self.asks && !matches!(heard, Heard::Line(_)) {
            print::aside("");
        }
        match heard {
            Heard::Line(line) => Ok(Some(line)),
            _ => Ok(None),
        }
    }

    /// Sends a message and shows its run until that has ended.
    fn say(&mut self, message: &str) -> Result<RunView, Fault> {
        let sent = self.send(message)?;
        if self.json {
            let told = json!({ "type": "run.queued", "run": sent.run, "session": self.session });
            self.out.json_line(&told)?;
        }
        let ended = self.follow(&sent.run);
        self.doing.clear();
        ended
    }

    fn send(&mut self, message: &str) -> Result<SentMessage, Fault> {
        self.keys.1 += 1;
        let wish = SendMessage {
            id: self.session.clone(),
            message: message.to_owned(),
            idempotency_key: Some(format!("chat-{:016x}-{}", self.keys.0, self.keys.1)),
            steer: None,
        };
        let mut patience = Patience::default();
        loop {
            let no = match self.wire.ask::<SessionsSend>(&wish) {
                Ok(sent) => return Ok(sent),
                Err(no) => no,
            };
            let pause = patience.after(no)?;
            if self.ears.pause(pause)? {
                return Err(self.interrupt("whether the message was taken in is not known"));
            }
        }
    }

    fn follow(&mut self, run: &str) -> Result<RunView, Fault> {
        let (mut follow, mut patience) = (Follow::new(run), Patience::default());
        let (mut asking, mut cancelled) = (None, false);
        let began = Instant::now();
        loop {
            let mut pause = match self.look(run) {
                Ok((view, messages)) => {
                    let news = follow.look(&view, &messages);
                    patience.answered(!news.is_empty());
                    for one in &news {
                        self.show(run, one, &mut asking)?;
                        if let News::Over(view) = one {
                            return Ok((**view).clone());
                        }
                    }
                    if asking.is_none() && began.elapsed() > QUIET && !self.json {
                        self.doing.show(&doing(&view, began.elapsed()));
                    }
                    patience.pause()
                }
                Err(no) if self.smaller_page(&no) => Duration::ZERO,
                Err(no) => patience.after(no)?,
            };
            if asking.is_some() {
                pause = pause.max(patience::PAUSE_MAX);
            }
            let heard = match asking {
                Some(_) => self.ears.listen(Some(pause))?,
                None if self.ears.pause(pause)? => Heard::Interrupt,
                None => Heard::Nothing,
            };
            match heard {
                Heard::Nothing => {}
                Heard::Interrupt if cancelled => {
                    return Err(self.interrupt(&format!("{run} may go on without this program")));
                }
                Heard::Interrupt => {
                    (asking, cancelled) = (None, true);
                    self.cancel(run);
                }
                Heard::Line(line) => self.decide(run, asking.take(), &line),
                Heard::End => {
                    self.asks = false;
                    print::aside("");
                    self.tell_how(run, asking.take());
                }
            }
        }
    }

    /// The run as it is, and what was said since the last look.
    fn look(&mut self, run: &str) -> Result<(RunView, Vec<Message>), Unanswered> {
        let named = NamedRun { id: run.to_owned() };
        let view = self.wire.ask::<RunsGet>(&named)?;
        let (mut after, mut messages) = (self.after, Vec::new());
        loop {
            let wish = HistoryWish {
                id: self.session.clone(),
                after: Some(after),
                limit: Some(self.page),
            };
            let found = self.wire.ask::<ChatHistory>(&wish)?.messages;
            let count = u64::try_from(found.len()).unwrap_or(u64::MAX);
            after = found.last().map_or(after, |message| message.seq);
            messages.extend(found.into_iter().filter(|message| message.run == run));
            if count < self.page {
                break;
            }
        }
        self.after = after;
        Ok((view, messages))
    }

    /// Whether messages are too long for a page of so many, and fewer may be asked for.
    fn smaller_page(&mut self, no: &Unanswered) -> bool {
        let smaller = no.code == "answer_too_large" && self.page > 1;
        if smaller {
            self.page /= 2;
        }
        smaller
    }

    fn show(&mut self, run: &str, news: &News, asking: &mut Option<Call>) -> Result<(), Fault> {
        self.doing.clear();
        if self.json {
            return self.out.json_line(&show::object(run, news));
        }
        if asking.take().is_some() {
            // The question is overtaken: what is typed now answers nothing.
            print::aside("");
        }
        match show::words(news) {
            Shown::Reply(text) => {
                self.out.text(&text)?;
                self.out.text("\n")?;
                self.out.flush()?;
            }
            Shown::Aside(lines) => lines.iter().for_each(|line| print::aside(line)),
        }
        if let News::Asks(question) = news {
            let mine = question.approvers.iter().any(|role| role == self.role);
            let call = Some(question.call.clone());
            match mine {
                true if self.asks => {
                    self.pending.extend(self.ears.typed_before()?);
                    print::prompt("approve? [y/N] ");
                    *asking = call;
                }
                true => self.tell_how(run, call),
                false => {}
            }
        }
        Ok(())
    }

    fn tell_how(&self, run: &str, call: Option<Call>) {
        if let Some(call) = call.filter(|_| !self.json) {
            print::aside("It waits until somebody decides:");
            let lines = show::how_to_decide(run, &call);
            lines.iter().for_each(|line| print::aside(line));
        }
    }

    fn decide(&mut self, run: &str, call: Option<Call>, answer: &str) {
        let Some(call) = call else { return };
        let named = NamedCall {
            id: run.to_owned(),
            call: call.id,
        };
        let decided = match answer.trim() {
            "y" | "Y" | "yes" => self.wire.ask::<RunsApprove>(&named),
            _ => self.wire.ask::<RunsDeny>(&named),
        };
        if let Err(no) = decided {
            // It stays as it is, and the next look says how that is.
            print::error(&no.fault.message);
        }
    }

    fn cancel(&mut self, run: &str) {
        self.doing.clear();
        print::aside("cancelling; Ctrl-C again ends the program");
        let cancelled = self
            .wire
            .ask::<RunsCancel>(&NamedRun { id: run.to_owned() });
        if let Err(no) = cancelled {
            print::error(&no.fault.message);
        }
    }

    fn interrupt(&mut self, what: &str) -> Fault {
        self.interrupted = true;
        Fault::new(FaultCode::Refused, format!("interrupted: {what}"))
    }
}

/// What a run is at.
fn doing(run: &RunView, time: Duration) -> String {
    let tool = run
        .calls
        .iter()
        .find(|call| call.begun_at.is_some() && call.ended_at.is_none());
    let what = match (run.state.as_str(), tool) {
        ("queued", _) => "waits for its turn".to_owned(),
        ("waiting", _) => "waits for an approval".to_owned(),
        (_, Some(call)) => clean::plain(&call.tool).replace(['\n', '\t'], " "),
        _ => "the model works".to_owned(),
    };
    format!("{what}, {} s", time.as_secs())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_run_under_way_says_what_it_is_at() {
        let run = |state: &str, calls: Value| -> RunView {
            serde_json::from_value(json!({
                "id": "run_1", "session": "ses_1", "agent": null, "agent_version": null, "token": "default", "state": state,
                "why": "time_exceeded", "steps": 1, "cost_usd": "0", "created_at": "2026-11-23T10:00:00.000Z",
                "started_at": null, "ended_at": null, "calls": calls,
            }))
            .unwrap()
        };
        let time = Duration::from_secs(12);
        assert_eq!(
            doing(&run("queued", json!([])), time),
            "waits for its turn, 12 s"
        );
        assert_eq!(
            doing(&run("running", json!([])), time),
            "the model works, 12 s"
        );
        let call = json!([{ "id": "c", "tool": "python", "arguments": "{}", "state": "begun", "approvers": [], "decided_by": null,
            "until": null, "begun_at": "2026-11-23T10:00:00.000Z", "ended_at": null }]);
        assert_eq!(doing(&run("running", call), time), "python, 12 s");
        let fault = no_answer(&run("failed", json!([])));
        assert_eq!(
            fault.message,
            "there is no answer: the run is failed: time_exceeded"
        );
        assert_eq!(fault.exit_code(), 1);
    }
}
