//! What every backend promises, step by step; each step is delivered twice. A case answers why it
//! failed, so that it can be shown to fail.

use super::{TTL, claim, name, renewal, surrender};
use crate::backend::{Acquired, Admitted, Backend, Claim, Renewed, SHARDS};
use coordinator_core::{BoxFuture, clock::ManualClock};
use std::{sync::Arc, time::Duration};

pub(super) type Verdict = Result<(), String>;
pub(super) type Case = fn(Stage) -> BoxFuture<'static, Verdict>;

/// A backend whose time the test moves.
pub(super) struct Stage {
    pub(super) backend: Arc<dyn Backend>,
    clock: ManualClock,
    #[cfg(feature = "redis")]
    pub(super) server: Option<coordinator_harness::RedisServer>,
}

macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}

impl Stage {
    pub(super) fn new(backend: Arc<dyn Backend>, clock: ManualClock) -> Self {
        Self {
            backend,
            clock,
            #[cfg(feature = "redis")]
            server: None,
        }
    }

    /// How long a message may take: in process it is there at once.
    pub(super) fn patience(&self) -> Duration {
        #[cfg(feature = "redis")]
        if self.server.is_some() {
            return Duration::from_secs(5);
        }
        Duration::from_millis(100)
    }

    pub(super) async fn elapse(&self, by: Duration) {
        #[cfg(feature = "redis")]
        if let Some(server) = &self.server {
            // A key lives to the end of its last millisecond.
            server
                .advance_clock(by + Duration::from_millis(2))
                .await
                .expect("the server's clock moves");
        }
        self.clock.advance(by);
    }

    async fn fence(&self, claim: &Claim) -> Result<u64, String> {
        match self.backend.acquire(claim).await {
            Ok(Acquired::Granted { fence }) => Ok(fence),
            other => Err(format!("not granted: {other:?}")),
        }
    }

    async fn release(&self, claim: &Claim) -> Result<bool, String> {
        let released = self.backend.release(&surrender(claim)).await;
        released.map(|released| released.was_held).map_err(|error| error.chain())
    }

    async fn renew(&self, claims: &[(&Claim, Duration)]) -> Result<Vec<Renewed>, String> {
        let leases: Vec<_> = claims.iter().map(|(claim, ttl)| renewal(claim, *ttl)).collect();
        let shard = leases[0].name.shard(SHARDS);
        self.backend.renew(shard, &leases).await.map_err(|error| error.chain())
    }

    /// How many locks the index of a name's shard knows.
    async fn indexed(&self, text: &str) -> Result<u64, String> {
        let listed = self.backend.list(name(text).shard(SHARDS), 0, 10).await;
        listed.map(|(looked_at, _)| looked_at).map_err(|error| error.chain())
    }

    async fn is_held(&self, text: &str) -> Result<bool, String> {
        let seen = self.backend.show(&name(text)).await.map_err(|error| error.chain())?;
        Ok(seen.is_some())
    }
}

macro_rules! cases {
    ($($case:ident)*) => {
        pub(super) const ALL: &[(&str, Case)] =
            &[$((stringify!($case), |stage| Box::pin($case(stage)))),*];
    };
}
pub(super) use {cases, ensure};

cases! {
    an_acquire_delivered_twice_keeps_its_fence
    another_token_is_told_who_holds_it
    a_release_delivered_twice_answers_the_same
    another_token_releases_nothing
    a_released_token_obtains_nothing
    a_token_given_up_before_it_arrived_obtains_nothing
    a_lease_ends_with_its_ttl
    a_renewal_prolongs_and_never_shortens
    a_renewal_touches_no_other_token
    renewals_of_a_batch_are_independent
    fences_rise_and_respect_what_was_seen
    a_fence_outlives_its_lock
    force_spares_a_successor
    a_held_lock_is_listed_until_it_ends
    a_stale_write_is_not_admitted
}

