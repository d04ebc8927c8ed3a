//! Reaping, listing and counting, and indexes that were damaged.

use super::{
    Found, IDLE, Index, Place, Reaped, Stage, THROTTLE, Verdict, ann, departure, ms, names, new,
    ok, patch, place,
};
use crate::backend::{Cap, Count, Created, Crowded, New, Raise, Verified, Whole};
use coordinator_core::ErrorKind;

cases! {
    each_expired_session_is_told_once_whoever_reaps
    what_was_used_or_extended_is_not_reaped
    a_reaper_says_when_the_next_is_due
    a_session_that_vanished_is_told_as_such
    a_revoked_session_is_reaped_as_revoked
    a_wrong_score_is_mended_by_the_reaper
    a_list_is_in_order_and_misses_nobody
    a_list_holds_the_living
    counts_are_of_the_living_and_of_those_overdue
    members_without_a_session_are_found_and_removed
    sessions_that_are_not_listed_are_found_and_listed
    what_cannot_be_read_is_told_and_in_nobodys_way
    who_is_listed_as_anothers_is_found_and_taken_out
}

fn of_ann() -> Index {
    Index::User("ann".to_owned())
}

fn all_of_ann() -> [Index; 4] {
    let (company, crew) = ("acme".to_owned(), "night".to_owned());
    [Index::All, of_ann(), Index::Company(company), Index::Crew(crew)]
}

async fn each_expired_session_is_told_once_whoever_reaps(mut stage: Stage) -> Verdict {
    for number in 0..10 {
        stage.made(&new(place(0, number), 1, ann())).await?;
    }
    stage.elapse(ms(IDLE + THROTTLE)).await;
    let mut ended = 0;
    for _ in 0..4 {
        // Two reapers at once, of which the second comes too late for what the first took.
        for backend in [stage.backend.clone(), stage.backend.clone()] {
            ended += ok(backend.reap(0, 3).await)?.ended;
        }
    }
    same!(ended, 10);
    let told = stage.happened(0).await?;
    let mut expired: Vec<_> = told.iter().filter(|one| one.event == "expired").collect();
    same!(told.len(), 20);
    for one in &expired {
        same!((&one.names, one.version, &*one.reason), (&ann(), 1, ""));
    }
    expired.sort_by(|one, other| one.id.cmp(&other.id));
    expired.dedup_by(|one, other| one.id == other.id);
    same!(expired.len(), 10);
    for index in all_of_ann() {
        let count = ok(stage.backend.count(&[0], &index).await)?;
        same!(count, Count::default(), "{index:?}:");
    }
    Ok(())
}

async fn what_was_used_or_extended_is_not_reaped(mut stage: Stage) -> Verdict {
    for number in 0..5 {
        stage.made(&new(place(0, number), 1, ann())).await?;
    }
    stage.elapse(ms(IDLE)).await;
    stage.touch(place(0, 1), 1).await?;
    stage.extend(place(0, 2), 1, None, None).await?;
    stage.rotated(place(0, 3), 1, 2).await?;
    stage.patch(place(0, 4), 1, &patch(1, "a", b"2")).await?;
    stage.elapse(ms(THROTTLE)).await;
    same!(stage.reap(0, 10).await?, Reaped { ended: 1, more: false, next: Some(ms(IDLE)) });
    for (number, secret) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
        ensure!(stage.lives(place(0, number), secret).await?, "{number} was reaped");
    }
    same!(stage.peek(place(0, 0), 1).await?, Found::Expired);
    same!(stage.living(&[0], &of_ann()).await?, 4);
    Ok(())
}

async fn a_reaper_says_when_the_next_is_due(mut stage: Stage) -> Verdict {
    same!(stage.reap(0, 10).await?, Reaped { ended: 0, more: false, next: None });
    for number in 0..3 {
        stage.made(&new(place(0, number), 1, ann())).await?;
        stage.elapse(ms(1000)).await;
    }
    let due = ms(IDLE + THROTTLE - 3000);
    same!(stage.reap(0, 10).await?, Reaped { ended: 0, more: false, next: Some(due) });
    stage.elapse(due + ms(1000)).await;
    same!(stage.reap(0, 1).await?, Reaped { ended: 1, more: true, next: Some(ms(0)) });
    same!(stage.reap(0, 2).await?, Reaped { ended: 1, more: false, next: Some(ms(1000)) });
    same!(stage.reap(1, 2).await?, Reaped { ended: 0, more: false, next: None }, "elsewhere:");
    Ok(())
}

