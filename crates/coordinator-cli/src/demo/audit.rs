//! The checks of what was kept: sessions and documents are read again and compared with what the
//! parent saw; what was heard of events is said with it.

use super::{keeping::Keeping, visits::Visits, witness::Heard, worker::Trouble};
use crate::failure::Failure;
use coordinator::{Result, clock::Clock};
use futures::stream::{StreamExt as _, TryStreamExt as _, iter};
use serde::Serialize;

/// How many are asked for at once.
const AT_ONCE: usize = 32;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Audit {
    /// Sessions that live.
    pub(crate) sessions: u64,
    /// Clients whose session was gone, then or now.
    pub(crate) sessions_lost: u64,
    pub(crate) documents: u64,
    /// Sessions and documents that did not count each request that was handled, or counted one
    /// that never was begun.
    pub(crate) updates_lost: u64,
    #[serde(flatten)]
    pub(crate) events: Heard,
    /// Clients.
    #[serde(skip)]
    pub(crate) clients: u64,
    /// Sessions and documents that nothing explains.
    #[serde(skip)]
    pub(crate) unexplained: u64,
}

impl Audit {
    /// In plain words.
    pub(crate) fn checks(&self) -> [(bool, String); 3] {
        let Self { sessions, sessions_lost, documents, updates_lost, .. } = self;
        let Self { events, clients, unexplained, .. } = self;
        [
            (
                *sessions_lost == 0 && *unexplained == 0,
                format!(
                    "every client kept its session: {sessions} sessions of {clients} clients, \
                     {sessions_lost} lost"
                ),
            ),
            (
                *updates_lost == 0,
                format!(
                    "sessions and documents counted every request: {updates_lost} of \
                     {sessions} and {documents} do not add up"
                ),
            ),
            events.check(),
        ]
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.events.is_clean() && self.sessions_lost + self.updates_lost + self.unexplained == 0
    }
}

/// Compares, and bears with a server that is away for a while.
pub(crate) async fn examine(
    visits: &Visits,
    keeping: &Keeping,
    events: Heard,
    clock: &dyn Clock,
) -> Result<Audit, Failure> {
    let mut trouble = Trouble::none();
    loop {
        match compare(visits, keeping).await {
            Ok(audit) => return Ok(Audit { events, ..audit }),
            Err(error) => trouble.bear(clock, error).await?,
        }
    }
}

async fn compare(visits: &Visits, keeping: &Keeping) -> Result<Audit> {
    let mut audit = Audit { sessions_lost: visits.renewed(), ..Audit::default() };
    let clients = visits.clients().map(|(client, visitor)| async move {
        let found = match &visitor.cookie {
            Some(cookie) => keeping.visits_of(client, cookie).await?,
            None => None,
        };
        Ok((found, visitor.count))
    });
    let clients: Vec<_> = iter(clients).buffer_unordered(AT_ONCE).try_collect().await?;
    audit.clients = clients.len() as u64;
    for (found, count) in clients {
        match found {
            Some(counter) => audit.updates_lost += u64::from(!count.explains(counter)),
            None => audit.sessions_lost += 1,
        }
    }
    let paths = visits
        .paths()
        .map(|(path, count)| async move { Ok((keeping.counted(path).await?, count)) });
    let paths: Vec<_> = iter(paths).buffer_unordered(AT_ONCE).try_collect().await?;
    for (counter, count) in &paths {
        audit.updates_lost += u64::from(!count.explains(*counter));
    }
    (audit.sessions, audit.documents) = keeping.counts().await?;
    let spare = visits.in_vain();
    for (found, seen) in [(audit.sessions, audit.clients), (audit.documents, paths.len() as u64)] {
        audit.unexplained += found.saturating_sub(seen + spare);
    }
    Ok(audit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{keeping::Kept, requests::Request};
    use coordinator::{Coordinator, sessions::NewSession};

    struct Run {
        keeping: Keeping,
        visits: Visits,
    }

    impl Run {
        /// Six requests of two clients for two paths.
        async fn honest() -> Self {
            let keeping = Keeping::new(&Coordinator::embedded(), 7, false).expect("names");
            let mut run = Self { keeping, visits: Visits::default() };
            for number in 0..6 {
                run.begin(number).await;
                run.end(number, None);
            }
            run
        }

        fn names(number: u64) -> (String, String) {
            (format!("c{}", number % 2), format!("/{}", number % 3 % 2))
        }

        async fn begin(&mut self, number: u64) {
            let (client, path) = Self::names(number);
            let cookie = self.visits.begin(&client, &path);
            let request = Request { number, client: client.clone(), path };
            let kept = self.keeping.visit(&request, cookie).await.expect("memory");
            let Kept::Done(new) = kept else { panic!("nobody else is here") };
            if let Some(new) = new {
                // As if its write had come, without a request of its own.
                let visitor = self.visits.cookie_of(&client);
                *visitor = Some(new);
            }
        }

        fn end(&mut self, number: u64, cookie: Option<super::super::visits::Cookie>) {
            let (client, path) = Self::names(number);
            self.visits.end(&client, &path, cookie);
        }

        async fn audit(&self) -> Audit {
            compare(&self.visits, &self.keeping).await.expect("memory")
        }
    }

    #[tokio::test]
    async fn an_honest_run_is_clean_and_so_is_one_with_work_in_vain() {
        let mut run = Run::honest().await;
        let audit = run.audit().await;
        assert!(audit.is_clean(), "{audit:?}");
        assert_eq!((audit.sessions, audit.clients, audit.documents), (2, 2, 2));
        run.begin(1).await;
        assert!(run.audit().await.is_clean());
    }

    #[tokio::test]
    async fn planted_a_session_that_ended_is_found() {
        let run = Run::honest().await;
        let (sessions, _, _) = run.keeping.parts();
        sessions.revoke_user("c1", "planted").await.expect("memory");
        let audit = run.audit().await;
        assert_eq!((audit.sessions_lost, audit.sessions), (1, 1));
        assert!(!audit.is_clean());
    }

    #[tokio::test]
    async fn planted_a_client_that_was_given_another_session_is_found() {
        let mut run = Run::honest().await;
        run.begin(0).await;
        let cookie = run.visits.cookie_of("c1").clone();
        run.end(0, cookie);
        assert!(run.audit().await.sessions_lost > 0);
    }

    #[tokio::test]
    async fn planted_counters_that_lost_an_update_are_found() {
        let run = Run::honest().await;
        let (_, pages, _) = run.keeping.parts();
        assert!(pages.put("/0", &1_u64).await.expect("memory").is_stored());
        let audit = run.audit().await;
        assert_eq!((audit.updates_lost, audit.sessions_lost), (1, 0));
        assert!(!audit.is_clean());
        let mut run = Run::honest().await;
        run.visits.begin("c0", "/0");
        run.end(0, None);
        // Of the session and of the document.
        assert_eq!(run.audit().await.updates_lost, 2);
    }

    #[tokio::test]
    async fn planted_sessions_and_documents_of_nobody_are_found() {
        let run = Run::honest().await;
        let (sessions, pages, company) = run.keeping.parts();
        let new = NewSession::user("c9").company(company);
        sessions.create(new).await.expect("memory").session().expect("no cap");
        assert_eq!(run.audit().await.unexplained, 1);
        assert!(pages.put("/9", &1_u64).await.expect("memory").is_stored());
        let audit = run.audit().await;
        assert_eq!(audit.unexplained, 2);
        assert!(!audit.is_clean());
    }
}
