//! What stands above the port: encodings, retries, turns, pages.

use super::stage::Stage;
use crate::{
    Documents, Put,
    documents::{
        Updated,
        backend::{Condition, Token, Write},
    },
};
use coordinator_core::{
    ErrorKind,
    codec::{Codec, PAYLOAD_MAX_BYTES, encode},
    key::Name,
};
use futures::FutureExt as _;
use std::collections::BTreeSet;

fn documents() -> (Stage, Documents) {
    let stage = Stage::embedded();
    let documents = Documents::over(stage.backend.clone());
    (stage, documents)
}

/// Writes bytes as they are, past the encoding.
async fn plant(stage: &Stage, data: &[u8]) {
    let token = Token { id: Name::new("planted").expect("a name"), ttl_ms: 1 };
    let write = Write {
        condition: Condition::Any,
        ttl_ms: 60_000,
        keep_ttl: false,
        history: 0,
        data: data.into(),
        token,
    };
    stage.stored(&super::place("a"), &write).await.expect("stored");
}

/// What memory answers, which it does at once.
fn at_once(request: crate::documents::PutRequest<'_>) -> Put {
    let answer = request.into_future().now_or_never().expect("memory answers at once");
    answer.expect("an answer")
}

#[tokio::test]
async fn a_flipped_byte_is_corrupt_and_stays_as_it_is() {
    let stored = encode(Codec::MessagePack, &7_u32).expect("bytes");
    for at in 0..stored.len() {
        let (stage, documents) = documents();
        let plans = documents.namespace("plans").expect("a namespace");
        let mut flipped = stored.clone();
        flipped[at] ^= 0x10;
        plant(&stage, &flipped).await;
        let error = plans.get::<u32>("a").await.expect_err("a flipped byte");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}");
        let update = plans.update("a", |_: &mut u32| panic!("it was not read")).await;
        assert_eq!(update.expect_err("a flipped byte").kind(), ErrorKind::Corrupt);
        let revise = plans.revise("a", |_: Option<u32>| panic!("it was not read")).await;
        assert_eq!(revise.expect_err("a flipped byte").kind(), ErrorKind::Corrupt);
        let found = stage.get(&super::place("a")).await.expect("an answer").expect("it is there");
        assert_eq!(found.data, flipped, "it was overwritten");
        // Another shape is as bad as another byte; to write over it takes a put.
        assert!(plans.put("a", "text").await.expect("stored").is_stored());
        let error = plans.get::<u32>("a").await.expect_err("it is a text");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn a_value_that_is_too_long_is_refused_before_it_is_sent() {
    let (_stage, documents) = documents();
    let plans = documents.namespace("plans").expect("a namespace");
    let long = "x".repeat(PAYLOAD_MAX_BYTES);
    let error = plans.put("a", &long).await.expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.chain().contains("longer than"), "{}", error.chain());
    assert_eq!(plans.count().await.expect("an answer"), 0);
}

#[tokio::test]
async fn an_update_runs_again_on_what_another_wrote_and_ends() {
    let (_stage, documents) = documents();
    let plans = documents.namespace("plans").expect("a namespace");
    plans.put("a", &1).await.expect("stored").stored();
    let mut others = 2;
    let peer = plans.clone();
    let race = |value: &mut i32| {
        if others > 0 {
            others -= 1;
            let written = at_once(peer.put("a", &(*value * 10)));
            assert!(written.is_stored());
        }
        *value += 1;
    };
    let updated = plans.update("a", race).await.expect("an answer");
    assert_eq!(updated.stored(), Some(101));
    // Others that are always faster: the attempts run out, and that is told.
    let plans = plans.with_attempts(3);
    let mut runs = 0;
    let always = |_: &mut i32| {
        runs += 1;
        let written = at_once(peer.put("a", &runs));
        written.stored().expect("a version");
    };
    let updated = plans.update("a", always).await.expect("an answer");
    let found = plans.get::<i32>("a").await.expect("an answer").expect("it is there");
    assert_eq!(updated, Updated::Conflict { current: Some(found.version) });
    assert_eq!((runs, found.value), (3, 3), "nothing of it was written");
}

