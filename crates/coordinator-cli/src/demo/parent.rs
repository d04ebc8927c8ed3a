//! The parent: owns the work list and the ledger, and answers what workers ask.
//!
//! It does not see to it that workers do not step on each other: that is what they have locks for.

use super::{
    checks::{self, Evidence, Findings},
    herald::Place,
    ledger::{Ledger, Verdict},
    limits::micros,
    profiles::Reads,
    protocol::{Answer, Ask},
    visits::Visits,
    windows::{Admissions, Span},
    work::Work,
};
use crate::failure::{Failure, exit};
use coordinator::clock::Clock;
use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Working,
    Lost,
    Finished,
}

impl State {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Working => "working",
            Self::Lost => "lost",
            Self::Finished => "finished",
        }
    }
}

/// A worker as the parent sees it.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: u32,
    pub(crate) pid: u32,
    pub(crate) handled: u64,
    /// How often it had a lock.
    pub(crate) acquired: u64,
    /// How long it waited for locks, all in all.
    pub(crate) waited: Duration,
    /// How often a limit was full for it.
    pub(crate) limited: u64,
    /// How often its reads and writes came after a newer holder's.
    pub(crate) refused: u64,
    /// What it read of the cache, as it told last.
    pub(crate) reads: Reads,
    pub(crate) state: State,
}

/// Why no more work is handed out.
#[derive(Debug)]
pub(crate) enum End {
    /// Every request was handled.
    Complete,
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// Something failed that no worker can help.
    Failed(Failure),
}

/// The owner of the work list and the ledger.
#[derive(Debug)]
pub(crate) struct Parent {
    clock: Arc<dyn Clock>,
    books: Mutex<Books>,
    /// There may be work again, or all is over.
    changed: Notify,
}

#[derive(Debug)]
struct Books {
    work: Work,
    ledger: Ledger,
    admissions: Admissions,
    visits: Visits,
    /// Where the event of each request that was handled stands, as its publisher was told.
    published: HashMap<u64, Place>,
    workers: BTreeMap<u32, Row>,
    reassigned: u64,
    end: Option<End>,
}

/// What a run came to, before anybody judges it.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) findings: Findings,
    pub(crate) refused: u64,
    pub(crate) limited: u64,
    pub(crate) workers_lost: u64,
    pub(crate) reassigned: u64,
    pub(crate) reads: Reads,
}

impl Parent {
    /// A parent that waits for the workers `1..=instances`.
    pub(crate) fn new(clock: Arc<dyn Clock>, work: Work, ledger: Ledger, instances: u32) -> Self {
        let starting = |id| Row {
            id,
            pid: 0,
            handled: 0,
            acquired: 0,
            waited: Duration::ZERO,
            limited: 0,
            refused: 0,
            reads: Reads::default(),
            state: State::Starting,
        };
        let books = Books {
            work,
            ledger,
            admissions: Admissions::default(),
            visits: Visits::default(),
            published: HashMap::new(),
            workers: (1..=instances).map(|id| (id, starting(id))).collect(),
            reassigned: 0,
            end: None,
        };
        Self { clock, books: Mutex::new(books), changed: Notify::new() }
    }

    /// A worker says its first words; whether it is one of ours.
    pub(crate) fn welcome(&self, id: u32, pid: u32) -> bool {
        match self.books().workers.get_mut(&id) {
            Some(row) if row.state == State::Starting => {
                row.pid = pid;
                row.state = State::Working;
                true
            }
            _ => false,
        }
    }

    /// A worker has gone. What it was handling goes to the living, unless it is done.
    pub(crate) fn farewell(&self, id: u32) {
        let mut books = self.books();
        let over = books.end.is_some();
        let Some(row) = books.workers.get_mut(&id) else {
            return;
        };
        if matches!(row.state, State::Lost | State::Finished) {
            return;
        }
        row.state = if over { State::Finished } else { State::Lost };
        if !over {
            let Books { work, ledger, reassigned, .. } = &mut *books;
            *reassigned += work.orphaned_by(id, ledger);
            let alive = |row: &Row| matches!(row.state, State::Starting | State::Working);
            if !books.workers.values().any(alive) {
                let why = "no worker is left; the requests that remain were not handled";
                books.finish(End::Failed(Failure::new(exit::REFUSED, why)));
            }
        }
        drop(books);
        self.changed.notify_waiters();
    }

    /// Ends the run; the first reason stays.
    pub(crate) fn finish(&self, end: End) {
        self.books().finish(end);
        self.changed.notify_waiters();
    }

