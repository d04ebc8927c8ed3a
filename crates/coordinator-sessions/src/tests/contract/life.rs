//! Creating, changing and ending one session: each step twice, and after its end.

use super::{
    ABSOLUTE, Created, Found, IDLE, Index, Patched, Place, Stage, THROTTLE, Verdict, ann,
    departure, digest, ms, names, new, next, nobody, ok, patch, place,
};
use crate::backend::{Before, Existing, FIELDS_MAX, New, Origin, Raise, Whole};

cases! {
    created_twice_it_is_one_session
    an_id_that_is_taken_is_not_created
    a_patch_delivered_twice_is_one_version
    a_patch_of_another_version_changes_nothing
    a_patch_keeps_the_other_fields
    a_session_has_a_thousand_fields_at_most
    a_stranger_finds_nothing_and_changes_nothing
    ended_twice_it_is_ended_once
    nothing_revives_what_was_ended
    nothing_revives_what_has_expired
    a_restored_session_gives_way_as_it_was_asked_to
    nothing_is_restored_in_place_of_one_that_was_revoked_or_moves
}

async fn created_twice_it_is_one_session(mut stage: Stage) -> Verdict {
    let one = new(place(0, 1), 1, ann());
    let first = stage.made(&one).await?;
    stage.elapse(ms(THROTTLE)).await;
    let now = stage.now_ms();
    let again = Created::Made { written: crate::backend::Written { now, ..first }, evicted: 0 };
    same!(stage.create(&one).await?, again);
    same!(stage.living(&[0], &Index::All).await?, 1);
    same!(stage.record(place(0, 1), 1).await?.created, first.now);
    stage.is_told(0, &[("created", "")]).await
}

async fn an_id_that_is_taken_is_not_created(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let before = stage.record(at, 1).await?;
    same!(stage.create(&new(at, 2, nobody())).await?, Created::Exists);
    same!(stage.record(at, 1).await?, before);
    ensure!(!stage.lives(at, 2).await?, "the second has a session");
    Ok(())
}

async fn a_patch_delivered_twice_is_one_version(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let change = patch(7, "b", b"2");
    let first = stage.patch(at, 1, &change).await?;
    let Found::Live(Patched::Done(written)) = first else { return Err(format!("{first:?}")) };
    same!(written.version, 2);
    stage.elapse(ms(1)).await;
    let again = crate::backend::Written { now: stage.now_ms(), ..written };
    same!(stage.patch(at, 1, &change).await?, Found::Live(Patched::Done(again)));
    // Also where it was made for the version before.
    let mut compared = patch(8, "b", b"3");
    compared.version = Some(2);
    for _ in 0..2 {
        let done = stage.patch(at, 1, &compared).await?;
        ensure!(
            matches!(done, Found::Live(Patched::Done(written)) if written.version == 3),
            "{done:?}"
        );
    }
    same!(stage.record(at, 1).await?.version, 3);
    Ok(())
}

async fn a_patch_of_another_version_changes_nothing(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let before = stage.record(at, 1).await?;
    for version in [0, 2, u64::from(u32::MAX)] {
        let mut change = patch(7, "a", b"2");
        change.version = Some(version);
        let done = stage.patch(at, 1, &change).await?;
        same!(done, Found::Live(Patched::Conflict { version: 1 }), "{version}:");
    }
    same!(stage.record(at, 1).await?, before);
    Ok(())
}

