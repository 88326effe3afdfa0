//! Why something about an agent was not done.

use kernel::KernelError;

/// A failure, by who may do what about it.
#[derive(Debug)]
pub enum AgentError {
    /// No such agent, session, run or call; or it is somebody else's.
    NotFound,
    /// It cannot be done as it stands.
    Refused {
        /// Stable.
        code: &'static str,
        /// For the caller: what is wrong, and what to do.
        text: String,
    },
    /// A member of what was asked is wrong.
    Wrong {
        /// Which.
        field: &'static str,
        /// What it must be.
        text: String,
    },
    /// What lies below.
    Kernel(KernelError),
}

impl AgentError {
    pub(crate) fn refused(code: &'static str, text: impl Into<String>) -> Self {
        Self::Refused {
            code,
            text: text.into(),
        }
    }

    pub(crate) fn wrong(field: &'static str, text: impl Into<String>) -> Self {
        Self::Wrong {
            field,
            text: text.into(),
        }
    }
}

impl From<KernelError> for AgentError {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::NotFound(_) => Self::NotFound,
            error => Self::Kernel(error),
        }
    }
}
