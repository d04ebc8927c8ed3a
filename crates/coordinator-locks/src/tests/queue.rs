//! What every backend promises of its queues, step by step. The clients here are mere names: what
//! they do and leave undone is for each case to say.

use super::{
    TTL, claim,
    contract::{Case, Stage, Verdict, cases, ensure},
    name, renewal, surrender,
};
use crate::{
    backend::{
        ALIVE, Acquired, CLAIM, Claim, Client, HEAD_START, HEARTBEAT, Released, SHARDS, SILENT,
        Stand, Standing, Wait, Wake, Wakeups,
    },
    token::Token,
};
use std::time::Duration;

cases! {
    a_free_lock_needs_no_queue
    whoever_waits_is_served_in_the_order_of_arrival
    a_claim_delivered_twice_keeps_its_place
    nobody_passes_those_who_wait
    only_the_chosen_waiter_is_told
    a_turn_that_is_not_taken_passes_on
    however_many_died_one_turn_is_lost
    whoever_is_late_keeps_its_place
    a_client_that_hung_up_loses_no_time
    where_nobody_listens_the_first_is_served_all_the_same
    a_waiter_that_cannot_listen_is_served
    a_waiter_that_came_to_listen_is_told
    a_queue_of_the_dead_blocks_nobody
    priority_goes_first_and_waiting_makes_up_for_it
    a_release_grants_the_lock_to_a_waiter_of_its_own_client
    a_release_spares_the_waiters_of_others
    a_release_grants_the_lock_to_the_claim_it_brings_along
    a_claim_brought_along_stands_behind_those_who_wait
    a_claim_that_was_given_up_is_not_brought_along
    whoever_leaves_hands_the_turn_on
    a_lock_that_ran_out_goes_to_whoever_is_first
    force_hands_the_turn_on
    a_lost_place_is_found_again_by_its_ticket
    a_heartbeat_says_how_each_stands
    waiters_are_listed_in_order_with_their_age
}

/// Longer than a turn is kept.
const LATE: Duration = Duration::from_millis(650);

fn client(number: u8) -> Client {
    Client(format!("{number:016x}").into())
}

pub(super) fn waiting_claim(text: &str, number: u8) -> Claim {
    let stand = Stand { client: client(number), ticket: None, priority: 0, hears: true };
    Claim { stand: Some(stand), ..claim(text) }
}

fn with_priority(mut claim: Claim, priority: u8) -> Claim {
    claim.stand.as_mut().expect("waits").priority = priority;
    claim
}

pub(super) fn number(claim: &Claim) -> &Client {
    &claim.stand.as_ref().expect("waits").client
}

impl Stage {
    async fn claims(&self, claim: &Claim) -> Result<Acquired, String> {
        self.backend.acquire(claim).await.map_err(|error| error.chain())
    }

    /// Asks for a lock that is not to be had; the ticket.
    async fn stands(&self, claim: &Claim) -> Result<u64, String> {
        match self.claims(claim).await? {
            Acquired::Held { ticket: Some(ticket), .. } => Ok(ticket),
            other => Err(format!("does not stand in the queue: {other:?}")),
        }
    }

    async fn gives_up(&self, claim: &Claim) -> Result<Released, String> {
        self.backend.release(&surrender(claim)).await.map_err(|error| error.chain())
    }

    async fn beats(&self, claim: &Claim) -> Result<Standing, String> {
        let wait = Wait { name: claim.name.clone(), token: claim.token.clone() };
        let shard = claim.name.shard(SHARDS);
        let answer = self.backend.heartbeat(shard, number(claim), true, &[wait]).await;
        Ok(answer.map_err(|error| error.chain())?[0])
    }

    async fn listens(&self, claim: &Claim) -> Result<Box<dyn Wakeups>, String> {
        let shard = claim.name.shard(SHARDS);
        self.backend.listen(shard, number(claim)).await.map_err(|error| error.chain())
    }