async fn a_patch_keeps_the_other_fields(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    // Names of what the session itself is made of are names like any other.
    for (token, field) in [(1, "m"), (2, "k"), (3, "b"), (4, "d:a")] {
        stage.patch(at, 1, &patch(token, field, field.as_bytes())).await?;
    }
    let mut change = patch(9, "b", b"new");
    change.removed = vec!["k".to_owned(), "none".to_owned(), "k".to_owned()];
    change.schema = Some(3);
    stage.patch(at, 1, &change).await?;
    let record = stage.record(at, 1).await?;
    let fields: Vec<_> = record.fields.iter().map(|(name, _)| name.as_str()).collect();
    same!(fields, ["a", "b", "d:a", "m"]);
    same!(record.fields[1].1, b"new");
    same!((record.version, record.schema), (6, 3));
    same!(record.names, ann());
    // Without a schema it stays.
    stage.patch(at, 1, &patch(10, "b", b"")).await?;
    same!(stage.record(at, 1).await?.schema, 3);
    Ok(())
}

async fn a_session_has_a_thousand_fields_at_most(stage: Stage) -> Verdict {
    let field = |number: usize| (format!("f{number}"), vec![1]);
    let at = place(0, 1);
    let fields = (1..FIELDS_MAX).map(field).collect();
    stage.made(&New { fields, ..new(at, 1, ann()) }).await?;
    // What else is known of a session is no field.
    stage.extend(at, 1, Some(super::IDLE - 1), None).await?;
    let too_many = |fields| Found::Live(Patched::TooMany { fields });
    let mut two = patch(1, "x", b"1");
    two.set.push(field(FIELDS_MAX));
    same!(stage.patch(at, 1, &two).await?, too_many(1001));
    same!(stage.record(at, 1).await?.version, 1, "after a refusal:");
    // The same twice is one; one more and one less is none.
    two.set[1] = ("x".to_owned(), b"2".to_vec());
    let done = stage.patch(at, 1, &two).await?;
    ensure!(matches!(done, Found::Live(Patched::Done(_))), "{done:?}");
    same!(stage.patch(at, 1, &patch(2, "y", b"1")).await?, too_many(1001));
    let mut other = patch(3, "y", b"1");
    other.removed = vec!["x".to_owned()];
    let done = stage.patch(at, 1, &other).await?;
    ensure!(matches!(done, Found::Live(Patched::Done(_))), "{done:?}");
    let mut twice = patch(4, "z", b"1");
    twice.set.push(field(FIELDS_MAX));
    twice.removed = vec!["y".to_owned(), "y".to_owned()];
    same!(stage.patch(at, 1, &twice).await?, too_many(1001));
    // One that is over full, as it may be restored, shrinks and is written over.
    let at = place(0, 2);
    let fields = (0..FIELDS_MAX + 5).map(field).collect();
    stage.made(&New { fields, ..new(at, 1, ann()) }).await?;
    let mut over = patch(1, "f0", b"9");
    for removed in [vec![], vec!["f1".to_owned()]] {
        over.removed = removed;
        over.token[0] += 1;
        let done = stage.patch(at, 1, &over).await?;
        ensure!(matches!(done, Found::Live(Patched::Done(_))), "{done:?}");
    }
    same!(stage.record(at, 1).await?.fields.len(), FIELDS_MAX + 4);
    // However much is to be removed.
    over.removed = (2..20_000).map(|number| format!("f{number}")).collect();
    over.token[0] += 1;
    stage.patch(at, 1, &over).await?;
    same!(stage.record(at, 1).await?.fields.len(), 1);
    Ok(())
}

