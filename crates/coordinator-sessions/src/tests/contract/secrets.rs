//! Rotation: one successor, and what becomes of the secrets before.

use super::{
    Found, GRACE, IDLE, Index, Names, Next, Place, Rotated, Stage, THROTTLE, Verdict, ann, digest,
    ms, names, new, next, nobody, ok, patch, place,
};
use crate::{
    backend::{Raise, Whole, Written},
    token::Wrapped,
};

cases! {
    rotated_by_many_it_has_one_successor
    the_secret_before_is_honoured_for_its_grace_to_the_ms
    older_secrets_are_honoured_each_for_its_own_grace
    more_than_eight_older_secrets_are_forgotten
    a_rotation_counts_as_activity
    a_rotation_gives_other_names
    a_rotation_comes_under_the_epochs_of_its_new_names
}

fn wrapped_of(rotated: &Found<Rotated>) -> Option<[u8; 32]> {
    match rotated {
        Found::Live(Rotated::Done { wrapped, .. }) => wrapped.map(|wrapped| wrapped.0),
        _ => None,
    }
}

async fn rotated_by_many_it_has_one_successor(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let first = stage.rotate(at, 1, &next(2)).await?;
    same!(wrapped_of(&first), Some(super::super::wrapped(2).0));
    stage.elapse(ms(GRACE - 1)).await;
    // Another, and the first again.
    for successor in [3, 2, 4] {
        let later = stage.rotate(at, 1, &next(successor)).await?;
        same!(wrapped_of(&later), wrapped_of(&first), "{successor}:");
    }
    for secret in [3, 4] {
        same!(stage.peek(at, secret).await?, Found::Absent, "{secret}:");
    }
    let record = stage.record(at, 2).await?;
    same!(record.version, 2);
    same!(stage.living(&[0], &Index::All).await?, 1);
    // Who looks it up with the one before is told as well.
    let found = ok(stage.backend.load(at, Some(&digest(1)), None).await)?;
    let Found::Live((_, wrapped)) = found else { return Err(format!("{found:?}")) };
    same!(wrapped.map(|wrapped: Wrapped| wrapped.0), wrapped_of(&first));
    let found = ok(stage.backend.load(at, Some(&digest(2)), None).await)?;
    ensure!(matches!(found, Found::Live((_, None))), "the newest has no successor");
    stage.is_told(0, &[("created", ""), ("rotated", "")]).await
}

/// The secret ends the session.
async fn replays(stage: &Stage, at: Place, secret: u8, current: u8) -> Verdict {
    ensure!(stage.lives(at, current).await?, "it ended before");
    same!(stage.peek(at, secret).await?, Found::Revoked("replayed".to_owned()));
    same!(stage.peek(at, current).await?, Found::Revoked("replayed".to_owned()));
    let last = stage.told(at.shard).await?.pop();
    same!(last, Some(("invalidated".to_owned(), "replayed".to_owned())));
    Ok(())
}

async fn the_secret_before_is_honoured_for_its_grace_to_the_ms(mut stage: Stage) -> Verdict {
    // Whatever the step.
    for number in 1..=5 {
        let at = place(0, number);
        stage.made(&new(at, 1, ann())).await?;
        stage.rotated(at, 1, 2).await?;
        stage.elapse(ms(GRACE - 1)).await;
        ensure!(stage.lives(at, 1).await?, "the grace is over too early");
        ensure!(
            matches!(stage.patch(at, 1, &patch(1, "b", b"1")).await?, Found::Live(_)),
            "it may not write"
        );
        stage.elapse(ms(1)).await;
        let replayed = Found::<()>::Revoked("replayed".to_owned());
        let answer = match number {
            1 => {
                replays(&stage, at, 1, 2).await?;
                continue;
            }
            2 => stage.patch(at, 1, &patch(2, "b", b"2")).await?.map(drop),
            3 => stage.rotate(at, 1, &next(3)).await?.map(drop),
            4 => stage.extend(at, 1, None, None).await?.map(drop),
            _ => ok(stage.backend.invalidate(at, Some(&digest(1)), "x").await)?,
        };
        same!(answer, replayed, "{number}:");
        same!(stage.peek(at, 2).await?.map(drop), replayed, "{number}:");
    }
    Ok(())
}

