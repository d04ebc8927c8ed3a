//! What every backend promises, step by step; a case answers why it failed, so that it can be shown
//! to fail.

use super::{ask, broken, call, name, place, stage::Stage};
use crate::{
    backend::{Ask, Call, Entered, Entry, Event, From, How, Return, SHARDS, Standing, Taken},
    quota::Quota,
};
use coordinator_core::BoxFuture;
use std::time::Duration;

type Verdict = Result<(), String>;
type Case = fn(Stage) -> BoxFuture<'static, Verdict>;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}

macro_rules! cases {
    ($($case:ident)*) => {
        const ALL: &[(&str, Case)] =
            &[$((stringify!($case), |stage| Box::pin($case(stage)))),*];
    };
}

cases! {
    a_window_admits_its_limit_and_denials_take_nothing
    retry_is_exact_to_the_microsecond
    a_cost_that_never_fits_is_told_apart
    several_are_taken_from_together_or_not_at_all
    an_id_counts_once
    an_id_of_a_denied_call_is_not_spent
    a_refund_gives_back_once
    a_refund_of_what_has_left_the_window_gives_nothing
    a_refund_of_the_newest_leaves_the_older_as_they_were
    a_refund_forgets_the_id_of_its_call
    a_refund_of_gcra_is_remembered_as_long_as_it_could_count
    a_replayed_call_is_given_back_once
    memory_of_a_violation_begins_with_its_window
    what_was_reset_is_free_and_cannot_be_refunded
    a_clock_that_steps_back_a_little_admits_no_more
    a_clock_that_was_set_back_denies_for_a_window_at_most
    another_epoch_is_told_and_nothing_is_taken
    gcra_spaces_what_exceeds_its_burst
    a_fixed_window_begins_anew
    denials_are_recorded_ever_more_rarely
    denials_that_nobody_asked_about_count
    a_limit_that_is_nearly_used_up_is_recorded_once
    a_shadow_refuses_nobody
    slots_are_as_many_as_they_are
    a_lost_slot_is_not_prolonged
    an_alert_is_claimed_by_one
}

impl Stage {
    pub(super) async fn taken(&self, call: &Call) -> Result<(bool, Vec<Standing>), String> {
        match self.backend.take_all(call).await {
            Ok(Taken::Decided { taken, standings }) => Ok((taken, standings)),
            other => Err(format!("not decided: {other:?}")),
        }
    }

    /// Takes from one limit; the two ways must be one.
    pub(super) async fn take(&self, ask: &Ask) -> Result<Standing, String> {
        self.backend.take(ask).await.map_err(|error| error.chain())
    }

    async fn used(&self, ask: &Ask) -> Result<u64, String> {
        let seen = self.backend.peek(std::slice::from_ref(ask)).await;
        seen.map(|seen| seen[0].used).map_err(|error| error.chain())
    }

    async fn give_back(&self, ask: &Ask, standing: &Standing) -> Result<u64, String> {
        let back = Return {
            place: ask.place.clone(),
            terms: ask.terms,
            amount: standing.taken,
            receipt: standing.receipt,
            once: None,
        };
        self.backend.refund(&back).await.map_err(|error| error.chain())
    }

    async fn enters(&self, token: &str, slots: u64) -> Result<Entered, String> {
        let quota = Quota::concurrency(slots, SECOND * 10);
        let entry = Entry {
            place: place("c", &quota),
            terms: quota.terms,
            token: name(token),
            unasked: Some(0),
        };
        self.backend.enter(&entry).await.map_err(|error| error.chain())
    }

    async fn records(&self) -> Result<Vec<(Event, u64)>, String> {
        let found = self.backend.violations(0, From::Ago(MINUTE), 1000).await;
        let found = found.map_err(|error| error.chain())?;
        Ok(found.iter().map(|record| (record.event, record.count)).collect())
    }
}