async fn a_stranger_finds_nothing_and_changes_nothing(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    stage.elapse(ms(THROTTLE)).await;
    let (before, told) = (stage.record(at, 1).await?, stage.told(0).await?);
    same!(stage.touch(at, 9).await?, Found::Absent);
    same!(stage.patch(at, 9, &patch(1, "a", b"2")).await?, Found::Absent);
    same!(stage.extend(at, 9, Some(1), None).await?, Found::Absent);
    same!(stage.rotate(at, 9, &next(2)).await?, Found::Absent);
    let elsewhere = departure(2, 1, nobody());
    same!(stage.depart(at, Some(9), Some(&elsewhere)).await?, Found::Absent);
    same!(stage.depart(at, None, None).await?, Found::Absent, "it does not move:");
    same!(ok(stage.backend.invalidate(at, Some(&digest(9)), "x").await)?, Found::Absent);
    same!((stage.record(at, 1).await?, stage.told(0).await?), (before, told));
    // Of one that there never was, nothing is left either.
    let none = place(0, 2);
    same!(stage.touch(none, 1).await?, Found::Absent);
    same!(stage.patch(none, 1, &patch(1, "a", b"2")).await?, Found::Absent);
    same!(stage.extend(none, 1, Some(1), None).await?, Found::Absent);
    same!(stage.rotate(none, 1, &next(2)).await?, Found::Absent);
    same!(stage.depart(none, Some(1), Some(&elsewhere)).await?, Found::Absent);
    ensure!(!stage.settle(none, 2).await?, "nothing was to be settled");
    same!(stage.end(none, "x").await?, Found::Absent);
    stage.made(&new(none, 1, nobody())).await?;
    Ok(())
}

async fn ended_twice_it_is_ended_once(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let gone = Found::Revoked("logout".to_owned());
    same!(ok(stage.backend.invalidate(at, Some(&digest(1)), "logout").await)?, Found::Live(()));
    same!(stage.end(at, "again").await?, gone.clone().map(|(): ()| ()));
    same!(stage.peek(at, 1).await?, Found::Revoked("logout".to_owned()));
    for index in [Index::All, Index::User("ann".to_owned()), Index::Crew("night".to_owned())] {
        same!(stage.living(&[0], &index).await?, 0, "{index:?}:");
    }
    stage.is_told(0, &[("created", ""), ("invalidated", "logout")]).await
}

/// Every way in which a session could come back.
async fn is_dead<T: PartialEq + std::fmt::Debug>(
    stage: &Stage,
    at: Place,
    gone: impl Fn() -> Found<T>,
) -> Verdict {
    let gone = format!("{:?}", gone());
    let told = stage.told(at.shard).await?;
    let again = new(at, 1, ann());
    same!(stage.create(&again).await?, Created::Buried);
    let now = stage.now_ms();
    let before = Before { created: now, last: now, version: 99, of_user: None, of_company: None };
    for origin in [
        Origin::Arrives(before),
        Origin::Restored(before, Existing::Stays),
        Origin::Restored(before, Existing::GivesWayToNewer),
        Origin::Restored(before, Existing::GivesWay),
    ] {
        let back = New { origin, ..new(at, 1, ann()) };
        same!(stage.create(&back).await?, Created::Buried, "{origin:?}:");
    }
    let elsewhere = departure(2, 1, nobody());
    for found in [
        format!("{:?}", stage.touch(at, 1).await?),
        format!("{:?}", stage.patch(at, 1, &patch(1, "a", b"2")).await?),
        format!("{:?}", stage.extend(at, 1, Some(1_000_000), None).await?),
        format!("{:?}", stage.rotate(at, 1, &next(2)).await?),
        format!("{:?}", stage.depart(at, Some(1), Some(&elsewhere)).await?),
        format!("{:?}", stage.depart(at, None, None).await?),
        format!("{:?}", stage.end(at, "again").await?),
    ] {
        same!(found, gone);
    }
    ensure!(!stage.settle(at, 2).await?, "something was settled");
    same!(stage.living(&[at.shard], &Index::All).await?, 0);
    same!(stage.told(at.shard).await?, told);
    Ok(())
}

async fn nothing_revives_what_was_ended(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    stage.elapse(ms(1234)).await;
    stage.end(at, "logout").await?;
    let gone = || Found::<()>::Revoked("logout".to_owned());
    is_dead(&stage, at, gone).await?;
    // For as long as it could have lived, and an hour.
    stage.elapse(ms(ABSOLUTE - 1234 + 3_600_000)).await;
    is_dead(&stage, at, gone).await?;
    stage.elapse(ms(1)).await;
    same!(stage.peek(at, 1).await?, Found::Absent);
    Ok(())
}

