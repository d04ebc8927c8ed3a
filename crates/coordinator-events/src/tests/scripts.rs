//! What the scripts do on servers of all kinds, and with what others left there.

use super::{
    entry, name,
    stage::{Stage, run},
    take,
};
use crate::{
    backend::{Backend as _, Entry, From, PAGE_BYTES, Posted},
    redis::SCRIPTS,
};
use coordinator_core::ErrorKind;
use coordinator_harness::RedisServer;

#[tokio::test]
async fn every_script_compiles() {
    let server = RedisServer::start().await.expect("a server");
    for script in SCRIPTS {
        let hash = server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("an answer");
        assert_eq!(hash.as_str(), Some(script.hash()), "{}", script.name());
    }
}

#[tokio::test]
async fn a_stream_of_a_wrong_type_is_corrupt_and_stays_as_it_is() {
    let stage = Stage::redis().await;
    let scope = name("a");
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let key = redis.stream(&scope);
    server.command(&["SET", &key, "x", "EX", "100"]).await.expect("an answer");
    for entry in [entry(1), Entry { epoch: 5, ..entry(1) }, Entry { check: true, ..entry(1) }] {
        let error = redis.publish(&scope, &entry).await.expect_err("it is no stream");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    let error = redis.read(&scope, From::First, 1).await.expect_err("it is no stream");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let left = server.command(&["GET", &key]).await.expect("an answer");
    assert_eq!(left.as_str(), Some("x"));
}

#[tokio::test]
async fn with_memory_full_nothing_is_published_and_all_can_be_read() {
    let stage = Stage::redis().await;
    let scope = name("a");
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let Posted::New(first) = redis.publish(&scope, &entry(1)).await.expect("published") else {
        panic!("it is not new")
    };
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await.expect("an answer");
    for epoch in [0, first.epoch] {
        let once = Some((name("k"), 1000));
        let entry = Entry { epoch, once, ..entry(2) };
        let error = redis.publish(&scope, &entry).await.expect_err("memory is full");
        assert_eq!(error.kind(), ErrorKind::Rejected);
    }
    let page = redis.read(&scope, From::First, 9).await.expect("an answer").expect("a page");
    assert_eq!((page.events.len(), page.last), (1, first));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await.expect("an answer");
}

#[tokio::test]
async fn a_server_that_was_started_anew_begins_an_epoch() {
    use coordinator_core::{Config, redis::Connection};
    let server = RedisServer::builder().with_aof("always").start().await.expect("a server");
    let scope = name("a");
    let checked = || Entry { check: true, ..entry(1) };
    let publish = async || {
        let config = Config::from_url(&server.url()).expect("a URL");
        let connection = Connection::connect(config).await.expect("a connection");
        match crate::redis::Redis::new(&connection).publish(&scope, &checked()).await {
            Ok(Posted::New(id)) => id,
            other => panic!("{other:?}"),
        }
    };
    let first = publish().await;
    assert_eq!(publish().await, first.next(), "another process, the same server");
    server.kill().await;
    server.start_again().await.expect("started");
    let anew = publish().await;
    assert!(anew.epoch > first.epoch && anew.number == 0, "{anew}");
}

#[tokio::test]
async fn whoever_may_not_ask_whose_reign_it_is_begins_an_epoch_and_is_fenced_to_it_alone() {
    use coordinator_core::{Config, config::Credentials, redis::Connection};
    let user = "blind on >pw ~* &* +@all -info";
    let server = RedisServer::builder().config("user", user).start().await.expect("a server");
    let config = Config::from_url(&server.url()).expect("a URL");
    let config = config.with_credentials(Credentials::fixed(Some("blind"), "pw"));
    let connection = Connection::connect(config).await.expect("a connection");
    let (redis, scope) = (crate::redis::Redis::new(&connection), name("a"));
    let publish = async |entry: Entry| redis.publish(&scope, &entry).await.expect("an answer");
    let checked = || Entry { check: true, ..entry(1) };
    let Posted::New(first) = publish(checked()).await else { panic!("it is not new") };
    let strict = Entry { strict: true, epoch: first.epoch, ..checked() };
    assert_eq!(publish(strict).await, Posted::New(first.next()));
    let Posted::New(anew) = publish(checked()).await else { panic!("it is not new") };
    assert!(anew.epoch > first.epoch && anew.number == 0, "{anew}");
    let page = redis.read(&scope, From::Last, 1).await.expect("an answer").expect("a page");
    assert_eq!(page.events[0].before, crate::backend::Before::Last(first.next()));
}

#[tokio::test]
async fn what_others_wrote_into_a_stream_stands_in_nobodys_way() {
    let stage = Stage::redis().await;
    let crew = super::crew("a", "g");
    let scope = &crew.scope;
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let Posted::New(first) = redis.publish(scope, &entry(1)).await.expect("published") else {
        panic!("it is not new")
    };
    let key = redis.stream(scope);
    for (number, fields) in [(1, ["x", "y"]), (2, ["e", "short"]), (3, ["p", "no id"])] {
        let id = format!("{}-{number}", first.epoch);
        run(server, &["XADD", &key, &id, fields[0], fields[1]]).await;
    }
    redis.publish(scope, &entry(2)).await.expect("published");
    let page = redis.read(scope, From::First, 9).await.expect("an answer").expect("a page");
    let numbers: Vec<u64> = page.events.iter().map(|event| event.id.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert_eq!(page.events[4].envelope.as_ref(), b"envelope \x02");
    let taken = redis.take(&crew, &take("one", 9)).await.expect("an answer");
    assert_eq!(taken.new.len(), 5);
}

#[tokio::test]
async fn work_that_broke_at_rest_stands_in_nobodys_way() {
    let mut stage = Stage::redis().await;
    let crew = super::crew("a", "g");
    for number in 0..3 {
        stage.backend.publish(&crew.scope, &entry(number)).await.expect("published");
    }
    let taken = stage.backend.take(&crew, &take("one", 9)).await.expect("an answer").new;
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let work = redis.stream(&crew.scope).replace(":ev:", ":work:") + ":g";
    run(server, &["HSET", &work, &taken[0].id.to_string(), "\u{1}\u{0}\u{0}\u{0}no end"]).await;
    run(server, &["HSET", &work, &taken[1].id.to_string(), ""]).await;
    stage.elapse(1000).await;
    let taken = take("two", 9);
    let again = stage.backend.take(&crew, &taken).await.expect("an answer").again;
    let numbers: Vec<u64> = again.iter().map(|again| again.id.number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(again[2].envelope.as_ref(), b"envelope \x02");
    for again in again {
        let one = super::attempt(again.id, taken.token);
        assert!(stage.backend.bury(&crew, one, "broken", 60_000).await.expect("an answer"));
    }
    assert_eq!(stage.backend.letters(&crew, 0, 9).await.expect("an answer").len(), 3);
}

#[tokio::test]
async fn what_a_consumer_was_told_is_kept_for_its_lease_and_stands_in_nobodys_way() {
    let stage = Stage::redis().await;
    let crew = super::crew("a", "g");
    stage.backend.publish(&crew.scope, &entry(1)).await.expect("published");
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let told = redis.stream(&crew.scope).replace(":ev:", ":told:")
        + ":g:"
        + &format!("{:016x}", super::seat("one"));
    let there = async || server.command(&["PTTL", &told]).await.expect("an answer").as_int();
    redis.take(&crew, &take("two", 0)).await.expect("an answer");
    let first = take("one", 9);
    assert_eq!(redis.take(&crew, &first).await.expect("an answer").new.len(), 1);
    assert_eq!(there().await, Some(1000));
    // A look that finds nothing is nothing to keep, nor for longer.
    for consumer in ["one", "three"] {
        redis.take(&crew, &take(consumer, 9)).await.expect("an answer");
    }
    assert_eq!(there().await, Some(1000));
    let other = told.replace(
        &format!("{:016x}", super::seat("one")),
        &format!("{:016x}", super::seat("three")),
    );
    assert_eq!(server.command(&["EXISTS", &other]).await.expect("an answer").as_int(), Some(0));
    run(server, &["SET", &told, "broken"]).await;
    assert!(redis.take(&crew, &first).await.expect("an answer").new.is_empty());
}

#[tokio::test]
async fn a_page_of_long_events_ends_early() {
    let stage = Stage::redis().await;
    let scope = name("a");
    let (redis, _server) = stage.redis.as_ref().expect("redis");
    for _ in 0..40 {
        let frame = vec![7; 100 * 1024].into();
        redis.publish(&scope, &Entry { frame, ..entry(0) }).await.expect("published");
    }
    let (mut from, mut seen) = (From::First, 0);
    while seen < 40 {
        let page = redis.read(&scope, from, 256).await.expect("an answer").expect("a page");
        assert!((1..=10).contains(&page.events.len()), "{}", page.events.len());
        let end = page.events.last().expect("an event").id;
        seen += page.events.len();
        assert_eq!(page.is_cut(crate::cursor::Id::START), seen < 40);
        from = From::At(end.next());
    }
    assert_eq!(seen, 40);
}

#[tokio::test]
async fn long_events_are_taken_a_few_at_a_time() {
    let mut stage = Stage::redis().await;
    let crew = super::crew("a", "g");
    for _ in 0..40 {
        let frame = vec![7; 100 * 1024].into();
        stage.backend.publish(&crew.scope, &Entry { frame, ..entry(0) }).await.expect("published");
    }
    let mut new = Vec::new();
    while new.len() < 40 {
        let taken = stage.backend.take(&crew, &take("one", 40)).await.expect("an answer").new;
        assert!((1..=10).contains(&taken.len()), "{}", taken.len());
        new.extend(taken.iter().map(|event| event.id.number));
    }
    assert!(new.into_iter().eq(0..40));
    stage.elapse(1000).await;
    let mut again = Vec::new();
    while again.len() < 40 {
        let taken = stage.backend.take(&crew, &take("two", 40)).await.expect("an answer");
        assert_eq!((taken.again.len(), taken.new.len()), (3.min(40 - again.len()), 0));
        let due = (again.len() + 3 < 40).then_some(0);
        assert_eq!(taken.due_ms, due.or(Some(1000)));
        again.extend(taken.again.iter().map(|event| event.id.number));
    }
    again.sort_unstable();
    assert!(again.into_iter().eq(0..40));
}

#[tokio::test]
async fn a_page_of_long_events_holds_two() {
    let stage = Stage::redis().await;
    let scope = name("a");
    let (redis, _server) = stage.redis.as_ref().expect("redis");
    for length in [PAGE_BYTES, PAGE_BYTES, PAGE_BYTES, 10] {
        let frame = vec![b'x'; length].into();
        redis.publish(&scope, &Entry { frame, ..entry(1) }).await.expect("published");
    }
    let mut from = From::First;
    for count in [2, 2] {
        let page = redis.read(&scope, from, 9).await.expect("an answer").expect("a page");
        assert_eq!(page.events.len(), count);
        from = From::At(page.events[count - 1].id.next());
    }
    // Nor does it help that others before them are short.
    let scope = name("b");
    for length in [[10; 30], [PAGE_BYTES; 30]].concat() {
        let frame = vec![b'x'; length].into();
        redis.publish(&scope, &Entry { frame, ..entry(1) }).await.expect("published");
    }
    let page = redis.read(&scope, From::First, 256).await.expect("an answer").expect("a page");
    assert!((31..=38).contains(&page.events.len()), "{}", page.events.len());
}

#[tokio::test]
async fn a_stream_lives_for_as_long_as_promised_though_its_server_or_its_epoch_is_another() {
    let stage = Stage::redis().await;
    let scope = name("a");
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let of = |ttl_ms, prolongs| Entry { ttl_ms, prolongs, ..entry(1) };
    let lives_ms = async |entry: Entry| {
        let Posted::New(id) = redis.publish(&scope, &entry).await.expect("an answer") else {
            panic!("it is not new")
        };
        let left = server.command(&["PTTL", &redis.stream(&scope)]).await.expect("an answer");
        (id.epoch, left.as_int().expect("a number"))
    };
    let (epoch, left) = lives_ms(Entry { check: true, ..of(1000, false) }).await;
    assert_eq!(left, 1000);
    assert_eq!(lives_ms(Entry { epoch, ..of(2000, false) }).await, (epoch, 1000));
    // A link that was made anew.
    let elsewhere = Entry { epoch, generation: Some(u64::MAX), ..of(3000, false) };
    assert_eq!(lives_ms(elsewhere).await, (epoch, 3000));
    // Nor does whoever waits for replicas shorten it.
    let waits = Entry { replicas: Some((0, 100)), ..of(1000, true) };
    assert_eq!(lives_ms(Entry { epoch, ..waits }).await, (epoch, 3000));
    let waits = Entry { replicas: Some((0, 100)), ..of(3500, false) };
    assert_eq!(lives_ms(Entry { epoch, ..waits }).await, (epoch, 3500));
    // Deleted, and begun by another publisher.
    run(server, &["DEL", &redis.stream(&scope)]).await;
    let (anew, left) = lives_ms(Entry { epoch, ..of(4000, false) }).await;
    assert!(anew > epoch && left == 4000, "{anew} {left}");
    assert_eq!(lives_ms(Entry { epoch, ..of(5000, false) }).await, (anew, 5000));
}

#[tokio::test]
async fn nearly_every_event_is_appended_and_told_and_nothing_else() {
    let server = RedisServer::start().await.expect("a server");
    let config = coordinator_core::Config::from_url(&server.url()).expect("a URL");
    let connection = coordinator_core::redis::Connection::connect(config).await.expect("a link");
    let events = crate::Events::redis(&connection);
    for number in 0..100 {
        let _ = events.publish("a", "step", &number).await.expect("published");
    }
    for (command, count) in [("xadd", 100), ("spublish", 100), ("pexpire", 1), ("pttl", 2)] {
        assert_eq!(server.calls_of(command).await, count, "{command}");
    }
}

#[tokio::test]
async fn of_very_long_events_two_are_taken_and_what_has_no_body_holds_nobody_up() {
    let stage = Stage::redis().await;
    let crew = super::crew("a", "g");
    let (redis, server) = stage.redis.as_ref().expect("redis");
    for _ in 0..6 {
        let frame = vec![7; PAGE_BYTES].into();
        redis.publish(&crew.scope, &Entry { frame, ..entry(0) }).await.expect("published");
    }
    let taken = async |most| redis.take(&crew, &take("one", most)).await.expect("an answer").new;
    assert_eq!(taken(40).await.len(), 2);
    let keys = server.command(&["KEYS", "*:due:*"]).await.expect("an answer");
    let key = keys.as_array().and_then(|keys| keys.first()?.as_str()).expect("a key").to_owned();
    server.command(&["ZADD", &key, "0", "5-5"]).await.expect("an answer").ok().expect("added");
    assert_eq!(taken(1).await.len(), 1);
    let left = server.command(&["ZCARD", &key]).await.expect("an answer");
    assert_eq!(left.as_int(), Some(3));
}
