//! Why a run did not take place.

use std::fmt;

/// Why there is no outcome. A program that ran and failed is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxError {
    /// Nothing that is offered walls off as far as is demanded; says why. Nothing weaker is taken in its place.
    NotOffered(String),
    /// As many programs run as may; to be asked again later.
    Busy,
    /// The program cannot be handed over as it is described.
    Program(String),
    /// The workspace cannot be used.
    Workspace(String),
    /// The walls did not stand, so the program was not started.
    Start(String),
    /// The system failed while the program ran; it was ended.
    System(String),
}

impl fmt::Display for SandboxError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered(why) => write!(out, "code is not executed here: {why}"),
            Self::Busy => out.write_str("as many programs run as may"),
            Self::Program(why) => write!(out, "the program {why}"),
            Self::Workspace(why) => write!(out, "the workspace {why}"),
            Self::Start(why) => write!(out, "the sandbox did not start: {why}"),
            Self::System(why) => write!(out, "the sandbox failed: {why}"),
        }
    }
}

impl std::error::Error for SandboxError {}