    /// Claims of several clients that listen, which stand in the queue in this order.
    async fn queue(&self, text: &str, of: &[u8]) -> Result<(Vec<Claim>, Vec<Ears>), String> {
        let (mut claims, mut ears) = (Vec::new(), Vec::new());
        for number in of {
            let one = waiting_claim(text, *number);
            ears.push(Ears(self.listens(&one).await?, self.patience()));
            self.stands(&one).await?;
            claims.push(one);
        }
        // So that what they do next is later.
        self.elapse(Duration::from_millis(1)).await;
        Ok((claims, ears))
    }
}

/// What a client hears, and how long a message may take.
struct Ears(Box<dyn Wakeups>, Duration);

impl Ears {
    async fn hear(&mut self) -> Result<Token, String> {
        match tokio::time::timeout(self.1, self.0.next()).await {
            Ok(Wake::Turn(token)) => Ok(token),
            other => Err(format!("no turn was told: {other:?}")),
        }
    }
}

fn is_granted(answer: &Acquired) -> bool {
    matches!(answer, Acquired::Granted { .. })
}

/// Free, and the turn of another.
fn is_anothers_turn(answer: &Acquired) -> bool {
    matches!(answer, Acquired::Held { holder: None, .. })
}

async fn a_free_lock_needs_no_queue(stage: Stage) -> Verdict {
    let one = waiting_claim("a", 1);
    ensure!(is_granted(&stage.claims(&one).await?), "not granted");
    let waiters = stage.backend.waiters(&name("a"), 9).await.map_err(|error| error.chain())?;
    ensure!(waiters.is_empty(), "the holder stands in the queue");
    let released = stage.gives_up(&one).await?;
    ensure!(released == Released { was_held: true, next: None, ticket: None }, "{released:?}");
    Ok(())
}

async fn whoever_waits_is_served_in_the_order_of_arrival(stage: Stage) -> Verdict {
    let mut holder = claim("a");
    ensure!(is_granted(&stage.claims(&holder).await?), "not granted");
    // By number against the order of arrival, so that no other order will do.
    let (claims, mut ears) = stage.queue("a", &[5, 3, 9, 1, 7]).await?;
    for (claim, ears) in claims.iter().zip(&mut ears) {
        stage.gives_up(&holder).await?;
        ensure!(ears.hear().await? == claim.token, "another token was told");
        ensure!(is_granted(&stage.claims(claim).await?), "it was its turn");
        holder = claim.clone();
    }
    stage.gives_up(&holder).await?;
    ensure!(is_granted(&stage.claims(&super::claim("a")).await?), "the queue did not end");
    Ok(())
}

async fn a_claim_delivered_twice_keeps_its_place(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let (claims, mut ears) = stage.queue("a", &[1, 2]).await?;
    let before = stage.stands(&claims[0]).await?;
    ensure!(before == stage.stands(&claims[0]).await?, "another ticket");
    ensure!(stage.stands(&claims[1]).await? > before, "tickets do not rise");
    stage.gives_up(&holder).await?;
    ensure!(ears[0].hear().await? == claims[0].token, "lost its place by asking twice");
    let first = stage.claims(&claims[0]).await?;
    ensure!(is_granted(&first), "not granted: {first:?}");
    ensure!(stage.claims(&claims[0]).await? == first, "another answer");
    Ok(())
}

async fn nobody_passes_those_who_wait(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let (claims, _ears) = stage.queue("a", &[1]).await?;
    stage.gives_up(&holder).await?;
    // Neither who does not wait, nor who comes later.
    for late in [claim("a"), waiting_claim("a", 2)] {
        let answer = stage.claims(&late).await?;
        ensure!(is_anothers_turn(&answer), "passed the queue: {answer:?}");
    }
    ensure!(is_granted(&stage.claims(&claims[0]).await?), "it was its turn");
    Ok(())
}

