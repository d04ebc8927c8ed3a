//! What every backend promises, step by step; a case answers why it failed, so that it can be shown
//! to fail.

use super::{
    super::backend::{Added, Batch, Cover, Edit, FIELDS, Head, Index, KEYS, PENDING, Place, Seen},
    ALL, HOUR, answers, batch, broken, calls, item, name, place, said,
    stage::Stage,
};
use coordinator_core::BoxFuture;
use std::time::Duration;

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
        const CASES: &[(&str, Case)] =
            &[$((stringify!($case), |stage| Box::pin($case(stage)))),*];
    };
}

cases! {
    a_window_holds_its_number_and_hands_back_the_rest
    a_window_holds_its_tokens
    a_window_of_none_holds_none
    a_smaller_window_holds_at_the_next_append
    a_call_leaves_with_all_that_answers_it
    an_answer_belongs_to_the_nearest_call_before_it
    an_answer_whose_call_has_left_does_not_come_in
    a_key_appends_once_and_tells_what_is_pending
    as_many_keys_are_remembered_as_are_said
    what_left_is_pending_until_a_summary_covers_it
    of_two_summaries_of_the_same_one_is_stored
    a_summary_that_leaves_something_out_is_refused
    what_nobody_summarises_is_dropped_and_counted
    what_was_dropped_while_it_was_summarised_is_not_lost
    a_paused_conversation_takes_nothing_and_a_repetition_is_known
    fields_of_other_names_stay
    fields_are_as_many_as_they_are
    an_append_renews_the_time_to_live_and_nothing_shortens_it
    what_has_ended_is_gone_from_everywhere
    what_is_deleted_begins_anew
    a_user_has_several_conversations
    a_list_goes_on_where_it_ended
}

fn told<T>(answer: coordinator_core::Result<T>) -> Result<T, String> {
    answer.map_err(|error| error.chain())
}

impl Stage {
    async fn append(&self, place: &Place, batch: &Batch) -> Result<Added, String> {
        told(self.backend.append(place, batch).await)
    }

    /// Appends, and answers what left.
    async fn appends(&self, place: &Place, batch: &Batch) -> Result<Vec<u64>, String> {
        match self.append(place, batch).await? {
            Added::Now { evicted, .. } => Ok(evicted.iter().map(|kept| kept.sequence).collect()),
            other => Err(format!("not appended: {other:?}")),
        }
    }

    async fn seen(&self, place: &Place) -> Result<Seen, String> {
        told(self.backend.show(place, ALL).await)?.ok_or_else(|| "it is not there".to_owned())
    }

    async fn window(&self, place: &Place) -> Result<Vec<u64>, String> {
        Ok(self.seen(place).await?.window.iter().map(|kept| kept.sequence).collect())
    }

    async fn pending(&self, place: &Place) -> Result<Vec<u64>, String> {
        Ok(self.seen(place).await?.pending.iter().map(|kept| kept.sequence).collect())
    }

    /// Summarises twice, for a step is safe to be delivered twice.
    async fn summarise(
        &self,
        place: &Place,
        text: &str,
        after: u64,
        up_to: u64,
    ) -> Result<(bool, Head), String> {
        let text = text.as_bytes().to_vec();
        let cover = Cover { after, up_to, tokens: 7, text, ttl: HOUR };
        let first = told(self.backend.summarise(place, &cover).await)?;
        let again = told(self.backend.summarise(place, &cover).await)?;
        ensure!(first == again, "delivered twice: {first:?}, {again:?}");
        Ok(first)
    }

    async fn edit(
        &self,
        place: &Place,
        set: &[(&str, &str)],
        remove: &[&str],
    ) -> Result<Option<u64>, String> {
        let owned = |text: &&str| (*text).to_owned();
        let set = set.iter().map(|(name, value)| (owned(name), value.as_bytes().to_vec()));
        let edit =
            Edit { set: set.collect(), remove: remove.iter().map(owned).collect(), ttl: HOUR };
        let first = told(self.backend.edit(place, &edit).await)?;
        let again = told(self.backend.edit(place, &edit).await)?;
        ensure!(first == again, "delivered twice: {first:?}, {again:?}");
        Ok(first)
    }

    async fn list(&self, index: Index<'_>) -> Result<Vec<String>, String> {
        let found = told(self.backend.list(index, None, 10).await)?;
        Ok(found.iter().map(|listed| listed.id.as_str().to_owned()).collect())
    }
}

