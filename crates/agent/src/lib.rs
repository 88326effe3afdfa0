//! Agents: conversations that are kept, and runs in which a model works with tools until it answers.
//!
//! A run is what its stored rows say, at every moment: [`drive`](crate::drive) reads them, does the one thing that comes next, and
//! stores that. So a run that was killed goes on where it was, and an effect is never repeated, because that it begins is stored
//! before it happens.
//!
//! **Invariant:** each step is admitted by itself, with the credential that began the run; nothing here holds authority between two
//! steps.

mod agents;
mod approve;
mod chat;
mod drive;
mod error;
mod events;
mod files;
mod ids;
mod limits;
mod model;
mod queue;
mod resume;
mod runs;
mod send;
mod sessions;
mod settings;
mod steps;
mod summary;
mod tools;
mod transcript;

pub use agents::{Agents, SandboxPlace};
pub use error::AgentError;
pub use events::Event;
pub use files::PIECE_BYTES;
pub use runs::{Run, ToolCall};
pub use send::{Sent, Wish};
pub use sessions::{NewSession, Said, Session};
pub use settings::{Agent, AgentSettings};
pub use tools::ToolView;
