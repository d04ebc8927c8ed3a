//! What a worker keeps beside the ledger: a session for each client, with a counter in it, and a
//! document for each path, which counts by compare-and-set.
//!
//! Whether nothing was lost is not known here: [`audit`](super::audit) looks again.

use super::{requests::Request, visits::Cookie};
use coordinator::{
    Coordinator, Error, Result,
    sessions::{
        Filter, Lookup, Namespace, NewSession, Sessions, Updated, documents::Updated as Revised,
    },
};
use std::time::Duration;

/// What a demo leaves behind is gone so long after its last use.
const LIFE: Duration = Duration::from_hours(1);
/// The field of a session that counts.
const VISITS: &str = "visits";

/// What is kept, of one run of the demo alone.
#[derive(Debug, Clone)]
pub(crate) struct Keeping {
    sessions: Sessions,
    pages: Namespace,
    company: String,
    hasty: bool,
}

/// What became of keeping a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It was counted; with a cookie if the client is to have a new one.
    Done(Option<Cookie>),
    /// Others were faster all the while.
    Contended,
}

impl Keeping {
    /// What all workers of the run `run` share. A hasty one counts without looking whether others
    /// did meanwhile.
    pub(crate) fn new(coordinator: &Coordinator, run: u64, hasty: bool) -> Result<Self> {
        let company = format!("demo:{run:016x}");
        let sessions = coordinator.sessions().clone().with_idle_timeout(LIFE);
        Ok(Self {
            sessions: sessions.with_absolute_timeout(LIFE * 24),
            pages: coordinator.documents().namespace(&company)?.with_ttl(LIFE),
            company,
            hasty,
        })
    }

    /// Counts a request in the session of its client and in the document of its path, at once.
    pub(crate) async fn visit(&self, request: &Request, cookie: Option<Cookie>) -> Result<Kept> {
        let (greeted, counted) =
            tokio::join!(self.greet(&request.client, cookie), self.count(&request.path));
        let greeted = greeted?;
        Ok(if counted? { greeted } else { Kept::Contended })
    }

    /// Finds the client's session, or begins one.
    async fn greet(&self, client: &str, cookie: Option<Cookie>) -> Result<Kept> {
        if let Some(token) = cookie.as_ref().and_then(Cookie::token) {
            let counted = self.sessions.update(&token, |data| {
                let visits = data.get::<u64>(VISITS)?.unwrap_or(0);
                data.set(VISITS, &(visits + 1))
            });
            match counted.await? {
                Lookup::Live(Updated::Conflict { .. }) => return Ok(Kept::Contended),
                Lookup::Live(_) => return Ok(Kept::Done(None)),
                gone => tracing::warn!(?gone, "a session is gone"),
            }
        }
        let new = NewSession::user(client).company(&self.company).set(VISITS, &1_u64)?;
        let session = self.sessions.create(new).await?.session()?;
        let missing = || Error::corrupt("sessions.create", "a new session has no token");
        Ok(Kept::Done(Some(Cookie::new(session.token().ok_or_else(missing)?))))
    }

    /// Counts in a document; whether that was possible.
    async fn count(&self, path: &str) -> Result<bool> {
        if self.hasty {
            let count = self.counted(path).await?;
            return Ok(self.pages.put(path, &(count + 1)).await?.is_stored());
        }
        let counted = self.pages.revise(path, |count: Option<u64>| Some(count.unwrap_or(0) + 1));
        Ok(matches!(counted.await?, Revised::Stored { .. }))
    }

    /// What the document of a path counted.
    pub(crate) async fn counted(&self, path: &str) -> Result<u64> {
        Ok(self.pages.get::<u64>(path).await?.map_or(0, |document| document.value))
    }

    /// What the session of a client counted; `None`: it is not there, or another's.
    pub(crate) async fn visits_of(&self, client: &str, cookie: &Cookie) -> Result<Option<u64>> {
        let Some(token) = cookie.token() else { return Ok(None) };
        let Lookup::Live(session) = self.sessions.peek(&token).await? else { return Ok(None) };
        let own = session.user() == Some(client) && session.company() == Some(&*self.company);
        Ok(if own { session.get(VISITS)? } else { None })
    }

    /// How many sessions and documents there are.
    pub(crate) async fn counts(&self) -> Result<(u64, u64)> {
        let sessions = self.sessions.count(&Filter::company(&self.company)).await?;
        Ok((sessions, self.pages.count().await?))
    }

    #[cfg(test)]
    pub(crate) fn parts(&self) -> (&Sessions, &Namespace, &str) {
        (&self.sessions, &self.pages, &self.company)
    }
}