async fn a_window_holds_its_number_and_hands_back_the_rest(stage: Stage) -> Verdict {
    let at = place("u", "a");
    ensure!(stage.appends(&at, &said(&["a", "b"])).await?.is_empty(), "it held two");
    ensure!(stage.appends(&at, &said(&["c", "d", "e"])).await? == [1, 2], "the oldest leave");
    let seen = stage.seen(&at).await?;
    let window: Vec<_> = seen.window.iter().map(|kept| (kept.sequence, &*kept.body)).collect();
    let text = |text: &str| super::stored(text).expect("bytes");
    let (c, d, e) = (text("c"), text("d"), text("e"));
    ensure!(window == [(3, &*c), (4, &*d), (5, &*e)], "{window:?}");
    let Head { last, tokens, evicted, evicted_tokens, .. } = seen.head;
    ensure!((last, tokens, evicted, evicted_tokens) == (5, 5, 2, 2), "{:?}", seen.head);
    Ok(())
}

async fn a_window_holds_its_tokens(stage: Stage) -> Verdict {
    let at = place("u", "a");
    let of = |tokens: &[u32]| Batch {
        window: 10,
        budget: Some(10),
        ..batch(tokens.iter().map(|tokens| item("x", *tokens)).collect())
    };
    ensure!(stage.appends(&at, &of(&[4, 4, 2])).await?.is_empty(), "ten are ten");
    ensure!(stage.appends(&at, &of(&[1])).await? == [1], "one too many");
    ensure!(stage.appends(&at, &of(&[10])).await? == [2, 3, 4], "no room beside it");
    let head = stage.seen(&at).await?.head;
    ensure!((head.tokens, head.evicted_tokens) == (21, 11), "{head:?}");
    Ok(())
}

async fn a_window_of_none_holds_none(stage: Stage) -> Verdict {
    let at = place("u", "a");
    let none = Batch { window: 0, ..said(&["a", "b"]) };
    ensure!(stage.appends(&at, &none).await? == [1, 2], "all leave");
    ensure!(stage.window(&at).await?.is_empty(), "something stays");
    ensure!(stage.appends(&at, &none).await? == [3, 4], "all leave");
    ensure!(stage.pending(&at).await? == [1, 2, 3, 4], "all are pending");
    Ok(())
}

async fn a_smaller_window_holds_at_the_next_append(stage: Stage) -> Verdict {
    let at = place("u", "a");
    stage.appends(&at, &said(&["a", "b", "c"])).await?;
    let smaller = Batch { window: 1, ..said(&["d"]) };
    ensure!(stage.appends(&at, &smaller).await? == [1, 2, 3], "the window is smaller");
    let larger = Batch { window: 5, ..said(&["e"]) };
    ensure!(stage.appends(&at, &larger).await?.is_empty(), "the window is larger");
    ensure!(stage.window(&at).await? == [4, 5], "what stays, stays");
    Ok(())
}

async fn a_call_leaves_with_all_that_answers_it(stage: Stage) -> Verdict {
    let at = place("u", "a");
    let of = |items| Batch { window: 5, ..batch(items) };
    let turn = vec![
        calls("look", &[1, 2]),
        answers("one", 1),
        item("meanwhile", 1),
        answers("two", 2),
        item("so", 1),
    ];
    ensure!(stage.appends(&at, &of(turn)).await?.is_empty(), "five fit");
    let left = stage.appends(&at, &of(vec![item("next", 1)])).await?;
    ensure!(left == [1, 2, 3, 4], "a call and what answers it leave together, not {left:?}");
    // A call inside what leaves takes its own answers along.
    let chain = vec![
        calls("a", &[3]),
        calls("b", &[4]),
        answers("a", 3),
        answers("b", 4),
        item("c", 1),
        item("d", 1),
    ];
    let left = stage.appends(&at, &of(chain)).await?;
    ensure!(left == [5, 6, 7, 8, 9, 10], "{left:?}");
    ensure!(stage.window(&at).await? == [11, 12], "what is left is whole");
    Ok(())
}

async fn an_answer_belongs_to_the_nearest_call_before_it(stage: Stage) -> Verdict {
    let at = place("u", "a");
    let of = |items| Batch { window: 4, ..batch(items) };
    let turns = vec![calls("a", &[1]), answers("a", 1), calls("b", &[1]), answers("b", 1)];
    stage.appends(&at, &of(turns)).await?;
    let left = stage.appends(&at, &of(vec![item("c", 1)])).await?;
    ensure!(left == [1, 2], "the second pair stays, not {left:?}");
    Ok(())
}