async fn a_window_admits_its_limit_and_denials_take_nothing(mut stage: Stage) -> Verdict {
    let ask = ask("a", &Quota::sliding_window(3, MINUTE), 1);
    for n in 1..=3 {
        let standing = stage.take(&ask).await?;
        ensure!((standing.taken, standing.used) == (1, n), "{standing:?}");
        stage.elapse(SECOND).await;
    }
    for _ in 0..5 {
        let standing = stage.take(&ask).await?;
        ensure!((standing.taken, standing.used) == (0, 3), "{standing:?}");
        stage.elapse(SECOND).await;
        ensure!(stage.used(&ask).await? == 3, "a look took something");
    }
    // The first leaves after a minute, as if nobody had asked in between.
    stage.elapse(MINUTE - SECOND * 8).await;
    let standing = stage.take(&ask).await?;
    ensure!((standing.taken, standing.used) == (1, 3), "{standing:?}");
    Ok(())
}

async fn retry_is_exact_to_the_microsecond(mut stage: Stage) -> Verdict {
    for (subject, quota) in [
        ("s", Quota::sliding_window(10, MINUTE)),
        ("g", Quota::gcra(1, MINUTE, 10)),
        ("f", Quota::fixed_window(10, MINUTE)),
    ] {
        let (some, more) = (ask(subject, &quota, 4), ask(subject, &quota, 3));
        for _ in 0..2 {
            stage.taken(&call(vec![some.clone()])).await?;
            stage.elapse(SECOND * 7).await;
        }
        let (taken, standings) = stage.taken(&call(vec![more.clone()])).await?;
        let retry = standings[0].retry_us.unwrap_or(0);
        ensure!(!taken && retry > 1, "{subject}: {standings:?}");
        stage.elapse(Duration::from_micros(retry - 1)).await;
        ensure!(!stage.taken(&call(vec![more.clone()])).await?.0, "{subject}: too early");
        stage.elapse(Duration::from_micros(1)).await;
        ensure!(stage.taken(&call(vec![more])).await?.0, "{subject}: too late");
    }
    Ok(())
}

async fn a_cost_that_never_fits_is_told_apart(stage: Stage) -> Verdict {
    for (limit, cost) in [(0, 1), (5, 6), (5, crate::backend::MAX + 1)] {
        for quota in [Quota::sliding_window(limit, MINUTE), Quota::fixed_window(limit, MINUTE)] {
            let (taken, standings) = stage.taken(&call(vec![ask("a", &quota, cost)])).await?;
            ensure!(!taken && standings[0].retry_us.is_none(), "{limit}, {cost}: {standings:?}");
        }
    }
    let gcra = stage.taken(&call(vec![ask("a", &Quota::gcra(1, MINUTE, 5), 6)])).await?;
    ensure!(!gcra.0 && gcra.1[0].retry_us.is_none(), "{gcra:?}");
    Ok(())
}

async fn several_are_taken_from_together_or_not_at_all(stage: Stage) -> Verdict {
    let user = ask("user", &Quota::sliding_window(2, MINUTE), 1);
    let company = ask("company", &Quota::gcra(1, MINUTE, 5), 1);
    let endpoint = ask("endpoint", &Quota::fixed_window(9, MINUTE), 2);
    let all = call(vec![company.clone(), user.clone(), endpoint.clone()]);
    for _ in 0..2 {
        ensure!(stage.taken(&all).await?.0, "there is room");
    }
    for _ in 0..3 {
        let (taken, standings) = stage.taken(&all).await?;
        ensure!(!taken, "the user's is full");
        ensure!(standings.iter().all(|one| one.taken == 0), "{standings:?}");
        ensure!(standings[0].retry_us == Some(0), "the company's has room: {standings:?}");
    }
    let used =
        (stage.used(&company).await?, stage.used(&user).await?, stage.used(&endpoint).await?);
    ensure!(used == (2, 2, 4), "{used:?}");
    Ok(())
}

fn with_id(asks: Vec<Ask>, id: &str) -> Call {
    Call { once: Some((name(id), MINUTE)), ..call(asks) }
}