async fn an_acquire_delivered_twice_keeps_its_fence(stage: Stage) -> Verdict {
    let one = claim("a");
    let first = stage.fence(&one).await?;
    stage.elapse(TTL / 2).await;
    let again = stage.fence(&one).await?;
    ensure!(first == again, "another fence: {first}, {again}");
    // The second delivery prolonged the lease to its full ttl.
    stage.elapse(TTL * 3 / 4).await;
    ensure!(stage.is_held("a").await?, "the repeated acquire did not prolong");
    ensure!(stage.indexed("a").await? == 1, "the repeated acquire fell out of the index");
    Ok(())
}

async fn another_token_is_told_who_holds_it(stage: Stage) -> Verdict {
    let fence = stage.fence(&claim("a")).await?;
    for _ in 0..2 {
        match stage.backend.acquire(&claim("a")).await {
            Ok(Acquired::Held { holder: Some(holder), ttl: Some(ttl), ticket: None }) => {
                ensure!(holder.fence.get() == fence, "a wrong fence");
                ensure!(holder.host == "host" && holder.pid == 7, "a wrong holder");
                ensure!(holder.task.as_deref() == Some("task"), "no task");
                ensure!(ttl <= TTL && ttl > TTL / 2, "a wrong ttl: {ttl:?}");
            }
            other => return Err(format!("not refused: {other:?}")),
        }
    }
    ensure!(stage.is_held("a").await?, "gone");
    Ok(())
}

async fn a_release_delivered_twice_answers_the_same(stage: Stage) -> Verdict {
    let one = claim("a");
    stage.fence(&one).await?;
    ensure!(stage.release(&one).await?, "not released");
    let successor = claim("a");
    stage.fence(&successor).await?;
    ensure!(stage.release(&one).await?, "another answer");
    ensure!(stage.is_held("a").await?, "the repeated release took the successor's lock");
    // One that was gone stays gone.
    let late = claim("b");
    stage.fence(&late).await?;
    stage.elapse(TTL).await;
    ensure!(!stage.release(&late).await?, "released what had ended");
    ensure!(!stage.release(&late).await?, "another answer to the late one");
    Ok(())
}

async fn another_token_releases_nothing(stage: Stage) -> Verdict {
    stage.fence(&claim("a")).await?;
    ensure!(!stage.release(&claim("a")).await?, "released for a stranger");
    ensure!(stage.is_held("a").await?, "a stranger's release took it");
    Ok(())
}

async fn a_released_token_obtains_nothing(stage: Stage) -> Verdict {
    let one = claim("a");
    stage.fence(&one).await?;
    stage.release(&one).await?;
    for _ in 0..2 {
        let late = stage.backend.acquire(&one).await;
        ensure!(matches!(late, Ok(Acquired::Refused)), "a released token won: {late:?}");
    }
    ensure!(!stage.is_held("a").await?, "held");
    Ok(())
}

async fn a_token_given_up_before_it_arrived_obtains_nothing(stage: Stage) -> Verdict {
    let one = claim("a");
    ensure!(!stage.release(&one).await?, "released what was never held");
    let late = stage.backend.acquire(&one).await;
    ensure!(matches!(late, Ok(Acquired::Refused)), "a late acquire won: {late:?}");
    // The tombstone lasts as long as it was asked to, and no longer.
    stage.elapse((TTL * 2).checked_sub(Duration::from_millis(500)).unwrap()).await;
    let late = stage.backend.acquire(&one).await;
    ensure!(matches!(late, Ok(Acquired::Refused)), "the tombstone ended early: {late:?}");
    stage.elapse(Duration::from_secs(1)).await;
    stage.fence(&one).await?;
    Ok(())
}

async fn a_lease_ends_with_its_ttl(stage: Stage) -> Verdict {
    stage.fence(&claim("a")).await?;
    stage.elapse(TTL.checked_sub(Duration::from_millis(500)).unwrap()).await;
    ensure!(stage.is_held("a").await?, "ended early");
    stage.elapse(Duration::from_secs(1)).await;
    ensure!(!stage.is_held("a").await?, "outlived its ttl");
    stage.fence(&claim("a")).await?;
    Ok(())
}

