//! Questions that many ask at once, answered in rounds by a task of their own: whoever comes while
//! one is on waits for the next, which may answer all who do with the same, be it a failure. Nobody
//! waits for another who is not polled.
//!
//! What is asked is not here.

use crate::tasks;
use coordinator_core::{Error, ErrorKind, Result};
use std::{
    future::Future,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// Whoever waits, with its question.
type Waiting<Q, A> = Vec<(Q, oneshot::Sender<Result<A>>)>;

#[derive(Debug)]
pub(crate) struct Asked<Q, A>(Arc<Mutex<State<Q, A>>>);

#[derive(Debug)]
struct State<Q, A> {
    waiting: Waiting<Q, A>,
    asking: bool,
}

impl<Q, A> Default for Asked<Q, A> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { waiting: Vec::new(), asking: false })))
    }
}

fn locked<Q, A>(state: &Mutex<State<Q, A>>) -> MutexGuard<'_, State<Q, A>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets others ask where the rounds do not come to their end.
struct Asking<Q, A>(Option<Arc<Mutex<State<Q, A>>>>);

impl<Q, A> Drop for Asking<Q, A> {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            let mut state = locked(state);
            state.asking = false;
            state.waiting.clear();
        }
    }
}

impl<Q: Clone + Send + 'static, A: Send + 'static> Asked<Q, A> {
    /// An answer to what is asked in a round that begins from now on. A round is given all
    /// questions that wait, and answers the first of them at least. Cancel safe.
    pub(crate) async fn ask<F>(
        &self,
        question: Q,
        round: impl Fn(Vec<Q>) -> F + Send + 'static,
    ) -> Result<A>
    where
        F: Future<Output = Vec<Option<Result<A>>>> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let begin = {
            let mut state = locked(&self.0);
            state.waiting.push((question, tell));
            !mem::replace(&mut state.asking, true)
        };
        if begin {
            // Made here: it outlives a task that never runs.
            let asking = Asking(Some(self.0.clone()));
            tasks::spawn(rounds(self.0.clone(), asking, round));
        }
        told.await.unwrap_or_else(|_| {
            let why = "whoever asked for it is gone";
            Err(Error::new(ErrorKind::Unavailable, "events.ask").with_source(why))
        })
    }
}

async fn rounds<Q: Clone, A, F: Future<Output = Vec<Option<Result<A>>>>>(
    state: Arc<Mutex<State<Q, A>>>,
    mut asking: Asking<Q, A>,
    round: impl Fn(Vec<Q>) -> F,
) {
    let mut waiting: Waiting<Q, A> = Vec::new();
    loop {
        {
            let mut state = locked(&state);
            waiting.append(&mut state.waiting);
            waiting.retain(|(_, tell)| !tell.is_closed());
            if waiting.is_empty() {
                // Whoever comes from here on begins anew.
                state.asking = false;
                asking.0 = None;
                return;
            }
        }
        let answers = round(waiting.iter().map(|(question, _)| question.clone()).collect()).await;
        let mut left = Vec::new();
        for ((question, tell), answer) in mem::take(&mut waiting).into_iter().zip(answers) {
            match answer {
                // Nobody waits for it any more if that fails.
                Some(answer) => drop(tell.send(answer)),
                None => left.push((question, tell)),
            }
        }
        waiting = left;
    }
}

impl<A: Clone + Send + 'static> Asked<(), A> {
    /// The same answer for all who ask at once.
    pub(crate) async fn same<F: Future<Output = Result<A>> + Send + 'static>(
        &self,
        ask: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<A> {
        let ask = Arc::new(ask);
        let round = move |all: Vec<()>| {
            let ask = ask.clone();
            async move {
                let answer = ask().await;
                all.iter().map(|()| Some(copy(&answer))).collect()
            }
        };
        self.ask((), round).await
    }
}

pub(crate) fn copy<T: Clone>(answer: &Result<T>) -> Result<T> {
    match answer {
        Ok(answer) => Ok(answer.clone()),
        Err(error) => Err(error.duplicate()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::{
        pin::pin,
        sync::atomic::{AtomicU32, Ordering},
    };
    use tokio::sync::{Notify, Semaphore};

    /// Asks whoever counts, and answers when it is told to.
    struct Scene {
        asked: Asked<(), u32>,
        count: Arc<AtomicU32>,
        begun: Arc<Notify>,
        go: Arc<Semaphore>,
    }

    impl Scene {
        fn new() -> Self {
            let go = Arc::new(Semaphore::new(0));
            Self { asked: Asked::default(), count: Arc::default(), begun: Arc::default(), go }
        }

        async fn ask(&self, fails: bool) -> Result<u32, String> {
            let (count, begun, go) = (self.count.clone(), self.begun.clone(), self.go.clone());
            let ask = move || {
                let (count, begun, go) = (count.clone(), begun.clone(), go.clone());
                async move {
                    let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                    begun.notify_one();
                    go.acquire().await.expect("it is open").forget();
                    let error = Error::new(ErrorKind::Unavailable, "x").with_source("away");
                    if fails { Err(error) } else { Ok(number) }
                }
            };
            self.asked.same(ask).await.map_err(|error| error.chain())
        }
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_an_answer_that_was_asked_for_after_they_came() {
        for fails in [false, true] {
            let scene = Scene::new();
            let mut first = pin!(scene.ask(fails));
            assert!(poll!(&mut first).is_pending());
            scene.begun.notified().await;
            let mut others: Vec<_> = (0..9).map(|_| Box::pin(scene.ask(fails))).collect();
            for other in &mut others {
                assert!(poll!(other).is_pending());
            }
            let away = "x: the server is unavailable, nothing was applied: away";
            let expected = |number| if fails { Err(away.to_owned()) } else { Ok(number) };
            scene.go.add_permits(1);
            assert_eq!(first.await, expected(1));
            scene.begun.notified().await;
            assert!(poll!(&mut others[0]).is_pending(), "it may have been asked too early");
            scene.go.add_permits(1);
            // In whatever order they look.
            for other in others.into_iter().rev() {
                assert_eq!(other.await, expected(2));
            }
            assert_eq!(scene.count.load(Ordering::Relaxed), 2);
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_another_who_is_not_polled_or_goes_away() {
        let scene = Scene::new();
        let mut idle = Box::pin(scene.ask(false));
        assert!(poll!(&mut idle).is_pending());
        scene.begun.notified().await;
        let mut gone = Box::pin(scene.ask(false));
        assert!(poll!(&mut gone).is_pending());
        drop(gone);
        scene.go.add_permits(9);
        for expected in 2..5 {
            assert_eq!(scene.ask(false).await, Ok(expected));
        }
        assert_eq!(idle.await, Ok(1));
    }

    #[test]
    fn a_runtime_that_ends_leaves_the_next_one_to_ask() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
        };
        let scene = Scene::new();
        // The task that was to ask never runs.
        runtime().block_on(async {
            let mut asked = pin!(scene.ask(false));
            assert!(poll!(&mut asked).is_pending());
        });
        scene.go.add_permits(1);
        let asked = runtime().block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(9), scene.ask(false)).await
        });
        assert_eq!(asked, Ok(Ok(1)));
    }
}
