//! Moves between shards, in every order in which they can be cut short and taken again.

use super::{
    Created, Departure, Found, GRACE, IDLE, Index, Moving, Place, Record, Stage, THROTTLE, Verdict,
    ann, departure, digest, ms, names, new, next, nobody, ok, patch, place,
};
use crate::backend::{Before, Cap, Crowded, Moved, New, Next, Origin, Raise, Whole, Written};

cases! {
    a_move_cut_short_anywhere_leaves_one_session
    a_move_is_decided_once
    what_moves_changes_no_more
    what_moves_makes_room_for_nobody
    the_secret_before_a_move_is_honoured_for_its_grace_to_the_ms
    what_moved_away_may_come_back_and_what_is_late_may_not
    a_move_ends_under_the_epoch_that_it_began_with
    what_was_ended_does_not_move
}

/// The second step of a move.
fn arrival(at: Place, moving: &Moving) -> New {
    let Moving { shard, of_user, names, digest, record, .. } = moving.clone();
    let Record { created, now, version, of_company, .. } = record;
    New {
        digest,
        fields: record.fields,
        schema: record.schema,
        origin: Origin::Arrives(Before {
            created,
            last: now,
            version: version + 1,
            of_user: (!names.user.is_empty()).then_some(of_user),
            of_company: (names.company == record.names.company).then_some(of_company),
        }),
        announced: false,
        ..new(Place { shard, id: at.id }, 0, names)
    }
}

/// What a move is once it began.
async fn moving(stage: &Stage, at: Place) -> Result<Moving, String> {
    match stage.depart(at, None, None).await? {
        Found::Live(moving) => Ok(moving),
        other => Err(format!("it does not move: {other:?}")),
    }
}

/// Where a secret leads, carrying on what was begun; the successor is read off its wrapping.
async fn leads(stage: &Stage, mut at: Place, mut secret: u8) -> Result<(Place, u8), String> {
    for _ in 0..4 {
        let moved = match stage.peek(at, secret).await? {
            Found::Live(_) => return Ok((at, secret)),
            Found::Moved(moved) => moved,
            other => return Err(format!("{secret} leads to {other:?}")),
        };
        if moved.here {
            let moving = moving(stage, at).await?;
            stage.create(&arrival(at, &moving)).await?;
            ok(stage.backend.settle(at, &moving.digest).await)?;
        }
        at.shard = moved.shard;
        secret = moved.wrapped.ok_or("it leads nowhere")?.0[0] ^ 0x55;
    }
    Err("it leads in a circle".to_owned())
}

/// Of all the places and secrets, those that are let in.
async fn let_in(stage: &Stage, at: Place) -> Result<Vec<(u16, u8)>, String> {
    let mut all = Vec::new();
    for shard in 0..3 {
        for secret in 1..6 {
            if stage.lives(Place { shard, ..at }, secret).await? {
                all.push((shard, secret));
            }
        }
    }
    Ok(all)
}

