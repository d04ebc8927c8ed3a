//! What is told of sessions, and how it is read.

use super::{
    Found, From, IDLE, Next, Patch, Stage, THROTTLE, Verdict, ann, ms, names, new, next, nobody,
    ok, patch, place,
};
use crate::backend::New;
use std::time::Duration;

cases! {
    what_happens_is_told_in_order
    what_is_not_announced_is_not_told
    events_are_read_from_anywhere
    events_keep_their_order_when_the_clock_is_set_back
    whoever_listens_hears_of_the_next
}

async fn what_happens_is_told_in_order(mut stage: Stage) -> Verdict {
    let (one, other) = (place(0, 1), place(0, 2));
    stage.made(&new(one, 1, ann())).await?;
    stage.made(&new(other, 1, nobody())).await?;
    stage.elapse(ms(5)).await;
    let changed = Patch { announced: true, ..patch(1, "a", b"2") };
    stage.patch(one, 1, &changed).await?;
    stage.patch(one, 1, &changed).await?;
    let bob = names("bob", "");
    stage.rotate(one, 1, &Next { names: Some(bob.clone()), ..next(2) }).await?;
    stage.elapse(ms(5)).await;
    stage.end(one, "logout: done").await?;
    stage.elapse(ms(IDLE + THROTTLE)).await;
    stage.reap(0, 10).await?;
    let told = stage.happened(0).await?;
    let start = told.first().ok_or("nothing was told")?.at.0;
    let told: Vec<_> = told
        .into_iter()
        .map(|one| {
            let at = (one.at.0 - start, one.at.1);
            (at, one.event, one.id, one.names, one.version, one.reason)
        })
        .collect();
    let expected = [
        ((0, 0), "created", one, ann(), 1, ""),
        ((0, 1), "created", other, nobody(), 1, ""),
        ((5, 0), "updated", one, ann(), 2, ""),
        ((5, 1), "rotated", one, bob.clone(), 3, ""),
        ((10, 0), "invalidated", one, bob, 3, "logout: done"),
        ((70_010, 0), "expired", other, nobody(), 1, ""),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(at, event, place, names, version, reason)| {
            (at, event.to_owned(), place.id.encode(), names, version, reason.to_owned())
        })
        .collect();
    same!(told, expected);
    same!(stage.told(1).await?, []);
    Ok(())
}

async fn what_is_not_announced_is_not_told(mut stage: Stage) -> Verdict {
    let at = place(0, 1);
    stage.made(&New { announced: false, ..new(at, 1, ann()) }).await?;
    stage.patch(at, 1, &patch(1, "a", b"2")).await?;
    stage.elapse(ms(THROTTLE)).await;
    stage.touch(at, 1).await?;
    stage.extend(at, 1, None, None).await?;
    same!(stage.told(0).await?, []);
    let newest = ok(stage.backend.happened(0, From::Newest, 10).await)?;
    ensure!(newest.is_empty(), "{newest:?}");
    Ok(())
}

async fn events_are_read_from_anywhere(mut stage: Stage) -> Verdict {
    for number in 0..6 {
        stage.made(&new(place(0, number), 1, ann())).await?;
        stage.elapse(ms(if number % 2 == 0 { 0 } else { 1000 })).await;
    }
    let all = stage.happened(0).await?;
    same!(all.len(), 6);
    let read = async |from: From, limit: usize| ok(stage.backend.happened(0, from, limit).await);
    for at in 0..6 {
        same!(read(From::After(all[at].at), 100).await?, all[at + 1..], "after {at}:");
        same!(read(From::After(all[at].at), 2).await?, all[at + 1..(at + 3).min(6)]);
    }
    same!(read(From::Newest, 100).await?, all[5..]);
    same!(read(From::Newest, 1).await?, all[5..]);
    // The last two happened a second ago.
    for (ago, from) in [(999, 6), (1000, 4), (1001, 4), (2000, 2), (100_000_000, 0)] {
        same!(read(From::Ago(Duration::from_millis(ago)), 100).await?, all[from..], "{ago}:");
    }
    same!(read(From::Ago(Duration::from_secs(100)), 3).await?, all[..3]);
    same!(read(From::Ago(Duration::MAX), 100).await?, all);
    Ok(())
}

async fn events_keep_their_order_when_the_clock_is_set_back(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    stage.set(stage.now() - 60_000_000).await;
    stage.end(at, "over").await?;
    let told = stage.happened(0).await?;
    same!((told[1].at.0, told[1].at.1), (told[0].at.0, 1));
    same!(ok(stage.backend.happened(0, From::Newest, 1).await)?, told[1..]);
    same!(stage.peek(at, 1).await?, Found::Revoked("over".to_owned()));
    Ok(())
}

async fn whoever_listens_hears_of_the_next(stage: Stage) -> Verdict {
    let mut alerts = ok(stage.backend.listen(0).await)?;
    stage.anns().await?;
    let heard = tokio::time::timeout(Duration::from_secs(10), alerts.next()).await;
    ensure!(heard.is_ok(), "nothing was heard");
    Ok(())
}