async fn only_the_chosen_waiter_is_told(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let (claims, mut ears) = stage.queue("a", &[1, 2]).await?;
    stage.gives_up(&holder).await?;
    ears[0].hear().await?;
    stage.claims(&claims[0]).await?;
    stage.gives_up(&claims[0]).await?;
    // Messages come in order: what the second hears first is its own turn.
    ensure!(ears[1].hear().await? == claims[1].token, "it was told of another's turn");
    let more = tokio::time::timeout(Duration::from_millis(50), ears[0].0.next()).await;
    ensure!(more.is_err(), "the first was told of another's turn: {more:?}");
    Ok(())
}

async fn a_turn_that_is_not_taken_passes_on(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let (claims, mut ears) = stage.queue("a", &[1, 2]).await?;
    stage.gives_up(&holder).await?;
    ears[0].hear().await?;
    stage.elapse(HEARTBEAT).await;
    ensure!(stage.beats(&claims[1]).await? == Standing::Waits, "the turn was not kept");
    stage.elapse(CLAIM - HEARTBEAT + Duration::from_millis(50)).await;
    ensure!(stage.beats(&claims[1]).await? == Standing::Turn, "the turn was kept for the dead");
    ensure!(is_granted(&stage.claims(&claims[1]).await?), "it was its turn");
    ensure!(stage.beats(&claims[0]).await? == Standing::Unknown, "the dead stand in the queue");
    Ok(())
}

async fn however_many_died_one_turn_is_lost(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    // Their links stay open, as of machines without power.
    let (claims, _ears) = stage.queue("a", &[1, 2, 3, 4, 5, 6]).await?;
    stage.gives_up(&holder).await?;
    stage.elapse(HEARTBEAT).await;
    ensure!(stage.beats(&claims[5]).await? == Standing::Waits, "it was not its turn");
    stage.elapse(LATE - HEARTBEAT).await;
    ensure!(stage.beats(&claims[5]).await? == Standing::Turn, "each of the dead costs a turn");
    Ok(())
}

async fn whoever_is_late_keeps_its_place(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let (claims, _ears) = stage.queue("a", &[1, 2, 3]).await?;
    stage.gives_up(&holder).await?;
    stage.elapse(HEARTBEAT).await;
    for claim in &claims {
        stage.beats(claim).await?;
    }
    stage.elapse(LATE - HEARTBEAT).await;
    // Alive, but it did not come: the next is served, and then it again.
    ensure!(stage.beats(&claims[2]).await? == Standing::Waits, "the third passed the second");
    ensure!(is_granted(&stage.claims(&claims[1]).await?), "the second is not served");
    stage.gives_up(&claims[1]).await?;
    ensure!(stage.beats(&claims[0]).await? == Standing::Turn, "the first lost its place");
    Ok(())
}

async fn a_client_that_hung_up_loses_no_time(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    // Killed: the system closed its links.
    let gone = waiting_claim("a", 1);
    stage.stands(&gone).await?;
    let (claims, mut ears) = stage.queue("a", &[2]).await?;
    stage.gives_up(&holder).await?;
    ensure!(ears[0].hear().await? == claims[0].token, "another was told");
    ensure!(is_granted(&stage.claims(&claims[0]).await?), "it was its turn");
    // It may only have lost its link, and has kept its place.
    ensure!(stage.beats(&gone).await? == Standing::Waits, "it lost its place");
    stage.gives_up(&claims[0]).await?;
    ensure!(is_granted(&stage.claims(&gone).await?), "it was its turn");
    // But not for longer than a client is silent.
    let (dead, late) = (waiting_claim("a", 3), waiting_claim("a", 4));
    stage.stands(&dead).await?;
    stage.elapse(SILENT + Duration::from_millis(100)).await;
    stage.stands(&late).await?;
    stage.gives_up(&gone).await?;
    ensure!(is_granted(&stage.claims(&late).await?), "the dead was waited for");
    ensure!(stage.beats(&dead).await? == Standing::Unknown, "the dead kept its place");
    Ok(())
}

