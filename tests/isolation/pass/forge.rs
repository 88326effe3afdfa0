//! Authority comes from admission.

use isolation::kernel::{Admission, Tenant};

pub fn outlive_a_suspension(admission: &Admission) -> Tenant {
    admission.tenant().clone()
}
