//! What every backend promises, step by step; a case answers why it failed, so that it can be shown
//! to fail.

use super::{broken, name, place, slice, stage::Stage, token, write};
use crate::documents::backend::{Condition, Place, SHARDS, Slice, Write, Wrote};
use coordinator_core::BoxFuture;

type Verdict = Result<(), String>;
type Case = fn(Stage) -> BoxFuture<'static, Verdict>;

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
    a_write_is_read_with_its_version_time_and_end
    a_condition_decides_and_a_conflict_changes_nothing
    a_write_delivered_later_writes_nothing
    versions_rise_although_time_stands_still
    versions_rise_although_the_clock_is_set_back
    no_version_from_before_a_delete_comes_again
    a_document_ends_with_its_last_millisecond
    a_write_keeps_the_end_or_renews_it
    history_is_as_deep_as_it_was_told
    history_ends_with_its_document
    extending_never_shortens
    what_is_gone_is_not_extended
    a_delete_delivered_later_deletes_nothing
    a_listing_is_in_order_and_goes_on_where_it_ended
    a_listing_knows_prefixes
    what_has_ended_is_neither_listed_nor_counted
    one_that_lives_long_is_not_forgotten_with_others
    namespaces_and_names_do_not_mix
}

async fn a_write_is_read_with_its_version_time_and_end(mut stage: Stage) -> Verdict {
    let (a, now) = (place("a"), stage.now_us());
    ensure!(stage.get(&a).await?.is_none(), "there is nothing yet");
    let wrote = stage.put(&a, &write("one", "1")).await?;
    let until_ms = stage.now_ms() + 60_000;
    ensure!(wrote == Wrote::Stored { version: now, updated_us: now, until_ms }, "{wrote:?}");
    stage.elapse(10_000).await;
    let found = stage.get(&a).await?.ok_or("it was written")?;
    ensure!((found.version, found.updated_us) == (now, now), "{found:?}");
    ensure!((found.left_ms, found.former) == (Some(50_000), 0), "{found:?}");
    ensure!(found.data == b"one", "{found:?}");
    Ok(())
}

async fn a_condition_decides_and_a_conflict_changes_nothing(mut stage: Stage) -> Verdict {
    let a = place("a");
    let on = |condition, data, id| Write { condition, history: 3, ..write(data, id) };
    let wrote = stage.put(&a, &on(Condition::Version(7), "x", "1")).await?;
    ensure!(wrote == Wrote::Conflict(None), "there is no version 7: {wrote:?}");
    ensure!(stage.get(&a).await?.is_none(), "a conflict wrote");
    let first = stage.stored(&a, &on(Condition::Absent, "one", "2")).await?;
    stage.elapse(1000).await;
    let second = stage.stored(&a, &on(Condition::Version(first), "two", "3")).await?;
    stage.elapse(1000).await;
    let before = stage.get(&a).await?;
    for (condition, id) in [
        (Condition::Absent, "4"),
        (Condition::Version(first), "5"),
        (Condition::Version(second + 1), "6"),
        (Condition::Version(u64::MAX), "7"),
    ] {
        let wrote = stage.put(&a, &on(condition, "three", id)).await?;
        ensure!(wrote == Wrote::Conflict(Some(second)), "{condition:?}: {wrote:?}");
        ensure!(stage.get(&a).await? == before, "{condition:?} changed something");
    }
    // A conflict is decided anew: what did not hold then may hold now.
    stage.delete(&a, &token("8")).await?;
    stage.stored(&a, &on(Condition::Absent, "three", "4")).await?;
    Ok(())
}

async fn a_write_delivered_later_writes_nothing(mut stage: Stage) -> Verdict {
    let (a, first) = (place("a"), write("one", "1"));
    let wrote = stage.put(&a, &first).await?;
    stage.elapse(1000).await;
    stage.stored(&a, &write("two", "2")).await?;
    ensure!(stage.put(&a, &first).await? == wrote, "another answer");
    ensure!(stage.value(&a).await?.as_deref() == Some("two"), "it was written again");
    stage.delete(&a, &token("3")).await?;
    ensure!(stage.put(&a, &first).await? == wrote, "another answer");
    ensure!(stage.get(&a).await?.is_none(), "it came back");
    // It is another document's write, and as long as it is remembered.
    stage.stored(&place("b"), &first).await?;
    ensure!(stage.value(&place("b")).await?.as_deref() == Some("one"), "it is one of its own");
    stage.elapse(59_000).await;
    ensure!(stage.put(&a, &first).await? == wrote, "remembered to the end");
    stage.elapse(1).await;
    ensure!(stage.put(&a, &first).await? != wrote, "remembered for too long");
    Ok(())
}