async fn where_nobody_listens_the_first_is_served_all_the_same(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let (first, second) = (waiting_claim("a", 1), waiting_claim("a", 2));
    stage.stands(&first).await?;
    stage.stands(&second).await?;
    stage.gives_up(&holder).await?;
    ensure!(stage.beats(&second).await? == Standing::Waits, "the second was first");
    ensure!(stage.beats(&first).await? == Standing::Turn, "the first is not served");
    Ok(())
}

async fn a_waiter_that_cannot_listen_is_served(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let mut deaf = waiting_claim("a", 1);
    deaf.stand.as_mut().expect("waits").hears = false;
    stage.stands(&deaf).await?;
    let (claims, _ears) = stage.queue("a", &[2]).await?;
    stage.gives_up(&holder).await?;
    ensure!(stage.beats(&claims[0]).await? == Standing::Waits, "the deaf one was passed");
    ensure!(is_granted(&stage.claims(&deaf).await?), "it was its turn");
    Ok(())
}

async fn a_waiter_that_came_to_listen_is_told(stage: Stage) -> Verdict {
    // It says so when it asks again, or with its heartbeat.
    for asks in [true, false] {
        let text = if asks { "a" } else { "b" };
        let holder = claim(text);
        stage.claims(&holder).await?;
        let mut first = waiting_claim(text, 1);
        first.stand.as_mut().expect("waits").hears = false;
        let ticket = stage.stands(&first).await?;
        let mut ears = Ears(stage.listens(&first).await?, stage.patience());
        first.stand.as_mut().expect("waits").hears = true;
        if asks {
            ensure!(stage.stands(&first).await? == ticket, "another ticket");
        } else {
            ensure!(stage.beats(&first).await? == Standing::Waits, "it does not wait");
        }
        stage.gives_up(&holder).await?;
        ensure!(ears.hear().await? == first.token, "another was told");
    }
    Ok(())
}

async fn a_queue_of_the_dead_blocks_nobody(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let (claims, _ears) = stage.queue("a", &[1, 2]).await?;
    stage
        .backend
        .renew(holder.name.shard(SHARDS), &[renewal(&holder, TTL * 9)])
        .await
        .map_err(|error| error.chain())?;
    stage.elapse(ALIVE + Duration::from_millis(100)).await;
    stage.gives_up(&holder).await?;
    ensure!(is_granted(&stage.claims(&claim("a")).await?), "the dead hold it up");
    ensure!(stage.beats(&claims[0]).await? == Standing::Unknown, "the dead stand in the queue");
    Ok(())
}

async fn priority_goes_first_and_waiting_makes_up_for_it(stage: Stage) -> Verdict {
    let mut holder = Claim { ttl: TTL * 100, ..claim("a") };
    stage.claims(&holder).await?;
    let old = waiting_claim("a", 1);
    stage.stands(&old).await?;
    // What it waited makes up for one step of priority, not for two.
    stage.elapse(HEAD_START * 3 / 2).await;
    let (new, urgent) =
        (with_priority(waiting_claim("a", 2), 1), with_priority(waiting_claim("a", 3), 2));
    stage.stands(&new).await?;
    stage.stands(&urgent).await?;
    stage.beats(&old).await?;
    for next in [&urgent, &old, &new] {
        stage.gives_up(&holder).await?;
        ensure!(stage.beats(next).await? == Standing::Turn, "out of order");
        ensure!(is_granted(&stage.claims(next).await?), "it was its turn");
        holder = next.clone();
    }
    Ok(())
}

