//! Why a command was not carried out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A refusal or failure: a stable code for programs, one line for people that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind it is; stable.
    pub code: FaultCode,
    /// One clear line: what was wrong and what to do. Holds no secret.
    pub message: String,
}

/// The kinds of [`Fault`]. Their names in JSON (`snake_case`) are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// The command or one of its values is malformed.
    Invalid,
    /// No such tenant, token or secret.
    NotFound,
    /// It was there, and was erased for good.
    Erased,
    /// A thing of that name lives already.
    Exists,
    /// Well-formed, but not in this state (a deleted tenant, a confirmation that does not match).
    Refused,
    /// The configuration, an overlay or a rate card is wrong; the message names the key.
    BadConfig,
    /// The data directory was never initialised.
    NotInitialised,
    /// Another process holds the data directory.
    Locked,
    /// This version does not have the command yet.
    NotAvailable,
    /// The tenant's store cannot be trusted; it is out of service.
    Quarantined,
    /// A bounded queue was full or a deadline passed: try again.
    Busy,
    /// The gateway could not be reached, or broke off.
    Unreachable,
    /// A file or the disk failed.
    Io,
    /// A fault of Partywall itself.
    Internal,
}

impl Fault {
    /// A fault of that kind.
    #[must_use]
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The exit code of the command line: 2 for what was typed wrong, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.code == FaultCode::Invalid {
            2
        } else {
            1
        }
    }
}

impl FaultCode {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Erased => "erased",
            Self::Exists => "exists",
            Self::Refused => "refused",
            Self::BadConfig => "bad_config",
            Self::NotInitialised => "not_initialised",
            Self::Locked => "locked",
            Self::NotAvailable => "not_available",
            Self::Quarantined => "quarantined",
            Self::Busy => "busy",
            Self::Unreachable => "unreachable",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<crate::Closed> for Fault {
    fn from(_: crate::Closed) -> Self {
        Self::new(FaultCode::Unreachable, "the reader of the answer went away")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_json() {
        for code in [
            FaultCode::Invalid,
            FaultCode::NotFound,
            FaultCode::Erased,
            FaultCode::Exists,
            FaultCode::Refused,
            FaultCode::BadConfig,
            FaultCode::NotInitialised,
            FaultCode::Locked,
            FaultCode::NotAvailable,
            FaultCode::Quarantined,
            FaultCode::Busy,
            FaultCode::Unreachable,
            FaultCode::Io,
            FaultCode::Internal,
        ] {
            assert_eq!(
                serde_json::to_string(&code).unwrap(),
                format!("\"{}\"", code.as_str())
            );
        }
    }
}
