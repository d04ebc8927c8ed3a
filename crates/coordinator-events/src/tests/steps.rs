//! What each step does, on both backends.

use super::{DAY_MS, attempt, crew, entry, name, stage::Stage, take};
use crate::{
    backend::{
        Acked, Attempt, Before, Crew, Defer, Deferred, Entry, From, Heard, Posted, Stored, Take,
        Taken,
    },
    cursor::Id,
};
use coordinator_core::key::Name;

macro_rules! on_every_backend {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Stage::embedded().await).await;
            })*
        }
        #[cfg(feature = "redis")]
        mod redis {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Stage::redis().await).await;
            })*
        }
    };
}

on_every_backend! {
    ids_of_an_epoch_are_dense_and_the_first_tells_what_was_before,
    a_key_is_used_once_for_as_long_as_it_is_remembered,
    a_scope_lives_for_as_long_as_its_publishers_were_promised,
    a_publisher_of_another_epoch_is_fenced_if_it_asks_to_be,
    a_publisher_that_knows_less_joins_and_one_that_knows_more_begins_anew,
    another_reign_begins_an_epoch_that_tells_where_it_goes_on,
    a_stream_ends_when_nobody_publishes_and_what_comes_then_begins_anew,
    a_page_begins_and_ends_where_it_is_asked_to,
    what_is_trimmed_is_gone_and_nothing_else,
    whoever_listens_hears_what_is_published_there,
    an_announcement_is_counted_and_heard_by_its_number,
    work_is_taken_once_and_again_when_its_lease_is_over,
    only_the_delivery_under_way_can_be_settled,
    what_failed_is_due_when_it_was_asked_to_be,
    what_was_delivered_too_often_is_a_dead_letter,
    a_dead_letter_lives_again_or_is_forgotten,
    a_take_whose_answer_was_lost_is_told_the_same_again,
    a_take_that_is_repeated_after_its_lease_is_counted,
    a_take_is_not_told_again_what_is_not_its_own_any_more,
    where_a_scope_went_back_is_told_again,
    a_group_begins_where_it_is_asked_to,
    trimming_takes_no_work_away,
    a_group_that_was_ahead_goes_back_with_its_scope,
    a_group_is_kept_while_somebody_works_in_it,
}

async fn publish(stage: &Stage, scope: &Name, entry: Entry) -> Posted {
    stage.backend.publish(scope, &entry).await.expect("an answer")
}

async fn new(stage: &Stage, scope: &Name, entry: Entry) -> Id {
    match publish(stage, scope, entry).await {
        Posted::New(id) => id,
        other => panic!("{other:?}"),
    }
}

async fn all(stage: &Stage, scope: &Name) -> Vec<Stored> {
    let page = stage.backend.read(scope, From::First, 100).await.expect("an answer");
    page.map(|page| page.events).unwrap_or_default()
}

fn id(epoch: u64, number: u64) -> Id {
    Id { epoch, number }
}

async fn ids_of_an_epoch_are_dense_and_the_first_tells_what_was_before(mut stage: Stage) {
    let scope = name("a");
    let began = stage.now_ms();
    let mut known = 0;
    for number in 0..4 {
        let posted = new(&stage, &scope, Entry { epoch: known, ..entry(7) }).await;
        assert_eq!(posted, id(began, number));
        stage.elapse(5).await;
        // With and without knowing the epoch.
        known = if number == 1 { began } else { 0 };
    }
    let all = all(&stage, &scope).await;
    let before: Vec<_> = all.iter().map(|event| event.before).collect();
    assert_eq!(before, [Before::Nothing, Before::Dense, Before::Dense, Before::Dense]);
    assert_eq!((all[3].nonce, all[3].envelope.as_ref()), ([7; 8], b"envelope \x07".as_slice()));
    // Another scope has its own.
    assert_eq!(new(&stage, &name("b"), entry(1)).await, id(stage.now_ms(), 0));
}

