//! A secret can be neither shown nor debugged nor encoded.

use isolation::kernel::Secret;

pub fn show(_: &str, secret: &Secret) -> String {
    format!("{secret}")
}

pub fn debug(_: &str, secret: &Secret) -> String {
    format!("{secret:?}")
}

pub fn encode(_: &str, secret: &Secret) -> Option<String> {
    isolation::serde_json::to_string(secret).ok()
}
