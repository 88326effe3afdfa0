//! Failures below, as the operator reads them.

use kernel::KernelError;
use rpc::{Fault, FaultCode};

/// The operator's view of a kernel error. Never for outsiders: they get a `gateway::refusal::Refusal`.
pub(crate) fn fault(error: KernelError) -> Fault {
    let code = match &error {
        KernelError::Revoked | KernelError::Refused(_) => FaultCode::Refused,
        KernelError::Quarantined(_) => FaultCode::Quarantined,
        KernelError::Busy => FaultCode::Busy,
        KernelError::NotFound(_) => FaultCode::NotFound,
        KernelError::Exists(_) => FaultCode::Exists,
        KernelError::JournalDown | KernelError::Root(_) | KernelError::Store(_) => FaultCode::Io,
    };
    Fault::new(code, error.to_string())
}

/// A file or the system said no.
pub(crate) fn io(what: &str, error: &dyn std::fmt::Display) -> Fault {
    Fault::new(FaultCode::Io, format!("{what}: {error}"))
}

/// A fault of our own: what should not be possible.
pub(crate) fn internal(what: impl Into<String>) -> Fault {
    Fault::new(FaultCode::Internal, what)
}