async fn an_answer_whose_call_has_left_does_not_come_in(stage: Stage) -> Verdict {
    let at = place("u", "a");
    stage.appends(&at, &batch(vec![calls("a", &[1]), item("b", 1), item("c", 1)])).await?;
    ensure!(stage.appends(&at, &said(&["d"])).await? == [1], "the call leaves");
    let left = stage.appends(&at, &batch(vec![answers("late", 1)])).await?;
    ensure!(left == [5], "the answer leaves at once, not {left:?}");
    ensure!(stage.window(&at).await? == [2, 3, 4], "the others stay");
    let left = stage.appends(&at, &batch(vec![answers("none", 9), item("e", 1)])).await?;
    ensure!(left == [2, 6], "in their order, not {left:?}");
    ensure!(stage.pending(&at).await? == [1, 5, 2, 6], "in the order in which they left");
    let head = stage.seen(&at).await?.head;
    ensure!((head.tokens, head.evicted_tokens) == (7, 4), "{head:?}");
    Ok(())
}

async fn a_key_appends_once_and_tells_what_is_pending(stage: Stage) -> Verdict {
    let at = place("u", "a");
    let once = Batch { key: b"k".to_vec(), ..said(&["a", "b", "c", "d"]) };
    let Added::Now { head, first, count, evicted } = stage.append(&at, &once).await? else {
        return Err("not appended".into());
    };
    ensure!((first, count) == (1, 4), "{first} {count}");
    let again = stage.append(&at, &once).await?;
    let before = Added::Before { head, first, count, pending: evicted };
    ensure!(again == before, "{again:?}, not {before:?}");
    stage.appends(&at, &said(&["e"])).await?;
    let Added::Before { first, count, pending, .. } = stage.append(&at, &once).await? else {
        return Err("appended again".into());
    };
    ensure!((first, count, pending.len()) == (1, 4, 2), "{first} {count} {pending:?}");
    ensure!(stage.window(&at).await? == [3, 4, 5], "nothing was appended twice");
    let other = Batch { key: b"l".to_vec(), ..said(&["f"]) };
    ensure!(stage.appends(&at, &other).await? == [3], "another key is another append");
    Ok(())
}

async fn as_many_keys_are_remembered_as_are_said(stage: Stage) -> Verdict {
    let at = place("u", "a");
    let keyed = |n: usize| Batch { key: format!("k{n}").into_bytes(), ..said(&["x"]) };
    for n in 0..=KEYS {
        stage.appends(&at, &keyed(n)).await?;
    }
    for n in (1..=KEYS).rev() {
        let again = stage.append(&at, &keyed(n)).await?;
        let known = matches!(again, Added::Before { first, .. } if first == n as u64 + 1);
        ensure!(known, "key {n}: {again:?}");
    }
    let forgotten = stage.append(&at, &keyed(0)).await?;
    ensure!(matches!(forgotten, Added::Now { .. }), "the oldest key: {forgotten:?}");
    Ok(())
}

async fn what_left_is_pending_until_a_summary_covers_it(stage: Stage) -> Verdict {
    let at = place("u", "a");
    stage.appends(&at, &said(&["a", "b", "c", "d", "e"])).await?;
    ensure!(stage.pending(&at).await? == [1, 2], "two left");
    // One more leaves while these two are summarised.
    stage.appends(&at, &said(&["f"])).await?;
    let (done, head) = stage.summarise(&at, "two", 0, 2).await?;
    ensure!(done && (head.covered, head.floor, head.evicted) == (2, 2, 3), "{head:?}");
    let seen = stage.seen(&at).await?;
    ensure!(seen.summary == b"two" && seen.head.summary_tokens == 7, "{seen:?}");
    ensure!(stage.pending(&at).await? == [3], "what left meanwhile is pending");
    let (done, head) = stage.summarise(&at, "three", 2, 3).await?;
    ensure!(done && head.lost == 0, "{head:?}");
    ensure!(stage.pending(&at).await?.is_empty(), "all is covered");
    Ok(())
}

async fn of_two_summaries_of_the_same_one_is_stored(stage: Stage) -> Verdict {
    let at = place("u", "a");
    stage.appends(&at, &said(&["a", "b", "c", "d", "e"])).await?;
    ensure!(stage.summarise(&at, "one", 0, 1).await?.0, "the first");
    let (done, head) = stage.summarise(&at, "other", 0, 2).await?;
    ensure!(!done && (head.floor, head.evicted) == (1, 2), "the second: {head:?}");
    ensure!(stage.seen(&at).await?.summary == b"one", "it was overwritten");
    Ok(())
}