async fn a_move_cut_short_anywhere_leaves_one_session(mut stage: Stage) -> Verdict {
    for number in 0..27 {
        // How often each step is taken before somebody else comes with the secret.
        let steps = [number % 3, number / 3 % 3, number / 9];
        let at = place(0, number);
        stage.made(&new(at, 1, nobody())).await?;
        stage.patch(at, 1, &patch(1, "b", b"2")).await?;
        let mut began = None;
        for _ in 0..steps[0] {
            let found = stage.depart(at, Some(1), Some(&departure(2, 1, ann()))).await?;
            let Found::Live(moving) = found else {
                // The second time it may be over.
                continue;
            };
            ensure!(began.as_ref().is_none_or(|before| *before == moving), "{steps:?}");
            let mut arrived = false;
            for _ in 0..steps[1] {
                let made = stage.create(&arrival(at, &moving)).await?;
                ensure!(matches!(made, Created::Made { .. }), "{steps:?}: {made:?}");
                arrived = true;
            }
            for step in 0..steps[2] {
                // Nobody settles what has not arrived.
                let settled = arrived && stage.settle(at, 2).await?;
                same!(settled, arrived && step == 0 && began.is_none(), "{steps:?}:");
            }
            began = Some(moving);
        }
        let before = let_in(&stage, at).await?;
        same!(before.len(), usize::from(began.is_none() || steps[1] > 0), "{steps:?}: {before:?}");
        let end = if began.is_some() { (Place { shard: 1, ..at }, 2) } else { (at, 1) };
        same!(leads(&stage, at, 1).await?, end, "{steps:?}:");
        same!(let_in(&stage, at).await?, [(end.0.shard, end.1)], "{steps:?}:");
        let record = stage.record(end.0, end.1).await?;
        same!(record.fields.len(), 2, "{steps:?}:");
        same!(stage.living(&[0, 1], &Index::All).await?, 1, "{steps:?}:");
        // And once more, what comes late.
        if let Some(moving) = began {
            ensure!(!stage.settle(at, 2).await?, "{steps:?}: settled again");
            stage.create(&arrival(at, &moving)).await?;
            same!(let_in(&stage, at).await?, [(1, 2)], "{steps:?}:");
            same!(stage.record(end.0, 2).await?.names, ann());
            let gone = stage.depart(at, None, None).await?;
            ensure!(
                matches!(&gone, Found::Moved(moved) if moved.shard == 1 && !moved.here),
                "{steps:?}: {gone:?}"
            );
        }
        stage.end(end.0, "over").await?;
        stage.elapse(ms(1)).await;
    }
    Ok(())
}

async fn a_move_is_decided_once(mut stage: Stage) -> Verdict {
    let at = place(0, 1);
    stage.made(&new(at, 1, nobody())).await?;
    let first = Departure { of_user: 7, ..departure(2, 1, ann()) };
    let found = stage.depart(at, Some(1), Some(&first)).await?;
    let Found::Live(moving) = found else { return Err(format!("{found:?}")) };
    same!((moving.shard, moving.of_user, moving.grace_ms), (1, 7, GRACE));
    same!((moving.names.clone(), moving.checksum), (ann(), ann().checksum()));
    ensure!(moving.digest == digest(2) && moving.wrapped == super::super::wrapped(2), "the secret");
    let other = departure(3, 2, names("bob", ""));
    for (secret, departure) in [(Some(1), Some(&other)), (Some(1), None), (None, None)] {
        let again = stage.depart(at, secret, departure).await?;
        same!(again, Found::Live(moving.clone()), "{secret:?}:");
    }
    // Whoever looks it up is told where.
    let here = Moved { shard: 1, late: false, wrapped: Some(moving.wrapped), here: true };
    same!(stage.peek(at, 1).await?, Found::Moved(here.clone()));
    same!(stage.peek(at, 3).await?, Found::Absent);
    stage.made(&arrival(at, &moving)).await?;
    stage.elapse(ms(1)).await;
    ensure!(stage.settle(at, 2).await?, "it was not settled");
    let there = Moved { here: false, ..here };
    for secret in [Some(1), None] {
        let found = ok(stage.backend.load(at, secret.map(digest).as_ref(), None).await)?;
        same!(found.map(drop), Found::Moved(there.clone()), "{secret:?}:");
        let found = stage.depart(at, secret, Some(&other)).await?;
        same!(found.map(drop), Found::Moved(there.clone()), "{secret:?}:");
    }
    same!(stage.peek(at, 2).await?, Found::Absent);
    for index in [Index::User("ann".to_owned()), Index::Company("acme".to_owned())] {
        same!(stage.living(&[0], &index).await?, 0);
        same!(stage.living(&[1], &index).await?, 1);
    }
    Ok(())
}