async fn a_key_is_used_once_for_as_long_as_it_is_remembered(mut stage: Stage) {
    let scope = name("a");
    let once = |key: &str| Entry { once: Some((name(key), 1000)), ..entry(1) };
    let first = new(&stage, &scope, once("k")).await;
    for _ in 0..2 {
        assert_eq!(publish(&stage, &scope, once("k")).await, Posted::Before(first));
    }
    // Of one scope, and one key.
    new(&stage, &name("b"), once("k")).await;
    assert_eq!(new(&stage, &scope, once("l")).await, first.next());
    stage.elapse(1000).await;
    assert_eq!(publish(&stage, &scope, once("k")).await, Posted::Before(first));
    stage.elapse(1).await;
    assert_eq!(new(&stage, &scope, once("k")).await, first.next().next());
}

async fn a_scope_lives_for_as_long_as_its_publishers_were_promised(mut stage: Stage) {
    let scope = name("a");
    let of = |ttl_ms, prolongs| Entry { ttl_ms, prolongs, ..entry(1) };
    // A new one needs no word for it.
    let first = new(&stage, &scope, of(1000, false)).await;
    stage.elapse(1000).await;
    let known = Entry { epoch: first.epoch, ..of(1000, false) };
    new(&stage, &scope, known.clone()).await;
    stage.elapse(1).await;
    assert!(all(&stage, &scope).await.is_empty(), "an event alone does not prolong it");

    let first = new(&stage, &scope, known).await;
    stage.elapse(900).await;
    // Prolonged, then by somebody who wants less, then not at all.
    for ttl_ms in [5000, 100] {
        new(&stage, &scope, Entry { epoch: first.epoch, ..of(ttl_ms, true) }).await;
    }
    stage.elapse(5000).await;
    assert_eq!(all(&stage, &scope).await.len(), 3);
    // Whoever looks whose it is prolongs it.
    new(&stage, &scope, Entry { check: true, ..of(1000, false) }).await;
    stage.elapse(1000).await;
    assert_eq!(all(&stage, &scope).await.len(), 4);
    stage.elapse(1).await;
    assert!(all(&stage, &scope).await.is_empty());

    // Whose it is is known for as long as it lives.
    let checked = |ttl_ms| Entry { check: true, ..of(ttl_ms, false) };
    let first = new(&stage, &scope, checked(5000)).await;
    assert_eq!(new(&stage, &scope, checked(100)).await, first.next());
    stage.elapse(5000).await;
    assert_eq!(new(&stage, &scope, checked(100)).await, first.next().next());
}

async fn a_publisher_of_another_epoch_is_fenced_if_it_asks_to_be(mut stage: Stage) {
    let scope = name("a");
    let strict = |epoch| Entry { strict: true, epoch, ..entry(1) };
    assert_eq!(publish(&stage, &scope, strict(5)).await, Posted::Fenced(0));
    assert!(all(&stage, &scope).await.is_empty());
    let first = new(&stage, &scope, entry(1)).await;
    for epoch in [first.epoch - 1, first.epoch + 1, 0] {
        assert_eq!(publish(&stage, &scope, strict(epoch)).await, Posted::Fenced(first.epoch));
    }
    assert_eq!(new(&stage, &scope, strict(first.epoch)).await, first.next());
    // It looks whether the server is another one, too.
    new(&stage, &scope, Entry { check: true, ..entry(2) }).await;
    stage.elapse(10).await;
    stage.set_back(&scope, first).await;
    let checked = Entry { check: true, ..strict(first.epoch) };
    assert!(matches!(publish(&stage, &scope, checked).await, Posted::Fenced(_)));
    assert_eq!(all(&stage, &scope).await.len(), 1);
}