async fn an_id_counts_once(stage: Stage) -> Verdict {
    let ask = ask("a", &Quota::sliding_window(3, MINUTE), 2);
    let first = stage.taken(&with_id(vec![ask.clone()], "x")).await?;
    let again = stage.taken(&with_id(vec![ask.clone()], "x")).await?;
    ensure!(first.0 && first == again, "{first:?}, {again:?}");
    ensure!(stage.used(&ask).await? == 2, "it was charged twice");
    // Of another subject it is another call.
    let other = super::ask("b", &Quota::sliding_window(3, MINUTE), 2);
    stage.taken(&with_id(vec![other.clone()], "x")).await?;
    ensure!(stage.used(&other).await? == 2, "the id of another subject was taken for its own");
    Ok(())
}

async fn an_id_of_a_denied_call_is_not_spent(mut stage: Stage) -> Verdict {
    let ask = ask("a", &Quota::sliding_window(1, SECOND), 1);
    stage.taken(&call(vec![ask.clone()])).await?;
    ensure!(!stage.taken(&with_id(vec![ask.clone()], "x")).await?.0, "it is full");
    stage.elapse(SECOND).await;
    ensure!(stage.taken(&with_id(vec![ask], "x")).await?.0, "there is room again");
    Ok(())
}

async fn a_refund_gives_back_once(mut stage: Stage) -> Verdict {
    for (subject, quota) in [
        ("s", Quota::sliding_window(10, MINUTE)),
        ("c", Quota::sliding_window(1000, MINUTE)),
        ("g", Quota::gcra(1, MINUTE, 10)),
        ("f", Quota::fixed_window(10, MINUTE)),
    ] {
        let ask = ask(subject, &quota, 3);
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(stage.taken(&call(vec![ask.clone()])).await?.1[0]);
            stage.elapse(Duration::from_millis(1)).await;
        }
        for _ in 0..3 {
            let given = stage.give_back(&ask, &taken[1]).await?;
            ensure!(given == 3, "{subject}: gave {given}");
        }
        let used = stage.used(&ask).await?;
        ensure!(used == 6, "{subject}: {used} used");
        ensure!(stage.give_back(&ask, &taken[2]).await? == 3, "{subject}: the last");
        // GCRA does not know whose units have leaked, and takes them for the first's.
        let first = if subject == "g" { 0 } else { 3 };
        ensure!(stage.give_back(&ask, &taken[0]).await? == first, "{subject}: the first");
        ensure!(stage.used(&ask).await? == 3 - first, "{subject}: something is left");
        ensure!(stage.taken(&call(vec![ask.clone()])).await?.0, "{subject}: there is room");
    }
    Ok(())
}

async fn a_refund_of_what_has_left_the_window_gives_nothing(mut stage: Stage) -> Verdict {
    for (subject, quota) in [
        ("s", Quota::sliding_window(10, SECOND)),
        ("g", Quota::gcra(10, SECOND, 10)),
        ("f", Quota::fixed_window(10, SECOND)),
    ] {
        let ask = ask(subject, &quota, 3);
        let (_, old) = stage.taken(&call(vec![ask.clone()])).await?;
        stage.elapse(SECOND + Duration::from_millis(1)).await;
        stage.taken(&call(vec![ask.clone()])).await?;
        ensure!(stage.give_back(&ask, &old[0]).await? == 0, "{subject}: it counts no more");
        ensure!(stage.used(&ask).await? == 3, "{subject}: another's was given back");
    }
    Ok(())
}

async fn a_refund_of_the_newest_leaves_the_older_as_they_were(mut stage: Stage) -> Verdict {
    let quota = Quota::sliding_window(1000, MINUTE);
    let ask = ask("a", &quota, 5);
    stage.set(1_900_000_000_000_000).await;
    stage.take(&ask).await?;
    stage.elapse(SECOND * 50).await;
    let newest = stage.take(&ask).await?;
    ensure!(stage.give_back(&ask, &newest).await? == 5, "it was just taken");
    let (_, standings) = stage.taken(&call(vec![Ask { cost: 1001, ..ask.clone() }])).await?;
    ensure!(standings[0].reset_us == 10_000_000, "{standings:?}");
    // In the same granule as what was given back.
    stage.elapse(Duration::from_micros(1)).await;
    stage.take(&ask).await?;
    stage.elapse(SECOND * 10).await;
    ensure!(stage.used(&ask).await? == 5, "the older stay for {}", stage.used(&ask).await?);
    Ok(())
}

