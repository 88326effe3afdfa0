//! The name of a secret may be printed.

use isolation::kernel::Secret;

pub fn show(name: &str, _: &Secret) -> String {
    format!("{name}")
}

pub fn debug(name: &str, _: &Secret) -> String {
    format!("{name:?}")
}

pub fn encode(name: &str, _: &Secret) -> Option<String> {
    isolation::serde_json::to_string(name).ok()
}
