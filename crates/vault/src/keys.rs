//! The key ladder: the master key wraps a random root key per tenant, which wraps the tenant's
//! random subkeys. Destroying the wrapped root destroys the tenant's data, wherever copies lie.

use std::sync::{Arc, PoisonError, RwLock};

use base::TenantUid;
use zeroize::Zeroizing;

use crate::aead::{Aad, Key};
use crate::digest::hmac_sha256;
use crate::error::VaultError;
use crate::random::random;
use crate::secret::Secret;
use crate::signing::SigningKey;

const ROOT_CONTEXT: &str = "partywall/1/tenant-root";
const SUBKEYS_CONTEXT: &str = "partywall/1/tenant-subkeys";
const DERIVE_CONTEXT: &[u8] = b"partywall/1/node/";

/// The installation's key, kept outside the data directory. Wraps tenant roots.
pub struct MasterKey(Key);

impl MasterKey {
    /// A new random master key.
    #[must_use]
    pub fn generate() -> Self {
        Self(Key::generate())
    }

    /// Reads 64 hex digits; white space around them (the line end of a key file) is cut.
    ///
    /// # Errors
    /// [`VaultError::Malformed`] for anything else.
    pub fn from_hex_text(text: &Secret) -> Result<Self, VaultError> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.expose().trim_ascii(), bytes.as_mut_slice())
            .map_err(|_| VaultError::Malformed)?;
        Ok(Self(Key::from_bytes(*bytes)))
    }

    /// The key as 64 hex digits, to be written to the key file.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.expose()))
    }

    /// Wraps a tenant's root key for storage in the registry.
    #[must_use]
    pub fn wrap(&self, uid: &TenantUid, key: &Key) -> Vec<u8> {
        self.0.seal(&Aad::new(ROOT_CONTEXT).uid(uid), key.expose())
    }

    /// Unwraps what [`MasterKey::wrap`] made for the same uid.
    ///
    /// # Errors
    /// [`VaultError::DoesNotOpen`] for another master key, another tenant or altered bytes.
    pub fn unwrap(&self, uid: &TenantUid, wrapped: &[u8]) -> Result<Key, VaultError> {
        let plain = self.0.open(&Aad::new(ROOT_CONTEXT).uid(uid), wrapped)?;
        let bytes = <[u8; 32]>::try_from(plain.as_slice()).map(Zeroizing::new);
        Ok(Key::from_bytes(*bytes.map_err(|_| VaultError::Malformed)?))
    }

    /// A key of the installation itself (the registry's database, the journal's signing seed), by
    /// purpose. Never for a tenant: a derived key lives as long as the master does.
    #[must_use]
    pub fn derive(&self, purpose: &'static str) -> Key {
        Key::from_bytes(hmac_sha256(&self.0, &[DERIVE_CONTEXT, purpose.as_bytes()]))
    }
}

/// A tenant's working keys: random, independent of each other and of the master key.
pub struct TenantKeys {
    /// Opens `tenant.db`.
    pub database: Arc<Key>,
    /// Seals journal records.
    pub journal: Arc<Key>,
    // Seals provider keys and channel secrets. The one subkey that can be replaced while the tenant works.
    secrets: RwLock<Arc<Key>>,
    /// Makes the opaque tags that stand for the tenant and its people upstream.
    pub tag: Arc<Key>,
    /// Commits to personal content in audit entries without storing it.
    pub commitment: Arc<Key>,
    /// Signs the audit log.
    pub audit: Arc<SigningKey>,
}

const SUBKEYS: usize = 6;

