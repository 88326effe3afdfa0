//! Who may call which model. The answer is a value: without a [`Permit`] nothing behind this stage can be reached.

use std::sync::Arc;

use base::Role;
use kernel::Admission;
use kernel::share::Part;
use llm::Request;

use crate::catalog::{Catalog, Model};
use crate::refusal::Refusal;
use crate::upstream::AnthropicBeta;

/// Roles that may call models.
pub const CALLERS: &[Role] = &[Role::Admin, Role::Member, Role::App];

/// Names by which a client asks for the model that its tenant has chosen.
const DEFAULT_NAMES: [&str; 2] = ["default", "auto"];

/// A decoded call: what the client asked, as it came.
pub struct Call {
    pub(crate) request: Request,
    /// SHA-256 of the body as it came.
    pub(crate) received: [u8; 32],
    pub(crate) beta: Option<AnthropicBeta>,
    /// The client wants to read what its call cost.
    pub(crate) show_cost: bool,
    /// The answer's headers carry the audit log's latest checkpoint.
    pub(crate) show_checkpoint: bool,
    /// Its place among all calls under way, until the hold takes it over.
    pub(crate) place: Option<Part>,
    /// What a large body takes of the room for bodies.
    pub(crate) _room: Option<Part>,
}

impl Call {
    /// The model's name as the client asked.
    #[must_use]
    pub fn model(&self) -> &str {
        self.request.model()
    }
}

/// The right to make one call, bound to the caller who was admitted. It moves from stage to stage: it can be neither copied nor
/// paired with another caller or call.
pub struct Permit {
    pub(crate) admission: Admission,
    pub(crate) call: Call,
    /// The model in the catalog; the name asked stands in the call.
    model: usize,
    pub(crate) catalog: Arc<Catalog>,
}

impl Permit {
    pub(crate) fn model(&self) -> Option<&Model> {
        self.catalog.models().get(self.model)
    }
}

/// Decides one call: the caller's role, and whether the model exists for this tenant. A hidden model and an absent one give the same
/// refusal.
///
/// # Errors
/// [`Refusal::Forbidden`] or [`Refusal::ModelNotFound`].
pub fn authorize(
    catalog: Arc<Catalog>,
    admission: Admission,
    call: Call,
) -> Result<Permit, Refusal> {
    let role = admission.role();
    if !CALLERS.contains(&role) {
        return Err(Refusal::Forbidden {
            role: role.as_str(),
        });
    }
    let settings = admission.settings();
    let asked = call.request.model();
    let name = match settings.model.as_deref() {
        Some(own) if asked.is_empty() || DEFAULT_NAMES.contains(&asked) => own,
        _ => asked,
    };
    let found = catalog
        .resolve(name, &settings.tasks)
        .filter(|model| settings.sees(model.name.as_str()));
    let index = found.and_then(|found| {
        catalog
            .models()
            .iter()
            .position(|model| model.name == found.name)
    });
    match index {
        Some(model) => Ok(Permit {
            admission,
            call,
            model,
            catalog,
        }),
        None => Err(Refusal::ModelNotFound {
            model: asked.to_owned(),
        }),
    }
}