async fn a_summary_that_leaves_something_out_is_refused(stage: Stage) -> Verdict {
    let at = place("u", "a");
    ensure!(!stage.summarise(&at, "x", 0, 1).await?.0, "nothing has left");
    ensure!(told(stage.backend.show(&at, ALL).await)?.is_none(), "it was made by a refusal");
    stage.appends(&at, &said(&["a", "b", "c", "d", "e"])).await?;
    for (after, up_to) in [(1, 2), (0, 3), (2, 2), (2, 1)] {
        let (done, _) = stage.summarise(&at, "x", after, up_to).await?;
        ensure!(!done, "{after} to {up_to}");
    }
    ensure!(stage.pending(&at).await? == [1, 2], "something was dropped");
    Ok(())
}

async fn what_nobody_summarises_is_dropped_and_counted(stage: Stage) -> Verdict {
    let at = place("u", "a");
    let none = |count| Batch { window: 0, ..batch(vec![item("x", 1); count]) };
    stage.appends(&at, &none(PENDING)).await?;
    ensure!(stage.seen(&at).await?.head.lost == 0, "so many are kept");
    stage.appends(&at, &none(3)).await?;
    let seen = stage.seen(&at).await?;
    ensure!((seen.head.lost, seen.head.floor) == (3, 3), "{:?}", seen.head);
    ensure!(seen.pending.len() == PENDING && seen.pending[0].sequence == 4, "the oldest stay");
    // A summary begins behind what was dropped.
    let (done, head) = stage.summarise(&at, "rest", 3, 103).await?;
    ensure!(done && head.lost == 3 && head.covered == 103, "{head:?}");
    Ok(())
}

async fn what_was_dropped_while_it_was_summarised_is_not_lost(stage: Stage) -> Verdict {
    let at = place("u", "a");
    let none = |count| Batch { window: 0, ..batch(vec![item("x", 1); count]) };
    stage.appends(&at, &none(PENDING)).await?;
    stage.appends(&at, &none(20)).await?;
    let (done, head) = stage.summarise(&at, "the first", 0, 5).await?;
    ensure!(done && (head.lost, head.floor) == (15, 20), "{head:?}");
    let (done, head) = stage.summarise(&at, "a hundred", 5, 100).await?;
    ensure!(done && (head.lost, head.floor) == (0, 100), "{head:?}");
    ensure!(stage.pending(&at).await? == (101..=120).collect::<Vec<_>>(), "the rest is pending");
    Ok(())
}

async fn a_paused_conversation_takes_nothing_and_a_repetition_is_known(
    mut stage: Stage,
) -> Verdict {
    let at = place("u", "a");
    let once = Batch { key: b"k".to_vec(), ..said(&["a"]) };
    stage.appends(&at, &once).await?;
    ensure!(!told(stage.backend.resume(&at).await)?, "it was not paused");
    ensure!(told(stage.backend.pause(&at, b"why", HOUR).await)?, "paused now");
    stage.elapse(Duration::from_secs(2)).await;
    ensure!(!told(stage.backend.pause(&at, b"because", HOUR).await)?, "paused before");
    let refused = stage.append(&at, &said(&["b"])).await?;
    let paused = Added::Paused { for_ms: 2000, reason: b"because".to_vec() };
    ensure!(refused == paused, "{refused:?}");
    let again = stage.append(&at, &once).await?;
    ensure!(matches!(again, Added::Before { .. }), "{again:?}");
    let seen = stage.seen(&at).await?;
    ensure!(seen.paused == Some((2000, b"because".to_vec())), "{seen:?}");
    ensure!(told(stage.backend.resume(&at).await)?, "it was paused");
    ensure!(!told(stage.backend.resume(&at).await)?, "it was resumed");
    stage.appends(&at, &said(&["b"])).await?;
    ensure!(stage.window(&at).await? == [1, 2], "nothing was appended meanwhile");
    let fresh = place("u", "b");
    ensure!(told(stage.backend.pause(&fresh, b"", HOUR).await)?, "before the first message");
    let refused = stage.append(&fresh, &said(&["a"])).await?;
    ensure!(matches!(refused, Added::Paused { .. }), "{refused:?}");
    Ok(())
}

