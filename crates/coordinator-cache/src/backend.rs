//! The port: the atomic steps of a cache, which every backend implements.
//!
//! A value is bytes here. No waiting, loading, decoding, queueing or near cache happens below this
//! line.

use bytes::Bytes;
use coordinator_core::{BoxFuture, Result, clock::Clock, key::Name};
use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// How many shards keys are spread over, for ever: it is part of the key layout.
pub(crate) const SHARDS: u16 = 64;

/// For how long a node's marker is kept at least, in ms.
pub(crate) const MARK_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// For how long it is known that somebody hears of changes, in ms, after it was last said.
pub(crate) const EARS_MS: u64 = 60 * 1000;

/// A key of a namespace, encoded once; clones are cheap.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "a key of a namespace is what it is called")]
pub(crate) struct Key {
    pub(crate) ns: Name,
    pub(crate) key: Name,
    hash: u64,
}

impl Key {
    pub(crate) fn new(ns: Name, key: Name) -> Self {
        let bytes = ns.as_str().bytes().chain([0]).chain(key.as_str().bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { ns, key, hash }
    }

    /// Which shard it belongs to, the same for ever and on every machine.
    pub(crate) fn shard(&self) -> u16 {
        // As names do it: FNV's low bits alone mix little.
        let folded = (self.hash ^ (self.hash >> 32)) % u64::from(SHARDS);
        u16::try_from(folded).expect("less than a u16")
    }

    /// As it stands in keys: namespace and key, both encoded.
    pub(crate) fn encoded(&self) -> String {
        let (ns, key) = (self.ns.encoded(), self.key.encoded());
        let mut encoded = String::with_capacity(ns.len() + 1 + key.len());
        encoded.push_str(ns);
        encoded.push(':');
        encoded.push_str(key);
        encoded
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.ns, self.key)
    }
}

/// Whoever loads a key; a secret, and so never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) [u8; 16]);

impl Token {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What tells a value, a tag or a marker from what stood there before; random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Version(pub(crate) u64);

impl Version {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

/// The name of a tag; tags span namespaces.
pub(crate) type Tag = Name;

/// What became of asking for a key to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// Load it: nobody else does until the lease ends.
    Mine,
    /// There is a value, and not the one that was seen.
    Value(Bytes),
    /// Another loads it, for so long unless it renews.
    Held { left_ms: u64 },
}

/// A value to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) key: Key,
    /// An envelope.
    pub(crate) value: Bytes,
    pub(crate) ttl_ms: u64,
}

/// Keys of a namespace, some of them perhaps twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) keys: Vec<Key>,
    /// Where to go on; 0 at the end.
    pub(crate) next: u64,
}

/// What changed, or is gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Changed {
    Value(Key),
    Lease(Key),
    Tag(Tag),
    /// The marker of a node.
    Mark,
    /// Anything: changes may have been missed.
    All,
}

/// Hears of changes, one's own included, in no order across keys.
pub(crate) trait Feed: Send {
    /// Cancel safe: no change is lost by dropping the future.
    fn next(&mut self) -> BoxFuture<'_, Changed>;

    /// Asks whether all changes are heard of; none where that cannot be asked.
    fn prober(&self) -> Option<Arc<dyn Probe>>;
}

/// The markers of nodes.
pub(crate) type Marks = Vec<(u16, Option<Version>)>;

/// Asks whether all changes are heard of, beside the feed that hears of them.
pub(crate) trait Probe: Send + Sync {
    /// An answer tells that what changed before it was asked stands in the feed. Cancel safe.
    fn probe(&self) -> BoxFuture<'_, Result<Marks>>;
}

