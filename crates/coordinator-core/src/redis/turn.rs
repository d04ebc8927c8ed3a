//! One command's turn: from leave to send it until its outcome is counted and timed.

use super::{Connection, classify, connection::Leave};
use crate::{
    Result,
    clock::{Clock as _, Instant, SystemClock},
    telemetry::{Outcome, Step},
};
use fred::{clients::Client, error::Error as FredError};

/// Leave to send one command.
///
/// One that is dropped before its end, because the caller gave up, is neither counted nor timed.
pub(super) struct Turn<'a> {
    connection: &'a Connection,
    step: &'a Step,
    leave: Leave<'a>,
    began: Instant,
}

impl Connection {
    /// Waits for leave to send a command, and begins to time it.
    pub(super) async fn turn<'a>(&'a self, step: &'a Step) -> Result<Turn<'a>> {
        match self.leave(step.name()).await {
            // A link's time is the system's, whatever clock the parts run on.
            Ok(leave) => Ok(Turn { connection: self, step, leave, began: SystemClock.now() }),
            Err(error) => {
                step.count(error.kind().into());
                Err(error)
            }
        }
    }
}

impl Turn<'_> {
    /// What to send it with.
    pub(super) fn client(&self) -> &Client {
        self.leave.link.client()
    }

    /// Takes the answer in; `read` makes the caller's outcome of it.
    pub(super) fn end<V, T>(
        self,
        answer: Result<V, FredError>,
        read: impl FnOnce(Result<V, FredError>) -> Result<T>,
    ) -> Result<T> {
        let took = SystemClock.now().saturating_since(self.began);
        let inner = &self.connection.inner;
        inner.recent.record(took);
        match &answer {
            Ok(_) => inner.breaker.answered(),
            Err(error) if classify::is_silence(error) => inner.note_silence(&self.leave.link),
            Err(error) if classify::is_answer(error) => {
                inner.breaker.answered();
                if classify::is_readonly(error) {
                    self.connection.seek_master();
                }
            }
            // The caller's mistake, or a server that is not ready: neither tells of the link.
            Err(_) => {}
        }
        let outcome = read(answer);
        self.step.record(Outcome::from(&outcome), took);
        outcome
    }
}