async fn a_refund_of_gcra_is_remembered_as_long_as_it_could_count(mut stage: Stage) -> Verdict {
    let ask = ask("a", &Quota::gcra(1, SECOND, 100), 20);
    let (_, first) = stage.taken(&call(vec![ask.clone()])).await?;
    stage.taken(&call(vec![ask.clone()])).await?;
    // A part of it: the rest could still be given back.
    let part = Standing { taken: 5, ..first[0] };
    ensure!(stage.give_back(&ask, &part).await? == 5, "it was just taken");
    stage.elapse(SECOND * 5).await;
    ensure!(stage.give_back(&ask, &part).await? == 5, "it was told otherwise");
    ensure!(stage.used(&ask).await? == 30, "{} are left", stage.used(&ask).await?);
    // After a reset and the end of the key nothing of before counts.
    let (_, old) = stage.taken(&call(vec![ask.clone()])).await?;
    stage.backend.reset(&ask.place, &ask.terms).await.map_err(|error| error.chain())?;
    stage.elapse(SECOND * 3).await;
    stage.taken(&call(vec![ask.clone()])).await?;
    ensure!(stage.give_back(&ask, &old[0]).await? == 0, "another's was given back");
    Ok(())
}

async fn a_refund_forgets_the_id_of_its_call(stage: Stage) -> Verdict {
    let ask = ask("a", &Quota::sliding_window(9, MINUTE), 2);
    let once = with_id(vec![ask.clone()], "x");
    let (_, standings) = stage.taken(&once).await?;
    let back = Return {
        place: ask.place.clone(),
        terms: ask.terms,
        amount: 2,
        receipt: standings[0].receipt,
        once: once.once().map(|(_, name, _)| name),
    };
    ensure!(stage.backend.refund(&back).await.map_err(|error| error.chain())? == 2, "it counts");
    stage.taken(&once).await?;
    ensure!(stage.used(&ask).await? == 2, "a call that was given back went free");
    Ok(())
}

async fn a_replayed_call_is_given_back_once(stage: Stage) -> Verdict {
    for (subject, quota) in [
        ("s", Quota::sliding_window(1000, MINUTE)),
        ("g", Quota::gcra(1, MINUTE, 10)),
        ("f", Quota::fixed_window(10, MINUTE)),
    ] {
        let ask = ask(subject, &quota, 2);
        let once = with_id(vec![ask.clone()], "x");
        let (_, first) = stage.taken(&once).await?;
        let (_, again) = stage.taken(&once).await?;
        stage.taken(&call(vec![ask.clone()])).await?;
        for told in [first, again] {
            stage.give_back(&ask, &told[0]).await?;
        }
        let used = stage.used(&ask).await?;
        ensure!(used == 2, "{subject}: {used}");
    }
    Ok(())
}

async fn memory_of_a_violation_begins_with_its_window(mut stage: Stage) -> Verdict {
    let mut ask = ask("a", &Quota::sliding_window(0, MINUTE), 1);
    stage.take(&ask).await?;
    stage.elapse(MINUTE + SECOND).await;
    // Some were answered without asking meanwhile.
    ask.unasked = Some(6);
    stage.take(&ask).await?;
    ask.unasked = Some(0);
    stage.take(&ask).await?;
    let records = stage.backend.violations(0, From::After((0, 0)), 9).await;
    let records = records.map_err(|error| error.chain())?;
    let firsts: Vec<_> = records.iter().map(|record| (record.count, record.first)).collect();
    ensure!(firsts == [(1, true), (7, true), (8, false)], "{firsts:?}");
    let newest = stage.backend.violations(0, From::Newest, 1).await;
    let newest = newest.map_err(|error| error.chain())?;
    ensure!(newest.len() == 1 && newest[0].count == 8, "{newest:?}");
    Ok(())
}