async fn versions_rise_although_time_stands_still(stage: Stage) -> Verdict {
    let mut last = 0;
    for number in 0..4 {
        let version = stage.stored(&place("a"), &write("x", &format!("{number}"))).await?;
        ensure!(version > last, "{version} after {last}");
        last = version;
    }
    Ok(())
}

async fn versions_rise_although_the_clock_is_set_back(mut stage: Stage) -> Verdict {
    let first = stage.stored(&place("a"), &write("x", "1")).await?;
    stage.elapse(-10_000).await;
    let second = stage.stored(&place("a"), &write("x", "2")).await?;
    ensure!(second == first + 1, "{second} after {first}");
    let found = stage.get(&place("a")).await?.ok_or("it was written")?;
    ensure!(found.updated_us == stage.now_us(), "{found:?}");
    stage.delete(&place("a"), &token("3")).await?;
    let third = stage.stored(&place("a"), &write("x", "4")).await?;
    ensure!(third == second + 1, "{third} after {second}");
    Ok(())
}

async fn no_version_from_before_a_delete_comes_again(mut stage: Stage) -> Verdict {
    let (a, mut last) = (place("a"), 0);
    for number in 0..3 {
        let short = Write { ttl_ms: 500, ..write("new", &format!("put {number}")) };
        let version = stage.stored(&a, &short).await?;
        ensure!(version > last, "{version} after {last}");
        if last > 0 {
            let stale = Condition::Version(last);
            let stale = Write { condition: stale, ..write("old", &format!("stale {number}")) };
            let wrote = stage.put(&a, &stale).await?;
            ensure!(wrote == Wrote::Conflict(Some(version)), "{wrote:?}");
        }
        if number == 1 {
            // It ends by itself, and the clock is set back.
            stage.elapse(501).await;
            ensure!(stage.get(&a).await?.is_none(), "it has ended");
            stage.elapse(-501).await;
        } else {
            stage.delete(&a, &token(&format!("delete {number}"))).await?;
        }
        last = version;
    }
    Ok(())
}

async fn a_document_ends_with_its_last_millisecond(mut stage: Stage) -> Verdict {
    let a = place("a");
    stage.stored(&a, &Write { ttl_ms: 1000, ..write("x", "1") }).await?;
    stage.elapse(1000).await;
    let found = stage.get(&a).await?.ok_or("it ends too early")?;
    ensure!(found.left_ms == Some(0), "{found:?}");
    ensure!(stage.count(&a).await? == 1, "it is counted to the end");
    ensure!(stage.list(&slice(&a)).await?.0 == ["a"], "it is listed to the end");
    stage.elapse(1).await;
    ensure!(stage.get(&a).await?.is_none(), "it lives on");
    ensure!(stage.extend(&a, 1000).await?.is_none(), "it can be extended");
    ensure!(!stage.delete(&a, &token("2")).await?, "it can be deleted");
    stage.stored(&a, &Write { condition: Condition::Absent, ..write("y", "3") }).await?;
    Ok(())
}

async fn a_write_keeps_the_end_or_renews_it(mut stage: Stage) -> Verdict {
    let a = place("a");
    let keeping = |id| Write { keep_ttl: true, ttl_ms: 9000, history: 2, ..write("x", id) };
    // What is new has no end to keep.
    stage.stored(&a, &keeping("1")).await?;
    ensure!(stage.get(&a).await?.and_then(|it| it.left_ms) == Some(9000), "a new one");
    stage.elapse(1000).await;
    stage.stored(&a, &Write { ttl_ms: 20_000, ..keeping("2") }).await?;
    ensure!(stage.get(&a).await?.and_then(|it| it.left_ms) == Some(8000), "it is kept");
    stage.stored(&a, &Write { ttl_ms: 20_000, history: 2, ..write("y", "3") }).await?;
    ensure!(stage.get(&a).await?.and_then(|it| it.left_ms) == Some(20_000), "it is renewed");
    stage.stored(&a, &Write { ttl_ms: 5000, history: 2, ..write("z", "4") }).await?;
    ensure!(stage.get(&a).await?.and_then(|it| it.left_ms) == Some(5000), "also shortened");
    stage.stored(&a, &keeping("5")).await?;
    // In its last millisecond it is there, and so it is after a write.
    stage.elapse(5000).await;
    stage.stored(&a, &keeping("6")).await?;
    ensure!(stage.get(&a).await?.and_then(|it| it.left_ms) == Some(1), "one more");
    stage.elapse(2).await;
    ensure!(stage.get(&a).await?.is_none(), "it was kept short");
    ensure!(stage.history(&a, 9).await?.is_empty(), "its history was kept short");
    Ok(())
}

