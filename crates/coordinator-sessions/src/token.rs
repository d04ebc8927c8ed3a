//! Tokens: who has one is let in. What is stored, listed or logged is not one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coordinator_core::{Error, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::{TryRng as _, rngs::SysRng};
use sha2::{Digest as _, Sha256};
use std::fmt;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::backend::{Place, SHARDS};

/// The length of a token in characters, at most.
const TOKEN_MAX: usize = 80;
const ID: usize = 12;
const SECRET: usize = 32;

/// A session's own id: it stays through rotations, and lets nobody in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id([u8; ID]);

impl Id {
    pub(crate) fn random() -> Result<Self> {
        let mut bytes = [0; ID];
        fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    #[cfg(test)]
    pub(crate) fn of(number: u64) -> Self {
        let mut bytes = [0; ID];
        bytes[4..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }

    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Id(..)")
    }
}

/// The SHA-256 of a secret: all that is stored of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// A secret that only who has the one before can read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrapped(pub(crate) [u8; 32]);

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrapped(..)")
    }
}

/// What a client brings along to be let into its session: given out once, when the session is
/// created or rotated.
///
/// 32 bytes from the operating system; the server keeps their SHA-256 alone. It is wiped when
/// dropped, compared in constant time, and neither `Display` nor `Debug` shows it:
/// [`reveal`](Self::reveal) does, for the cookie or header that carries it.
///
/// ```
/// use coordinator_sessions::Token;
///
/// assert!(Token::parse("guess").is_none());
/// ```
pub struct Token {
    place: Place,
    secret: [u8; SECRET],
}

impl Token {
    /// Reads what a client sent; `None` if nobody ever was given such a token. It asks nobody:
    /// whether its session lives is for [`Sessions::load`](crate::Sessions::load) to say.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TOKEN_MAX {
            return None;
        }
        let (shard, rest) = text.strip_prefix("v1.")?.split_once('.')?;
        let number: u16 = shard.parse().ok().filter(|shard| *shard < SHARDS)?;
        // One token has one form.
        if number.to_string() != shard {
            return None;
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(rest).ok()?);
        let (id, secret) = bytes.split_at_checked(ID)?;
        let id = Id(id.try_into().ok()?);
        Some(Self { place: Place { shard: number, id }, secret: secret.try_into().ok()? })
    }

    /// The token as a client keeps it: 59 to 65 characters that need no escaping in a cookie, a
    /// header or a URL. Who has it has the session.
    pub fn reveal(&self) -> String {
        let mut bytes = Zeroizing::new([0; ID + SECRET]);
        bytes[..ID].copy_from_slice(self.place.id.bytes());
        bytes[ID..].copy_from_slice(&self.secret);
        format!("v1.{}.{}", self.place.shard, URL_SAFE_NO_PAD.encode(&bytes[..]))
    }

    /// The token that the client of another program's session has without knowing it: it finds
    /// the session that `Sessions::migrate_legacy` made of that one. `id` is what stood behind the
    /// prefix of its key, without a signature that the cookie may have had.
    ///
    /// It is derived by SHA-256, so it is as hard to guess as the id is. Whoever is let in by it
    /// is told the token to use from now on ([`Session::token`](crate::Session::token)), if there
    /// is another, or may be given one by a rotation.
    pub fn of_legacy(id: &str) -> Self {
        let hash = |of: &str| -> [u8; 32] {
            Sha256::new().chain_update(of).chain_update(id).finalize().into()
        };
        let hashed = hash("coordinator legacy session id");
        let mut place = Place { shard: u16::from(hashed[ID]) % SHARDS, id: Id([0; ID]) };
        place.id.0.copy_from_slice(&hashed[..ID]);
        Self { place, secret: hash("coordinator legacy session secret") }
    }

    pub(crate) fn random(place: Place) -> Result<Self> {
        let mut secret = [0; SECRET];
        fill(&mut secret)?;
        Ok(Self { place, secret })
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.secret).into())
    }

    /// The same session elsewhere, or with another secret.
    pub(crate) fn next(&self, shard: u16) -> Result<Self> {
        Self::random(Place { shard, id: self.place.id })
    }

    /// Wraps the secret that comes after this one. One secret wraps one other: a pad is not used
    /// for two.
    pub(crate) fn wrap(&self, next: &Self) -> Wrapped {
        Wrapped(self.pad(&next.secret))
    }

    pub(crate) fn unwrap(&self, wrapped: &Wrapped, shard: u16) -> Self {
        Self { place: Place { shard, id: self.place.id }, secret: self.pad(&wrapped.0) }
    }

    fn pad(&self, other: &[u8; SECRET]) -> [u8; SECRET] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("any length is a key");
        mac.update(b"coordinator session successor v1");
        let mut pad: [u8; SECRET] = mac.finalize().into_bytes().into();
        for (byte, with) in pad.iter_mut().zip(other) {
            *byte ^= with;
        }
        pad
    }
}