async fn a_renewal_prolongs_and_never_shortens(stage: Stage) -> Verdict {
    let one = claim("a");
    stage.fence(&one).await?;
    for _ in 0..2 {
        ensure!(stage.renew(&[(&one, TTL * 2)]).await? == [Renewed::Prolonged], "not prolonged");
    }
    ensure!(stage.renew(&[(&one, TTL / 10)]).await? == [Renewed::Prolonged], "not prolonged");
    stage.elapse(TTL + TTL / 2).await;
    ensure!(stage.is_held("a").await?, "a renewal shortened the lease");
    stage.elapse(TTL).await;
    ensure!(!stage.is_held("a").await?, "a renewal prolonged it twice");
    ensure!(stage.renew(&[(&one, TTL)]).await? == [Renewed::Gone], "resurrected");
    ensure!(!stage.is_held("a").await?, "resurrected");
    Ok(())
}

async fn a_renewal_touches_no_other_token(stage: Stage) -> Verdict {
    stage.fence(&claim("a")).await?;
    let other = claim("a");
    ensure!(stage.renew(&[(&other, TTL * 9)]).await? == [Renewed::HeldByAnother], "renewed");
    stage.elapse(TTL).await;
    ensure!(!stage.is_held("a").await?, "a stranger's renewal prolonged it");
    Ok(())
}

async fn renewals_of_a_batch_are_independent(stage: Stage) -> Verdict {
    // Names of one shard.
    let shard = name("a").shard(SHARDS);
    let mut names = (0..).map(|n| format!("n{n}")).filter(|n| name(n).shard(SHARDS) == shard);
    let mut next = || claim(&names.next().expect("endless"));
    let (held, gone, released, stolen, last) = (next(), next(), next(), next(), next());
    stage.fence(&held).await?;
    stage.fence(&released).await?;
    stage.release(&released).await?;
    let thief = Claim { name: stolen.name.clone(), ..claim("x") };
    stage.fence(&thief).await?;
    stage.fence(&last).await?;
    let all = [&held, &gone, &released, &stolen, &last].map(|claim| (claim, TTL * 2));
    for _ in 0..2 {
        let statuses = stage.renew(&all).await?;
        ensure!(
            statuses
                == [
                    Renewed::Prolonged,
                    Renewed::Gone,
                    Renewed::Released,
                    Renewed::HeldByAnother,
                    Renewed::Prolonged,
                ],
            "wrong statuses: {statuses:?}"
        );
    }
    stage.elapse(TTL + TTL / 2).await;
    ensure!(stage.is_held(last.name.as_str()).await?, "the last one was not prolonged");
    Ok(())
}

async fn fences_rise_and_respect_what_was_seen(stage: Stage) -> Verdict {
    let mut last = 0;
    for round in 0..5 {
        let one = claim("a");
        let fence = stage.fence(&one).await?;
        ensure!(fence > last, "{fence} after {last}");
        last = fence;
        if round % 2 == 0 {
            stage.release(&one).await?;
        } else {
            stage.elapse(TTL).await;
        }
    }
    let seen = last + 1_000_000_000_000;
    let fence = stage.fence(&Claim { min_fence: seen, ..claim("a") }).await?;
    ensure!(fence == seen, "{fence} where {seen} was the least");
    stage.elapse(TTL).await;
    let fence = stage.fence(&claim("a")).await?;
    ensure!(fence > seen, "{fence} after {seen}");
    Ok(())
}

