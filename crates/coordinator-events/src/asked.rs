//! A question that many ask at once: whoever comes while it is being asked shares the next answer
//! with all others who do, be it a failure. So nobody waits for more than two of them.
//!
//! What is asked is not here.

use coordinator_core::{Error, Result};
use std::{
    error::Error as _,
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::sync::Mutex;

#[derive(Debug)]
pub(crate) struct Asked<T> {
    /// How often it was asked.
    begun: AtomicU64,
    last: Mutex<Last<T>>,
}

#[derive(Debug)]
struct Last<T> {
    /// How often it had been asked before this answer was asked for.
    number: u64,
    answer: Option<Result<T>>,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self { begun: AtomicU64::new(0), last: Mutex::new(Last { number: 0, answer: None }) }
    }
}

impl<T: Clone> Asked<T> {
    /// An answer to what was asked after this call began. Cancel safe: another asks.
    pub(crate) async fn ask<F: Future<Output = Result<T>>>(
        &self,
        ask: impl FnOnce() -> F,
    ) -> Result<T> {
        let wanted = self.begun.load(Ordering::Acquire);
        let mut last = self.last.lock().await;
        if let Some(answer) = last.answer.as_ref().filter(|_| last.number >= wanted) {
            return copy(answer);
        }
        let number = self.begun.fetch_add(1, Ordering::AcqRel);
        let answer = ask().await;
        *last = Last { number, answer: Some(copy(&answer)) };
        answer
    }
}

fn copy<T: Clone>(answer: &Result<T>) -> Result<T> {
    let error = match answer {
        Ok(answer) => return Ok(answer.clone()),
        Err(error) => error,
    };
    let copy = Error::new(error.kind(), error.step().to_owned());
    if error.source().is_none() {
        return Err(copy);
    }
    let why = error.chain().split_off(error.to_string().len());
    Err(copy.with_source(why.trim_start_matches(": ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::ErrorKind;
    use futures::poll;
    use std::{cell::Cell, pin::pin, rc::Rc};
    use tokio::sync::Notify;

    /// Asks whoever counts, and answers when it is told to.
    struct Scene {
        asked: Asked<u32>,
        count: Rc<Cell<u32>>,
        go: Notify,
    }

    impl Scene {
        fn new() -> Self {
            Self { asked: Asked::default(), count: Rc::default(), go: Notify::new() }
        }

        async fn ask(&self, fails: bool) -> Result<u32, String> {
            let ask = async || {
                let number = self.count.get() + 1;
                self.count.set(number);
                self.go.notified().await;
                let error = Error::new(ErrorKind::Unavailable, "x").with_source("away");
                if fails { Err(error) } else { Ok(number) }
            };
            self.asked.ask(ask).await.map_err(|error| error.chain())
        }
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_an_answer_that_was_asked_for_after_they_came() {
        for fails in [false, true] {
            let scene = Scene::new();
            let mut first = pin!(scene.ask(fails));
            assert!(poll!(&mut first).is_pending());
            let mut others: Vec<_> = (0..9).map(|_| Box::pin(scene.ask(fails))).collect();
            for other in &mut others {
                assert!(poll!(other).is_pending());
            }
            let away = "x: the server is unavailable, nothing was applied: away";
            let expected = |number| if fails { Err(away.to_owned()) } else { Ok(number) };
            scene.go.notify_one();
            assert_eq!(first.await, expected(1));
            assert!(poll!(&mut others[0]).is_pending(), "it may have been asked too early");
            scene.go.notify_one();
            for other in others {
                assert_eq!(other.await, expected(2));
            }
            assert_eq!(scene.count.get(), 2);
        }
    }

    #[tokio::test]
    async fn where_whoever_asks_goes_away_another_asks() {
        let scene = Scene::new();
        let mut first = Box::pin(scene.ask(false));
        assert!(poll!(&mut first).is_pending());
        let mut other = pin!(scene.ask(false));
        assert!(poll!(&mut other).is_pending());
        drop(first);
        assert!(poll!(&mut other).is_pending());
        scene.go.notify_one();
        assert_eq!(other.await, Ok(2));
    }
}
