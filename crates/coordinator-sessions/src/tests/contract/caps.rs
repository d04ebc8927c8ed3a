//! How many sessions a user may have.

use super::{
    Created, Found, IDLE, Index, Names, Next, Rotated, Stage, THROTTLE, Verdict, ann, departure,
    digest, ms, names, new, next, nobody, ok, place,
};
use crate::backend::{Before, Cap, Crowded, New, Origin, Raise, Whole};

cases! {
    one_too_many_is_refused
    the_oldest_has_to_go
    the_least_recent_has_to_go
    those_that_are_gone_do_not_count
    a_creation_delivered_twice_sends_nobody_away
    a_smaller_cap_sends_several_away
    another_user_is_counted_where_the_session_goes
    whoever_is_nobody_has_no_cap
    the_session_that_is_replaced_ends_for_it_and_does_not_count
}

fn capped(number: u64, most: u32, policy: Crowded) -> New {
    New { cap: Some(Cap { most, policy }), ..new(place(0, number), 1, ann()) }
}

async fn living(stage: &Stage) -> Result<Vec<u64>, String> {
    let mut living = Vec::new();
    for number in 0..20 {
        if stage.lives(place(0, number), 1).await? {
            living.push(number);
        }
    }
    let count = stage.living(&[0], &Index::User("ann".to_owned())).await?;
    same!(u64::try_from(living.len()), Ok(count));
    Ok(living)
}

async fn one_too_many_is_refused(stage: Stage) -> Verdict {
    for number in 0..3 {
        stage.made(&capped(number, 3, Crowded::Refuse)).await?;
    }
    for number in 3..5 {
        let refused = stage.create(&capped(number, 3, Crowded::Refuse)).await?;
        same!(refused, Created::Full { live: 3 });
    }
    same!(living(&stage).await?, [0, 1, 2]);
    same!(stage.told(0).await?.len(), 3);
    stage.end(place(0, 1), "logout").await?;
    stage.made(&capped(5, 3, Crowded::Refuse)).await?;
    same!(living(&stage).await?, [0, 2, 5]);
    Ok(())
}

async fn the_oldest_has_to_go(mut stage: Stage) -> Verdict {
    for number in 0..6 {
        stage.elapse(ms(THROTTLE)).await;
        stage.touch(place(0, 0), 1).await?;
        let created = stage.create(&capped(number, 3, Crowded::Oldest)).await?;
        let gone = u64::from(number >= 3);
        ensure!(
            matches!(created, Created::Made { evicted, .. } if evicted == gone),
            "{number}: {created:?}"
        );
        let from = number.saturating_sub(2);
        same!(living(&stage).await?, (from..=number).collect::<Vec<_>>());
    }
    same!(stage.peek(place(0, 0), 1).await?, Found::Revoked("cap".to_owned()));
    // Of those from the same ms, the first in order of their ids.
    for number in [9, 7, 8] {
        stage.made(&capped(number, 3, Crowded::Oldest)).await?;
    }
    same!(living(&stage).await?, [7, 8, 9]);
    stage.made(&capped(10, 3, Crowded::Oldest)).await?;
    same!(living(&stage).await?, [8, 9, 10]);
    let told = stage.happened(0).await?.pop();
    let told = told.map(|last| (last.event, last.reason, last.names));
    same!(told, Some(("created".to_owned(), String::new(), ann())));
    Ok(())
}

async fn the_least_recent_has_to_go(mut stage: Stage) -> Verdict {
    for number in 0..3 {
        stage.made(&capped(number, 3, Crowded::LeastRecent)).await?;
        stage.elapse(ms(1)).await;
    }
    stage.elapse(ms(THROTTLE)).await;
    for number in [0, 2] {
        stage.touch(place(0, number), 1).await?;
        stage.elapse(ms(1)).await;
    }
    stage.made(&capped(3, 3, Crowded::LeastRecent)).await?;
    same!(living(&stage).await?, [0, 2, 3]);
    stage.made(&capped(4, 3, Crowded::LeastRecent)).await?;
    same!(living(&stage).await?, [2, 3, 4]);
    Ok(())
}

async fn those_that_are_gone_do_not_count(mut stage: Stage) -> Verdict {
    // Expired and not reaped, ended, revoked and not swept, lost: with one that lives.
    stage.made(&capped(0, 9, Crowded::Refuse)).await?;
    stage.elapse(ms(IDLE + THROTTLE)).await;
    for number in 1..4 {
        stage.made(&capped(number, 9, Crowded::Refuse)).await?;
    }
    stage.end(place(0, 1), "logout").await?;
    ok(stage.backend.epoch(0, Whole::User("ann"), Raise::Above("x")).await)?;
    stage.made(&capped(4, 9, Crowded::Refuse)).await?;
    stage.loses(place(0, 4)).await;
    stage.made(&capped(5, 1, Crowded::Refuse)).await?;
    same!(stage.create(&capped(6, 1, Crowded::Refuse)).await?, Created::Full { live: 1 });
    let made = stage.create(&capped(7, 1, Crowded::Oldest)).await?;
    ensure!(matches!(made, Created::Made { evicted: 1, .. }), "{made:?}");
    same!(stage.peek(place(0, 5), 1).await?, Found::Revoked("cap".to_owned()));
    same!(stage.peek(place(0, 2), 1).await?, Found::Revoked("x".to_owned()));
    Ok(())
}

async fn a_creation_delivered_twice_sends_nobody_away(stage: Stage) -> Verdict {
    for policy in [Crowded::Oldest, Crowded::Refuse] {
        for number in 0..2 {
            stage.made(&capped(number, 2, policy)).await?;
        }
        for _ in 0..2 {
            let again = stage.create(&capped(1, 2, policy)).await?;
            ensure!(matches!(again, Created::Made { evicted: 0, .. }), "{again:?}");
        }
        same!(living(&stage).await?, [0, 1]);
    }
    Ok(())
}