async fn a_publisher_that_knows_less_joins_and_one_that_knows_more_begins_anew(mut stage: Stage) {
    let scope = name("a");
    let first = new(&stage, &scope, entry(1)).await;
    let behind = Entry { epoch: first.epoch - 1, ..entry(2) };
    assert_eq!(new(&stage, &scope, behind).await, first.next());
    stage.elapse(3).await;
    for check in [false, true] {
        let last = all(&stage, &scope).await.last().expect("an event").id;
        let ahead = Entry { epoch: last.epoch + 1000, check, ..entry(3) };
        let anew = new(&stage, &scope, ahead).await;
        assert_eq!(anew, id(last.epoch + 1001, 0), "it is later than both");
        let all = all(&stage, &scope).await;
        assert_eq!(all.last().expect("an event").before, Before::Last(last));
    }
}

async fn another_reign_begins_an_epoch_that_tells_where_it_goes_on(mut stage: Stage) {
    let scope = name("a");
    let checked = || Entry { check: true, ..entry(1) };
    let first = new(&stage, &scope, checked()).await;
    // The same one still reigns.
    assert_eq!(new(&stage, &scope, checked()).await, first.next());
    stage.elapse(10).await;
    stage.set_back(&scope, first).await;
    let anew = new(&stage, &scope, checked()).await;
    assert_eq!(anew, id(first.epoch + 10, 0));
    assert_eq!(all(&stage, &scope).await[1].before, Before::Last(first));
    // Whoever did not look joins.
    let unaware = Entry { epoch: first.epoch, ..entry(2) };
    assert_eq!(new(&stage, &scope, unaware).await, anew.next());
}

async fn a_stream_ends_when_nobody_publishes_and_what_comes_then_begins_anew(mut stage: Stage) {
    let scope = name("a");
    let first = new(&stage, &scope, entry(1)).await;
    stage.elapse(DAY_MS).await;
    assert_eq!(new(&stage, &scope, entry(2)).await, first.next());
    stage.elapse(DAY_MS).await;
    assert_eq!(all(&stage, &scope).await.len(), 2);
    stage.elapse(1).await;
    assert_eq!(stage.backend.read(&scope, From::First, 9).await.expect("an answer"), None);
    // Known or not: it is gone.
    for epoch in [first.epoch, stage.now_ms()] {
        let anew = new(&stage, &scope, Entry { epoch, ..entry(3) }).await;
        assert!(anew.epoch > first.epoch && anew.number == 0, "{anew}");
        assert_eq!(all(&stage, &scope).await[0].before, Before::Nothing);
        stage.delete(&scope).await;
    }
}

async fn a_page_begins_and_ends_where_it_is_asked_to(stage: Stage) {
    let scope = name("a");
    assert_eq!(stage.backend.read(&scope, From::Last, 1).await.expect("an answer"), None);
    let first = new(&stage, &scope, entry(0)).await;
    for number in 1..6 {
        new(&stage, &scope, entry(number)).await;
    }
    let last = id(first.epoch, 5);
    for (from, limit, numbers) in [
        (From::First, 2, vec![0, 1]),
        (From::First, 100, vec![0, 1, 2, 3, 4, 5]),
        (From::At(id(first.epoch, 4)), 100, vec![4, 5]),
        (From::At(id(first.epoch, 2)), 2, vec![2, 3]),
        (From::At(id(first.epoch, 6)), 2, vec![]),
        (From::At(id(first.epoch - 1, 9)), 1, vec![0]),
        (From::At(id(first.epoch + 1, 0)), 1, vec![]),
        (From::At(Id::START), 1, vec![0]),
        (From::Last, 1, vec![5]),
    ] {
        let page = stage.backend.read(&scope, from, limit).await.expect("an answer");
        let page = page.expect("a page");
        assert_eq!(page.last, last, "{from:?}");
        let read: Vec<u64> = page.events.iter().map(|event| event.id.number).collect();
        assert_eq!(read, numbers, "{from:?}");
    }
}