async fn a_release_grants_the_lock_to_a_waiter_of_its_own_client(stage: Stage) -> Verdict {
    let holder = claim("a");
    let before = stage.claims(&holder).await?;
    let Acquired::Granted { fence: before } = before else { return Err("not granted".into()) };
    let next = waiting_claim("a", 1);
    stage.stands(&next).await?;
    let mut release = surrender(&holder);
    release.client = client(1);
    release.min_fence = before + 1_000_000_000_000;
    let released = stage.backend.release(&release).await.map_err(|error| error.chain())?;
    let granted = Some((next.token.clone(), release.min_fence));
    ensure!(released == Released { was_held: true, next: granted, ticket: None }, "{released:?}");
    let seen = stage.backend.show(&name("a")).await.map_err(|error| error.chain())?;
    let seen = seen.ok_or("nobody holds it")?;
    ensure!(seen.holder.fence.get() == release.min_fence, "another fence");
    ensure!(seen.holder.host == "host" && seen.waiters == 0, "{seen:?}");
    ensure!(seen.ttl > TTL / 2 && seen.ttl <= TTL, "a wrong ttl: {:?}", seen.ttl);
    // Delivered twice it grants nothing more, and the waiter obtains what it has.
    let again = stage.backend.release(&release).await.map_err(|error| error.chain())?;
    ensure!(again == Released { was_held: true, next: None, ticket: None }, "{again:?}");
    let known = stage.claims(&next).await?;
    ensure!(known == Acquired::Granted { fence: release.min_fence }, "{known:?}");
    let listed = stage.backend.list(next.name.shard(SHARDS), 0, 9).await;
    let (_, listed) = listed.map_err(|error| error.chain())?;
    ensure!(listed.len() == 1, "not in the index");
    stage.elapse(TTL).await;
    ensure!(is_granted(&stage.claims(&claim("a")).await?), "it never ends");
    Ok(())
}

async fn a_release_spares_the_waiters_of_others(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let (claims, mut ears) = stage.queue("a", &[1]).await?;
    let own = waiting_claim("a", 2);
    stage.stands(&own).await?;
    let mut release = surrender(&holder);
    release.client = client(2);
    let released = stage.backend.release(&release).await.map_err(|error| error.chain())?;
    ensure!(released.next.is_none(), "its own waiter passed another: {released:?}");
    ensure!(ears[0].hear().await? == claims[0].token, "the first was not told");
    Ok(())
}

/// A release that brings a claim of its own client along.
fn bringing(holder: &Claim, next: &Claim) -> crate::backend::Surrender {
    let successor = Some(Box::new(next.clone()));
    crate::backend::Surrender { client: number(next).clone(), successor, ..surrender(holder) }
}

async fn a_release_grants_the_lock_to_the_claim_it_brings_along(stage: Stage) -> Verdict {
    let (holder, next) = (claim("a"), waiting_claim("a", 1));
    let Acquired::Granted { fence: before } = stage.claims(&holder).await? else {
        return Err("not granted".into());
    };
    let release = bringing(&holder, &next);
    let released = stage.backend.release(&release).await.map_err(|error| error.chain())?;
    let Some((token, fence)) = released.next.clone() else {
        return Err(format!("not granted: {released:?}"));
    };
    ensure!(token == next.token && fence > before, "{released:?}");
    ensure!(released.was_held && released.ticket.is_none(), "{released:?}");
    let again = stage.backend.release(&release).await.map_err(|error| error.chain())?;
    ensure!(again == Released { was_held: true, next: None, ticket: None }, "{again:?}");
    ensure!(stage.claims(&next).await? == Acquired::Granted { fence }, "another fence");
    let seen = stage.backend.show(&name("a")).await.map_err(|error| error.chain())?;
    let seen = seen.ok_or("nobody holds it")?;
    ensure!(seen.holder.host == "host" && seen.waiters == 0, "{seen:?}");
    ensure!(seen.ttl > TTL / 2 && seen.ttl <= TTL, "a wrong ttl: {:?}", seen.ttl);
    Ok(())
}