async fn nothing_revives_what_has_expired(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    stage.elapse(ms(IDLE + THROTTLE)).await;
    same!(stage.touch(at, 1).await?, Found::Expired, "before it was reaped:");
    same!(stage.patch(at, 1, &patch(1, "a", b"2")).await?, Found::Expired);
    same!(stage.extend(at, 1, Some(1_000_000), None).await?, Found::Expired);
    same!(stage.rotate(at, 1, &next(2)).await?, Found::Expired);
    same!(stage.reap(0, 10).await?.ended, 1);
    is_dead(&stage, at, || Found::<()>::Expired).await?;
    stage.elapse(ms(3_600_000)).await;
    is_dead(&stage, at, || Found::<()>::Expired).await?;
    stage.elapse(ms(1)).await;
    same!(stage.peek(at, 1).await?, Found::Absent);
    Ok(())
}

fn restored(stage: &Stage, at: Place, version: u64, existing: Existing) -> New {
    let now = stage.now_ms();
    let before =
        Before { created: now - 5000, last: now - 1000, version, of_user: None, of_company: None };
    let fields = vec![("restored".to_owned(), vec![1])];
    New { origin: Origin::Restored(before, existing), fields, ..new(at, 2, names("bob", "")) }
}

async fn a_restored_session_gives_way_as_it_was_asked_to(stage: Stage) -> Verdict {
    use Existing::{GivesWay, GivesWayToNewer, Stays};
    // It is as it was.
    stage.made(&restored(&stage, place(0, 9), 4, Stays)).await?;
    let record = stage.record(place(0, 9), 2).await?;
    let now = stage.now_ms();
    same!((record.created, record.last, record.version), (now - 5000, now - 1000, 4));
    same!(record.expiry, now - 1000 + IDLE + THROTTLE);
    for (number, version, existing, replaces) in [
        (1, 9, Stays, false),
        (2, 1, GivesWayToNewer, false),
        (3, 2, GivesWayToNewer, false),
        (4, 3, GivesWayToNewer, true),
        (5, 1, GivesWay, true),
    ] {
        let at = place(0, number);
        stage.made(&new(at, 1, ann())).await?;
        stage.patch(at, 1, &patch(1, "kept", b"1")).await?;
        let created = stage.create(&restored(&stage, at, version, existing)).await?;
        same!(created != Created::Exists, replaces, "{version}, {existing:?}: {created:?},");
        same!(stage.lives(at, 1).await?, !replaces);
        let bobs = ok(stage.backend.list(0, &Index::User("bob".to_owned()), None, 100).await)?;
        same!(bobs.sessions.iter().any(|(id, _)| *id == at.id), replaces, "of bob's:");
        let anns = ok(stage.backend.list(0, &Index::User("ann".to_owned()), None, 100).await)?;
        same!(anns.sessions.iter().any(|(id, _)| *id == at.id), !replaces, "of ann's:");
        if replaces {
            let fields = stage.record(at, 2).await?.fields;
            same!(fields, [("restored".to_owned(), vec![1])]);
        }
    }
    Ok(())
}

async fn nothing_is_restored_in_place_of_one_that_was_revoked_or_moves(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    stage.depart(at, Some(1), Some(&departure(2, 1, nobody()))).await?;
    let back = restored(&stage, at, 99, Existing::GivesWay);
    same!(stage.create(&back).await?, Created::Exists, "of one that moves:");
    let at = place(0, 2);
    stage.made(&new(at, 1, ann())).await?;
    ok(stage.backend.epoch(0, Whole::User("ann"), Raise::Above("stolen")).await)?;
    let back = restored(&stage, at, 99, Existing::GivesWay);
    same!(stage.create(&back).await?, Created::Buried, "of one that was revoked:");
    same!(stage.peek(at, 1).await?, Found::Revoked("stolen".to_owned()));
    Ok(())
}