async fn what_is_trimmed_is_gone_and_nothing_else(stage: Stage) {
    let scope = name("a");
    let trim = async |first| stage.backend.trim(&scope, first).await.expect("an answer");
    assert_eq!(trim(id(1, 1)).await, 0);
    let first = new(&stage, &scope, entry(0)).await;
    for number in 1..6 {
        new(&stage, &scope, entry(number)).await;
    }
    assert_eq!(trim(id(first.epoch, 2)).await, 2);
    assert_eq!(trim(id(first.epoch, 2)).await, 0);
    assert_eq!(all(&stage, &scope).await[0].id.number, 2);
    assert_eq!(trim(id(first.epoch, 99)).await, 4);
    // The scope goes on where it was.
    assert_eq!(new(&stage, &scope, entry(6)).await, id(first.epoch, 6));
}

async fn whoever_listens_hears_what_is_published_there(stage: Stage) {
    let scope = name("a");
    let mut feed = stage.backend.listen(&scope).await.expect("it listens");
    let mut other = stage.backend.listen(&name("b")).await.expect("it listens");
    for number in 0..3 {
        new(&stage, &scope, entry(number)).await;
    }
    new(&stage, &name("b"), entry(9)).await;
    for expected in all(&stage, &scope).await {
        assert_eq!(feed.next().await, Heard::It(expected));
    }
    let Heard::It(heard) = other.next().await else { panic!("something else") };
    assert_eq!(heard.nonce, [9; 8]);
    assert_eq!(heard.before, Before::Nothing);
}

async fn an_announcement_is_counted_and_heard_by_its_number(mut stage: Stage) {
    let topic = name("t");
    let announced = async |stage: &Stage| stage.backend.announced(&topic).await.expect("an answer");
    assert_eq!(announced(&stage).await, 0);
    stage.backend.announce(&topic, "unheard".into()).await.expect("an answer");
    let mut feed = stage.backend.follow(&topic).await.expect("it listens");
    for (number, what) in [(2, "a"), (3, "a b\r\n\0")] {
        let told = stage.backend.announce(&topic, what.into()).await.expect("an answer");
        assert_eq!(told, number);
        assert_eq!(feed.next().await, Heard::It((number, what.into())));
    }
    assert_eq!(announced(&stage).await, 3);
    stage.elapse(crate::backend::COUNTED_MS).await;
    assert_eq!(announced(&stage).await, 3);
    stage.elapse(1).await;
    assert_eq!(announced(&stage).await, 0);
}

async fn taken(stage: &Stage, crew: &Crew, take: &Take) -> Taken {
    stage.backend.take(crew, take).await.expect("an answer")
}

async fn acked(stage: &Stage, crew: &Crew, attempt: Attempt) -> Acked {
    stage.backend.ack(crew, attempt).await.expect("an answer")
}

fn defer(in_ms: u64, reason: &str) -> Defer {
    Defer { in_ms, reason: reason.to_owned(), deliveries: 2, ttl_ms: 60_000 }
}

/// The numbers of what was taken: again, by how often, and new.
fn numbers(taken: &Taken) -> (Vec<(u64, u32)>, Vec<u64>) {
    let again = taken.again.iter().map(|again| (again.id.number, again.deliveries)).collect();
    (again, taken.new.iter().map(|event| event.id.number).collect())
}

/// A scope with so many events, and the epoch of these.
async fn worked(stage: &Stage, events: u8) -> (Crew, u64) {
    let crew = crew("a", "g");
    let mut epoch = 0;
    for number in 0..events {
        epoch = new(stage, &crew.scope, entry(number)).await.epoch;
    }
    (crew, epoch)
}

