//! Revoking all of a user or of a company, and sweeping up after it.

use super::{
    Created, Found, Index, Stage, Verdict, ann, digest, ms, names, new, next, nobody, ok, patch,
    place,
};
use crate::backend::{Before, Existing, New, Origin, Raise, Swept, Whole};

cases! {
    all_of_a_user_from_before_are_revoked_and_none_from_after
    all_of_a_company_from_before_are_revoked_and_none_from_after
    an_epoch_rises_also_when_the_clock_was_set_back
    an_epoch_rises_to_a_number_at_least
    what_comes_from_before_an_epoch_is_stale
    a_sweep_ends_the_revoked_and_goes_on_behind_the_others
}

async fn raise(stage: &Stage, whole: Whole<'_>, raise: Raise<'_>) -> Result<i64, String> {
    ok(stage.backend.epoch(0, whole, raise).await)
}

/// The old are revoked by the first epoch, the new by none.
async fn revokes(stage: &mut Stage, whole: Whole<'_>) -> Verdict {
    let (old, new_one, bobs) = (place(0, 1), place(0, 2), place(0, 3));
    stage.made(&new(old, 1, ann())).await?;
    stage.made(&new(bobs, 1, names("bob", "other"))).await?;
    same!(raise(stage, whole, Raise::No).await?, 0);
    ensure!(stage.lives(old, 1).await?, "a look revoked it");
    let epoch = raise(stage, whole, Raise::Above("left us: {now}")).await?;
    same!(epoch, stage.now_ms());
    let gone = Found::<()>::Revoked("left us: {now}".to_owned());
    for found in [
        stage.touch(old, 1).await?.map(drop),
        stage.patch(old, 1, &patch(1, "a", b"2")).await?.map(drop),
        stage.extend(old, 1, None, None).await?.map(drop),
        stage.rotate(old, 1, &next(2)).await?.map(drop),
        stage.end(old, "x").await?,
    ] {
        same!(found, gone);
    }
    // In the same ms.
    stage.made(&new(new_one, 1, ann())).await?;
    ensure!(stage.lives(new_one, 1).await? && stage.lives(bobs, 1).await?, "one too many");
    let record = stage.record(new_one, 1).await?;
    let known = if matches!(whole, Whole::User(_)) { record.of_user } else { record.of_company };
    same!(known, epoch);
    same!(raise(stage, whole, Raise::No).await?, epoch);
    // Raised again, in the same ms still.
    same!(raise(stage, whole, Raise::Above("again")).await?, epoch + 1);
    same!(stage.peek(new_one, 1).await?, Found::Revoked("again".to_owned()));
    ensure!(stage.lives(bobs, 1).await?, "of somebody else");
    same!(raise(stage, Whole::User("bob"), Raise::No).await?, 0);
    Ok(())
}

async fn all_of_a_user_from_before_are_revoked_and_none_from_after(mut stage: Stage) -> Verdict {
    revokes(&mut stage, Whole::User("ann")).await?;
    same!(raise(&stage, Whole::Company("ann"), Raise::No).await?, 0);
    Ok(())
}

async fn all_of_a_company_from_before_are_revoked_and_none_from_after(mut stage: Stage) -> Verdict {
    revokes(&mut stage, Whole::Company("acme")).await?;
    same!(raise(&stage, Whole::User("acme"), Raise::No).await?, 0);
    Ok(())
}

async fn an_epoch_rises_also_when_the_clock_was_set_back(mut stage: Stage) -> Verdict {
    let whole = Whole::User("ann");
    let first = raise(&stage, whole, Raise::Above("one")).await?;
    stage.made(&new(place(0, 1), 1, ann())).await?;
    stage.set(stage.now() - 3_600_000_000).await;
    stage.made(&new(place(0, 2), 1, ann())).await?;
    ensure!(stage.lives(place(0, 1), 1).await?, "it is from after");
    ensure!(stage.lives(place(0, 2), 1).await?, "it is from after, whatever the clock says");
    same!(raise(&stage, whole, Raise::Above("two")).await?, first + 1);
    for number in [1, 2] {
        let gone = stage.peek(place(0, number), 1).await?;
        same!(gone, Found::Revoked("two".to_owned()), "{number}:");
    }
    stage.made(&new(place(0, 3), 1, ann())).await?;
    ensure!(stage.lives(place(0, 3), 1).await?, "it is from after");
    Ok(())
}