async fn a_claim_brought_along_stands_behind_those_who_wait(stage: Stage) -> Verdict {
    let (holder, next) = (claim("a"), waiting_claim("a", 9));
    stage.claims(&holder).await?;
    let (claims, mut ears) = stage.queue("a", &[1]).await?;
    let release = bringing(&holder, &next);
    let released = stage.backend.release(&release).await.map_err(|error| error.chain())?;
    ensure!(released.next.is_none(), "passed the queue: {released:?}");
    let ticket = released.ticket.ok_or("does not stand in the queue")?;
    ensure!(ears[0].hear().await? == claims[0].token, "the first was not told");
    ensure!(is_granted(&stage.claims(&claims[0]).await?), "it was its turn");
    ensure!(stage.stands(&next).await? == ticket, "another ticket");
    // Its client lives and listens no worse than if it had asked by itself.
    stage.gives_up(&claims[0]).await?;
    ensure!(stage.beats(&next).await? == Standing::Turn, "it is not the next");
    ensure!(is_granted(&stage.claims(&next).await?), "it was its turn");
    Ok(())
}

async fn a_claim_that_was_given_up_is_not_brought_along(stage: Stage) -> Verdict {
    for queued in [false, true] {
        let text = if queued { "a" } else { "b" };
        let (holder, next) = (claim(text), waiting_claim(text, 9));
        stage.claims(&holder).await?;
        let (claims, _ears) = stage.queue(text, if queued { &[1] } else { &[] }).await?;
        stage.gives_up(&next).await?;
        let release = bringing(&holder, &next);
        let released = stage.backend.release(&release).await.map_err(|error| error.chain())?;
        let nothing = Released { was_held: true, next: None, ticket: None };
        ensure!(released == nothing, "a claim came back: {released:?}");
        let next = claims.first().cloned().unwrap_or_else(|| claim(text));
        ensure!(is_granted(&stage.claims(&next).await?), "it is held up");
    }
    Ok(())
}

async fn whoever_leaves_hands_the_turn_on(stage: Stage) -> Verdict {
    let holder = claim("a");
    stage.claims(&holder).await?;
    let (claims, mut ears) = stage.queue("a", &[1, 2, 3]).await?;
    // Out of the middle, while the lock is held.
    ensure!(!stage.gives_up(&claims[1]).await?.was_held, "it held nothing");
    let late = stage.claims(&claims[1]).await?;
    ensure!(late == Acquired::Refused, "came back: {late:?}");
    stage.gives_up(&holder).await?;
    ears[0].hear().await?;
    // And when it is its turn.
    stage.gives_up(&claims[0]).await?;
    ensure!(ears[2].hear().await? == claims[2].token, "the next was not told");
    ensure!(is_granted(&stage.claims(&claims[2]).await?), "it was its turn");
    Ok(())
}

async fn a_lock_that_ran_out_goes_to_whoever_is_first(stage: Stage) -> Verdict {
    let holder = Claim { ttl: TTL / 2, ..claim("a") };
    stage.claims(&holder).await?;
    let (claims, mut ears) = stage.queue("a", &[1, 2]).await?;
    stage.elapse(TTL / 2).await;
    ensure!(stage.beats(&claims[1]).await? == Standing::Waits, "the second was first");
    ensure!(ears[0].hear().await? == claims[0].token, "the first was not told");
    ensure!(is_granted(&stage.claims(&claims[0]).await?), "it was its turn");
    Ok(())
}

async fn force_hands_the_turn_on(stage: Stage) -> Verdict {
    let Acquired::Granted { fence } = stage.claims(&claim("a")).await? else {
        return Err("not granted".into());
    };
    let (claims, mut ears) = stage.queue("a", &[1]).await?;
    let a = name("a");
    let forced = stage.backend.force_release(&a, fence, TTL, "why").await;
    ensure!(forced.map_err(|error| error.chain())?, "not taken away");
    ensure!(ears[0].hear().await? == claims[0].token, "the first was not told");
    Ok(())
}