async fn work_is_taken_once_and_again_when_its_lease_is_over(mut stage: Stage) {
    let (crew, epoch) = worked(&stage, 5).await;
    let first = taken(&stage, &crew, &take("one", 2)).await;
    assert_eq!((numbers(&first), first.due_ms), ((vec![], vec![0, 1]), Some(1000)));
    assert_eq!((first.from, first.to), (None, id(epoch, 1)));
    assert_eq!(first.new[0].before, Before::Nothing);
    stage.elapse(400).await;
    let second = taken(&stage, &crew, &take("two", 10)).await;
    assert_eq!((numbers(&second), second.due_ms), ((vec![], vec![2, 3, 4]), Some(600)));
    assert_eq!((second.from, second.to), (Some(id(epoch, 1)), id(epoch, 4)));
    // Another group has its own.
    let other = taken(&stage, &self::crew("a", "h"), &take("one", 1)).await;
    assert_eq!(numbers(&other).1, [0]);
    stage.elapse(599).await;
    assert_eq!(numbers(&taken(&stage, &crew, &take("two", 10)).await), (vec![], vec![]));
    stage.elapse(1).await;
    let again = taken(&stage, &crew, &take("two", 10)).await;
    assert_eq!(numbers(&again), (vec![(0, 2), (1, 2)], vec![]));
    assert_eq!(again.again[1].nonce, [1; 8]);
    // As many as are asked for, what is due first.
    stage.elapse(400).await;
    new(&stage, &crew.scope, entry(9)).await;
    let some = taken(&stage, &crew, &take("two", 2)).await;
    assert_eq!(numbers(&some), (vec![(2, 2), (3, 2)], vec![]));
    let rest = taken(&stage, &crew, &take("two", 2)).await;
    assert_eq!(numbers(&rest), (vec![(4, 2)], vec![5]));
}

async fn only_the_delivery_under_way_can_be_settled(mut stage: Stage) {
    let (crew, epoch) = worked(&stage, 3).await;
    let (first, second) = (take("one", 3), take("two", 1));
    let zero = attempt(id(epoch, 0), first.token);
    assert_eq!(acked(&stage, &crew, zero).await, Acked::Gone, "there is no group");
    for expected in [Acked::Done, Acked::Before] {
        taken(&stage, &crew, &first).await;
        assert_eq!(acked(&stage, &crew, zero).await, expected);
    }
    let never = attempt(id(epoch, 3), first.token);
    assert_eq!(acked(&stage, &crew, never).await, Acked::Gone, "nobody took it");
    stage.elapse(1000).await;
    taken(&stage, &crew, &second).await;
    // The first holder is too late, in every way.
    let old = attempt(id(epoch, 1), first.token);
    assert_eq!(acked(&stage, &crew, old).await, Acked::Gone);
    let defer = defer(5, "x");
    let deferred = stage.backend.defer(&crew, old, &defer).await.expect("an answer");
    assert_eq!(deferred, Deferred::Gone);
    assert!(!stage.backend.bury(&crew, old, "x", 60_000).await.expect("an answer"));
    let settled = acked(&stage, &crew, attempt(id(epoch, 1), second.token)).await;
    assert_eq!(settled, Acked::Done);
    assert_eq!(acked(&stage, &crew, old).await, Acked::Before, "by another");
    let standing = stage.backend.standing(&crew).await.expect("an answer").expect("it is there");
    assert_eq!((standing.under_way, standing.due, standing.dead), (1, 1, 0));
    assert_eq!((standing.at, standing.last), (id(epoch, 2), id(epoch, 2)));
}

