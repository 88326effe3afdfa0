//! A capability cannot be put together, nor made anew from an old one with another epoch.

use isolation::kernel::{Admission, Tenant};

pub fn outlive_a_suspension(admission: &Admission) -> Tenant {
    Tenant {
        epoch: u64::MAX,
        ..admission.tenant().clone()
    }
}