impl TenantKeys {
    /// Fresh random keys.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_parts(&Zeroizing::new(random::<{ SUBKEYS * 32 }>()))
    }

    /// Seals provider keys and channel secrets.
    #[must_use]
    pub fn secrets(&self) -> Arc<Key> {
        Arc::clone(&self.secrets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same keys with a fresh random one for secrets.
    #[must_use]
    pub fn with_fresh_secrets(&self) -> Self {
        Self {
            database: Arc::clone(&self.database),
            journal: Arc::clone(&self.journal),
            secrets: RwLock::new(Arc::new(Key::generate())),
            tag: Arc::clone(&self.tag),
            commitment: Arc::clone(&self.commitment),
            audit: Arc::clone(&self.audit),
        }
    }

    /// Takes over the key for secrets of `other`; the old one is wiped when its last user is done.
    pub fn adopt_secrets(&self, other: &Self) {
        let fresh = other.secrets();
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// Seals all keys under the tenant's root key.
    #[must_use]
    pub fn seal(&self, root: &Key, uid: &TenantUid) -> Vec<u8> {
        let (seed, secrets) = (self.audit.seed(), self.secrets());
        let parts: [&[u8]; SUBKEYS] = [
            self.database.expose(),
            self.journal.expose(),
            secrets.expose(),
            self.tag.expose(),
            self.commitment.expose(),
            seed.as_slice(),
        ];
        let plain = Zeroizing::new(parts.concat());
        root.seal(&Aad::new(SUBKEYS_CONTEXT).uid(uid), &plain)
    }

    /// Opens what [`TenantKeys::seal`] made with the same root for the same uid.
    ///
    /// # Errors
    /// [`VaultError::DoesNotOpen`] for another root, another tenant or altered bytes.
    pub fn open(root: &Key, uid: &TenantUid, sealed: &[u8]) -> Result<Self, VaultError> {
        let plain = root.open(&Aad::new(SUBKEYS_CONTEXT).uid(uid), sealed)?;
        let parts = <&[u8; SUBKEYS * 32]>::try_from(plain.as_slice());
        Ok(Self::from_parts(parts.map_err(|_| VaultError::Malformed)?))
    }

    fn from_parts(parts: &[u8; SUBKEYS * 32]) -> Self {
        let part = |index: usize| {
            let mut bytes = Zeroizing::new([0; 32]);
            bytes.copy_from_slice(&parts[index * 32..(index + 1) * 32]);
            bytes
        };
        let key = |index| Arc::new(Key::from_bytes(*part(index)));
        Self {
            database: key(0),
            journal: key(1),
            secrets: RwLock::new(key(2)),
            tag: key(3),
            commitment: key(4),
            audit: Arc::new(SigningKey::from_seed(&part(5))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TenantUid = TenantUid::from_bytes([1; 16]);
    const B: TenantUid = TenantUid::from_bytes([2; 16]);

    #[test]
    fn master_key_reads_its_own_file() {
        let master = MasterKey::generate();
        let file = Secret::from_text(format!("{}\n", master.to_hex().as_str())).unwrap();
        let again = MasterKey::from_hex_text(&file).unwrap();
        assert_eq!(again.to_hex(), master.to_hex());
        for bad in ["00", &"g".repeat(64), &"0".repeat(63), &"0".repeat(66)] {
            let bad = Secret::from_text(bad.to_owned()).unwrap();
            assert_eq!(
                MasterKey::from_hex_text(&bad).err(),
                Some(VaultError::Malformed)
            );
        }
    }

    #[test]
    fn a_wrapped_root_opens_for_its_master_and_tenant_only() {
        let (master, root) = (MasterKey::generate(), Key::generate());
        let wrapped = master.wrap(&A, &root);
        assert!(master.unwrap(&A, &wrapped).unwrap().expose() == root.expose());
        assert!(master.unwrap(&B, &wrapped).is_err());
        assert!(MasterKey::generate().unwrap(&A, &wrapped).is_err());
    }

    #[test]
    fn subkeys_survive_sealing_each_in_its_place() {
        let (root, keys) = (Key::generate(), TenantKeys::generate());
        let sealed = keys.seal(&root, &A);
        let again = TenantKeys::open(&root, &A, &sealed).unwrap();
        assert!(again.database.expose() == keys.database.expose());
        assert!(again.journal.expose() == keys.journal.expose());
        assert!(again.secrets().expose() == keys.secrets().expose());
        assert!(again.tag.expose() == keys.tag.expose());
        assert!(again.commitment.expose() == keys.commitment.expose());
        assert_eq!(again.audit.verifying_key(), keys.audit.verifying_key());
        assert!(TenantKeys::open(&root, &B, &sealed).is_err());
        assert!(TenantKeys::open(&Key::generate(), &A, &sealed).is_err());
    }

    #[test]
    fn a_fresh_key_for_secrets_leaves_the_others() {
        let keys = TenantKeys::generate();
        let (old, fresh) = (keys.secrets(), keys.with_fresh_secrets());
        assert!(fresh.secrets().expose() != old.expose());
        assert!(fresh.database.expose() == keys.database.expose());
        assert_eq!(fresh.audit.verifying_key(), keys.audit.verifying_key());
        assert!(keys.secrets().expose() == old.expose());
        keys.adopt_secrets(&fresh);
        assert!(keys.secrets().expose() == fresh.secrets().expose());
    }

    #[test]
    fn a_root_is_not_taken_for_subkeys() {
        let key = Key::generate();
        let master = MasterKey(Key::from_bytes(*key.expose()));
        assert!(TenantKeys::open(&key, &A, &master.wrap(&A, &Key::generate())).is_err());
    }

    #[test]
    fn derived_keys_differ_by_purpose_and_master() {
        let master = MasterKey::generate();
        assert!(master.derive("registry").expose() == master.derive("registry").expose());
        assert!(master.derive("registry").expose() != master.derive("journal").expose());
        assert!(master.derive("a").expose() != MasterKey::generate().derive("a").expose());
    }
}