async fn what_failed_is_due_when_it_was_asked_to_be(mut stage: Stage) {
    let (crew, epoch) = worked(&stage, 2).await;
    let (first, second) = (take("one", 2), take("two", 2));
    taken(&stage, &crew, &first).await;
    let (zero, one) = (attempt(id(epoch, 0), first.token), attempt(id(epoch, 1), first.token));
    // One works on, one failed.
    for _ in 0..2 {
        for (attempt, defer) in [(zero, defer(3000, "")), (one, defer(50, "no"))] {
            let done = stage.backend.defer(&crew, attempt, &defer).await.expect("an answer");
            assert_eq!(done, Deferred::Done);
        }
    }
    stage.elapse(49).await;
    let none = taken(&stage, &crew, &take("two", 2)).await;
    assert_eq!((numbers(&none), none.due_ms), ((vec![], vec![]), Some(1)));
    stage.elapse(1).await;
    assert_eq!(numbers(&taken(&stage, &crew, &second).await).0, [(1, 2)]);
    // It fails as often as may be.
    let last = attempt(id(epoch, 1), second.token);
    for why in ["never", "again"] {
        let buried = stage.backend.defer(&crew, last, &defer(50, why)).await.expect("an answer");
        assert_eq!(buried, Deferred::Buried);
    }
    let later = stage.backend.defer(&crew, last, &defer(50, "")).await.expect("an answer");
    assert_eq!(later, Deferred::Gone);
    let letters = stage.backend.letters(&crew, 0, 9).await.expect("an answer");
    assert_eq!((letters.len(), letters[0].reason.as_str()), (1, "never"));
    assert_eq!((letters[0].consumer.as_str(), letters[0].deliveries), ("two", 2));
    assert_eq!(letters[0].at_ms, stage.now_ms());
    stage.elapse(2949).await;
    assert!(numbers(&taken(&stage, &crew, &take("two", 2)).await).0.is_empty());
    stage.elapse(1).await;
    assert_eq!(numbers(&taken(&stage, &crew, &take("two", 2)).await).0, [(0, 2)]);
}

async fn what_was_delivered_too_often_is_a_dead_letter(mut stage: Stage) {
    let (crew, epoch) = worked(&stage, 1).await;
    for _ in 0..2 {
        let taken = taken(&stage, &crew, &take("one", 9)).await;
        assert_eq!(taken.buried, 0);
        stage.elapse(1000).await;
    }
    let buried = taken(&stage, &crew, &take("one", 9)).await;
    assert_eq!((buried.buried, numbers(&buried).0, buried.due_ms), (1, vec![], None));
    let letters = stage.backend.letters(&crew, 0, 9).await.expect("an answer");
    assert_eq!((letters[0].id, letters[0].deliveries), (id(epoch, 0), 2));
    assert_eq!((letters[0].nonce, letters[0].reason.as_str()), ([0; 8], ""));
}

async fn a_dead_letter_lives_again_or_is_forgotten(mut stage: Stage) {
    let (crew, epoch) = worked(&stage, 3).await;
    let first = take("one", 3);
    taken(&stage, &crew, &first).await;
    for number in 0..3 {
        let one = attempt(id(epoch, number), first.token);
        // Whoever asks twice is told that it is one; whoever acks, that it is not done.
        for why in ["why not", "again"] {
            let buried = stage.backend.bury(&crew, one, why, 60_000).await;
            assert!(buried.expect("an answer"));
        }
        assert_eq!(acked(&stage, &crew, one).await, Acked::Gone);
        stage.elapse(1).await;
    }
    let letters = async |stage: &Stage, skip, limit| {
        let letters = stage.backend.letters(&crew, skip, limit).await.expect("an answer");
        letters.iter().map(|letter| letter.id.number).collect::<Vec<_>>()
    };
    assert_eq!(letters(&stage, 0, 9).await, [0, 1, 2]);
    assert_eq!(letters(&stage, 1, 1).await, [1]);
    let revive = async |stage: &Stage, number, again| {
        let revived = stage.backend.revive(&crew, id(epoch, number), again, 60_000).await;
        revived.expect("an answer")
    };
    assert!(revive(&stage, 0, true).await && !revive(&stage, 0, true).await);
    assert!(revive(&stage, 1, false).await && !revive(&stage, 1, false).await);
    assert_eq!(letters(&stage, 0, 9).await, [2]);
    // As for the first time, but whoever had it then is too late, and nobody has it yet.
    for token in [first.token, [1; 8]] {
        let acked = acked(&stage, &crew, attempt(id(epoch, 0), token)).await;
        assert_eq!(acked, Acked::Gone);
    }
    let second = take("two", 9);
    let again = taken(&stage, &crew, &second).await;
    assert_eq!(numbers(&again).0, [(0, 1)]);
    assert_eq!(again.again[0].envelope.as_ref(), b"envelope \0");
    let late = defer(50, "no");
    for number in [0, 1] {
        let late = stage.backend.defer(&crew, attempt(id(epoch, number), first.token), &late).await;
        assert_eq!(late.expect("an answer"), Deferred::Gone);
    }
    for (token, expected) in [(first.token, Acked::Gone), (second.token, Acked::Done)] {
        assert_eq!(acked(&stage, &crew, attempt(id(epoch, 0), token)).await, expected);
    }
}

