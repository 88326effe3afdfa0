//! The ways to run a program.

#[cfg(target_os = "linux")]
use std::sync::Arc;

use crate::grant::Isolation;
#[cfg(target_os = "linux")]
use crate::walls::Walls;

/// A way to run a program. Closed: each further one is a variant here, with its own module and the same probes.
#[derive(Debug)]
pub(crate) enum Backend {
    /// Bubblewrap, on the machine's kernel.
    #[cfg(target_os = "linux")]
    Bubblewrap(Arc<Walls>),
}

impl Backend {
    /// The name in reports.
    pub(crate) const fn name(&self) -> &'static str {
        match *self {
            #[cfg(target_os = "linux")]
            Self::Bubblewrap(_) => "bubblewrap",
        }
    }

    /// How far it walls off.
    pub(crate) const fn isolation(&self) -> Isolation {
        match *self {
            #[cfg(target_os = "linux")]
            Self::Bubblewrap(_) => Isolation::Namespaces,
        }
    }
}
