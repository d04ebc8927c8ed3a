//! Timeouts, to the ms, and how seldom activity is written down.

use super::{
    ABSOLUTE, Found, IDLE, Patched, Stage, THROTTLE, Verdict, Written, ann, ms, new, next, ok,
    patch, place,
};
use coordinator_harness::seed;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

cases! {
    idle_sessions_end_never_early_and_a_throttle_late_at_most
    a_session_ends_at_its_absolute_timeout_whatever_it_does
    activity_is_written_once_per_throttle
    looking_without_a_throttle_is_no_activity
    a_patch_is_activity
    extending_counts_from_now_and_from_the_creation
    a_clock_set_back_ends_nothing
}

async fn idle_sessions_end_never_early_and_a_throttle_late_at_most(mut stage: Stage) -> Verdict {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for number in 0..6 {
        let at = place(0, number);
        let (idle, throttle) = (random.random_range(1..100_000), random.random_range(1..20_000));
        let mut session = new(at, 1, ann());
        (session.idle_ms, session.throttle_ms) = (idle, throttle);
        session.absolute_ms = 100_000_000;
        stage.made(&session).await?;
        let mut last = stage.now_ms();
        // Active again and again, each time before the idle timeout is over.
        for _ in 0..8 {
            stage.elapse(ms(random.random_range(0..idle))).await;
            let found = ok(stage.backend.load(at, Some(&super::digest(1)), Some(throttle)).await)?;
            let Found::Live((record, _)) = found else {
                return Err(format!("SEED={seed}: too early: {found:?}"));
            };
            last = stage.now_ms();
            let late = record.expiry - (last + idle);
            ensure!((0..=throttle).contains(&late), "SEED={seed}: {late} ms late");
        }
        let expiry = stage.record(at, 1).await?.expiry;
        stage.elapse(ms(expiry - last - 1)).await;
        ensure!(stage.lives(at, 1).await?, "SEED={seed}: it ends before its expiry");
        same!(stage.reap(0, 10).await?.ended, 0, "SEED={seed}:");
        stage.elapse(ms(1)).await;
        same!(stage.peek(at, 1).await?, Found::Expired, "SEED={seed}:");
        same!(stage.reap(0, 10).await?.ended, 1, "SEED={seed}:");
    }
    Ok(())
}

async fn a_session_ends_at_its_absolute_timeout_whatever_it_does(mut stage: Stage) -> Verdict {
    for number in 1..=3 {
        let at = place(0, number);
        let made = stage.made(&new(at, 1, ann())).await?;
        let mut secret = 1;
        for step in 1..=19 {
            stage.elapse(ms(ABSOLUTE / 20)).await;
            match number {
                1 => drop(stage.touch(at, secret).await?),
                2 => drop(stage.patch(at, secret, &patch(step, "b", b"1")).await?),
                _ => {
                    stage.rotated(at, secret, secret + 1).await?;
                    secret += 1;
                }
            }
        }
        same!(stage.record(at, secret).await?.expiry, made.now + ABSOLUTE, "{number}:");
        stage.elapse(ms(ABSOLUTE / 20 - 1)).await;
        ensure!(stage.lives(at, secret).await?, "{number}: too early");
        stage.elapse(ms(1)).await;
        same!(stage.touch(at, secret).await?, Found::Expired, "{number}:");
    }
    Ok(())
}

async fn activity_is_written_once_per_throttle(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let made = stage.now_ms();
    let mut written = 0;
    let mut before = made;
    for step in 1..=60 {
        stage.elapse(ms(500)).await;
        stage.touch(at, 1).await?;
        let record = stage.record(at, 1).await?;
        same!(record.version, 1, "activity is no change:");
        if record.last != before {
            written += 1;
            before = record.last;
            same!(record.last, made + written * THROTTLE, "step {step}:");
            same!(record.expiry, record.last + IDLE + THROTTLE);
        }
    }
    same!(written, 3);
    Ok(())
}

async fn looking_without_a_throttle_is_no_activity(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let before = stage.record(at, 1).await?;
    stage.elapse(ms(IDLE + THROTTLE - 1)).await;
    let record = stage.record(at, 1).await?;
    same!((record.last, record.expiry), (before.last, before.expiry));
    stage.elapse(ms(1)).await;
    same!(stage.peek(at, 1).await?, Found::Expired);
    Ok(())
}

async fn a_patch_is_activity(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let expiry = stage.record(at, 1).await?.expiry;
    stage.elapse(ms(THROTTLE - 1)).await;
    stage.patch(at, 1, &patch(1, "a", b"2")).await?;
    same!(stage.record(at, 1).await?.expiry, expiry);
    stage.elapse(ms(1)).await;
    let now = stage.now_ms();
    let done = stage.patch(at, 1, &patch(2, "a", b"3")).await?;
    let written = Written { version: 3, expiry: now + IDLE + THROTTLE, now };
    same!(done, Found::Live(Patched::Done(written)));
    let record = stage.record(at, 1).await?;
    same!((record.last, record.expiry), (now, now + IDLE + THROTTLE));
    // The index knows it, too.
    stage.elapse(ms(IDLE + THROTTLE - 1)).await;
    same!(stage.reap(0, 10).await?.next, Some(ms(1)));
    Ok(())
}

async fn extending_counts_from_now_and_from_the_creation(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let created = stage.now_ms();
    stage.elapse(ms(3)).await;
    let now = stage.now_ms();
    for (idle, absolute, expiry) in [
        (Some(200_000), None, now + 200_000 + THROTTLE),
        (None, Some(100_000), created + 100_000),
        (None, None, created + 100_000),
        (Some(5_000), None, now + 5_000 + THROTTLE),
        (None, Some(9_000_000), now + 5_000 + THROTTLE),
        (Some(8_000_000), None, now + 8_000_000 + THROTTLE),
    ] {
        for _ in 0..2 {
            let done = stage.extend(at, 1, idle, absolute).await?;
            let written = Written { version: 1, expiry, now };
            same!(done, Found::Live(written), "{idle:?}, {absolute:?}:");
        }
        let record = stage.record(at, 1).await?;
        same!((record.expiry, record.last), (expiry, now));
        same!(record.fields.len(), 1);
    }
    stage.elapse(ms(8_000_000 + THROTTLE - 1)).await;
    ensure!(stage.lives(at, 1).await?, "too early");
    same!(stage.reap(0, 10).await?.next, Some(ms(1)));
    Ok(())
}

async fn a_clock_set_back_ends_nothing(mut stage: Stage) -> Verdict {
    let at = stage.anns().await?;
    let start = stage.now();
    let before = stage.record(at, 1).await?;
    stage.set(start - 7_200_000_000).await;
    let Found::Live(record) = stage.touch(at, 1).await? else { return Err("gone".to_owned()) };
    same!((record.last, record.expiry), (before.last, before.expiry), "it was touched earlier:");
    stage.patch(at, 1, &patch(1, "a", b"2")).await?;
    same!(stage.record(at, 1).await?.expiry, before.expiry);
    same!(stage.reap(0, 10).await?.ended, 0);
    same!(stage.living(&[0], &super::Index::All).await?, 1);
    // A new secret counts from now, as far as now is known.
    stage.rotate(at, 1, &next(2)).await?;
    same!(stage.record(at, 2).await?.last, stage.now_ms());
    stage.set(start).await;
    same!(stage.peek(at, 2).await?, Found::Expired);
    Ok(())
}