async fn a_lost_place_is_found_again_by_its_ticket(stage: Stage) -> Verdict {
    let holder = Claim { ttl: TTL * 9, ..claim("a") };
    stage.claims(&holder).await?;
    let mut old = waiting_claim("a", 1);
    let ticket = stage.stands(&old).await?;
    let new = waiting_claim("a", 2);
    stage.stands(&new).await?;
    // As a client that was cut off for long: others were asked who is first.
    let hole = waiting_claim("a", 1);
    stage.gives_up(&old).await?;
    ensure!(stage.beats(&old).await? == Standing::Unknown, "still stands");
    old = Claim { stand: old.stand.clone(), ..hole };
    old.stand.as_mut().expect("waits").ticket = Some(ticket);
    ensure!(stage.stands(&old).await? == ticket, "another ticket");
    stage.gives_up(&holder).await?;
    ensure!(stage.beats(&new).await? == Standing::Waits, "its place was lost");
    ensure!(stage.beats(&old).await? == Standing::Turn, "it is not first");
    Ok(())
}

async fn a_heartbeat_says_how_each_stands(stage: Stage) -> Verdict {
    let shard = name("a").shard(SHARDS);
    let mut names = (0..).map(|n| format!("n{n}")).filter(|n| name(n).shard(SHARDS) == shard);
    let mut next = || names.next().expect("endless");
    let (held, free, mine) = (next(), next(), next());
    let one = waiting_claim("a", 1);
    stage.claims(&Claim { name: name(&held), ..claim("x") }).await?;
    let waits = Claim { name: name(&held), ..waiting_claim("x", 1) };
    stage.stands(&waits).await?;
    let unknown = Claim { name: name(&free), ..waiting_claim("x", 1) };
    let holds = Claim { name: name(&mine), ..waiting_claim("x", 1) };
    ensure!(is_granted(&stage.claims(&holds).await?), "not granted");
    let asked = [&waits, &unknown, &holds]
        .map(|claim| Wait { name: claim.name.clone(), token: claim.token.clone() });
    for _ in 0..2 {
        let standings = stage.backend.heartbeat(shard, number(&one), true, &asked).await;
        let standings = standings.map_err(|error| error.chain())?;
        ensure!(standings == [Standing::Waits, Standing::Unknown, Standing::Turn], "{standings:?}");
    }
    Ok(())
}

async fn waiters_are_listed_in_order_with_their_age(stage: Stage) -> Verdict {
    let holder = Claim { ttl: TTL * 9, ..claim("a") };
    stage.claims(&holder).await?;
    let old = waiting_claim("a", 1);
    stage.stands(&old).await?;
    stage.elapse(Duration::from_secs(4)).await;
    stage.stands(&with_priority(waiting_claim("a", 2), 7)).await?;
    let listed = stage.backend.waiters(&name("a"), 9).await.map_err(|error| error.chain())?;
    ensure!(listed.len() == 2, "{listed:?}");
    ensure!((listed[0].priority, listed[1].priority) == (7, 0), "out of order: {listed:?}");
    ensure!(listed[0].waited < Duration::from_secs(2), "{listed:?}");
    ensure!(listed[1].waited >= Duration::from_secs(4), "{listed:?}");
    ensure!(listed[1].waited < Duration::from_secs(9), "{listed:?}");
    ensure!(listed[0].identity == old.identity, "another holder");
    let one = stage.backend.waiters(&name("a"), 1).await.map_err(|error| error.chain())?;
    ensure!(one.len() == 1, "{one:?}");
    let seen = stage.backend.show(&name("a")).await.map_err(|error| error.chain())?;
    ensure!(seen.is_some_and(|seen| seen.waiters == 2), "not counted");
    let listed = stage.backend.list(name("a").shard(SHARDS), 0, 9).await;
    let (_, listed) = listed.map_err(|error| error.chain())?;
    ensure!(listed[0].waiters == 2, "not counted in the list");
    // Without a sign of life they are told of no more.
    stage.elapse(ALIVE + Duration::from_millis(1)).await;
    let listed = stage.backend.waiters(&name("a"), 9).await.map_err(|error| error.chain())?;
    ensure!(listed.is_empty(), "the dead are listed: {listed:?}");
    Ok(())
}
