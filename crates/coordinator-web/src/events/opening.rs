//! How a stream begins: where the client was, and what there is to follow.

use super::{
    feed::{Feed, is_last},
    place::{Place, Resume},
    shared::Shared,
    sse::Settings,
    writer::{Followed, Writer},
};
use coordinator::{
    ErrorKind, Result,
    events::{Cursor, Events, Position, RawSubscription},
};
use http::{HeaderName, request::Parts};
use std::sync::Arc;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const QUERY: &str = "last_event_id";

/// Where the client says that it was: what its browser says counts more than what the page said
/// when it was made.
pub(super) fn resume(parts: &Parts) -> Resume {
    if let Some(id) = parts.headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) {
        return id.to_str().map_or(Resume::Malformed, Resume::read);
    }
    let fields = parts.uri.query().unwrap_or_default().split('&');
    let mut fields = fields.filter_map(|field| field.split_once('='));
    fields.find(|(name, _)| *name == QUERY).map_or(Resume::Fresh, |(_, id)| Resume::read(id))
}

pub(super) enum Opened {
    Stream {
        feed: Feed,
        writer: Writer,
        /// The scopes in which the client's place could not be read.
        unknown: Vec<usize>,
    },
    Finished,
    Wrong,
    Outage,
}

pub(super) async fn open(
    events: &Events,
    settings: &Settings,
    shared: &Arc<Shared>,
    resume: &Resume,
    scopes: Vec<String>,
) -> Opened {
    let (mut feed, mut followed, mut unknown) = (Feed::default(), Vec::new(), Vec::new());
    let alone = scopes.len() == 1;
    for (index, scope) in scopes.into_iter().enumerate() {
        let place = resume.in_scope(&scope, alone);
        // A place of one scope says nothing about several.
        let lost = matches!(resume, Resume::Malformed | Resume::One(_)) && place.is_none();
        unknown.extend(lost.then_some(index));
        let (place, subscription) = match place {
            Some(place) if place.finished => (place, None),
            place => match begin(events, settings, &scope, place).await {
                Ok((at, subscription)) => {
                    (Place { at, finished: subscription.is_none() }, subscription)
                }
                Err(error) => {
                    let error = (error.kind(), error.chain());
                    tracing::debug!(error = error.1, "an event stream could not begin");
                    let wrong = error.0 == ErrorKind::Misuse;
                    return if wrong { Opened::Wrong } else { Opened::Outage };
                }
            },
        };
        if let Some(subscription) = subscription {
            feed.follow(index, subscription, settings.terminal.clone());
        }
        followed.push(Followed { scope, place });
    }
    if followed.iter().all(|one| one.place.finished) {
        return Opened::Finished;
    }
    Opened::Stream { feed, writer: Writer::new(followed, shared.clone()), unknown }
}

/// A subscription, unless there is nothing to come.
async fn begin(
    events: &Events,
    settings: &Settings,
    scope: &str,
    place: Option<Place>,
) -> Result<(Cursor, Option<RawSubscription>)> {
    let mut subscribe = events.subscribe(scope);
    if !settings.types.is_empty() {
        subscribe = subscribe.types(settings.types.iter().chain(settings.terminal.iter()));
    }
    let from = place.map_or(settings.start, |place| Position::After(place.at));
    let subscription = subscribe.from(from).open_raw().await?;
    let at = subscription.cursor();
    if !settings.terminal.is_empty()
        && let Some(last) = events.last(scope).await?
        && is_last(&settings.terminal, last.kind())
        && is_behind(at, last.cursor())
    {
        return Ok((at, None));
    }
    Ok((at, Some(subscription)))
}

/// Whether a place is after an event.
fn is_behind(at: Cursor, event: Cursor) -> bool {
    (at.epoch(), at.number()) >= (event.epoch(), event.number())
}