async fn what_was_reset_is_free_and_cannot_be_refunded(stage: Stage) -> Verdict {
    for (subject, quota) in [
        ("s", Quota::sliding_window(5, MINUTE)),
        ("g", Quota::gcra(1, MINUTE, 5)),
        ("f", Quota::fixed_window(5, MINUTE)),
    ] {
        let ask = ask(subject, &quota, 3);
        let (_, old) = stage.taken(&call(vec![ask.clone()])).await?;
        let used = stage.backend.reset(&ask.place, &ask.terms).await.map_err(|e| e.chain())?;
        ensure!(used == 3 && stage.used(&ask).await? == 0, "{subject}: {used}");
        stage.backend.reset(&ask.place, &ask.terms).await.map_err(|e| e.chain())?;
        stage.taken(&call(vec![ask.clone()])).await?;
        ensure!(stage.give_back(&ask, &old[0]).await? == 0, "{subject}: another's was given back");
        ensure!(stage.used(&ask).await? == 3, "{subject}: {}", stage.used(&ask).await?);
    }
    Ok(())
}

async fn a_clock_that_steps_back_a_little_admits_no_more(mut stage: Stage) -> Verdict {
    let ask = ask("a", &Quota::sliding_window(2, SECOND), 1);
    stage.take(&ask).await?;
    stage.take(&ask).await?;
    stage.elapse(SECOND).await;
    // Both have left: two more, and then the clock says that the first are back.
    stage.take(&ask).await?;
    stage.set(stage.now() - 400_000).await;
    let standing = stage.take(&ask).await?;
    ensure!((standing.taken, standing.used) == (1, 2), "{standing:?}");
    let standing = stage.take(&ask).await?;
    ensure!(standing.taken == 0, "{standing:?}");
    let retry = standing.retry_us.unwrap_or(0);
    stage.elapse(Duration::from_micros(retry - 1)).await;
    ensure!(stage.take(&ask).await?.taken == 0, "too early");
    stage.elapse(Duration::from_micros(1)).await;
    ensure!(stage.take(&ask).await?.taken == 1, "too late");
    Ok(())
}

async fn a_clock_that_was_set_back_denies_for_a_window_at_most(mut stage: Stage) -> Verdict {
    for (subject, quota) in [
        ("s", Quota::sliding_window(2, MINUTE)),
        ("g", Quota::gcra(2, MINUTE, 2)),
        ("f", Quota::fixed_window(2, MINUTE)),
    ] {
        let all = call(vec![ask(subject, &quota, 2)]);
        ensure!(stage.taken(&all).await?.0, "{subject}: there is room");
        stage.set(stage.now() - 2 * 3_600_000_000).await;
        let (taken, standings) = stage.taken(&all).await?;
        ensure!(!taken, "{subject}: what was admitted is forgotten");
        let retry = standings[0].retry_us.unwrap_or(0);
        ensure!(retry > 0 && u128::from(retry) <= MINUTE.as_micros(), "{subject}: {retry}");
        stage.elapse(Duration::from_micros(retry)).await;
        ensure!(stage.taken(&all).await?.0, "{subject}: it is denied for too long");
    }
    Ok(())
}

async fn another_epoch_is_told_and_nothing_is_taken(stage: Stage) -> Verdict {
    let quota = Quota::sliding_window(5, MINUTE);
    let mut all = Call { check_epochs: true, ..call(vec![ask("a", &quota, 5)]) };
    ensure!(stage.taken(&all).await?.0, "the first epoch is 0");
    let series = all.asks[0].place.series();
    let epoch = stage.backend.reset_policy(&series).await.map_err(|error| error.chain())?;
    let told = stage.backend.take_all(&all).await.map_err(|error| error.chain())?;
    ensure!(told == Taken::Epochs(vec![epoch]), "{told:?}");
    all.asks[0].place.epoch = epoch;
    ensure!(stage.taken(&all).await?.0, "a new epoch is empty");
    let next = stage.backend.reset_policy(&series).await.map_err(|error| error.chain())?;
    ensure!(next > epoch, "{next} is not after {epoch}");
    Ok(())
}