async fn a_fence_outlives_its_lock(stage: Stage) -> Verdict {
    // Far ahead of the clock, so that the clock alone cannot make the next one higher.
    let ahead = 8_000_000_000_000_000;
    let one = Claim { min_fence: ahead, ..claim("a") };
    ensure!(stage.fence(&one).await? == ahead, "the least fence was not respected");
    for _ in 0..4 {
        // A renewed lock keeps its fence alive for as long as it is held.
        stage.renew(&[(&one, TTL * 1000)]).await?;
        stage.elapse(Duration::from_mins(150)).await;
        stage.renew(&[(&one, TTL * 1000)]).await?;
    }
    stage.release(&one).await?;
    stage.elapse(Duration::from_hours(24)).await;
    let fence = stage.fence(&claim("a")).await?;
    ensure!(fence == ahead + 1, "{fence} after {ahead}");
    Ok(())
}

async fn force_spares_a_successor(stage: Stage) -> Verdict {
    let victim = claim("a");
    let fence = stage.fence(&victim).await?;
    let a = name("a");
    let force = || async {
        let forced = stage.backend.force_release(&a, fence, TTL * 2, "why").await;
        forced.map_err(|error| error.chain())
    };
    ensure!(force().await?, "not taken away");
    ensure!(!stage.is_held("a").await?, "still held");
    ensure!(stage.indexed("a").await? == 0, "still in the index");
    ensure!(stage.renew(&[(&victim, TTL)]).await? == [Renewed::ForceReleased], "not told");
    let late = stage.backend.acquire(&victim).await;
    ensure!(matches!(late, Ok(Acquired::Refused)), "the victim won again: {late:?}");
    stage.fence(&claim("a")).await?;
    ensure!(!force().await?, "forced twice");
    ensure!(stage.is_held("a").await?, "the successor was dispossessed");
    ensure!(!stage.release(&victim).await?, "the victim released");
    ensure!(stage.is_held("a").await?, "the victim's release took the successor's lock");
    Ok(())
}

async fn a_held_lock_is_listed_until_it_ends(stage: Stage) -> Verdict {
    let (one, other) = (claim("a"), claim("{b}\n*"));
    stage.fence(&one).await?;
    stage.fence(&other).await?;
    let list = async |text: &str| {
        let shard = name(text).shard(SHARDS);
        let listed = stage.backend.list(shard, 0, 10).await;
        let (_, seen) = listed.map_err(|error| error.chain())?;
        Ok::<_, String>(seen.iter().filter(|seen| seen.name == name(text)).count())
    };
    ensure!(list("a").await? == 1, "not listed");
    ensure!(list("{b}\n*").await? == 1, "a hostile name is not listed");
    stage.renew(&[(&one, TTL * 3)]).await?;
    stage.elapse(TTL * 2).await;
    ensure!(list("a").await? == 1, "a renewed lock fell out of the index");
    ensure!(list("{b}\n*").await? == 0, "an ended one is listed");
    ensure!(stage.indexed("{b}\n*").await? == 0, "the index keeps an ended one");
    stage.release(&one).await?;
    ensure!(list("a").await? == 0, "a released one is listed");
    ensure!(stage.indexed("a").await? == 0, "the index keeps what has ended");
    Ok(())
}

async fn a_stale_write_is_not_admitted(stage: Stage) -> Verdict {
    let (a, keep) = (name("a"), TTL);
    let admit = async |fence, owner| {
        let answer = stage.backend.admit(&a, fence, owner, keep).await;
        answer.map_err(|error| error.chain())
    };
    for _ in 0..2 {
        ensure!(admit(5, "x").await? == Admitted::Yes, "the first was refused");
    }
    ensure!(admit(5, "y").await? == Admitted::Twin { seen: 5 }, "a twin passed");
    ensure!(admit(4, "x").await? == Admitted::Older { seen: 5 }, "an older one passed");
    ensure!(admit(6, "y").await? == Admitted::Yes, "a newer one was refused");
    ensure!(admit(5, "x").await? == Admitted::Older { seen: 6 }, "a stale one passed");
    stage.elapse(keep + Duration::from_millis(1)).await;
    ensure!(admit(1, "z").await? == Admitted::Yes, "kept for longer than asked");
    Ok(())
}