async fn a_smaller_cap_sends_several_away(mut stage: Stage) -> Verdict {
    for number in 0..5 {
        stage.made(&capped(number, 9, Crowded::Oldest)).await?;
        stage.elapse(ms(1)).await;
    }
    let created = stage.create(&capped(5, 2, Crowded::Oldest)).await?;
    ensure!(matches!(created, Created::Made { evicted: 4, .. }), "{created:?}");
    same!(living(&stage).await?, [4, 5]);
    let told = stage.happened(0).await?;
    let ended = told.iter().filter(|one| (&*one.event, &*one.reason) == ("invalidated", "cap"));
    same!(ended.count(), 4);
    Ok(())
}

async fn another_user_is_counted_where_the_session_goes(mut stage: Stage) -> Verdict {
    for number in 0..2 {
        stage.made(&capped(number, 2, Crowded::Refuse)).await?;
        stage.elapse(ms(1)).await;
    }
    let at = place(0, 2);
    stage.made(&new(at, 1, nobody())).await?;
    let becomes = |policy, names: Names| {
        let cap = Some(Cap { most: 2, policy });
        Next { cap, names: Some(names), ..next(2) }
    };
    let before = stage.record(at, 1).await?;
    let refused = stage.rotate(at, 1, &becomes(Crowded::Refuse, ann())).await?;
    same!(refused, Found::Live(Rotated::Full { live: 2 }));
    same!(stage.record(at, 1).await?, before);
    // The same user is no other.
    let own = stage.rotate(place(0, 1), 1, &becomes(Crowded::Refuse, names("ann", ""))).await?;
    ensure!(matches!(own, Found::Live(Rotated::Done { .. })), "{own:?}");
    let done = stage.rotate(at, 1, &becomes(Crowded::Oldest, ann())).await?;
    ensure!(matches!(done, Found::Live(Rotated::Done { .. })), "{done:?}");
    same!(stage.peek(place(0, 0), 1).await?, Found::Revoked("cap".to_owned()));
    ensure!(stage.lives(at, 2).await? && stage.lives(place(0, 1), 2).await?, "one too few");
    same!(stage.living(&[0], &Index::User("ann".to_owned())).await?, 2);
    // Who comes again is told the same, and nobody goes.
    stage.rotate(at, 1, &becomes(Crowded::Oldest, ann())).await?;
    same!(stage.living(&[0], &Index::User("ann".to_owned())).await?, 2);
    Ok(())
}

async fn whoever_is_nobody_has_no_cap(stage: Stage) -> Verdict {
    let now = stage.now_ms();
    let before = Before { created: now, last: now, version: 1, of_user: None, of_company: None };
    for number in 0..4 {
        let origin = if number % 2 == 0 { Origin::New } else { Origin::Arrives(before) };
        let names = names("", "acme");
        stage.made(&New { names, origin, ..capped(number, 1, Crowded::Refuse) }).await?;
    }
    same!(stage.living(&[0], &Index::All).await?, 4);
    // Nor has who gives none.
    stage.made(&new(place(0, 5), 1, ann())).await?;
    stage.made(&new(place(0, 6), 1, ann())).await?;
    // One that moves here counts as any other.
    let moves = New { origin: Origin::Arrives(before), ..capped(7, 2, Crowded::Refuse) };
    same!(stage.create(&moves).await?, Created::Full { live: 2 });
    Ok(())
}

async fn the_session_that_is_replaced_ends_for_it_and_does_not_count(stage: Stage) -> Verdict {
    let again = |number: u64, before: u64, policy| {
        let replaces = Some(place(0, before).id);
        New { replaces, ..capped(number, 2, policy) }
    };
    for number in 0..2 {
        stage.made(&capped(number, 2, Crowded::Refuse)).await?;
    }
    for (number, policy) in [(2, Crowded::Refuse), (3, Crowded::Oldest), (4, Crowded::LeastRecent)]
    {
        // Twice, of which the second finds it done.
        for _ in 0..2 {
            let made = stage.create(&again(number, number - 1, policy)).await?;
            ensure!(matches!(made, Created::Made { evicted: 0, .. }), "{number}: {made:?}");
            let before = stage.peek(place(0, number - 1), 1).await?;
            same!(before, Found::Revoked("replaced".to_owned()));
            same!(living(&stage).await?, [0, number]);
        }
    }
    // One that is refused ends nothing, and one that has ended makes no room.
    same!(stage.create(&again(5, 3, Crowded::Refuse)).await?, Created::Full { live: 2 });
    let refused = New { cap: None, ..again(0, 4, Crowded::Refuse) };
    same!(stage.create(&New { digest: digest(9), ..refused }).await?, Created::Exists);
    same!(living(&stage).await?, [0, 4]);
    // Nor does one that is on its way; and its move goes on.
    stage.depart(place(0, 4), Some(1), Some(&departure(2, 1, ann()))).await?;
    stage.made(&again(6, 4, Crowded::Refuse)).await?;
    ensure!(stage.settle(place(0, 4), 2).await?, "it moves no more");
    same!(living(&stage).await?, [0, 6]);
    // Another user's session ends as well.
    let bob = New { names: names("bob", ""), ..again(7, 0, Crowded::Refuse) };
    stage.made(&bob).await?;
    same!(stage.peek(place(0, 0), 1).await?, Found::Revoked("replaced".to_owned()));
    let told = stage.told(0).await?;
    same!(
        told.iter()
            .filter(|(event, why)| (&**event, &**why) == ("invalidated", "replaced"))
            .count(),
        4
    );
    Ok(())
}