async fn gcra_spaces_what_exceeds_its_burst(mut stage: Stage) -> Verdict {
    // Three a second, five at once: a third of a second is no whole number of µs.
    let one = call(vec![ask("a", &Quota::gcra(3, SECOND, 5), 1)]);
    for n in 1..=5 {
        let (taken, standings) = stage.taken(&one).await?;
        ensure!(taken && standings[0].used == n, "{standings:?}");
    }
    let mut admitted = 0;
    for _ in 0..3000 {
        stage.elapse(Duration::from_millis(1)).await;
        admitted += u64::from(stage.taken(&one).await?.0);
    }
    ensure!(admitted == 9, "{admitted} in three seconds");
    Ok(())
}

async fn a_fixed_window_begins_anew(mut stage: Stage) -> Verdict {
    stage.set(1_900_000_000_000_000 - 1).await;
    let window = Duration::from_secs(1000);
    let all = call(vec![ask("a", &Quota::fixed_window(3, window), 3)]);
    ensure!(stage.taken(&all).await?.0, "there is room");
    let (taken, standings) = stage.taken(&all).await?;
    ensure!(!taken && standings[0].retry_us == Some(1), "{standings:?}");
    stage.elapse(Duration::from_micros(1)).await;
    ensure!(stage.taken(&all).await?.0, "the next window is empty");
    Ok(())
}

async fn denials_are_recorded_ever_more_rarely(mut stage: Stage) -> Verdict {
    let ask = ask("a", &Quota::sliding_window(1, MINUTE), 1);
    stage.take(&ask).await?;
    for n in 0..40 {
        if n % 2 == 0 {
            stage.take(&ask).await?;
        } else {
            stage.taken(&call(vec![ask.clone()])).await?;
        }
    }
    let expected = [1, 2, 4, 8, 16, 32].map(|count| (Event::Denied, count));
    let records = stage.records().await?;
    ensure!(records == expected, "{records:?}");
    let top = stage.backend.top(0, 10).await.map_err(|error| error.chain())?;
    ensure!(top.len() == 1 && top[0].denials == 32, "{top:?}");
    let seen = stage.backend.peek(std::slice::from_ref(&ask)).await.map_err(|e| e.chain())?;
    ensure!(seen[0].denials == 40, "{seen:?}");
    // Another window, another first.
    stage.elapse(MINUTE + SECOND).await;
    stage.take(&ask).await?;
    stage.take(&ask).await?;
    let last = stage.records().await?.last().copied();
    ensure!(last == Some((Event::Denied, 1)), "{last:?}");
    Ok(())
}

async fn denials_that_nobody_asked_about_count(stage: Stage) -> Verdict {
    let mut ask = ask("a", &Quota::sliding_window(1, MINUTE), 1);
    stage.take(&ask).await?;
    stage.take(&ask).await?;
    ask.unasked = Some(9);
    stage.take(&ask).await?;
    let records = stage.records().await?;
    ensure!(records == [(Event::Denied, 1), (Event::Denied, 11)], "{records:?}");
    ask.unasked = None;
    for _ in 0..10 {
        stage.take(&ask).await?;
    }
    ensure!(stage.records().await?.len() == 2, "what is not to be recorded was");
    Ok(())
}

async fn a_limit_that_is_nearly_used_up_is_recorded_once(mut stage: Stage) -> Verdict {
    let quota = Quota::sliding_window(10, MINUTE).with_near_limit(0.75);
    let one = call(vec![ask("a", &quota, 1)]);
    for n in 1..=10 {
        stage.taken(&one).await?;
        let expected: &[_] = if n >= 8 { &[(Event::Near, 1)] } else { &[] };
        let records = stage.records().await?;
        ensure!(records == expected, "after {n}: {records:?}");
        stage.elapse(SECOND).await;
    }
    // It falls below and rises again in the same window.
    stage.elapse(MINUTE - SECOND * 7).await;
    for _ in 0..3 {
        stage.taken(&one).await?;
    }
    ensure!(stage.records().await?.len() == 1, "once in a window");
    Ok(())
}