async fn what_moves_changes_no_more(mut stage: Stage) -> Verdict {
    let at = place(0, 1);
    stage.made(&new(at, 5, nobody())).await?;
    stage.rotated(at, 5, 1).await?;
    // Who has the secret before cannot begin a move.
    let away = departure(2, 1, ann());
    same!(stage.depart(at, Some(5), Some(&away)).await?, Found::Absent);
    stage.depart(at, Some(1), Some(&away)).await?;
    let before = moving(&stage, at).await?;
    let Found::Moved(to) = stage.peek(at, 1).await? else { return Err("it is here".to_owned()) };
    let found = [
        stage.patch(at, 1, &patch(3, "a", b"3")).await?.map(drop),
        stage.extend(at, 1, Some(1), None).await?.map(drop),
        stage.rotate(at, 1, &next(4)).await?.map(drop),
        stage.end(at, "x").await?,
        stage.touch(at, 1).await?.map(drop),
    ];
    for found in found {
        same!(found, Found::Moved(to.clone()));
    }
    same!(stage.peek(at, 5).await?, Found::Absent, "the secret before is not carried on:");
    same!(moving(&stage, at).await?, before);
    // Time runs for it as for others.
    stage.elapse(ms(IDLE + THROTTLE)).await;
    same!(stage.peek(at, 1).await?, Found::Expired);
    same!(stage.reap(0, 10).await?.ended, 1);
    Ok(())
}

async fn what_moves_makes_room_for_nobody(stage: Stage) -> Verdict {
    let cap = Some(Cap { most: 1, policy: Crowded::Oldest });
    let (one, other) = (place(0, 1), place(0, 2));
    stage.made(&new(one, 1, ann())).await?;
    stage.depart(one, Some(1), Some(&departure(2, 1, nobody()))).await?;
    let made = stage.create(&New { cap, ..new(other, 3, ann()) }).await?;
    ensure!(matches!(made, Created::Made { evicted: 0, .. }), "{made:?}");
    same!(leads(&stage, one, 1).await?, (place(1, 1), 2));
    ensure!(stage.lives(other, 3).await?, "the other went");
    Ok(())
}

async fn the_secret_before_a_move_is_honoured_for_its_grace_to_the_ms(mut stage: Stage) -> Verdict {
    let at = place(0, 1);
    stage.made(&new(at, 1, nobody())).await?;
    stage.depart(at, Some(1), Some(&departure(2, 1, nobody()))).await?;
    let moving = moving(&stage, at).await?;
    stage.made(&arrival(at, &moving)).await?;
    stage.settle(at, 2).await?;
    stage.elapse(ms(GRACE - 1)).await;
    let Found::Moved(moved) = stage.peek(at, 1).await? else { return Err("gone".to_owned()) };
    same!((moved.late, moved.wrapped), (false, Some(super::super::wrapped(2))));
    stage.elapse(ms(1)).await;
    let Found::Moved(moved) = stage.peek(at, 1).await? else { return Err("gone".to_owned()) };
    ensure!(moved.late, "its grace goes on");
    stage.elapse(ms(1)).await;
    let Found::Moved(moved) = stage.peek(at, 1).await? else { return Err("gone".to_owned()) };
    same!((moved.late, moved.wrapped), (true, None));
    // Nothing is there to be created or restored, as long as the session could live.
    same!(stage.create(&new(at, 1, nobody())).await?, Created::Buried);
    stage.elapse(ms(super::ABSOLUTE + 3_600_000 - GRACE - 1)).await;
    same!(stage.create(&new(at, 1, nobody())).await?, Created::Buried);
    stage.elapse(ms(1)).await;
    same!(stage.peek(at, 1).await?, Found::Absent);
    Ok(())
}