/// The steps. Each is atomic for a key, those for several keys in each shard; a `ttl_ms` counts
/// from the step on and is at least 1.
pub(crate) trait Backend: Send + Sync + fmt::Debug + 'static {
    fn clock(&self) -> &Arc<dyn Clock>;

    /// The backend's own unix time in ms, as well as this process knows it.
    fn now_ms(&self) -> u64;

    /// Learns that time, unless it was learnt lately: to be awaited before a time is written down
    /// or compared with one that was.
    fn learn(&self) -> BoxFuture<'_, Result<()>>;

    /// The value of a key.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Bytes>>>;

    /// The values of several keys, in their order. What is no value is none.
    fn fetch<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Bytes>>>>;

    /// The versions of tags, in their order.
    fn versions<'a>(&'a self, tags: &'a [Tag]) -> BoxFuture<'a, Result<Vec<Option<Version>>>>;

    /// The same, where a tag that has none gets `fresh`. They are kept for `ttl_ms` at least.
    fn capture<'a>(
        &'a self,
        tags: &'a [Tag],
        fresh: Version,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Vec<Version>>>;

    /// Asks for a key to load, unless there is another value than the one that was seen. What
    /// holds no version (see `envelope::version_of`) is no value.
    fn claim<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        seen: Option<Version>,
        lease_ms: u64,
    ) -> BoxFuture<'a, Result<Claimed>>;

    /// Prolongs a lease; whether it is still the token's.
    fn renew<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        lease_ms: u64,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Whose lease there is.
    fn holder<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Token>>>;

    /// Gives a lease up; whether it was still the token's.
    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<bool>>;

    /// Stores what was loaded and ends the lease, if that is still the token's; whether it is
    /// stored.
    fn fill<'a>(&'a self, put: &'a Put, token: Token) -> BoxFuture<'a, Result<bool>>;

    /// Stores a value and ends the key's lease, so that a load in flight is not stored over it.
    fn set<'a>(&'a self, put: &'a Put) -> BoxFuture<'a, Result<()>>;

    /// The same for several, each with its own outcome, in their order. Of two with the same key
    /// the later one stays.
    fn set_many<'a>(&'a self, puts: &'a [Put]) -> BoxFuture<'a, Vec<Result<()>>>;

    /// Deletes values and ends their keys' leases; how many values there were. An error tells that
    /// some were perhaps not deleted.
    fn invalidate<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64>>;

    /// Makes values stale and ends their keys' leases; how many values there were.
    fn expire<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64>>;

    /// Deletes a value that cannot be read, if it is still this one; whether it was.
    fn drop_if<'a>(&'a self, key: &'a Key, value: &'a Bytes) -> BoxFuture<'a, Result<bool>>;

    /// Deletes the versions of tags; how many there were.
    fn untag<'a>(&'a self, tags: &'a [Tag]) -> BoxFuture<'a, Result<u64>>;

    /// Where to scan and to look for markers: one shard of each node, as far as is known.
    fn nodes(&self) -> Vec<u16>;

    /// A number that is another one when keys may lie on other nodes than when it was last asked
    /// for, or a cursor of [`scan`](Self::scan) may be worth nothing; from then on
    /// [`nodes`](Self::nodes) goes by it.
    fn layout(&self) -> BoxFuture<'_, Result<u64>>;

    /// Some keys of a namespace that have a value or a lease, on one of the nodes; from 0 on.
    fn scan<'a>(&'a self, ns: &'a Name, node: u16, cursor: u64) -> BoxFuture<'a, Result<Scanned>>;

    /// The marker of a node; `fresh` if it has none.
    fn mark(&self, node: u16, fresh: Version) -> BoxFuture<'_, Result<Version>>;

    /// Hears of changes from its return on.
    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Feed>>>;

    /// The same where a server refuses [`listen`](Self::listen). It does not tell of leases that
    /// begin, nor of what expires, and only what is changed while
    /// [`keep_hearing`](Self::keep_hearing) is called within each minute.
    fn hear(&self) -> BoxFuture<'_, Result<Box<dyn Feed>>>;

    /// Says that somebody hears of changes; whether that was known everywhere until now. If not,
    /// changes may have been missed.
    fn keep_hearing(&self) -> BoxFuture<'_, Result<bool>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn key(ns: &str, key: &str) -> Key {
        Key::new(Name::new(ns).expect("a name"), Name::new(key).expect("a name"))
    }

    #[test]
    fn shards_never_move() {
        // Fixed for ever: a change here forgets every value of every user.
        assert_eq!([key("a", "b").shard(), key("crew", "42").shard()], [43, 13]);
        let used: HashSet<_> = (0..1000).map(|n| key("crew", &n.to_string()).shard()).collect();
        assert_eq!(used.len(), 64, "a thousand keys should use every shard");
    }

    #[test]
    fn keys_of_two_namespaces_stay_apart() {
        assert_ne!(key("a:b", "c").encoded(), key("a", "b:c").encoded());
        assert_ne!(key("a:b", "c"), key("a", "b:c"));
    }

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", Token([7; 16])), "Token(…)");
    }
}
