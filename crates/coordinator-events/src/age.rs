//! Events that are too old go.
//!
//! Ids do not say how old an event is, its attributes do: so it is looked at the oldest ones.

use crate::{
    backend::{Backend, From, PAGE, Stored},
    cursor::{Cursor, Id},
    envelope::RawEvent,
    events::Events,
    tasks,
};
use coordinator_core::{Result, key::Name};
use std::time::Duration;

/// A part of the age that events may get: how much older they may be before they go.
const SLACK: u32 = 16;

impl Events {
    /// Begins to look for events that are too old, unless that was done a while ago.
    pub(crate) fn sweep(&self, scope: &Name) {
        let Some(age) = self.options.max_age else { return };
        let clock = self.inner.backend.clock();
        if self.inner.epochs.is_to_be_swept(scope.as_str(), clock.now(), age / SLACK) {
            let (backend, scope) = (self.inner.backend.clone(), scope.clone());
            let first = clock.unix_time().saturating_sub(age);
            tasks::spawn(async move {
                if let Err(error) = sweep(&*backend, &scope, first).await {
                    let error = error.chain();
                    tracing::debug!(error, "events that are too old could not be looked for");
                }
            });
        }
    }
}

/// Forgets what stands before the first event that is of this time or later.
async fn sweep(backend: &dyn Backend, scope: &Name, first: Duration) -> Result<()> {
    while let Some(page) = backend.read(scope, From::First, PAGE).await? {
        let Some(young) = after_the_old(&page.events, first) else { return Ok(()) };
        backend.trim(scope, young).await?;
        if page.events.last().is_none_or(|last| last.id >= young || last.id == page.last) {
            return Ok(());
        }
    }
    Ok(())
}

/// After the last one that is too old, before any that is not: a publisher whose clock is behind
/// ends no others' events. What cannot be read goes with what is around it.
fn after_the_old(events: &[Stored], first: Duration) -> Option<Id> {
    let mut after = None;
    for event in events {
        let raw = RawEvent::new(Cursor::new(event.id, event.nonce), &event.envelope);
        if raw.is_readable() && raw.time() >= first {
            break;
        }
        if raw.is_readable() {
            after = Some(event.id.next());
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Head, frame};

    fn stored(number: u64, time_ms: Option<u64>) -> Stored {
        let head = Head {
            kind: "n".into(),
            source: "s".into(),
            time_ms: time_ms.unwrap_or_default(),
            schema: 0,
            traceparent: None,
            content_type: None,
        };
        let envelope = match time_ms {
            Some(_) => frame([0; 8], &head, b"1").expect("a frame").slice(8..),
            None => "?".into(),
        };
        let id = Id { epoch: 1, number };
        Stored { id, before: crate::backend::Before::Dense, nonce: [0; 8], envelope }
    }

    #[test]
    fn a_clock_that_is_behind_ends_no_others_events() {
        for (times, after) in [
            (&[Some(5), Some(9), Some(20)][..], Some(2)),
            (&[Some(20), Some(5), Some(20)], None),
            (&[Some(5), None, Some(9), None, Some(20), Some(5)], Some(3)),
            (&[None, None], None),
            (&[None, Some(20)], None),
        ] {
            let events: Vec<_> =
                times.iter().zip(0..).map(|(time, number)| stored(number, *time)).collect();
            let found = after_the_old(&events, Duration::from_millis(10));
            assert_eq!(found.map(|id| id.number), after, "{times:?}");
        }
    }
}