async fn what_moved_away_may_come_back_and_what_is_late_may_not(stage: Stage) -> Verdict {
    let (home, away) = (place(0, 1), place(1, 1));
    stage.made(&new(home, 1, nobody())).await?;
    stage.depart(home, Some(1), Some(&departure(2, 1, ann()))).await?;
    let out = moving(&stage, home).await?;
    stage.made(&arrival(home, &out)).await?;
    stage.settle(home, 2).await?;
    stage.depart(away, Some(2), Some(&departure(3, 0, nobody()))).await?;
    let back = moving(&stage, away).await?;
    for _ in 0..2 {
        stage.made(&arrival(away, &back)).await?;
    }
    ensure!(stage.settle(away, 3).await?, "it was not settled");
    same!(let_in(&stage, home).await?, [(0, 3)]);
    // The way out, once more.
    same!(stage.create(&arrival(home, &out)).await?, Created::Buried);
    ensure!(!stage.settle(home, 2).await?, "it does not move");
    same!(let_in(&stage, home).await?, [(0, 3)]);
    same!(leads(&stage, away, 2).await?, (home, 3));
    // And out again: the end of the first way out comes before this one has arrived.
    stage.depart(home, Some(3), Some(&departure(4, 1, ann()))).await?;
    ensure!(!stage.settle(home, 2).await?, "another move was settled");
    same!(leads(&stage, home, 3).await?, (away, 4));
    same!(stage.create(&arrival(away, &back)).await?, Created::Buried);
    same!(let_in(&stage, home).await?, [(1, 4)]);
    same!(stage.record(away, 4).await?.version, 4);
    // What was ended does not come back at all.
    stage.end(away, "over").await?;
    same!(stage.create(&arrival(home, &out)).await?, Created::Buried);
    Ok(())
}

async fn a_move_ends_under_the_epoch_that_it_began_with(stage: Stage) -> Verdict {
    let raise = async |shard: u16, whole: Whole<'static>| {
        ok(stage.backend.epoch(shard, whole, Raise::Above("stolen")).await)
    };
    let of_user = raise(1, Whole::User("ann")).await?;
    for (number, revoked, created) in [
        (1, None, true),
        (2, Some(Whole::User("bob")), true),
        (3, Some(Whole::User("ann")), false),
        (4, Some(Whole::Company("acme")), false),
    ] {
        let at = place(0, number);
        stage.made(&new(at, 1, names("", "acme"))).await?;
        let of_user = of_user + i64::try_from(number).expect("small");
        let away = Departure { of_user, ..departure(2, 1, ann()) };
        stage.depart(at, Some(1), Some(&away)).await?;
        let moving = moving(&stage, at).await?;
        if let Some(whole) = revoked {
            let raised = Raise::To(of_user + 1, "stolen");
            ok(stage.backend.epoch(1, whole, raised).await)?;
        }
        let answer = stage.create(&arrival(at, &moving)).await?;
        let expected = if created { "Made" } else { "Stale" };
        ensure!(format!("{answer:?}").starts_with(expected), "{revoked:?}: {answer:?}");
        same!(stage.lives(place(1, number), 2).await?, created, "{revoked:?}:");
    }
    Ok(())
}

async fn what_was_ended_does_not_move(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    ok(stage.backend.epoch(0, Whole::User("ann"), Raise::Above("stolen")).await)?;
    let away = departure(2, 1, nobody());
    let gone = Found::Revoked("stolen".to_owned());
    same!(stage.depart(at, Some(1), Some(&away)).await?, gone);
    ensure!(!stage.settle(at, 2).await?, "it does not move");
    // Too late is too late there as well.
    let at = place(0, 2);
    stage.made(&new(at, 1, nobody())).await?;
    stage.depart(at, Some(1), Some(&away)).await?;
    let mut moving = moving(&stage, at).await?;
    stage.elapse(ms(IDLE + THROTTLE)).await;
    same!(stage.create(&arrival(at, &moving)).await?, Created::Late);
    moving.record.now += 1;
    let made = stage.create(&arrival(at, &moving)).await?;
    let now = stage.now_ms();
    let written = Written { version: 2, expiry: now + 1, now };
    same!(made, Created::Made { written, evicted: 0 });
    // A secret that is at home elsewhere does not take over what is there.
    let taken = place(0, 3);
    stage.made(&new(taken, 1, nobody())).await?;
    stage.made(&new(Place { shard: 1, ..taken }, 4, nobody())).await?;
    let other = Departure { next: Next { grace_ms: 1, ..next(2) }, ..away };
    stage.depart(taken, Some(1), Some(&other)).await?;
    let moving = self::moving(&stage, taken).await?;
    same!(stage.create(&arrival(taken, &moving)).await?, Created::Exists);
    Ok(())
}
