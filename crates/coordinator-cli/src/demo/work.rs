//! The work list: what is to be handled, and who was given what.
//!
//! Whether a request was handled is not known here: the ledger knows.

use super::{
    ledger::Ledger,
    requests::{Generator, Request},
};
use coordinator::clock::Instant;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// How many generated requests lie ready: one that is put back is not the next one again.
const BACKLOG: usize = 256;
/// How long a request stays with a worker that says nothing.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Given {
    request: Request,
    worker: u32,
    since: Instant,
}

/// The requests that are not done, and the numbers of all.
#[derive(Debug)]
pub(crate) struct Work {
    open: VecDeque<Request>,
    given: HashMap<u64, Given>,
    generator: Option<Generator>,
    issued: Vec<u64>,
}

impl Work {
    /// All of `requests`.
    pub(crate) fn listed(requests: Vec<Request>) -> Self {
        Self {
            issued: requests.iter().map(|request| request.number).collect(),
            open: requests.into(),
            given: HashMap::new(),
            generator: None,
        }
    }

    /// As many as the workers manage, until the generator is over.
    pub(crate) fn generated(generator: Generator) -> Self {
        Self { generator: Some(generator), ..Self::listed(Vec::new()) }
    }

    /// The number of every request there is or was.
    pub(crate) fn issued(&self) -> &[u64] {
        &self.issued
    }

    /// Hands out a request that is not done, if there is one now.
    pub(crate) fn take(&mut self, worker: u32, now: Instant, ledger: &Ledger) -> Option<Request> {
        if let Some(generator) = &mut self.generator {
            while self.open.len() < BACKLOG
                && let Some(request) = generator.next(now)
            {
                self.issued.push(request.number);
                self.open.push_back(request);
            }
        }
        while let Some(request) = self.open.pop_front() {
            // It was handed out twice, and the other was faster.
            if ledger.is_done(request.number) {
                continue;
            }
            let given = Given { request: request.clone(), worker, since: now };
            self.given.insert(request.number, given);
            return Some(request);
        }
        None
    }

    /// A worker gives a request back for somebody else to handle later.
    pub(crate) fn put_back(&mut self, worker: u32, number: u64) {
        // If it was given to another meanwhile, it is the other's.
        if self.given.get(&number).is_some_and(|given| given.worker == worker)
            && let Some(given) = self.given.remove(&number)
        {
            self.open.push_back(given.request);
        }
    }

    /// A request is done.
    pub(crate) fn settle(&mut self, number: u64) {
        self.given.remove(&number);
    }

    /// Takes back what a worker that has gone had not done; how many that were.
    pub(crate) fn orphaned_by(&mut self, worker: u32, ledger: &Ledger) -> u64 {
        self.take_back(ledger, |given| given.worker == worker)
    }

    /// Takes back what was given out so long ago that its worker may hang; how many that were.
    pub(crate) fn overdue(&mut self, now: Instant, ledger: &Ledger) -> u64 {
        self.take_back(ledger, |given| given.since + PATIENCE <= now)
    }

    fn take_back(&mut self, ledger: &Ledger, which: impl Fn(&Given) -> bool) -> u64 {
        let mut taken: Vec<Request> = self
            .given
            .extract_if(|_, given| which(given))
            .map(|(_, given)| given.request)
            .filter(|request| !ledger.is_done(request.number))
            .collect();
        taken.sort_by_key(|request| request.number);
        let count = taken.len() as u64;
        self.open.extend(taken);
        count
    }

    /// Whether every request is done and no more will come.
    pub(crate) fn is_complete(&self, now: Instant, ledger: &Ledger) -> bool {
        self.generator.as_ref().is_none_or(|it| it.is_over(now))
            && ledger.handled() >= self.issued.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::ledger::{Stamp, Verdict, Write, fenced};

    fn at(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    fn work(numbers: &[u64]) -> Work {
        let request = |&number| Request { number, client: "c".to_owned(), path: "/".to_owned() };
        Work::listed(numbers.iter().map(request).collect())
    }

    fn handle(ledger: &mut Ledger, number: u64) {
        let stamp = Stamp { fence: number, owner: "a".to_owned() };
        let write = Write { client: number.to_string(), number, value: 1, stamp };
        assert_eq!(ledger.write(1, write).unwrap(), Verdict::Accepted);
    }

    fn taken(work: &mut Work, worker: u32, ledger: &Ledger) -> Option<u64> {
        Some(work.take(worker, at(0), ledger)?.number)
    }

    #[test]
    fn a_lost_worker_loses_nothing_and_what_it_had_done_is_not_repeated() {
        let (mut work, mut ledger) = (work(&[1, 2, 3]), Ledger::new(fenced, None));
        assert_eq!(taken(&mut work, 1, &ledger), Some(1));
        assert_eq!(taken(&mut work, 1, &ledger), Some(2));
        assert_eq!(taken(&mut work, 2, &ledger), Some(3));
        // Its write came, its end came before the parent could take note.
        handle(&mut ledger, 2);
        assert_eq!(work.orphaned_by(1, &ledger), 1);
        assert_eq!(taken(&mut work, 2, &ledger), Some(1));
        assert_eq!(taken(&mut work, 2, &ledger), None);
        for number in [1, 3] {
            assert!(!work.is_complete(at(0), &ledger));
            handle(&mut ledger, number);
        }
        assert!(work.is_complete(at(0), &ledger));
    }

    #[test]
    fn what_is_put_back_comes_last_and_only_from_who_has_it() {
        let (mut work, ledger) = (work(&[1, 2]), Ledger::new(fenced, None));
        assert_eq!(taken(&mut work, 1, &ledger), Some(1));
        work.put_back(2, 1);
        work.put_back(1, 1);
        work.put_back(1, 1);
        assert_eq!(taken(&mut work, 1, &ledger), Some(2));
        assert_eq!(taken(&mut work, 1, &ledger), Some(1));
        assert_eq!(taken(&mut work, 1, &ledger), None);
    }

    #[test]
    fn what_hangs_is_given_to_another_until_one_is_done() {
        let (mut work, mut ledger) = (work(&[1]), Ledger::new(fenced, None));
        assert_eq!(taken(&mut work, 1, &ledger), Some(1));
        assert_eq!(work.overdue(at(0), &ledger), 0);
        assert_eq!(work.overdue(at(10), &ledger), 1);
        handle(&mut ledger, 1);
        assert_eq!(taken(&mut work, 2, &ledger), None);
        assert!(work.is_complete(at(0), &ledger));
    }

    #[test]
    fn generated_work_goes_on_until_its_end_and_drains() {
        let end = at(1);
        let mut work = Work::generated(Generator::new(end));
        let mut ledger = Ledger::new(fenced, None);
        assert_eq!(taken(&mut work, 1, &ledger), Some(1));
        assert_eq!(work.issued().len(), BACKLOG);
        handle(&mut ledger, 1);
        for number in 2..=BACKLOG as u64 {
            assert!(!work.is_complete(end, &ledger));
            assert_eq!(work.take(1, end, &ledger).unwrap().number, number);
            handle(&mut ledger, number);
        }
        assert!(!work.is_complete(at(0), &ledger));
        assert!(work.is_complete(end, &ledger));
        assert_eq!(work.take(1, end, &ledger), None);
    }
}