async fn a_session_that_vanished_is_told_as_such(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    stage.loses(at).await;
    same!(stage.peek(at, 1).await?, Found::Absent);
    same!(stage.reap(0, 10).await?.ended, 0, "its time is not over:");
    stage.elapse(ms(IDLE + THROTTLE)).await;
    same!(stage.reap(0, 10).await?.ended, 1);
    same!(stage.reap(0, 10).await?.ended, 0);
    stage.is_told(0, &[("created", ""), ("expired", "vanished")]).await?;
    let last = stage.happened(0).await?.pop().map(|one| (one.id, one.names, one.version));
    same!(last, Some((at.id.encode(), names("", ""), 0)));
    same!(stage.living(&[0], &Index::All).await?, 0);
    Ok(())
}

async fn a_revoked_session_is_reaped_as_revoked(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    ok(stage.backend.epoch(0, Whole::Company("acme"), Raise::Above("sold")).await)?;
    same!(stage.reap(0, 10).await?.ended, 0, "its time is not over:");
    stage.elapse(ms(IDLE + THROTTLE)).await;
    same!(stage.reap(0, 10).await?.ended, 1);
    same!(stage.peek(at, 1).await?, Found::Revoked("sold".to_owned()));
    stage.is_told(0, &[("created", ""), ("invalidated", "sold")]).await
}

async fn a_wrong_score_is_mended_by_the_reaper(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    stage.lists(0, &Index::All, &at.id.encode(), Some(5)).await;
    let due = ms(IDLE + THROTTLE);
    same!(stage.reap(0, 10).await?, Reaped { ended: 0, more: false, next: Some(due) });
    ensure!(stage.lives(at, 1).await?, "it was reaped");
    stage.is_told(0, &[("created", "")]).await
}

/// Walks an index page by page.
async fn walk(stage: &Stage, index: &Index, limit: usize) -> Result<Vec<u64>, String> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let page = ok(stage.backend.list(0, index, after.as_ref(), limit).await)?;
        ensure!(page.sessions.len() <= limit, "a page of {}", page.sessions.len());
        for (id, record) in page.sessions {
            let number = (0..200).find(|number| place(0, *number).id == id);
            all.push(number.ok_or("a stranger")?);
            ensure!(record.expiry > stage.now_ms(), "{record:?}");
        }
        let next = page.next;
        ensure!(next.is_none() || next > after, "{next:?} is not behind {after:?}");
        after = next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