async fn an_epoch_rises_to_a_number_at_least(stage: Stage) -> Verdict {
    let whole = Whole::Company("acme");
    stage.made(&new(place(0, 1), 1, ann())).await?;
    same!(raise(&stage, whole, Raise::To(100, "one")).await?, 100);
    same!(raise(&stage, whole, Raise::To(100, "two")).await?, 100);
    same!(raise(&stage, whole, Raise::To(99, "three")).await?, 100);
    same!(raise(&stage, whole, Raise::No).await?, 100);
    same!(stage.peek(place(0, 1), 1).await?, Found::Revoked("one".to_owned()));
    stage.made(&new(place(0, 2), 1, ann())).await?;
    same!(raise(&stage, whole, Raise::To(101, "four")).await?, 101);
    same!(stage.peek(place(0, 2), 1).await?, Found::Revoked("four".to_owned()));
    Ok(())
}

async fn what_comes_from_before_an_epoch_is_stale(stage: Stage) -> Verdict {
    raise(&stage, Whole::User("ann"), Raise::To(10, "x")).await?;
    raise(&stage, Whole::Company("acme"), Raise::To(20, "x")).await?;
    let now = stage.now_ms();
    for (number, of_user, of_company, names, stale) in [
        (1, Some(9), Some(20), ann(), true),
        (2, Some(10), Some(19), ann(), true),
        (3, Some(10), Some(20), ann(), false),
        (4, Some(11), Some(21), ann(), false),
        (5, None, None, ann(), false),
        (6, None, Some(0), ann(), true),
        (7, Some(0), None, names("", "acme"), false),
        (8, None, Some(0), names("ann", ""), false),
        (9, Some(0), Some(0), nobody(), false),
    ] {
        let before = Before { created: now, last: now, version: 1, of_user, of_company };
        for (shard, origin) in [
            (0, Origin::Arrives(before)),
            (0, Origin::Restored(before, Existing::GivesWay)),
            // Epochs are a shard's.
            (1, Origin::Arrives(before)),
        ] {
            let at = place(shard, number);
            let created = stage.create(&New { origin, ..new(at, 1, names.clone()) }).await?;
            let stale = stale && shard == 0;
            same!(created == Created::Stale, stale, "{number}, {origin:?}: {created:?},");
            same!(stage.lives(at, 1).await?, !stale, "{number}, {origin:?}:");
        }
    }
    Ok(())
}

async fn a_sweep_ends_the_revoked_and_goes_on_behind_the_others(mut stage: Stage) -> Verdict {
    // Of ten, every third is of another user.
    let company = Index::Company("acme".to_owned());
    for number in 0..10 {
        let user = if number % 3 == 0 { "bob" } else { "ann" };
        stage.made(&new(place(0, number), 1, names(user, "acme"))).await?;
        stage.elapse(ms(1)).await;
    }
    raise(&stage, Whole::User("ann"), Raise::Above("left")).await?;
    let sweep = async |skip: u64| ok(stage.backend.sweep(0, &company, skip, 4).await);
    let swept = [
        (0, Swept { ended: 2, left: 2, more: true }),
        (2, Swept { ended: 3, left: 1, more: true }),
        (3, Swept { ended: 1, left: 1, more: false }),
        (4, Swept { ended: 0, left: 0, more: false }),
        (0, Swept { ended: 0, left: 4, more: true }),
    ];
    for (skip, expected) in swept {
        same!(sweep(skip).await?, expected, "behind {skip}:");
    }
    same!(stage.living(&[0], &Index::All).await?, 4);
    same!(stage.living(&[0], &Index::User("ann".to_owned())).await?, 0);
    for number in 0..10 {
        let found = stage.peek(place(0, number), 1).await?;
        let gone = Found::Revoked("left".to_owned());
        same!(found == gone, number % 3 != 0, "{number}: {found:?},");
    }
    let told = stage.told(0).await?;
    let ended = ("invalidated".to_owned(), "left".to_owned());
    same!(told.iter().filter(|one| **one == ended).count(), 6);
    // A member without a session is left to others.
    stage.loses(place(0, 0)).await;
    same!(sweep(0).await?, Swept { ended: 0, left: 4, more: true });
    let found = ok(stage.backend.load(place(0, 1), Some(&digest(9)), None).await)?;
    same!(found.map(drop), Found::Revoked("left".to_owned()), "a grave asks for no secret:");
    Ok(())
}