async fn older_secrets_are_honoured_each_for_its_own_grace(mut stage: Stage) -> Verdict {
    for number in 1..=3 {
        let at = place(0, u64::from(number));
        stage.made(&new(at, 1, ann())).await?;
        for secret in 1..4 {
            stage.rotated(at, secret, secret + 1).await?;
            stage.elapse(ms(1000)).await;
        }
        // Number n was replaced 4 - n seconds ago.
        stage.elapse(ms(GRACE - 1000 * (4 - i64::from(number)) - 1)).await;
        for secret in number..4 {
            let found = ok(stage.backend.load(at, Some(&digest(secret)), None).await)?;
            let Found::Live((_, wrapped)) = found else {
                return Err(format!("{secret} of {number}: {found:?}"));
            };
            // Only who has the one before can read the newest.
            same!(wrapped.is_some(), secret == 3, "{secret} of {number}:");
        }
        if number < 3 {
            let rotated = stage.rotate(at, number, &next(9)).await?;
            let Found::Live(Rotated::Done { written, wrapped: None }) = rotated else {
                return Err(format!("{number}: {rotated:?}"));
            };
            same!(written.version, 4);
        }
        stage.elapse(ms(1)).await;
        replays(&stage, at, number, 4).await?;
    }
    Ok(())
}

async fn more_than_eight_older_secrets_are_forgotten(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    for secret in 1..11 {
        stage.rotated(at, secret, secret + 1).await?;
        stage.elapse(ms(1)).await;
    }
    // 11 is the newest, 10 the one before; 9 to 2 are older.
    same!(stage.peek(at, 1).await?, Found::Absent);
    for secret in 2..=11 {
        ensure!(stage.lives(at, secret).await?, "{secret} is forgotten");
    }
    stage.elapse(ms(GRACE)).await;
    same!(stage.peek(at, 1).await?, Found::Absent);
    replays(&stage, at, 2, 11).await
}

async fn a_rotation_counts_as_activity(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    stage.elapse(ms(THROTTLE - 1)).await;
    let now = stage.now_ms();
    let rotated = stage.rotate(at, 1, &next(2)).await?;
    let Found::Live(Rotated::Done { written, .. }) = rotated else {
        return Err(format!("{rotated:?}"));
    };
    same!(written, Written { version: 2, expiry: now + IDLE + THROTTLE, now });
    let record = stage.record(at, 2).await?;
    same!((record.last, record.expiry), (now, written.expiry));
    same!(record.fields, [("a".to_owned(), b"1".to_vec())]);
    Ok(())
}

async fn a_rotation_gives_other_names(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let bob = Names { crew: "day".to_owned(), ..names("bob", "other") };
    let named = Next { names: Some(bob.clone()), ..next(2) };
    stage.rotate(at, 1, &named).await?;
    let record = stage.record(at, 2).await?;
    same!((record.names.clone(), record.checksum), (bob.clone(), bob.checksum()));
    for (index, living) in [
        (Index::All, 1),
        (Index::User("ann".to_owned()), 0),
        (Index::Company("acme".to_owned()), 0),
        (Index::Crew("night".to_owned()), 0),
        (Index::User("bob".to_owned()), 1),
        (Index::Company("other".to_owned()), 1),
        (Index::Crew("day".to_owned()), 1),
    ] {
        same!(stage.living(&[0], &index).await?, living, "{index:?}:");
    }
    stage.rotate(at, 2, &Next { names: Some(nobody()), ..next(3) }).await?;
    same!(stage.record(at, 3).await?.names, nobody());
    same!(stage.living(&[0], &Index::User("bob".to_owned())).await?, 0);
    Ok(())
}

async fn a_rotation_comes_under_the_epochs_of_its_new_names(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let raise = async |whole: Whole<'static>| {
        ok(stage.backend.epoch(0, whole, Raise::Above("stolen")).await)
    };
    let (of_bob, of_other) =
        (raise(Whole::User("bob")).await?, raise(Whole::Company("other")).await?);
    let named = Next { names: Some(names("bob", "other")), ..next(2) };
    stage.rotate(at, 1, &named).await?;
    let record = stage.record(at, 2).await?;
    same!((record.of_user, record.of_company), (of_bob, of_other));
    raise(Whole::User("ann")).await?;
    ensure!(stage.lives(at, 2).await?, "it is ann's no more");
    raise(Whole::User("bob")).await?;
    same!(stage.peek(at, 2).await?, Found::Revoked("stolen".to_owned()));
    Ok(())
}