async fn a_list_is_in_order_and_misses_nobody(mut stage: Stage) -> Verdict {
    // In three groups of the same expiry; the ids in order of their bytes, in capitals and others.
    let mut expected = Vec::new();
    for group in 0..3_u64 {
        let mut numbers: Vec<_> = (0..20).map(|number| group * 20 + number).collect();
        for number in numbers.iter().rev() {
            stage.made(&new(place(0, *number), 1, ann())).await?;
        }
        numbers.sort_by_key(|number| place(0, *number).id.encode());
        expected.extend(numbers);
        stage.elapse(ms(1)).await;
    }
    for limit in [1, 7, 20, 59, 60, 61] {
        same!(walk(&stage, &of_ann(), limit).await?, expected, "{limit}:");
    }
    for index in all_of_ann() {
        same!(walk(&stage, &index, 25).await?, expected, "{index:?}:");
    }
    // While it is walked, some are used, and others end.
    let mut met = Vec::new();
    let mut after = None;
    for step in 0.. {
        let page = ok(stage.backend.list(0, &of_ann(), after.as_ref(), 10).await)?;
        met.extend(page.sessions.into_iter().map(|(id, _)| id));
        stage.extend(place(0, step * 7 % 60), 1, Some(IDLE + 50), None).await?;
        stage.end(place(0, 59 - step), "over").await?;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    for number in 0..60 {
        let at = place(0, number);
        ensure!(!stage.lives(at, 1).await? || met.contains(&at.id), "{number} was missed");
    }
    same!(ok(stage.backend.list(0, &Index::User("bob".to_owned()), None, 9).await)?.next, None);
    Ok(())
}

async fn a_list_holds_the_living(mut stage: Stage) -> Verdict {
    stage.made(&new(place(0, 9), 1, ann())).await?;
    stage.elapse(ms(IDLE + THROTTLE)).await;
    for number in 0..6 {
        stage.made(&new(place(0, number), 1, ann())).await?;
    }
    stage.made(&new(place(0, 6), 1, names("bob", "acme"))).await?;
    stage.end(place(0, 0), "over").await?;
    stage.loses(place(0, 1)).await;
    stage.depart(place(0, 2), Some(1), Some(&departure(2, 1, ann()))).await?;
    ok(stage.backend.epoch(0, Whole::User("bob"), Raise::Above("x")).await)?;
    same!(walk(&stage, &Index::All, 2).await?, [3, 4, 5]);
    same!(walk(&stage, &of_ann(), 100).await?, [3, 4, 5]);
    // It is told as it is looked up.
    let page = ok(stage.backend.list(0, &of_ann(), None, 100).await)?;
    let (id, record) = page.sessions.into_iter().next().ok_or("none")?;
    same!(stage.record(Place { shard: 0, id }, 1).await?, record);
    Ok(())
}

async fn counts_are_of_the_living_and_of_those_overdue(mut stage: Stage) -> Verdict {
    for number in 0..3 {
        stage.made(&new(place(0, number), 1, ann())).await?;
        stage.made(&new(place(1, number), 1, names("bob", ""))).await?;
        stage.elapse(ms(1000)).await;
    }
    let count = async |stage: &Stage, shards: &[u16], index: &Index| {
        let count = ok(stage.backend.count(shards, index).await)?;
        Ok::<_, String>((count.living, count.overdue, count.late_ms))
    };
    same!(count(&stage, &[0, 1], &Index::All).await?, (6, 0, 0));
    stage.elapse(ms(IDLE + THROTTLE - 3001)).await;
    same!(count(&stage, &[0, 1], &Index::All).await?, (6, 0, 0));
    stage.elapse(ms(1)).await;
    same!(count(&stage, &[0, 1], &Index::All).await?, (4, 2, 0));
    stage.elapse(ms(1500)).await;
    same!(count(&stage, &[0, 1, 2], &Index::All).await?, (2, 4, 1500));
    same!(count(&stage, &[0, 1], &of_ann()).await?, (1, 2, 1500));
    same!(count(&stage, &[1], &of_ann()).await?, (0, 0, 0));
    stage.reap(0, 100).await?;
    same!(count(&stage, &[0, 1], &Index::All).await?, (2, 2, 1500));
    same!(count(&stage, &[0], &Index::All).await?, (1, 0, 0));
    Ok(())
}

async fn verify(stage: &Stage, index: &Index, mend: bool) -> Result<[u64; 4], String> {
    let Verified { seen, left, orphans, missing, .. } =
        ok(stage.backend.verify(0, index, 0, 100, mend).await)?;
    Ok([seen, left, orphans, missing])
}

async fn members_without_a_session_are_found_and_removed(stage: Stage) -> Verdict {
    for number in 0..3 {
        stage.made(&new(place(0, number), 1, ann())).await?;
    }
    stage.loses(place(0, 1)).await;
    for index in all_of_ann().into_iter().skip(1) {
        for _ in 0..2 {
            same!(verify(&stage, &index, false).await?, [3, 3, 1, 0], "{index:?}:");
        }
        same!(verify(&stage, &index, true).await?, [3, 2, 1, 0], "{index:?}:");
        same!(verify(&stage, &index, true).await?, [2, 2, 0, 0], "{index:?}:");
    }
    // By expiry it stays until the reaper has told of it.
    same!(verify(&stage, &Index::All, false).await?, [3, 3, 1, 0]);
    same!(stage.reap(0, 10).await?.ended, 0, "a look mended it:");
    same!(verify(&stage, &Index::All, true).await?, [3, 3, 1, 0]);
    same!(stage.reap(0, 10).await?.ended, 1);
    same!(verify(&stage, &Index::All, true).await?, [2, 2, 0, 0]);
    let last = stage.told(0).await?.pop();
    same!(last, Some(("expired".to_owned(), "vanished".to_owned())));
    // Page by page, behind those that are left.
    stage.loses(place(0, 0)).await;
    let page = ok(stage.backend.verify(0, &of_ann(), 0, 1, true).await)?;
    same!((page.seen, page.left, page.orphans), (1, 0, 1));
    let page = ok(stage.backend.verify(0, &of_ann(), 0, 1, true).await)?;
    same!((page.seen, page.left, page.orphans), (1, 1, 0));
    let page = ok(stage.backend.verify(0, &of_ann(), 1, 1, true).await)?;
    same!((page.seen, page.left, page.orphans), (0, 0, 0));
    Ok(())
}

async fn sessions_that_are_not_listed_are_found_and_listed(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let id = at.id.encode();
    let whole = ok(stage.backend.verify(0, &Index::All, 0, 10, false).await)?;
    same!(whole.indexes, all_of_ann()[1..]);
    for damaged in all_of_ann() {
        for score in [None, Some(stage.now_ms() + 1), Some(1)] {
            // From where it still is: whatever is listed by expiry is compared there.
            let gone = damaged == Index::All && score.is_none();
            let from = if gone { of_ann() } else { Index::All };
            stage.lists(0, &damaged, &id, score).await;
            for mend in [false, false, true] {
                let found = verify(&stage, &from, mend).await?;
                same!(found, [1, 1, 0, 1], "{damaged:?}, {score:?}:");
            }
            same!(verify(&stage, &from, true).await?, [1, 1, 0, 0], "{damaged:?}, {score:?}:");
            same!(stage.living(&[0], &damaged).await?, 1, "{damaged:?}, {score:?}:");
        }
    }
    same!(stage.reap(0, 10).await?.next, Some(ms(IDLE + THROTTLE)));
    // What belongs to nobody is no session.
    stage.lists(0, &of_ann(), "nobody", Some(stage.now_ms() + 1)).await;
    same!(verify(&stage, &of_ann(), true).await?, [2, 1, 1, 0]);
    Ok(())
}

async fn what_cannot_be_read_is_told_and_in_nobodys_way(mut stage: Stage) -> Verdict {
    for number in 0..6 {
        stage.made(&new(place(0, number), 1, ann())).await?;
    }
    let broken = [place(0, 1), place(0, 4)];
    for at in broken {
        stage.breaks(at).await;
        for digest in [None, Some(super::digest(1))] {
            let found = stage.backend.load(at, digest.as_ref(), None).await;
            ensure!(found.is_err_and(|why| why.kind() == ErrorKind::Corrupt), "it is read");
        }
    }
    for index in all_of_ann() {
        for limit in [1, 2, 5, 6, 7] {
            let (mut after, mut met, mut told) = (None, 0, Vec::new());
            loop {
                let page = ok(stage.backend.list(0, &index, after.as_ref(), limit).await)?;
                met += page.sessions.len();
                told.extend(page.unreadable);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            told.sort();
            let due = stage.now_ms() + IDLE + THROTTLE;
            let mut expected = broken.map(|at| (due, at.id.encode()));
            expected.sort();
            same!((met, told), (4, expected.to_vec()), "{index:?}, {limit}:");
        }
        for mend in [false, true, true] {
            let found = ok(stage.backend.verify(0, &index, 0, 100, mend).await)?;
            let Verified { seen, left, orphans, missing, unreadable, .. } = found;
            same!([seen, left, orphans, missing, unreadable], [6, 6, 0, 0, 2], "{index:?}:");
        }
    }
    // They do not count, nor is one of them replaced, and others are ended beside them.
    let cap = Some(Cap { most: 5, policy: Crowded::Refuse });
    let replaces = Some(broken[0].id);
    let fifth = New { cap, replaces, ..new(place(0, 7), 1, ann()) };
    ensure!(matches!(stage.create(&fifth).await?, Created::Made { .. }), "there is no room");
    ok(stage.backend.epoch(0, Whole::User("ann"), Raise::Above("left")).await)?;
    let swept = ok(stage.backend.sweep(0, &of_ann(), 0, 100).await)?;
    same!((swept.ended, swept.left), (5, 2));
    stage.elapse(ms(IDLE + THROTTLE)).await;
    same!(stage.reap(0, 100).await?.ended, 2);
    same!(stage.living(&[0], &Index::All).await?, 0);
    Ok(())
}

async fn who_is_listed_as_anothers_is_found_and_taken_out(stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    stage.made(&new(place(0, 2), 1, names("bob", "other"))).await?;
    let due = stage.now_ms() + IDLE + THROTTLE;
    let (company, crew) = ("other".to_owned(), "day".to_owned());
    for index in [Index::User("bob".to_owned()), Index::Company(company), Index::Crew(crew)] {
        let before = stage.living(&[0], &index).await?;
        stage.lists(0, &index, &at.id.encode(), Some(due)).await;
        for (mend, strays) in [(false, 1), (false, 1), (true, 1), (true, 0), (false, 0)] {
            let found = ok(stage.backend.verify(0, &index, 0, 100, mend).await)?;
            let Verified { seen, left, orphans, missing, .. } = found;
            let seen_before = before + strays;
            let left_after = if mend { before } else { seen_before };
            same!((seen, left), (seen_before, left_after), "{index:?}:");
            same!((found.strays, orphans, missing), (strays, 0, 0), "{index:?}:");
        }
        same!(stage.living(&[0], &index).await?, before, "{index:?}:");
    }
    // Where it belongs it still is.
    for index in all_of_ann() {
        same!(verify(&stage, &index, false).await?[2..], [0, 0], "{index:?}:");
        ensure!(stage.living(&[0], &index).await? >= 1, "{index:?}");
    }
    // And where that is wrong as well, both are told.
    stage.lists(0, &Index::User("bob".to_owned()), &at.id.encode(), Some(due)).await;
    stage.lists(0, &Index::All, &at.id.encode(), None).await;
    let bob = Index::User("bob".to_owned());
    let found = ok(stage.backend.verify(0, &bob, 0, 100, true).await)?;
    same!((found.left, found.strays, found.missing), (1, 1, 1));
    same!(stage.living(&[0], &Index::All).await?, 2);
    Ok(())
}
