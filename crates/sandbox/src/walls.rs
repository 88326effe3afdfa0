//! What every run of one backend shares.

use std::os::fd::{AsFd, OwnedFd};

use crate::bubblewrap::{self, Bubblewrap};
use crate::cgroup::Cgroups;
use crate::error::SandboxError;
use crate::filter;
use crate::runtime::Runtime;
use crate::start::Starter;

/// Bubblewrap with all that it needs.
#[derive(Debug)]
pub(crate) struct Walls {
    pub(crate) bubblewrap: Bubblewrap,
    pub(crate) runtime: Runtime,
    pub(crate) cgroups: Cgroups,
    /// Compiled once: they are the same for every program.
    pub(crate) filters: [Vec<u8>; 2],
    pub(crate) is_root: bool,
    pub(crate) starter: Starter,
}

impl Walls {
    /// Puts them up; says what is missing. Blocks: the runtime may have to be built.
    pub(crate) fn new(place: &OwnedFd) -> Result<Self, SandboxError> {
        let missing = |why: String| SandboxError::NotOffered(why);
        Ok(Self {
            bubblewrap: bubblewrap::find().map_err(missing)?,
            filters: filter::programs()?,
            runtime: Runtime::open(place.as_fd())?,
            cgroups: Cgroups::probe(),
            is_root: rustix::process::geteuid().is_root(),
            starter: Starter::new().map_err(|error| missing(error.to_string()))?,
        })
    }
}