impl Clone for Token {
    fn clone(&self) -> Self {
        Self { place: self.place, secret: self.secret }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place && self.secret.ct_eq(&other.secret).into()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a session is called in lists, logs and events: the same through rotations, and of no use
/// to who wants in.
///
/// The first 9 bytes of an HMAC-SHA-256 of the session's id, in base64url: 12 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference(String);

impl Reference {
    pub(crate) fn new(key: &[u8], id: &Id) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
        mac.update(id.bytes());
        Self(URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..9]))
    }

    /// Reads back what [`as_str`](Self::as_str) tells, as a list or a log has it; `None`: it is no
    /// reference.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        (bytes.len() == 9).then(|| Self(text.to_owned()))
    }

    /// The reference as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// From the operating system, which alone decides what a token is.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<()> {
    SysRng.try_fill_bytes(bytes).map_err(|error| {
        let error = error.to_string();
        Error::new(coordinator_core::ErrorKind::Unavailable, "sessions.token").with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn token(shard: u16) -> Token {
        let id = Id::random().expect("random bytes");
        Token::random(Place { shard, id }).expect("random bytes")
    }

    #[test]
    fn a_token_is_read_back_and_no_other_text_is_one() {
        for shard in [0, 7, 63] {
            let token = token(shard);
            let text = token.reveal();
            assert_eq!(Token::parse(&text), Some(token.clone()));
            for wrong in [
                text.replace("v1.", "v2."),
                text.replace("v1.", "v1.0"),
                text.replace("v1.", "v1.+"),
                format!("{text}A"),
                format!("{text}="),
                format!(" {text}"),
                text[..text.len() - 1].to_owned(),
                format!("v1.64.{}", text.rsplit('.').next().expect("a last part")),
                "x".repeat(1 << 20),
                String::new(),
            ] {
                assert_eq!(Token::parse(&wrong), None, "{wrong}");
            }
        }
    }

    #[test]
    fn whatever_is_parsed_is_what_it_came_from() {
        use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
        let mut random = StdRng::seed_from_u64(1);
        let text = token(3).reveal();
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random_range(0..=255);
            }
            bytes.truncate(bytes.len() - usize::from(random.random_bool(0.2)));
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some(token) = Token::parse(&text) {
                read += 1;
                assert_eq!(token.reveal(), text, "one token has one form");
            }
        }
        assert!(read > 1000, "most changes should still be tokens: {read}");
    }

    #[test]
    fn a_wrapped_secret_is_read_by_who_has_the_one_before_and_nobody_else() {
        let (before, next, other) = (token(1), token(1), token(1));
        let next = Token { place: Place { shard: 2, ..before.place }, secret: next.secret };
        let wrapped = before.wrap(&next);
        assert_eq!(before.unwrap(&wrapped, 2), next);
        assert_ne!(other.unwrap(&wrapped, 2).secret, next.secret);
        assert_ne!(wrapped.0, next.secret);
    }

    #[test]
    fn a_legacy_token_is_the_same_for_ever() {
        let token = Token::of_legacy("sid-1");
        assert_eq!(Token::parse(&token.reveal()), Some(token.clone()));
        assert_eq!(
            token.reveal(),
            "v1.43.lgymF7RVCeKzjbJAgcgWlQZTGXARvb9hE8sVoXlo2FYecbl9vzWn3_xx-_U",
            "fixed for ever: a change lets nobody in any more"
        );
        assert_ne!(token.place().id, Token::of_legacy("sid-2").place().id);
        assert_ne!(token.secret, Token::of_legacy("sid-2").secret);
        let shards: HashSet<_> =
            (0..2000).map(|n| Token::of_legacy(&n.to_string()).place().shard).collect();
        assert_eq!(shards.len(), 64);
    }

    #[test]
    fn nothing_printed_says_what_the_secret_is() {
        let token = token(1);
        let printed = format!("{token:?} {:?} {:?}", token.place(), token.digest());
        assert_eq!(printed, "Token(..) Place { shard: 1, id: Id(..) } Digest(..)");
    }

    #[test]
    fn references_are_keyed_and_differ() {
        let one = Reference::new(b"key", &Id::of(1));
        assert_eq!(Reference::parse(one.as_str()), Some(one.clone()));
        for wrong in ["", "AAAA", "no reference", &format!("{one}A"), &one.as_str()[..11]] {
            assert_eq!(Reference::parse(wrong), None, "{wrong}");
        }
        let id = Id::random().expect("random bytes");
        assert_ne!(Reference::new(b"a", &id), Reference::new(b"b", &id));
        let all: HashSet<_> = (0..10_000).map(|n| Reference::new(b"k", &Id::of(n))).collect();
        assert_eq!(all.len(), 10_000);
        assert_eq!(all.iter().next().map(|reference| reference.as_str().len()), Some(12));
    }
}