async fn a_shadow_refuses_nobody(stage: Stage) -> Verdict {
    let shadow = Ask { how: How::Shadow, ..ask("a", &Quota::sliding_window(1, MINUTE), 1) };
    let other = ask("b", &Quota::sliding_window(5, MINUTE), 1);
    let both = call(vec![shadow.clone(), other.clone()]);
    for _ in 0..3 {
        ensure!(stage.taken(&both).await?.0, "nobody is refused");
    }
    let used = (stage.used(&shadow).await?, stage.used(&other).await?);
    ensure!(used == (1, 3), "{used:?}");
    let records = stage.records().await?;
    ensure!(records == [(Event::Shadow, 1), (Event::Shadow, 2)], "{records:?}");
    Ok(())
}

async fn slots_are_as_many_as_they_are(mut stage: Stage) -> Verdict {
    for token in ["a", "b", "a", "b"] {
        let entered = stage.enters(token, 2).await?;
        ensure!(matches!(entered, Entered::Slot { .. }), "{token}: {entered:?}");
    }
    stage.elapse(SECOND * 4).await;
    let full = stage.enters("c", 2).await?;
    let six_seconds = Some(6_000_000);
    ensure!(full == Entered::Full { used: 2, retry_us: six_seconds }, "{full:?}");
    let quota = Quota::concurrency(2, SECOND * 10);
    let place = place("c", &quota);
    for held in [true, false] {
        let left = stage.backend.leave(&place, &name("a")).await.map_err(|e| e.chain())?;
        ensure!(left == held, "{left}");
    }
    let entered = stage.enters("c", 2).await?;
    ensure!(entered == Entered::Slot { used: 2 }, "{entered:?}");
    Ok(())
}

async fn a_lost_slot_is_not_prolonged(mut stage: Stage) -> Verdict {
    let quota = Quota::concurrency(1, SECOND * 10);
    let place = place("c", &quota);
    stage.enters("a", 1).await?;
    stage.elapse(SECOND * 9).await;
    for _ in 0..2 {
        let stays = stage.backend.stay(&place, &quota.terms, &name("a")).await;
        ensure!(stays.map_err(|error| error.chain())?, "it is held");
    }
    stage.elapse(SECOND * 9).await;
    ensure!(matches!(stage.enters("b", 1).await?, Entered::Full { .. }), "it was prolonged");
    stage.elapse(SECOND).await;
    let stays = stage.backend.stay(&place, &quota.terms, &name("a")).await;
    ensure!(!stays.map_err(|error| error.chain())?, "its lease has ended");
    ensure!(matches!(stage.enters("b", 1).await?, Entered::Slot { .. }), "it is free");
    let stays = stage.backend.stay(&place, &quota.terms, &name("a")).await;
    ensure!(!stays.map_err(|error| error.chain())?, "it is another's");
    Ok(())
}

async fn an_alert_is_claimed_by_one(stage: Stage) -> Verdict {
    let claim = name("pager:1-0");
    for (claimant, expected) in [("a", true), ("b", false), ("a", true)] {
        let claimed = stage.backend.claim(SHARDS - 1, &claim, claimant, MINUTE).await;
        let claimed = claimed.map_err(|error| error.chain())?;
        ensure!(claimed == expected, "{claimant}: {claimed}");
    }
    Ok(())
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    let mut broken = Vec::new();
    for (case, check) in ALL {
        if let Err(why) = check(Stage::embedded()).await {
            broken.push(format!("{case}: {why}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_keeps_the_contract() {
    let mut broken = Vec::new();
    for (case, check) in ALL {
        if let Err(why) = check(Stage::redis().await).await {
            broken.push(format!("{case}: {why}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[tokio::test]
async fn each_broken_backend_is_caught() {
    for fault in broken::ALL {
        let mut caught = 0;
        for (_, check) in ALL {
            caught += u32::from(check(Stage::broken(*fault)).await.is_err());
        }
        assert!(caught > 0, "{fault:?} passes as a limiter");
    }
}
