//! What calls come to, and what a conversation looks like.

use super::{
    backend::{Head, Seen},
    fields::{Fields, Section},
    message::{Message, said},
};
use coordinator_core::{
    Error, Result,
    codec::{self, Codec},
};
use serde::{Deserialize, Serialize};
use std::{ops::RangeInclusive, time::Duration};

/// A message that was appended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Said {
    /// Its place in the conversation, from 1 on without a gap; the backend gives it.
    pub sequence: u64,
    /// What it was estimated to cost.
    pub tokens: u32,
    /// What is said.
    pub message: Message,
}

/// Messages that left the window, counted in the order in which they did: those behind `after` up
/// to `up_to`. It says what a summary covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// How many left before the first of them.
    pub after: u64,
    /// The number of the last of them.
    pub up_to: u64,
}

/// What an append came to.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use = "an append may be refused"]
pub enum Append {
    /// It was appended, now or before.
    Done(Appended),
    /// The conversation is paused; nothing was appended.
    Paused(Pause),
}

impl Append {
    /// What was appended, unless the conversation is paused.
    pub fn done(self) -> Option<Appended> {
        match self {
            Self::Done(appended) => Some(appended),
            Self::Paused(_) => None,
        }
    }
}

/// Messages that were appended, and what left the window for them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Appended {
    /// The first and the last of their sequence numbers.
    pub sequences: RangeInclusive<u64>,
    /// This key had appended them before; nothing was appended now.
    pub duplicate: bool,
    /// What left the window with this append, the oldest first; of a duplicate all that is
    /// pending, in the order in which it left.
    pub evicted: Vec<Said>,
    /// Which these are, for [`set_summary`](super::Conversation::set_summary).
    pub span: Span,
    /// How the conversation stands now.
    pub stats: Stats,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pause {
    /// How long it has lasted.
    pub lasting: Duration,
    /// Why, if that was said.
    pub reason: Option<String>,
}

/// How a conversation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages ever appended.
    pub messages: u64,
    /// Messages in the window.
    pub in_window: u64,
    /// Messages that left the window.
    pub evicted: u64,
    /// Those of them that no summary covers and that are still kept.
    pub pending: u64,
    /// Those of them that the summary stands for.
    pub covered: u64,
    /// Those of them that were dropped although no summary covers them: more than 100 were
    /// pending.
    pub lost: u64,
    /// Tokens ever appended.
    pub tokens: u64,
    /// Tokens in the window.
    pub tokens_in_window: u64,
    /// Tokens of the summary.
    pub summary_tokens: u64,
    /// Tokens that the window and the summary spare each request: those of all that left, less
    /// those of the summary, and never below 0.
    pub tokens_saved: u64,
    /// Since when it is.
    pub age: Duration,
    /// When it ends if nobody appends.
    pub expires_in: Duration,
}

impl Stats {
    pub(super) fn of(head: &Head) -> Self {
        Self {
            messages: head.last,
            in_window: head.last - head.evicted,
            evicted: head.evicted,
            pending: head.evicted - head.floor,
            covered: head.floor - head.lost,
            lost: head.lost,
            tokens: head.tokens,
            tokens_in_window: head.tokens - head.evicted_tokens,
            summary_tokens: head.summary_tokens,
            tokens_saved: head.evicted_tokens.saturating_sub(head.summary_tokens),
            age: Duration::from_millis(head.age_ms),
            expires_in: Duration::from_millis(head.ends_in_ms),
        }
    }
}

/// A conversation as it is, at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct View {
    /// What stands for the messages that left.
    pub summary: Option<String>,
    /// The messages of the window, in order.
    pub window: Vec<Said>,
    /// The fields of [`Section::Context`].
    pub context: Fields,
    /// The fields of [`Section::Focus`].
    pub focus: Fields,
    /// The fields of [`Section::Stats`].
    pub counted: Fields,
    /// Whether it is paused.
    pub pause: Option<Pause>,
    /// Its figures.
    pub stats: Stats,
}

impl View {
    /// The fields of a section.
    pub fn fields(&self, section: Section) -> &Fields {
        match section {
            Section::Context => &self.context,
            Section::Focus => &self.focus,
            Section::Stats => &self.counted,
        }
    }

    /// The messages alone.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.window.iter().map(|said| &said.message)
    }

    pub(super) fn of(seen: &Seen) -> Result<Self> {
        Ok(Self {
            summary: text(&seen.summary)?,
            window: seen.window.iter().map(said).collect::<Result<_>>()?,
            context: Fields::of(Section::Context, &seen.fields)?,
            focus: Fields::of(Section::Focus, &seen.fields)?,
            counted: Fields::of(Section::Stats, &seen.fields)?,
            pause: seen.paused.as_ref().map(|(ms, reason)| pause(*ms, reason)).transpose()?,
            stats: Stats::of(&seen.head),
        })
    }
}

/// What a summary is to be made of.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Pending {
    /// The summary so far, which stands for all before.
    pub summary: Option<String>,
    /// What no summary covers, in the order in which it left the window.
    pub messages: Vec<Said>,
    /// Which these are, for [`set_summary`](super::Conversation::set_summary).
    pub span: Span,
}

impl Pending {
    pub(super) fn of(seen: &Seen) -> Result<Self> {
        Ok(Self {
            summary: text(&seen.summary)?,
            messages: seen.pending.iter().map(said).collect::<Result<_>>()?,
            span: Span { after: seen.head.floor, up_to: seen.head.evicted },
        })
    }
}

/// What became of a summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a summary may be refused"]
pub enum Summarised {
    /// It is the summary now.
    Stored,
    /// It was not stored: another one covers some of these messages already, or older ones are
    /// pending that it does not cover. Read [`pending`](super::Conversation::pending) anew.
    Conflict {
        /// What would have to be covered.
        pending: Span,
    },
}

/// What became of an edit of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "an edit may be refused"]
pub enum Edited {
    /// All of it was done.
    Done,
    /// Nothing was: the conversation would have more than 256 fields.
    Full {
        /// How many it has.
        fields: u64,
    },
}

/// The first 400 characters, which never cuts one in two.
pub(super) fn cut(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

pub(super) fn stored(text: &str) -> Result<Vec<u8>> {
    codec::wrap(Codec::Raw, text.as_bytes())
}

/// A stored text; none where nothing is stored.
fn text(stored: &[u8]) -> Result<Option<String>> {
    if stored.is_empty() {
        return Ok(None);
    }
    let (_, text) = codec::unwrap(stored)?;
    let wrong = |_| Error::corrupt("sessions.conversation_show", "a text is no UTF-8");
    String::from_utf8(text.to_vec()).map(Some).map_err(wrong)
}

pub(super) fn pause(ms: u64, reason: &[u8]) -> Result<Pause> {
    let reason = text(reason)?.filter(|reason| !reason.is_empty());
    Ok(Pause { lasting: Duration::from_millis(ms), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_harness::rng;
    use rand::RngExt as _;

    #[test]
    fn a_text_is_cut_between_characters_whatever_it_holds() {
        let mut rng = rng();
        for _ in 0..2000 {
            let length = rng.random_range(0..30);
            let text: String = (0..length)
                .map(|_| {
                    let picks = ['a', 'é', '你', '🦀', '\u{301}', '\0', '\u{10ffff}', '\n'];
                    picks[rng.random_range(0..picks.len())]
                })
                .collect();
            let most = rng.random_range(0..30);
            let short = cut(&text, most);
            assert!(text.starts_with(short));
            assert_eq!(short.chars().count(), length.min(most));
        }
    }
}
