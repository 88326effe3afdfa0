//! Secrets, sealed envelopes, key wrapping, signatures and credentials.
//!
//! **Invariant:** a key or a secret is a type without `Debug`, `Display` or `Serialize`; its bytes
//! leave only through `expose`, and are wiped when the last owner drops it.
//!
//! **Invariant:** every ciphertext binds its purpose and, where it belongs to a tenant, the
//! tenant's [`base::TenantUid`]; never the tenant's name, which can be taken again.
//!
//! **Invariant:** a tenant's keys are random and wrapped, never derived from the master key: a
//! derived key could not be destroyed.
//!
//! All primitives come from AWS-LC. Where it reports a failure that has no meaning for the caller
//! (the operating system gives no randomness, a key of the right length is refused) the process
//! aborts: there is no safe way to go on, and a predictable key is worse than an outage.

pub mod aead;
pub mod credential;
pub mod digest;
pub mod error;
pub mod keys;
pub mod random;
pub mod secret;
pub mod signing;
pub mod tlog;

pub use aead::{Aad, Key, SEAL_OVERHEAD};
pub use credential::{OperatorKey, Token, TokenParts};
pub use digest::{Sha256, ct_eq, hmac_sha256, hmac_sha256_of, sha1_of_handshake, sha256};
pub use error::VaultError;
pub use keys::{MasterKey, TenantKeys};
pub use random::random;
pub use secret::{EmptySecret, Secret};
pub use signing::{SigningKey, verify};
