//! One conversation: what is asked of it.

use super::{
    APPEND_MAX, APPEND_MAX_BYTES, Identity, Inner, SUMMARY_MAX_CHARS, TTL_MAX,
    backend::{Added, Batch, Cover, Head, Kept, Parts, Place},
    fields::{FieldEdit, Fields, Section},
    message::{Message, said},
    outcome::{
        Append, Appended, Edited, Pending, Span, Stats, Summarised, View, cut, pause, stored,
    },
};
use coordinator_core::{Error, Result, key::Name};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use std::{fmt, sync::Arc, time::Duration};

const HEAD: Parts = Parts { window: false, pending: false, fields: false };
const ALL: Parts = Parts { window: true, pending: false, fields: true };
const PENDING: Parts = Parts { pending: true, ..HEAD };
const FIELDS: Parts = Parts { fields: true, ..HEAD };
/// The longest reason of a pause, in characters.
const REASON_MAX_CHARS: usize = 400;

/// A handle of one conversation; it holds nothing, and clones are the same.
#[derive(Clone)]
pub struct Conversation {
    inner: Arc<Inner>,
    identity: Identity,
    place: Place,
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Conversation").field(&self.identity).finish()
    }
}

pub(super) fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl < Duration::from_millis(1) || ttl > TTL_MAX {
        let why = "a conversation lives between a millisecond and ten years";
        return Err(Error::misuse("sessions.conversation", why));
    }
    Ok(())
}

impl Conversation {
    pub(super) fn new(inner: Arc<Inner>, identity: Identity, place: Place) -> Self {
        Self { inner, identity, place }
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Appends 1 to 100 messages, together and in this order, and takes from the window what it no
    /// longer holds.
    ///
    /// What leaves is handed back and stays [`pending`](Self::pending) until a summary covers it;
    /// a call of a tool and its answers leave together, and an answer whose call has left does so
    /// at once. With a key, of 1 to 512 bytes, a repetition appends nothing and says so: the last
    /// 128 are remembered, for as long as the conversation. The time to live begins anew.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse), and nothing is sent, if there is no
    /// message or more than 100, if one is longer than a MiB or alone above the token budget, or
    /// all together are longer than 8 MiB. [`Corrupt`](coordinator_core::ErrorKind::Corrupt), and
    /// nothing is changed, if what is stored is damaged. Otherwise what the backend meets; after
    /// [`Indeterminate`](coordinator_core::ErrorKind::Indeterminate) repeat it with the same key.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether they are appended. With the same key they may be
    /// sent again; what left the window is pending.
    pub async fn append(&self, messages: &[Message], key: Option<&str>) -> Result<Append> {
        let batch = self.batch(messages, key)?;
        let (head, first, count, items, duplicate) =
            match self.inner.backend.append(&self.place, &batch).await? {
                Added::Now { head, first, count, evicted } => (head, first, count, evicted, false),
                Added::Before { head, first, count, pending } => {
                    (head, first, count, pending, true)
                }
                Added::Paused { for_ms, reason } => {
                    return Ok(Append::Paused(pause(for_ms, &reason)?));
                }
            };
        Ok(Append::Done(appended(&head, first..=first + count - 1, &items, duplicate)?))
    }

    fn batch(&self, messages: &[Message], key: Option<&str>) -> Result<Batch> {
        let wrong = |why: String| Err(Error::misuse("sessions.conversation_append", why));
        if messages.is_empty() || messages.len() > APPEND_MAX {
            return wrong(format!("1 to {APPEND_MAX} messages, not {}", messages.len()));
        }
        let Inner { window, budget, estimator, ttl, .. } = &*self.inner;
        let mut items = Vec::with_capacity(messages.len());
        for message in messages {
            let item = message.item(&**estimator)?;
            if budget.is_some_and(|budget| u64::from(item.tokens) > budget) {
                let why = format!("a message of {} tokens is above the budget", item.tokens);
                return wrong(why);
            }
            items.push(item);
        }
        if items.iter().map(|item| item.body.len()).sum::<usize>() > APPEND_MAX_BYTES {
            return wrong("the messages are longer than 8 MiB together".to_owned());
        }
        // Hashed, for a short key costs little to remember.
        let key = match key {
            Some(key) => Sha256::digest(Name::new(key)?.as_str())[..16].to_vec(),
            None => Vec::new(),
        };
        Ok(Batch { items, key, window: *window, budget: *budget, ttl: *ttl })
    }

    /// The conversation as it is: window, summary, fields, figures; `None` if it is not there.
    ///
    /// # Errors
    /// [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if it is damaged, and what reading meets.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn show(&self) -> Result<Option<View>> {
        let seen = self.inner.backend.show(&self.place, ALL).await?;
        seen.as_ref().map(View::of).transpose()
    }

