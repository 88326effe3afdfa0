//! Conversations: what is asked about them, and what comes back.

use base::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::field::{Described, Field, Kind, list};
use crate::text;

const ID: Kind = Kind::Text { max: 64 };
const NAME: Kind = Kind::Text { max: 64 };
const LONG_NAME: Kind = Kind::Text { max: 256 };
const PLACE: Kind = Kind::Count {
    min: 0,
    max: i64::MAX as u64,
};
const PAGE: Kind = Kind::Count { min: 1, max: 200 };
const MESSAGE: Kind = Kind::Text { max: 256 * 1024 };

list!(
    /// A page of sessions.
    SessionList, sessions: SessionView, "Used last first, as sessions.get shows them."
);
list!(
    /// A page of messages.
    History, messages: Message, "Oldest first: seq, run, at, and the message in the shape of chat completions."
);

/// A conversation that is to begin: `sessions.create`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// Its agent.
    #[serde(default)]
    pub agent: Option<String>,
    /// Its model, without an agent or in place of the agent's.
    #[serde(default)]
    pub model: Option<String>,
    /// What it is called.
    #[serde(default)]
    pub title: Option<String>,
}

impl Described for NewSession {
    const FIELDS: &'static [Field] = &[
        Field::new("agent", NAME, "The agent to talk to."),
        Field::new(
            "model",
            LONG_NAME,
            "The model to talk to, without an agent or in place of the agent's own.",
        ),
        Field::new("title", LONG_NAME, "What it is called."),
    ];
}

/// A conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionView {
    /// `ses_` and 32 hex digits.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// Its agent.
    pub agent: Option<String>,
    /// Its model, where one was named.
    pub model: Option<String>,
    /// Where it comes from.
    pub channel: String,
    /// What it is called.
    pub title: Option<String>,
    /// When it was made.
    #[serde(with = "text")]
    pub created_at: Timestamp,
    /// When something was said last.
    #[serde(with = "text")]
    pub used_at: Timestamp,
}

impl Described for SessionView {
    const FIELDS: &'static [Field] = &[
        Field::must("id", ID, "ses_ and 32 hex digits."),
        Field::must(
            "owner",
            LONG_NAME,
            "person:NAME, or token:NAME where the credential stands for nobody.",
        ),
        Field::must("agent", NAME, "Its agent."),
        Field::must("model", LONG_NAME, "Its model, where one was named."),
        Field::must("channel", NAME, "Where it comes from: rpc or api."),
        Field::must("title", LONG_NAME, "What it is called."),
        Field::must("created_at", Kind::Moment, "When it was made."),
        Field::must("used_at", Kind::Moment, "When something was said last."),
    ];
}

/// Which sessions: `sessions.list`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionsWish {
    /// Those used before this moment.
    #[serde(default, with = "text::option")]
    pub before: Option<Timestamp>,
    /// At most so many.
    #[serde(default)]
    pub limit: Option<u64>,
}

impl Described for SessionsWish {
    const FIELDS: &'static [Field] = &[
        Field::new("before", Kind::Moment, "Those used before this moment."),
        Field::new("limit", PAGE, "At most so many; 50 without it."),
    ];
}

/// A session by its id.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSession {
    /// The id.
    pub id: String,
}

impl Described for NamedSession {
    const FIELDS: &'static [Field] = &[Field::must("id", ID, "Its id.")];
}

/// A message to a session: `sessions.send`, `chat.send`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    /// The session.
    pub id: String,
    /// The text.
    pub message: String,
    /// Sent again with the same key, it is the same message.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// To the run that is under way, in place of a run of its own.
    #[serde(default)]
    pub steer: Option<bool>,
}

impl Described for SendMessage {
    const FIELDS: &'static [Field] = &[
        Field::must("id", ID, "The session."),
        Field::must("message", MESSAGE, "The text."),
        Field::new(
            "idempotency_key",
            Kind::Text { max: 128 },
            "Sent again with the same key, it is the same message.",
        ),
        Field::new(
            "steer",
            Kind::Flag,
            "Say it to the run that is under way, where there is one, in place of a run of its own.",
        ),
    ];
}

/// That a message was taken in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SentMessage {
    /// The run that answers it.
    pub run: String,
    /// It had been sent before.
    pub repeated: bool,
}

impl Described for SentMessage {
    const FIELDS: &'static [Field] = &[
        Field::must("run", ID, "The run that answers it."),
        Field::must(
            "repeated",
            Kind::Flag,
            "It had been sent before, with this key.",
        ),
    ];
}

/// Which messages: `chat.history`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryWish {
    /// The session.
    pub id: String,
    /// Those after this place.
    #[serde(default)]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default)]
    pub limit: Option<u64>,
}

impl Described for HistoryWish {
    const FIELDS: &'static [Field] = &[
        Field::must("id", ID, "The session."),
        Field::new("after", PLACE, "Those after this seq."),
        Field::new("limit", PAGE, "At most so many; 50 without it."),
    ];
}

/// One message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Its place; it grows.
    pub seq: u64,
    /// Its run.
    pub run: String,
    /// When it was stored.
    #[serde(with = "text")]
    pub at: Timestamp,
    /// The message, in the shape of chat completions.
    pub message: Box<RawValue>,
}

/// How many runs were ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Aborted {
    /// Runs.
    pub runs: u64,
}

impl Described for Aborted {
    const FIELDS: &'static [Field] = &[Field::must("runs", PLACE, "Runs that were ended.")];
}

/// Where events begin: `sessions.subscribe`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// The session.
    pub id: String,
    /// The place after which events are sent.
    #[serde(default)]
    pub after: Option<u64>,
}

impl Described for Watch {
    const FIELDS: &'static [Field] = &[
        Field::must("id", ID, "The session."),
        Field::new(
            "after",
            PLACE,
            "Events after this seq, to go on where a socket broke off; those to come without it.",
        ),
    ];
}

/// One event, on its way to a subscriber.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionEvent {
    /// The subscription.
    pub subscription: String,
    /// Its place; it grows.
    pub seq: u64,
    /// When it happened.
    #[serde(with = "text")]
    pub at: Timestamp,
    /// What happened: an object with `type`.
    pub event: Box<RawValue>,
}
