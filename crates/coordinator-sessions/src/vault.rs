//! Encryption at rest: a ring of keys, and ciphertexts bound to their session and field.

use crate::token::{Id, fill};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use coordinator_core::{Error, Result};
use std::{collections::BTreeMap, fmt};
use zeroize::{Zeroize as _, Zeroizing};

/// The codec byte of what is encrypted; core's own are 1 to 3.
const SEALED: u8 = 4;
const NONCE: usize = 24;
/// Codec byte, number of the key, nonce.
const HEAD: usize = 1 + 4 + NONCE;

/// Keys for encryption at rest, by number: new values are written with the current one, and what
/// an older one wrote is still read. So keys are rotated by adding one, and taken away when no
/// session is as old.
///
/// XChaCha20-Poly1305 with a random nonce per value. A value is bound to its session and field:
/// moved elsewhere, it cannot be read.
///
/// ```
/// use coordinator_sessions::{KeyRing, Sessions};
///
/// let (old, new) = ([1; 32], [2; 32]); // from where you keep secrets
/// let sessions = Sessions::embedded().with_encryption(KeyRing::new(2, new).with_older(1, old));
/// ```
#[derive(Clone)]
pub struct KeyRing {
    current: u32,
    keys: BTreeMap<u32, Zeroizing<[u8; 32]>>,
}

impl KeyRing {
    /// A ring of one key.
    pub fn new(number: u32, mut key: [u8; 32]) -> Self {
        let keys = BTreeMap::from([(number, Zeroizing::new(key))]);
        key.zeroize();
        Self { current: number, keys }
    }

    /// A key that others wrote with, to read.
    pub fn with_older(mut self, number: u32, key: [u8; 32]) -> Self {
        self.keys.entry(number).or_insert(Zeroizing::new(key));
        self
    }

    pub(crate) fn close(&self, id: &Id, field: &str, value: &[u8]) -> Result<Vec<u8>> {
        let mut stored = vec![SEALED];
        stored.extend(self.current.to_be_bytes());
        let mut nonce = [0; NONCE];
        fill(&mut nonce)?;
        stored.extend(nonce);
        let key = self.keys.get(&self.current).expect("the current key is in the ring");
        let bound = bound(id, field);
        let sealed = XChaCha20Poly1305::new(&(**key).into())
            .encrypt(&XNonce::from(nonce), Payload { msg: value, aad: &bound });
        let why = |_| Error::misuse("sessions.encrypt", "the value is too long to be encrypted");
        stored.extend(sealed.map_err(why)?);
        Ok(stored)
    }

    pub(crate) fn open(&self, id: &Id, field: &str, stored: &[u8]) -> Result<Vec<u8>> {
        let corrupt = |why: &str| Error::corrupt("sessions.decrypt", why);
        let (head, sealed) =
            stored.split_at_checked(HEAD).ok_or_else(|| corrupt("a sealed value is cut short"))?;
        let number = u32::from_be_bytes(head[1..5].try_into().expect("four bytes"));
        let key = self.keys.get(&number);
        let key = key.ok_or_else(|| corrupt("no key of the ring has the number of a value's"))?;
        let nonce: [u8; NONCE] = head[5..].try_into().expect("the length of a nonce");
        let bound = bound(id, field);
        XChaCha20Poly1305::new(&(**key).into())
            .decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: &bound })
            .map_err(|_| corrupt("a sealed value is not what was written here"))
    }
}

/// Whether a stored value is encrypted.
pub(crate) fn is_sealed(stored: &[u8]) -> bool {
    stored.first() == Some(&SEALED)
}

/// What a ciphertext is bound to.
fn bound(id: &Id, field: &str) -> Vec<u8> {
    let mut bound = b"coordinator session v1".to_vec();
    bound.extend(id.bytes());
    bound.extend(field.as_bytes());
    bound
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("current", &self.current)
            .field("numbers", &self.keys.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::ErrorKind;

    #[test]
    fn a_value_is_read_where_it_was_written_and_nowhere_else() {
        let ring = KeyRing::new(1, [7; 32]);
        let stored = ring.close(&Id::of(1), "cart", b"pears").expect("closes");
        assert!(is_sealed(&stored) && !stored.windows(5).any(|part| part == b"pears"));
        assert_eq!(ring.open(&Id::of(1), "cart", &stored).expect("opens"), b"pears");
        for (id, field) in [(2, "cart"), (1, "cary"), (1, "")] {
            let error = ring.open(&Id::of(id), field, &stored).expect_err("elsewhere");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 1;
            // The first byte is not read here: it says that this is to be opened at all.
            assert!(at == 0 || ring.open(&Id::of(1), "cart", &flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_older_key_reads_and_the_current_one_writes() {
        let old = KeyRing::new(1, [7; 32]);
        let stored = old.close(&Id::of(1), "a", b"x").expect("closes");
        let new = KeyRing::new(2, [8; 32]).with_older(1, [7; 32]);
        assert_eq!(new.open(&Id::of(1), "a", &stored).expect("opens"), b"x");
        let stored = new.close(&Id::of(1), "a", b"x").expect("closes");
        assert!(old.open(&Id::of(1), "a", &stored).is_err());
    }

    #[test]
    fn no_key_is_printed() {
        let printed = format!("{:?}", KeyRing::new(1, [0x77; 32]));
        assert_eq!(printed, "KeyRing { current: 1, numbers: [1] }");
    }
}