async fn history_is_as_deep_as_it_was_told(stage: Stage) -> Verdict {
    let a = place("a");
    let deep = |history, data: &str| Write { history, ..write(data, data) };
    for data in ["1", "2", "3", "4", "5"] {
        stage.stored(&a, &deep(3, data)).await?;
    }
    ensure!(stage.history(&a, 9).await? == ["4", "3", "2"], "{:?}", stage.history(&a, 9).await?);
    ensure!(stage.history(&a, 2).await? == ["4", "3"], "two of them");
    let found = stage.get(&a).await?.ok_or("it was written")?;
    ensure!(found.former == 3, "{found:?}");
    let past = stage.backend.history(&a, 1).await.map_err(|error| error.chain())?;
    ensure!(past[0].version + 1 == found.version, "{past:?}");
    ensure!(past[0].updated_us == stage.now_us(), "{past:?}");
    stage.stored(&a, &deep(1, "6")).await?;
    ensure!(stage.history(&a, 9).await? == ["5"], "trimmed to one");
    stage.stored(&a, &deep(0, "7")).await?;
    ensure!(stage.history(&a, 9).await?.is_empty(), "trimmed to none");
    stage.stored(&a, &deep(2, "8")).await?;
    ensure!(stage.history(&a, 9).await? == ["7"], "it begins anew");
    Ok(())
}

async fn history_ends_with_its_document(mut stage: Stage) -> Verdict {
    let deep = |data: &str, ttl_ms| Write { history: 3, ttl_ms, ..write(data, data) };
    let (a, b, c) = (place("a"), place("b"), place("c"));
    for place in [&a, &b, &c] {
        stage.stored(place, &deep("1", 5000)).await?;
        stage.stored(place, &deep("2", 5000)).await?;
    }
    stage.delete(&a, &token("3")).await?;
    ensure!(stage.history(&a, 9).await?.is_empty(), "it was deleted");
    stage.stored(&a, &deep("4", 5000)).await?;
    ensure!(stage.history(&a, 9).await?.is_empty(), "nothing from before");
    stage.extend(&c, 9000).await?;
    stage.elapse(5001).await;
    ensure!(stage.history(&b, 9).await?.is_empty(), "it has ended");
    ensure!(stage.history(&c, 9).await? == ["1"], "it was extended");
    stage.elapse(4000).await;
    ensure!(stage.history(&c, 9).await?.is_empty(), "it has ended as well");
    Ok(())
}

async fn extending_never_shortens(mut stage: Stage) -> Verdict {
    let (a, end) = (place("a"), stage.now_ms() + 60_000);
    let version = stage.stored(&a, &write("x", "1")).await?;
    ensure!(stage.extend(&a, 1000).await? == Some(end), "it was shortened");
    ensure!(stage.extend(&a, 90_000).await? == Some(end + 30_000), "it was not prolonged");
    let found = stage.get(&a).await?.ok_or("it is there")?;
    ensure!(found.left_ms == Some(90_000), "{found:?}");
    ensure!((found.version, found.data.as_slice()) == (version, &b"x"[..]), "{found:?}");
    stage.elapse(60_001).await;
    ensure!(stage.get(&a).await?.is_some(), "it lives on");
    ensure!(stage.count(&a).await? == 1, "it is counted");
    ensure!(stage.list(&slice(&a)).await?.0 == ["a"], "it is listed");
    stage.elapse(30_000).await;
    ensure!(stage.get(&a).await?.is_none(), "it has ended");
    Ok(())
}

async fn what_is_gone_is_not_extended(mut stage: Stage) -> Verdict {
    let a = place("a");
    ensure!(stage.extend(&a, 1000).await?.is_none(), "there is none");
    stage.stored(&a, &Write { ttl_ms: 1000, ..write("x", "1") }).await?;
    stage.elapse(1001).await;
    ensure!(stage.extend(&a, 1000).await?.is_none(), "it has ended");
    ensure!(stage.get(&a).await?.is_none(), "it came back");
    ensure!(stage.count(&a).await? == 0, "it is counted");
    Ok(())
}