    /// Its figures; `None` if it is not there. No message is read for them.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn stats(&self) -> Result<Option<Stats>> {
        let seen = self.inner.backend.show(&self.place, HEAD).await?;
        Ok(seen.map(|seen| Stats::of(&seen.head)))
    }

    /// Whether it is there: something was appended, set, summarised or paused, and it has not
    /// expired.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn exists(&self) -> Result<bool> {
        Ok(self.inner.backend.show(&self.place, HEAD).await?.is_some())
    }

    /// What left the window and no summary covers, at most the newest 100, with the summary so
    /// far; `None` if the conversation is not there.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn pending(&self) -> Result<Option<Pending>> {
        let seen = self.inner.backend.show(&self.place, PENDING).await?;
        seen.as_ref().map(Pending::of).transpose()
    }

    /// Makes this text the summary of all that left the window up to the end of `span`, which is
    /// that of [`pending`](Self::pending) or of an append, and cuts it to 400 characters.
    ///
    /// It is a compare-and-set on what is covered: of two that cover the same, one is stored. The
    /// very same summary of the same span is stored once and said to be stored each time.
    /// What is appended meanwhile stays pending.
    ///
    /// # Errors
    /// What the backend meets.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is stored; it may be sent again.
    pub async fn set_summary(&self, text: &str, span: Span) -> Result<Summarised> {
        let text = cut(text, SUMMARY_MAX_CHARS);
        let cover = Cover {
            after: span.after,
            up_to: span.up_to,
            tokens: self.inner.estimator.tokens(text),
            text: stored(text)?,
            ttl: self.inner.ttl,
        };
        let (done, head) = self.inner.backend.summarise(&self.place, &cover).await?;
        if done {
            return Ok(Summarised::Stored);
        }
        Ok(Summarised::Conflict { pending: Span { after: head.floor, up_to: head.evicted } })
    }

    /// Sets and removes fields in one step; those of the same name are replaced, all others stay.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse), and nothing is sent, if a name or value is
    /// too long, a value cannot be serialized, or there are more than 64; and what the backend
    /// meets.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is done; all of it is or nothing.
    pub async fn edit(&self, edit: FieldEdit) -> Result<Edited> {
        let edit = edit.checked(self.inner.ttl)?;
        let full = self.inner.backend.edit(&self.place, &edit).await?;
        Ok(full.map_or(Edited::Done, |fields| Edited::Full { fields }))
    }

    /// Sets one field.
    ///
    /// # Errors
    /// As [`edit`](Self::edit).
    ///
    /// # Cancel safety
    /// As [`edit`](Self::edit).
    pub async fn set<T: Serialize + ?Sized>(
        &self,
        section: Section,
        name: &str,
        value: &T,
    ) -> Result<Edited> {
        let edit = FieldEdit::new().set(section, name, value);
        self.edit(edit).await
    }

    /// The value of one field; `None` if there is no such field, or no such conversation.
    ///
    /// # Errors
    /// As [`show`](Self::show), and [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if the value
    /// is of another shape.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn get<T: DeserializeOwned>(
        &self,
        section: Section,
        name: &str,
    ) -> Result<Option<T>> {
        self.fields(section).await?.get(name)
    }

    /// The fields of a section; none if the conversation is not there.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn fields(&self, section: Section) -> Result<Fields> {
        match self.inner.backend.show(&self.place, FIELDS).await? {
            Some(seen) => Fields::of(section, &seen.fields),
            None => Ok(Fields::default()),
        }
    }

    /// Pauses it: from now on appends are refused, by whatever process, until it is resumed. A
    /// reason is cut to 400 characters. Whether it was not paused before.
    ///
    /// # Errors
    /// What the backend meets.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is paused; it may be sent again.
    pub async fn pause(&self, reason: Option<&str>) -> Result<bool> {
        let reason = stored(cut(reason.unwrap_or_default(), REASON_MAX_CHARS))?;
        self.inner.backend.pause(&self.place, &reason, self.inner.ttl).await
    }

    /// Ends a pause; whether there was one.
    ///
    /// # Errors
    /// What the backend meets.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it goes on; it may be sent again.
    pub async fn resume(&self) -> Result<bool> {
        self.inner.backend.resume(&self.place).await
    }

    /// Has it live for so long from now on at least; how long it does, or `None` if it is not
    /// there. It never shortens.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) if the time is under a millisecond or above
    /// ten years, and what the backend meets.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is extended; it may be sent again.
    pub async fn extend(&self, ttl: Duration) -> Result<Option<Duration>> {
        check_ttl(ttl)?;
        let lives = self.inner.backend.extend(&self.place, ttl).await?;
        Ok(lives.map(Duration::from_millis))
    }

    /// Deletes it with all that it holds, also where it is damaged; whether it was there. A delete
    /// that the network delivers late, or twice, also deletes what began anew under the same id
    /// meanwhile.
    ///
    /// # Errors
    /// What the backend meets.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is deleted; it may be sent again.
    pub async fn delete(&self) -> Result<bool> {
        self.inner.backend.delete(&self.place).await
    }
}

fn appended(
    head: &Head,
    sequences: std::ops::RangeInclusive<u64>,
    items: &[Kept],
    duplicate: bool,
) -> Result<Appended> {
    let evicted: Vec<_> = items.iter().map(said).collect::<Result<_>>()?;
    let count = u64::try_from(evicted.len()).unwrap_or(u64::MAX);
    let span = Span { after: head.evicted.saturating_sub(count), up_to: head.evicted };
    Ok(Appended { sequences, duplicate, evicted, span, stats: Stats::of(head) })
}
