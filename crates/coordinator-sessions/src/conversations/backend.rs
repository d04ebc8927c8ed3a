//! The port: one method per atomic step of a conversation.

use coordinator_core::{BoxFuture, Result, key::Name};
use std::{fmt, time::Duration};

/// How many shards there are, for ever.
pub(crate) const SHARDS: u16 = 64;
/// How many messages that left the window are kept until a summary covers them.
pub(crate) const PENDING: usize = 100;
/// How many keys of appends a conversation remembers.
#[cfg(test)]
pub(crate) const KEYS: usize = 128;
/// How many fields a conversation has at most.
pub(crate) const FIELDS: usize = 256;

/// What a call and its answers have in common: a hash of the call's id.
pub(crate) type Link = [u8; 8];

/// Where a conversation is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) shard: u16,
    pub(crate) id: Name,
    /// Whose it is, if it belongs to a user: the index it stands in besides.
    pub(crate) user: Option<Name>,
}

/// A message to be appended; what it says is the caller's affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) tokens: u32,
    pub(crate) calls: Vec<Link>,
    pub(crate) answers: Option<Link>,
    pub(crate) body: Vec<u8>,
}

/// Messages to be appended at once.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) items: Vec<Item>,
    /// What makes a repetition known; empty for nothing.
    pub(crate) key: Vec<u8>,
    pub(crate) window: usize,
    pub(crate) budget: Option<u64>,
    pub(crate) ttl: Duration,
}

/// A message that was appended.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) sequence: u64,
    pub(crate) tokens: u32,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} ({} tokens, {} bytes)", self.sequence, self.tokens, self.body.len())
    }
}

/// What is known of a conversation without a look at its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) ends_in_ms: u64,
    pub(crate) age_ms: u64,
    /// The sequence of the last message, and so their number.
    pub(crate) last: u64,
    pub(crate) tokens: u64,
    /// How many left the window, and their tokens.
    pub(crate) evicted: u64,
    pub(crate) evicted_tokens: u64,
    /// Those up to this one are not pending.
    pub(crate) floor: u64,
    /// Those up to this one are covered by the summary.
    pub(crate) covered: u64,
    /// So many were dropped although nothing covers them.
    pub(crate) lost: u64,
    pub(crate) summary_tokens: u64,
}

/// What an append came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Added {
    /// `first` and `count` of the messages, and what left the window with them.
    Now {
        head: Head,
        first: u64,
        count: u64,
        evicted: Vec<Kept>,
    },
    /// It was before; all that is pending.
    Before {
        head: Head,
        first: u64,
        count: u64,
        pending: Vec<Kept>,
    },
    Paused {
        for_ms: u64,
        reason: Vec<u8>,
    },
}

/// A summary, of those that left the window behind `after` up to `up_to`.
#[derive(Debug, Clone)]
pub(crate) struct Cover {
    pub(crate) after: u64,
    pub(crate) up_to: u64,
    pub(crate) tokens: u32,
    pub(crate) text: Vec<u8>,
    pub(crate) ttl: Duration,
}

/// Fields to set and to remove, none twice.
#[derive(Debug, Clone)]
pub(crate) struct Edit {
    pub(crate) set: Vec<(String, Vec<u8>)>,
    pub(crate) remove: Vec<String>,
    pub(crate) ttl: Duration,
}

/// What is asked for besides the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) window: bool,
    pub(crate) pending: bool,
    pub(crate) fields: bool,
}

/// A conversation as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) head: Head,
    /// For how many ms it has been paused, and why.
    pub(crate) paused: Option<(u64, Vec<u8>)>,
    /// Empty for none.
    pub(crate) summary: Vec<u8>,
    /// By name, in order.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) window: Vec<Kept>,
    pub(crate) pending: Vec<Kept>,
}

/// A conversation in an index: its id, when it ends in ms, and in how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: Name,
    pub(crate) ends_ms: u64,
    pub(crate) ends_in_ms: u64,
}

/// Which index.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Index<'a> {
    /// Of all conversations of a shard.
    All(u16),
    /// Of a user, whose shard it is.
    Of(&'a Name),
}

pub(crate) trait Backend: Send + Sync + fmt::Debug {
    /// Appends, evicts what the window no longer holds, and renews the time to live.
    fn append<'a>(&'a self, place: &'a Place, batch: &'a Batch) -> BoxFuture<'a, Result<Added>>;

    /// Stores a summary if it covers all that is neither covered nor dropped; whether it did, and
    /// the head.
    fn summarise<'a>(
        &'a self,
        place: &'a Place,
        cover: &'a Cover,
    ) -> BoxFuture<'a, Result<(bool, Head)>>;

    /// Sets and removes fields; how many there are where there is no room for more.
    fn edit<'a>(&'a self, place: &'a Place, edit: &'a Edit) -> BoxFuture<'a, Result<Option<u64>>>;

    /// Pauses it; whether it was not paused.
    fn pause<'a>(
        &'a self,
        place: &'a Place,
        reason: &'a [u8],
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Ends a pause; whether there was one.
    fn resume<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool>>;

    /// Has it live for so long at least; for how many ms it does.
    fn extend<'a>(&'a self, place: &'a Place, ttl: Duration) -> BoxFuture<'a, Result<Option<u64>>>;

    /// Deletes it, damaged or not; whether it was there.
    fn delete<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool>>;

    fn show<'a>(&'a self, place: &'a Place, parts: Parts) -> BoxFuture<'a, Result<Option<Seen>>>;

    /// Those that live, behind this end and id.
    fn list<'a>(
        &'a self,
        index: Index<'a>,
        after: Option<(u64, &'a Name)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>>;

    /// How many of a shard live.
    fn count(&self, shard: u16) -> BoxFuture<'_, Result<u64>>;
}