async fn a_take_whose_answer_was_lost_is_told_the_same_again(mut stage: Stage) {
    let (crew, _) = worked(&stage, 4).await;
    let first = take("one", 2);
    let told = taken(&stage, &crew, &first).await;
    stage.elapse(400).await;
    for number in 4..6 {
        new(&stage, &crew.scope, entry(number)).await;
    }
    // Others go on meanwhile.
    taken(&stage, &crew, &take("two", 1)).await;
    let expected = Taken { left_ms: 600, due_ms: Some(600), ..told.clone() };
    assert_eq!(taken(&stage, &crew, &first).await, expected);
    // Nor does another of its name make it forgotten.
    taken(&stage, &crew, &Take { seat: 7, ..take("one", 0) }).await;
    let namesake = Take { seat: 7, ..take("one", 1) };
    assert_eq!(numbers(&taken(&stage, &crew, &namesake).await), (vec![], vec![3]));
    assert_eq!(taken(&stage, &crew, &first).await, expected);
    // As does the same consumer, with another take.
    assert_eq!(numbers(&taken(&stage, &crew, &take("one", 1)).await), (vec![], vec![4]));
    // It is told what it took last, and that take alone.
    assert_eq!(numbers(&taken(&stage, &crew, &first).await), (vec![], vec![5]));
}

async fn a_take_that_is_repeated_after_its_lease_is_counted(mut stage: Stage) {
    let (crew, _) = worked(&stage, 2).await;
    let first = take("one", 2);
    taken(&stage, &crew, &first).await;
    stage.elapse(999).await;
    let told = taken(&stage, &crew, &first).await;
    assert_eq!((told.left_ms, told.due_ms, told.new.len()), (1, Some(1), 2));
    stage.elapse(1).await;
    for _ in 0..2 {
        let again = taken(&stage, &crew, &first).await;
        assert_eq!((numbers(&again), again.left_ms), ((vec![(0, 2), (1, 2)], vec![]), 1000));
        assert_eq!(again.again[1].envelope.as_ref(), b"envelope \x01");
    }
}

async fn a_take_is_not_told_again_what_is_not_its_own_any_more(stage: Stage) {
    let (crew, epoch) = worked(&stage, 3).await;
    let first = take("one", 2);
    taken(&stage, &crew, &first).await;
    let settled = acked(&stage, &crew, attempt(id(epoch, 1), first.token)).await;
    assert_eq!(settled, Acked::Done);
    assert_eq!(numbers(&taken(&stage, &crew, &first).await), (vec![], vec![2]));
    // A group that was forgotten has told nothing.
    let last = take("two", 9);
    taken(&stage, &crew, &last).await;
    stage.backend.forget(&crew).await.expect("an answer");
    assert_eq!(numbers(&taken(&stage, &crew, &last).await), (vec![], vec![0, 1, 2]));
}

async fn where_a_scope_went_back_is_told_again(stage: Stage) {
    let (crew, epoch) = worked(&stage, 5).await;
    taken(&stage, &crew, &take("one", 9)).await;
    stage.set_back(&crew.scope, id(epoch, 2)).await;
    let back = take("one", 9);
    for _ in 0..2 {
        let back = taken(&stage, &crew, &back).await;
        assert_eq!((back.from, back.to), (Some(id(epoch, 4)), id(epoch, 2)));
    }
}

