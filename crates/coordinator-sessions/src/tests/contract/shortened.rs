//! Sessions whose life was shortened: a copy from before that does not outlive them.

use super::{Created, Found, Place, Stage, Verdict, ann, departure, digest, ms, new, ok, place};
use crate::backend::{Before, Existing, New, Origin};

cases! {
    a_copy_from_before_it_was_shortened_revives_nothing
    what_has_expired_after_it_was_shortened_stays_so
    what_came_back_is_remembered_for_as_long_as_before_it_left
    what_gave_way_is_remembered_for_as_long_as_before
    an_end_in_the_past_is_an_end_like_any_other
}

const HOUR: i64 = 3_600_000;

fn long(at: Place, secret: u8) -> New {
    New { idle_ms: 9 * HOUR, absolute_ms: 10 * HOUR, ..new(at, secret, ann()) }
}

/// What an export of just now would bring back.
fn copy(stage: &Stage, at: Place) -> New {
    let (now, version) = (stage.now_ms(), 99);
    let before = Before { created: now, last: now, version, of_user: None, of_company: None };
    New { origin: Origin::Restored(before, Existing::GivesWay), ..long(at, 1) }
}

/// Long after its grave would be gone, had its life always been that short.
async fn stays_dead(stage: &mut Stage, copies: &[New]) -> Verdict {
    for _ in 0..4 {
        stage.elapse(ms(HOUR)).await;
        for one in copies {
            let back = stage.create(one).await?;
            ensure!(back == Created::Buried, "{back:?}, of {:?}", one.place);
        }
    }
    stage.elapse(ms(8 * HOUR)).await;
    for one in copies {
        same!(stage.create(one).await?, Created::Late);
    }
    Ok(())
}

async fn a_copy_from_before_it_was_shortened_revives_nothing(mut stage: Stage) -> Verdict {
    let at = |number| place(0, number);
    let copies: Vec<_> = (0..4).map(|number| copy(&stage, at(number))).collect();
    for number in 0..4 {
        stage.made(&long(at(number), 1)).await?;
    }
    // Once, again and again, and not for the last time longer.
    for absolute in [HOUR, 1000, HOUR / 2, HOUR] {
        for number in 0..3 {
            stage.extend(at(number), 1, Some(1000), Some(absolute)).await?;
        }
    }
    stage.end(at(0), "over").await?;
    stage.depart(at(1), Some(1), Some(&departure(2, 1, ann()))).await?;
    ensure!(stage.settle(at(1), 2).await?, "it does not move");
    stage.extend(at(2), 1, None, Some(2 * HOUR)).await?;
    stage.end(at(2), "over").await?;
    stage.end(at(3), "over").await?;
    stays_dead(&mut stage, &copies).await
}

async fn what_has_expired_after_it_was_shortened_stays_so(mut stage: Stage) -> Verdict {
    let at = |number| place(0, number);
    let copies: Vec<_> = (0..2).map(|number| copy(&stage, at(number))).collect();
    for number in 0..2 {
        stage.made(&long(at(number), 1)).await?;
    }
    stage.extend(at(0), 1, Some(1000), None).await?;
    stage.extend(at(1), 1, None, Some(20_000)).await?;
    stage.elapse(ms(HOUR / 2)).await;
    same!(stage.reap(0, 10).await?.ended, 2);
    for number in 0..2 {
        same!(stage.peek(at(number), 1).await?, Found::Expired);
    }
    stays_dead(&mut stage, &copies).await
}

async fn what_came_back_is_remembered_for_as_long_as_before_it_left(mut stage: Stage) -> Verdict {
    let at = place(0, 1);
    let copy = copy(&stage, at);
    stage.made(&long(at, 1)).await?;
    stage.extend(at, 1, None, Some(HOUR)).await?;
    stage.depart(at, Some(1), Some(&departure(2, 1, ann()))).await?;
    ensure!(stage.settle(at, 2).await?, "it does not move");
    let now = stage.now_ms();
    let before = Before { created: now, last: now, version: 9, of_user: None, of_company: None };
    let back = New { origin: Origin::Arrives(before), absolute_ms: HOUR, ..long(at, 3) };
    stage.made(&back).await?;
    stage.end(at, "over").await?;
    stays_dead(&mut stage, &[copy]).await
}

async fn what_gave_way_is_remembered_for_as_long_as_before(mut stage: Stage) -> Verdict {
    let at = |number| place(0, number);
    let copies: Vec<_> = (0..2).map(|number| copy(&stage, at(number))).collect();
    for (number, copy) in (0..).zip(&copies) {
        stage.made(&long(at(number), 1)).await?;
        if number == 0 {
            stage.extend(at(number), 1, None, Some(HOUR)).await?;
        }
        let short = New { absolute_ms: HOUR, idle_ms: HOUR, ..copy.clone() };
        stage.made(&short).await?;
        stage.end(at(number), "over").await?;
    }
    stays_dead(&mut stage, &copies).await
}

async fn an_end_in_the_past_is_an_end_like_any_other(mut stage: Stage) -> Verdict {
    let at = place(0, 1);
    let copy = copy(&stage, at);
    stage.made(&long(at, 1)).await?;
    stage.elapse(ms(2 * HOUR)).await;
    let before = stage.told(0).await?;
    for _ in 0..2 {
        same!(stage.extend(at, 1, None, Some(HOUR)).await?, Found::Expired);
        same!(stage.peek(at, 1).await?, Found::Expired);
    }
    let told = stage.told(0).await?;
    same!(told[before.len()..], [("expired".to_owned(), String::new())]);
    same!(ok(stage.backend.load(at, Some(&digest(9)), None).await)?.map(drop), Found::Expired);
    same!(stage.reap(0, 10).await?.ended, 0);
    stays_dead(&mut stage, &[copy]).await
}