async fn a_delete_delivered_later_deletes_nothing(mut stage: Stage) -> Verdict {
    let a = place("a");
    ensure!(!stage.delete(&a, &token("0")).await?, "there is nothing");
    stage.stored(&a, &write("one", "1")).await?;
    ensure!(stage.delete(&a, &token("2")).await?, "it is there");
    ensure!(stage.get(&a).await?.is_none(), "it is gone");
    ensure!((stage.count(&a).await?, stage.list(&slice(&a)).await?.0.len()) == (0, 0), "listed");
    stage.elapse(1000).await;
    stage.stored(&a, &write("two", "3")).await?;
    ensure!(stage.delete(&a, &token("2")).await?, "it had deleted");
    ensure!(stage.value(&a).await?.as_deref() == Some("two"), "another's was deleted");
    Ok(())
}

/// Documents of one shard.
pub(super) fn neighbours(count: usize) -> Vec<Place> {
    let shard = place("n0").shard;
    let all = (0..).map(|number| place(&format!("n{number}")));
    let mut found: Vec<_> = all.filter(|place| place.shard == shard).take(count).collect();
    found.sort_by(|one, other| one.name.encoded().cmp(other.name.encoded()));
    found
}

fn names(places: &[Place]) -> Vec<&str> {
    places.iter().map(|place| place.name.encoded()).collect()
}

async fn a_listing_is_in_order_and_goes_on_where_it_ended(mut stage: Stage) -> Verdict {
    let all = neighbours(7);
    for (number, place) in all.iter().enumerate().rev() {
        let ttl_ms = 10_000 + 1000 * ((number as u64 * 5) % 7);
        stage.stored(place, &Write { ttl_ms, ..write("1234567", "1") }).await?;
        stage.elapse(1).await;
    }
    let page = Slice { limit: 3, ..slice(&all[0]) };
    ensure!(stage.list(&page).await? == (vec_of(&all[..3]), true), "the first three");
    // What is written meanwhile stays where it is.
    for (place, id) in [(&all[0], "2"), (&all[5], "3")] {
        stage.stored(place, &Write { ttl_ms: 1, ..write("x", id) }).await?;
        stage.stored(place, &write("x", &format!("{id} again"))).await?;
    }
    let page = Slice { after: all[2].name.encoded().to_owned(), ..page };
    ensure!(stage.list(&page).await? == (vec_of(&all[3..6]), true), "the next three");
    let page = Slice { after: all[5].name.encoded().to_owned(), ..page };
    ensure!(stage.list(&page).await? == (vec_of(&all[6..]), false), "the last one");
    let listed = stage.backend.list(&page).await.map_err(|error| error.chain())?;
    let found = stage.get(&all[6]).await?.ok_or("it is there")?;
    let item = &listed.items[0];
    ensure!((item.version, item.updated_us) == (found.version, found.updated_us), "{item:?}");
    ensure!((item.left_ms, item.bytes) == (found.left_ms, 7), "{item:?} is not {found:?}");
    Ok(())
}

fn vec_of(places: &[Place]) -> Vec<String> {
    names(places).into_iter().map(str::to_owned).collect()
}

async fn a_listing_knows_prefixes(stage: Stage) -> Verdict {
    let shard = place("u:").shard;
    let mut beginning = vec![place("u:")];
    let numbered = (0..).map(|number| place(&format!("u:{number}")));
    beginning.extend(numbered.filter(|place| place.shard == shard).take(3));
    let other = (0..).map(|number| place(&format!("u%3A{number}")));
    let other = other.chain((0..).map(|number| place(&format!("v{number}"))));
    let others: Vec<_> = other.filter(|place| place.shard == shard).take(3).collect();
    for place in beginning.iter().chain(&others) {
        stage.stored(place, &write("x", "1")).await?;
    }
    beginning.sort_by(|one, other| one.name.encoded().cmp(other.name.encoded()));
    let prefix = name("u:").encoded().to_owned();
    let page = Slice { prefix, ..slice(&others[0]) };
    ensure!(stage.list(&page).await? == (vec_of(&beginning), false), "those that begin so");
    let page = Slice { limit: 2, ..page };
    ensure!(stage.list(&page).await? == (vec_of(&beginning[..2]), true), "the first two");
    let page = Slice { after: beginning[1].name.encoded().to_owned(), limit: 9, ..page };
    ensure!(stage.list(&page).await? == (vec_of(&beginning[2..]), false), "the others");
    let page = Slice { after: "u".to_owned(), limit: 1, ..page };
    ensure!(stage.list(&page).await? == (vec_of(&beginning[..1]), true), "from the beginning");
    let page = Slice { after: beginning[0].name.encoded().to_owned(), limit: 9, ..page };
    ensure!(stage.list(&page).await?.0 == vec_of(&beginning[1..]), "behind the prefix itself");
    Ok(())
}