async fn fields_of_other_names_stay(stage: Stage) -> Verdict {
    let at = place("u", "a");
    ensure!(stage.edit(&at, &[], &["c:x"]).await?.is_none(), "nothing to remove");
    ensure!(told(stage.backend.show(&at, ALL).await)?.is_none(), "removing makes nothing");
    stage.edit(&at, &[("c:a", "1"), ("f:a", "2"), ("c:b", "3")], &[]).await?;
    stage.edit(&at, &[("c:a", "4")], &["c:b", "n:none"]).await?;
    let seen = stage.seen(&at).await?;
    let owned = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    ensure!(seen.fields == [owned("c:a", "4"), owned("f:a", "2")], "{:?}", seen.fields);
    ensure!(seen.window.is_empty() && seen.summary.is_empty(), "{seen:?}");
    stage.appends(&at, &said(&["a"])).await?;
    ensure!(stage.seen(&at).await?.fields == seen.fields, "an append changes no field");
    Ok(())
}

async fn fields_are_as_many_as_they_are(stage: Stage) -> Verdict {
    let at = place("u", "a");
    stage.appends(&at, &said(&["a", "b", "c", "d"])).await?;
    stage.summarise(&at, "s", 0, 1).await?;
    told(stage.backend.pause(&at, b"", HOUR).await)?;
    let names: Vec<_> = (0..FIELDS).map(|n| format!("c:{n}")).collect();
    for some in names.chunks(64) {
        let set: Vec<_> = some.iter().map(|name| (name.as_str(), "x")).collect();
        ensure!(stage.edit(&at, &set, &[]).await?.is_none(), "there is room for {FIELDS}");
    }
    let full = stage.edit(&at, &[("c:0", "y"), ("c:more", "x")], &[]).await?;
    ensure!(full == Some(FIELDS as u64), "{full:?}");
    let seen = stage.seen(&at).await?;
    ensure!(seen.fields[0].1 == b"x" && seen.fields.len() == FIELDS, "something was set");
    ensure!(stage.edit(&at, &[("c:0", "y")], &[]).await?.is_none(), "one that is there");
    ensure!(stage.edit(&at, &[("c:more", "x")], &["c:0"]).await?.is_none(), "one for another");
    Ok(())
}

async fn an_append_renews_the_time_to_live_and_nothing_shortens_it(mut stage: Stage) -> Verdict {
    let at = place("u", "a");
    let ends = async |stage: &Stage| Ok::<_, String>(stage.seen(&at).await?.head.ends_in_ms);
    stage.appends(&at, &said(&["a"])).await?;
    stage.elapse(HOUR / 2).await;
    stage.edit(&at, &[("c:a", "1")], &[]).await?;
    stage.summarise(&at, "s", 0, 0).await?;
    ensure!(ends(&stage).await? == 1_800_000, "only appends renew: {}", ends(&stage).await?);
    stage.appends(&at, &said(&["b"])).await?;
    ensure!(ends(&stage).await? == 3_600_000, "renewed");
    let lives = told(stage.backend.extend(&at, HOUR * 5).await)?;
    ensure!(lives == Some(18_000_000), "{lives:?}");
    ensure!(told(stage.backend.extend(&at, HOUR).await)? == lives, "extending never shortens");
    stage.appends(&at, &said(&["c"])).await?;
    ensure!(ends(&stage).await? == 18_000_000, "an append never shortens");
    stage.elapse(HOUR * 5).await;
    ensure!(stage.window(&at).await? == [1, 2, 3], "it is there in its last ms");
    let age = stage.seen(&at).await?.head.age_ms;
    ensure!(age == 5 * 3_600_000 + 1_800_000, "{age}");
    Ok(())
}

async fn what_has_ended_is_gone_from_everywhere(mut stage: Stage) -> Verdict {
    let at = place("u", "a");
    let user = name("u");
    let once = Batch { key: b"k".to_vec(), ..said(&["a", "b", "c", "d"]) };
    stage.appends(&at, &once).await?;
    stage.edit(&at, &[("c:a", "1")], &[]).await?;
    told(stage.backend.pause(&at, b"", HOUR).await)?;
    stage.elapse(HOUR).await;
    ensure!(told(stage.backend.count(at.shard).await)? == 1, "it is there in its last ms");
    stage.elapse(Duration::from_millis(1)).await;
    ensure!(told(stage.backend.show(&at, ALL).await)?.is_none(), "it is there");
    ensure!(told(stage.backend.count(at.shard).await)? == 0, "it counts");
    ensure!(stage.list(Index::Of(&user)).await?.is_empty(), "it is listed");
    ensure!(told(stage.backend.extend(&at, HOUR).await)?.is_none(), "it was extended");
    ensure!(!told(stage.backend.resume(&at).await)?, "it was resumed");
    ensure!(stage.appends(&at, &once).await? == [1], "it begins anew, its keys too");
    ensure!(told(stage.backend.count(at.shard).await)? == 1, "it counts again");
    Ok(())
}

