//! What a worker tells of: an event for each request, in the scope of its client.
//!
//! Whether each came is not known here: the [`witness`](super::witness) listens.

use super::requests::Request;
use coordinator::{
    Coordinator, Error, Result,
    events::{Cursor, Events},
};
use serde::{Deserialize, Serialize};
use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

/// How many scopes the clients are spread over.
pub(crate) const SCOPES: u64 = 8;
/// What a demo leaves behind is gone so long after its last use.
const LIFE: Duration = Duration::from_hours(1);
/// What happened.
const KIND: &str = "request_handled";
/// Every how many requests a worker forgets to tell, if it is to.
const FORGOTTEN: u64 = 7;

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) number: u64,
}

/// Where an event stands: in which scope of the run, and where in that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) of: u64,
    pub(crate) cursor: Cursor,
}

/// Publishes the events of one run of the demo.
#[derive(Debug, Clone)]
pub(crate) struct Herald {
    events: Events,
    run: u64,
    forgetful: bool,
}

/// The scopes of a run.
pub(crate) fn scope(run: u64, of: u64) -> String {
    format!("demo:{run:016x}:{of}")
}

impl Herald {
    /// What all workers of the run `run` share. A forgetful one says of some requests that it told
    /// of them, and did not.
    pub(crate) fn new(coordinator: &Coordinator, run: u64, forgetful: bool) -> Self {
        let events = coordinator.events().clone().with_source("demo").with_idempotency(LIFE);
        Self { events: events.with_retention(Events::RETENTION.0, LIFE), run, forgetful }
    }

    /// Tells of a request, once however often it is begun; where its event stands.
    pub(crate) async fn tell(&self, request: &Request) -> Result<Place> {
        let number = request.number;
        // Who knows no secret numbers comes to the same scope in each process.
        let mut hasher = DefaultHasher::new();
        request.client.hash(&mut hasher);
        let of = hasher.finish() % SCOPES;
        if self.forgetful && number.is_multiple_of(FORGOTTEN) {
            return Ok(Place { of, cursor: Cursor::START });
        }
        let event = self.events.publish(&scope(self.run, of), KIND, &Told { number });
        let published = event.idempotent(&number.to_string()).await?;
        let fenced = || Error::corrupt("events.publish", "nobody asked for a fence");
        Ok(Place { of, cursor: published.cursor().ok_or_else(fenced)? })
    }
}
