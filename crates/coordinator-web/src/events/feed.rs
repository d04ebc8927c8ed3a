//! What several scopes yield, as one.

use coordinator::events::{RawItem, RawSubscription};
use futures::stream::{self, BoxStream, SelectAll, Stream, StreamExt as _};
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// What a scope yielded.
#[derive(Debug)]
pub(super) struct Fed {
    /// Which one.
    pub(super) index: usize,
    pub(super) item: RawItem,
    /// Whether the scope is finished with it.
    pub(super) last: bool,
}

/// Ends with the last scope.
#[derive(Default)]
pub(super) struct Feed {
    merged: SelectAll<BoxStream<'static, Fed>>,
}

impl Feed {
    /// Follows a scope until it yields an event of one of these types.
    pub(super) fn follow(
        &mut self,
        index: usize,
        subscription: RawSubscription,
        terminal: Arc<[String]>,
    ) {
        let fed = stream::unfold(Some(subscription), move |subscription| {
            let terminal = terminal.clone();
            async move {
                let mut subscription = subscription?;
                let item = subscription.next().await?;
                let last =
                    matches!(&item, RawItem::Event(event) if is_last(&terminal, event.kind()));
                Some((Fed { index, item, last }, (!last).then_some(subscription)))
            }
        });
        self.merged.push(fed.boxed());
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Fed>> {
        Pin::new(&mut self.merged).poll_next(context)
    }
}

pub(super) fn is_last(terminal: &[String], kind: &str) -> bool {
    terminal.iter().any(|one| one == kind)
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("scopes", &self.merged.len()).finish()
    }
}