async fn what_has_ended_is_neither_listed_nor_counted(mut stage: Stage) -> Verdict {
    let all = neighbours(20);
    for (number, place) in all.iter().enumerate() {
        let ttl_ms = if number % 2 == 0 { 1000 } else { 60_000 };
        stage.stored(place, &Write { ttl_ms, ..write("x", "1") }).await?;
    }
    ensure!(stage.count(&all[0]).await? == 20, "all are there");
    stage.elapse(1001).await;
    ensure!(stage.count(&all[0]).await? == 10, "half of them have ended");
    let left: Vec<_> = all.iter().skip(1).step_by(2).cloned().collect();
    // A page may be short of what has ended, and does not end the listing.
    let mut page = Slice { limit: 4, ..slice(&all[0]) };
    let mut found = Vec::new();
    for _ in 0..20 {
        let (names, more) = stage.list(&page).await?;
        page.after = names.last().cloned().unwrap_or(page.after);
        found.extend(names);
        if !more {
            break;
        }
    }
    ensure!(found == vec_of(&left), "{found:?}");
    // One more write, and it is as if they had never been.
    stage.stored(&all[0], &write("y", "2")).await?;
    ensure!(stage.count(&all[0]).await? == 11, "one came back");
    ensure!(stage.list(&slice(&all[0])).await?.0.len() == 11, "one came back");
    Ok(())
}

async fn one_that_lives_long_is_not_forgotten_with_others(mut stage: Stage) -> Verdict {
    let all = neighbours(2);
    stage.stored(&all[0], &write("long", "1")).await?;
    stage.stored(&all[1], &Write { ttl_ms: 1000, ..write("short", "1") }).await?;
    stage.elapse(1001).await;
    ensure!(stage.list(&slice(&all[0])).await?.0 == vec_of(&all[..1]), "the long one");
    ensure!(stage.count(&all[0]).await? == 1, "the long one");
    stage.stored(&all[1], &Write { ttl_ms: 90_000, ..write("longer", "2") }).await?;
    stage.elapse(60_001).await;
    ensure!(stage.list(&slice(&all[0])).await?.0 == vec_of(&all[1..]), "the longer one");
    stage.extend(&all[1], 90_000).await?;
    stage.elapse(80_000).await;
    ensure!(stage.count(&all[1]).await? == 1, "the extended one");
    Ok(())
}

async fn namespaces_and_names_do_not_mix(stage: Stage) -> Verdict {
    let pairs = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("a", "c"), ("{a}", "c"), ("a", "*")];
    let all = pairs.map(|(namespace, document)| Place::new(&name(namespace), &name(document)));
    for (number, place) in all.iter().enumerate() {
        ensure!(place.shard < SHARDS, "{place:?}");
        let first = Condition::Absent;
        let text = number.to_string();
        stage.stored(place, &Write { condition: first, ..write(&text, &text) }).await?;
    }
    for (number, place) in all.iter().enumerate() {
        ensure!(stage.value(place).await? == Some(number.to_string()), "{place:?}");
        let own = place.name.encoded().to_owned();
        ensure!(stage.list(&slice(place)).await?.0.contains(&own), "{place:?}");
    }
    stage.delete(&all[0], &token("d")).await?;
    ensure!(stage.get(&all[1]).await?.is_some() && stage.get(&all[2]).await?.is_some(), "mixed");
    Ok(())
}

async fn failures(stage: impl AsyncFn() -> Stage) -> Vec<String> {
    let mut failures = Vec::new();
    for (case, check) in ALL {
        if let Err(why) = check(stage().await).await {
            failures.push(format!("{case}: {why}"));
        }
    }
    failures
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    let failures = failures(async || Stage::embedded()).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn a_file_keeps_the_contract() {
    let failures = failures(async || Stage::in_a_file()).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_keeps_the_contract() {
    let failures = failures(async || Stage::redis().await).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn each_broken_backend_is_caught() {
    for fault in broken::ALL {
        let failures = failures(async || Stage::broken(*fault)).await;
        assert!(!failures.is_empty(), "{fault:?} passes for documents");
    }
}
