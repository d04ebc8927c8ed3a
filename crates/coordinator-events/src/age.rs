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

/// After the last one that is too old, whatever cannot be read before it.
fn after_the_old(events: &[Stored], first: Duration) -> Option<Id> {
    let is_old = |event: &&Stored| {
        let raw = RawEvent::new(Cursor::new(event.id, event.nonce), &event.envelope);
        raw.is_readable() && raw.time() < first
    };
    events.iter().rfind(is_old).map(|event| event.id.next())
}