async fn a_group_begins_where_it_is_asked_to(stage: Stage) {
    let (first, epoch) = worked(&stage, 4).await;
    for (group, begin, expected) in [
        ("start", Some(Id::START), vec![0, 1, 2, 3]),
        ("end", None, vec![]),
        ("between", Some(id(epoch, 1)), vec![2, 3]),
    ] {
        let crew = crew("a", group);
        let first = taken(&stage, &crew, &Take { begin, ..take("one", 9) }).await;
        assert_eq!(numbers(&first).1, expected, "{group}");
        assert_eq!(first.to, id(epoch, 3), "{group}");
        // Where it is counts from then on.
        let next = taken(&stage, &crew, &Take { begin: Some(Id::START), ..take("one", 9) }).await;
        assert!(next.new.is_empty(), "{group}");
    }
    // Before there is a scope.
    let empty = crew("empty", "g");
    let none = taken(&stage, &empty, &Take { begin: None, ..take("one", 9) }).await;
    assert_eq!((none.to, none.from), (Id::START, None));
    new(&stage, &empty.scope, entry(1)).await;
    assert_eq!(numbers(&taken(&stage, &empty, &take("one", 9)).await).1, [0]);
    assert!(stage.backend.standing(&first).await.expect("an answer").is_none());
}

async fn trimming_takes_no_work_away(mut stage: Stage) {
    let (crew, epoch) = worked(&stage, 4).await;
    taken(&stage, &crew, &take("one", 2)).await;
    stage.backend.trim(&crew.scope, id(epoch, 3)).await.expect("an answer");
    stage.elapse(1000).await;
    let rest = taken(&stage, &crew, &take("two", 9)).await;
    assert_eq!(numbers(&rest), (vec![(0, 2), (1, 2)], vec![3]));
    assert_eq!(rest.again[1].envelope.as_ref(), b"envelope \x01");
    assert_eq!(rest.from, Some(id(epoch, 1)), "who compares sees that one is gone");
    stage.lose(&crew.scope, id(epoch, 3)).await;
    stage.elapse(1000).await;
    assert_eq!(numbers(&taken(&stage, &crew, &take("two", 9)).await).0, [(3, 2)]);
}

async fn a_group_that_was_ahead_goes_back_with_its_scope(stage: Stage) {
    let (crew, epoch) = worked(&stage, 5).await;
    taken(&stage, &crew, &take("one", 9)).await;
    stage.set_back(&crew.scope, id(epoch, 2)).await;
    let back = taken(&stage, &crew, &take("one", 9)).await;
    assert_eq!((back.from, back.to), (Some(id(epoch, 4)), id(epoch, 2)));
    new(&stage, &crew.scope, entry(9)).await;
    assert_eq!(numbers(&taken(&stage, &crew, &take("one", 9)).await).1, [3]);
}

async fn a_group_is_kept_while_somebody_works_in_it(mut stage: Stage) {
    let (crew, epoch) = worked(&stage, 2).await;
    let there =
        async |stage: &Stage| stage.backend.standing(&crew).await.expect("an answer").is_some();
    let first = take("one", 1);
    taken(&stage, &crew, &first).await;
    stage.elapse(60_000).await;
    assert!(there(&stage).await);
    let defer = Defer { in_ms: 5, reason: String::new(), deliveries: 9, ttl_ms: 60_000 };
    let one = attempt(id(epoch, 0), first.token);
    stage.backend.defer(&crew, one, &defer).await.expect("an answer");
    stage.elapse(60_000).await;
    assert!(there(&stage).await);
    stage.elapse(1).await;
    assert!(!there(&stage).await);
    // It begins anew where its consumer knows it to be.
    let anew = Take { begin: Some(id(epoch, 0)), ..take("one", 9) };
    assert_eq!(numbers(&taken(&stage, &crew, &anew).await), (vec![], vec![1]));
    for expected in [true, false] {
        assert_eq!(stage.backend.forget(&crew).await.expect("an answer"), expected);
    }
    assert!(!there(&stage).await);
}
