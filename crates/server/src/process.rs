//! What holds for the whole process: files for its own user only, no core dumps, descriptors, the signals that end it.

use rpc::Fault;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::fault::io;

/// Descriptors that are not connections: databases, journal, log, listeners, and what a library opens.
const DESCRIPTORS_KEPT: u64 = 2_048;

/// Whatever this process creates is for its own user only.
pub(crate) fn keep_private() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// No core dump and no debugger of another process of this user: memory holds keys.
pub(crate) fn harden() -> Result<(), Fault> {
    keep_private();
    let refused = |error: rustix::io::Errno| io("core dumps cannot be switched off", &error);
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused)?;
    rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )
    .map_err(refused)
}

/// Raises the limit of open descriptors as far as the system allows and tells it; `None` is unlimited.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Where it cannot be raised the old limit holds, and fewer connections are taken.
    if rustix::process::setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    }
}

/// The limit of open descriptors as it is.
pub(crate) fn descriptor_limit() -> Option<u64> {
    rustix::process::getrlimit(Resource::Nofile).current
}

/// Connections that the descriptors allow: each takes one, and its call takes one toward a provider.
pub(crate) fn connections_max(descriptors: Option<u64>) -> usize {
    let allowed = descriptors.map_or(u64::MAX, |all| {
        // A small limit is shared half and half.
        all.saturating_sub(DESCRIPTORS_KEPT).max(all / 2) / 2
    });
    usize::try_from(allowed)
        .unwrap_or(usize::MAX)
        .clamp(16, base::limits::CONNECTIONS_MAX)
}

/// SIGTERM and SIGINT: the first asks for an orderly end, the second for an end.
pub(crate) struct Ending {
    terminate: Signal,
    interrupt: Signal,
}

impl Ending {
    /// From now on the two signals no longer kill the process.
    pub(crate) fn watch() -> Result<Self, Fault> {
        let watch = |kind| signal(kind).map_err(|error| io("signals cannot be watched", &error));
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of the two.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(connections_max(None), base::limits::CONNECTIONS_MAX);
        assert_eq!(connections_max(Some(1_024)), 256);
        assert_eq!(connections_max(Some(20_000)), 8_976);
        assert_eq!(connections_max(Some(8)), 16);
    }
}