    /// Completes when no more work is handed out.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn over(&self) {
        self.when(|books, _| books.end.is_some().then_some(())).await;
    }

    /// Looks whether all is done, and at requests that were handed out long ago: their worker may
    /// hang, so they are handed out again. The ledger takes the first that comes back.
    pub(crate) fn look_around(&self) {
        let now = self.clock.now();
        let mut books = self.books();
        let Books { work, ledger, reassigned, .. } = &mut *books;
        *reassigned += work.overdue(now, ledger);
        if work.is_complete(now, ledger) {
            books.finish(End::Complete);
        }
        drop(books);
        self.changed.notify_waiters();
    }

    /// Answers a worker.
    ///
    /// # Cancel safety
    /// Cancel safe: a request is handed out in the very poll that answers, and a worker that is
    /// gone by then gives it back with its farewell.
    pub(crate) async fn answer(&self, worker: u32, ask: Ask) -> Answer {
        match ask {
            Ask::Next => self.next(worker).await,
            ask => self.note(worker, ask),
        }
    }

    /// Hands out a request, as soon as there is one.
    pub(crate) async fn next(&self, worker: u32) -> Answer {
        self.when(|books, clock| books.hand_out(worker, clock)).await
    }

    /// Answers what needs no waiting.
    pub(crate) fn note(&self, worker: u32, ask: Ask) -> Answer {
        let now = self.clock.now();
        let mut books = self.books();
        let (answer, wake) = match ask {
            Ask::Next | Ask::Hello { .. } => (Answer::Noted, false),
            Ask::PutBack { number } => {
                books.work.put_back(worker, number);
                (Answer::Noted, true)
            }
            Ask::Admitted { number, client, path, from_us, denials } => {
                let span = Span { from_us, to_us: micros(now.since_start()) + 1 };
                books.admissions.note(number, client, path, span);
                if let Some(row) = books.workers.get_mut(&worker) {
                    row.limited += denials;
                }
                (Answer::Noted, false)
            }
            Ask::Read { client, path, stamp, waited_us } => {
                let value = books.ledger.read(&client, &stamp);
                if let Some(row) = books.workers.get_mut(&worker) {
                    row.acquired += 1;
                    row.waited += Duration::from_micros(waited_us);
                    row.refused += u64::from(value.is_none());
                }
                let answer = value.map_or(Answer::Stale, |value| {
                    let cookie = books.visits.begin(&client, &path);
                    Answer::Account { value, cookie }
                });
                (answer, false)
            }
            Ask::Write { write, path, cookie, event, reads } => {
                if let Some(row) = books.workers.get_mut(&worker) {
                    // Those of a worker that are under way at once arrive in any order.
                    row.reads = if reads.all > row.reads.all { reads } else { row.reads };
                }
                let (client, number) = (write.client.clone(), write.number);
                let answer = books.write(worker, write);
                if answer == Answer::Accepted {
                    books.visits.end(&client, &path, cookie);
                    books.published.insert(number, event);
                }
                let done = books.work.is_complete(now, &books.ledger);
                if done {
                    books.finish(End::Complete);
                }
                (answer, done || books.end.is_some())
            }
            Ask::GiveUp { exit, message } => {
                books.finish(End::Failed(Failure { exit, message }));
                (Answer::Noted, true)
            }
        };
        drop(books);
        if wake {
            self.changed.notify_waiters();
        }
        answer
    }

    /// The workers, for a table.
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.books().workers.values().cloned().collect()
    }

    /// How many requests were handled, and how many there are.
    pub(crate) fn progress(&self) -> (usize, usize) {
        let books = self.books();
        (books.ledger.handled(), books.work.issued().len())
    }

    /// Why it ended; once.
    pub(crate) fn take_end(&self) -> Option<End> {
        self.books().end.take()
    }

    /// What clients and paths went through.
    pub(crate) fn visits(&self) -> Visits {
        self.books().visits.clone()
    }

    /// Where the event of each request that was handled stands.
    pub(crate) fn published(&self) -> HashMap<u64, Place> {
        self.books().published.clone()
    }

    /// What it came to, examined.
    pub(crate) fn tally(&self) -> Tally {
        let books = self.books();
        let findings = checks::examine(Evidence {
            issued: books.work.issued(),
            history: books.ledger.history(),
            accounts: books.ledger.accounts(),
            admissions: &books.admissions,
        });
        let lost = |row: &&Row| row.state == State::Lost;
        Tally {
            requests: books.work.issued().len() as u64,
            findings,
            refused: books.ledger.refused(),
            limited: books.workers.values().map(|row| row.limited).sum(),
            workers_lost: books.workers.values().filter(lost).count() as u64,
            reassigned: books.reassigned,
            reads: books.workers.values().fold(Reads::default(), |sum, row| Reads {
                hits: sum.hits + row.reads.hits,
                all: sum.all + row.reads.all,
            }),
        }
    }

    /// Waits until `look` finds what it looks for.
    async fn when<T>(&self, mut look: impl FnMut(&mut Books, &dyn Clock) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Listening before looking: nothing that happens in between is missed.
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.books(), &*self.clock) {
                return found;
            }
            changed.await;
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    fn hand_out(&mut self, worker: u32, clock: &dyn Clock) -> Option<Answer> {
        let working = |row: &Row| row.state == State::Working;
        if self.end.is_some() || !self.workers.get(&worker).is_some_and(working) {
            return Some(Answer::Over);
        }
        let now = clock.now();
        let request = self.work.take(worker, now, &self.ledger)?;
        Some(Answer::Handle { request, at_us: micros(now.since_start()) })
    }

    fn write(&mut self, worker: u32, write: super::ledger::Write) -> Answer {
        let number = write.number;
        let verdict = match self.ledger.write(worker, write) {
            Ok(verdict) => verdict,
            Err(error) => {
                let why = format!("cannot write to the ledger's file: {error}");
                self.finish(End::Failed(Failure::new(exit::REFUSED, why)));
                return Answer::Stale;
            }
        };
        if verdict != Verdict::Stale {
            self.work.settle(number);
        }
        if let Some(row) = self.workers.get_mut(&worker) {
            row.handled += u64::from(verdict == Verdict::Accepted);
            row.refused += u64::from(verdict == Verdict::Stale);
        }
        match verdict {
            Verdict::Accepted => Answer::Accepted,
            Verdict::AlreadyDone => Answer::AlreadyDone,
            Verdict::Stale => Answer::Stale,
        }
    }
}

#[cfg(test)]
mod tests;