#[tokio::test]
async fn one_that_stalls_in_its_turn_does_not_stop_the_others() {
    use coordinator_core::clock::{Clock as _, ManualClock};
    use std::{sync::Arc, time::Duration};
    let clock = ManualClock::new();
    let documents = Documents::embedded_with_clock(Arc::new(clock.clone()));
    let turns = &documents.inner.turns;
    let a = super::place("a");
    let mine = turns.take(&a, &clock).await;
    assert!(mine.is_some());
    let mut other = std::pin::pin!(turns.take(&a, &clock));
    assert!(futures::poll!(other.as_mut()).is_pending(), "it waits for its turn");
    clock.advance(Duration::from_millis(101));
    let other = futures::poll!(other.as_mut());
    assert!(matches!(other, std::task::Poll::Ready(None)), "and goes ahead without");
    assert!(clock.now().since_start() >= Duration::from_millis(101));
    drop(mine);
    assert!(turns.take(&a, &clock).await.is_some());
}

#[tokio::test]
async fn pages_cover_everything_once_whatever_their_size() {
    let (_stage, documents) = documents();
    let plans = documents.namespace("plans").expect("a namespace");
    let mut all = BTreeSet::new();
    for number in 0..300 {
        let name = format!("{}:{number}", ["u", "{v}*"][number % 2]);
        assert!(plans.put(&name, &number).await.expect("stored").is_stored());
        all.insert(name);
    }
    for (limit, prefix) in [(1, ""), (7, ""), (100, ""), (1000, ""), (7, "u:"), (9, "{v}*:2")] {
        let expected = all.iter().filter(|name| name.starts_with(prefix));
        let (mut found, mut pages, mut next) = (BTreeSet::new(), 0, None::<String>);
        loop {
            let mut request = plans.list().with_limit(limit).with_prefix(prefix);
            if let Some(cursor) = next {
                request = request.after(cursor);
            }
            let page = request.await.expect("a page");
            assert!(page.entries.len() == limit || page.next.is_none(), "a short page");
            pages += 1;
            for entry in page.entries {
                assert!(found.insert(entry.name.clone()), "{} twice", entry.name);
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        assert!(found.iter().eq(expected), "limit {limit}, prefix {prefix:?}");
        assert!(pages <= found.len() / limit + 1, "{pages} pages");
    }
    let stats = plans.stats().await.expect("an answer");
    assert_eq!((stats.documents, plans.count().await.expect("an answer")), (300, 300));
    assert!(stats.bytes >= 300 * 6, "{stats:?}");
}

#[tokio::test]
async fn bad_calls_are_misuse_and_say_why() {
    use std::time::Duration;
    let (_stage, documents) = documents();
    assert_eq!(documents.namespace("").expect_err("empty").kind(), ErrorKind::Misuse);
    let plans = documents.namespace("plans").expect("a namespace");
    let long = "x".repeat(513);
    let zero = Duration::ZERO;
    let errors = [
        plans.put("", &1).await.err(),
        plans.put(&long, &1).await.err(),
        plans.put("a", &1).if_version(0).await.err(),
        plans.put("a", &1).with_ttl(zero).await.err(),
        plans.put("a", &1).with_ttl(Duration::MAX).await.err(),
        plans.put("a", &1).with_id("").await.err(),
        plans.clone().with_history(1001).put("a", &1).await.err(),
        plans.get::<u8>(&long).await.err(),
        plans.extend("a", zero).await.err(),
        plans.delete("").await.err(),
        plans.history::<u8>("", 0).await.err(),
        plans.list().with_limit(0).await.err(),
        plans.list().with_limit(1001).await.err(),
        plans.list().with_prefix(&long).await.err(),
        plans.list().after("x").await.err(),
        plans.list().after("64.").await.err(),
        plans.list().after("1.%zz").await.err(),
        plans.clone().with_attempts(0).update("a", |_: &mut u8| ()).await.err(),
    ];
    for (number, error) in errors.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("call {number} is accepted"));
        assert_eq!(error.kind(), ErrorKind::Misuse, "{number}: {}", error.chain());
    }
    assert_eq!(plans.count().await.expect("an answer"), 0);
    let put = plans.put("a", &1).if_version(u64::MAX).await.expect("an answer");
    assert_eq!(put, Put::Conflict { current: None });
}