async fn what_is_deleted_begins_anew(stage: Stage) -> Verdict {
    let at = place("u", "a");
    let user = name("u");
    ensure!(!told(stage.backend.delete(&at).await)?, "nothing is there");
    let once = Batch { key: b"k".to_vec(), ..said(&["a", "b", "c", "d"]) };
    stage.appends(&at, &once).await?;
    stage.summarise(&at, "s", 0, 1).await?;
    ensure!(told(stage.backend.delete(&at).await)?, "it was there");
    ensure!(!told(stage.backend.delete(&at).await)?, "it was deleted");
    ensure!(stage.list(Index::Of(&user)).await?.is_empty(), "it is listed");
    ensure!(stage.list(Index::All(at.shard)).await?.is_empty(), "it is listed");
    ensure!(told(stage.backend.show(&at, ALL).await)?.is_none(), "it is there");
    ensure!(stage.appends(&at, &once).await? == [1], "it begins anew");
    ensure!(stage.seen(&at).await?.summary.is_empty(), "without a summary");
    Ok(())
}

async fn a_user_has_several_conversations(mut stage: Stage) -> Verdict {
    let user = name("u");
    for channel in ["b", "a", "c"] {
        stage.appends(&place("u", channel), &said(&["a"])).await?;
        stage.elapse(Duration::from_secs(1)).await;
    }
    let named = Place { id: name("named:u"), user: None, ..place("u", "a") };
    stage.appends(&named, &said(&["a"])).await?;
    let of = stage.list(Index::Of(&user)).await?;
    ensure!(of == ["of:web:b:u", "of:web:a:u", "of:web:c:u"], "{of:?}");
    let all = stage.list(Index::All(named.shard)).await?;
    ensure!(all == ["of:web:b:u", "of:web:a:u", "of:web:c:u", "named:u"], "{all:?}");
    stage.appends(&place("u", "b"), &said(&["a"])).await?;
    let of = stage.list(Index::Of(&user)).await?;
    ensure!(of == ["of:web:a:u", "of:web:c:u", "of:web:b:u"], "the last one last: {of:?}");
    ensure!(told(stage.backend.count(named.shard).await)? == 4, "all count");
    Ok(())
}

async fn a_list_goes_on_where_it_ended(mut stage: Stage) -> Verdict {
    // Many end in the same ms, with names that a locale would sort otherwise.
    let names = ["B", "a", "A", "b", "~", "-", "ä", "a.", "a-", "_"];
    for round in 0..30 {
        for channel in names {
            stage.appends(&place("u", &format!("{channel}{}", round % 15)), &said(&["x"])).await?;
        }
        if round % 10 == 9 {
            stage.elapse(Duration::from_millis(1)).await;
        }
    }
    let (index, mut after, mut seen) = (Index::All(place("u", "a").shard), None, Vec::new());
    loop {
        let from = after.as_ref().map(|(ends, id)| (*ends, id));
        let page = told(stage.backend.list(index, from, 7).await)?;
        let Some(last) = page.last() else { break };
        after = Some((last.ends_ms, last.id.clone()));
        seen.extend(
            page.into_iter().map(|listed| (listed.ends_ms, listed.id.encoded().to_owned())),
        );
    }
    ensure!(seen.len() == 150, "{} of 150", seen.len());
    ensure!(seen.is_sorted(), "not in order: {seen:?}");
    Ok(())
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    for (name, case) in CASES {
        let verdict = case(Stage::embedded()).await;
        assert_eq!(verdict, Ok(()), "{name}");
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_keeps_the_contract() {
    for (name, case) in CASES {
        let verdict = case(Stage::redis().await).await;
        assert_eq!(verdict, Ok(()), "{name}");
    }
}

#[tokio::test]
async fn every_broken_backend_is_caught() {
    for fault in broken::ALL {
        let mut caught = Vec::new();
        for (name, case) in CASES {
            if case(Stage::broken(*fault)).await.is_err() {
                caught.push(name);
            }
        }
        assert!(!caught.is_empty(), "nobody notices {fault:?}");
    }
}
