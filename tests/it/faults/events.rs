//! Faults of the server and of the link, with the outcome that events promise.

mod chaos;
mod groups;
mod servers;

use super::{SECOND, background, connect, figures, now};
use crate::topology::config;
use coordinator_core::{ErrorKind, redis::Connection};
use coordinator_events::{Cursor, Events, Item, LiveItem, Lost, Position, Published, Subscription};
use coordinator_harness::{Builder, Proxy, RedisServer, Rule, eventually};
use futures::future::join_all;
use std::time::Duration;

/// Far above what any of this takes.
const SOON: Duration = Duration::from_secs(30);

/// A server, a proxy before it, events through the proxy, and events that nothing disturbs.
struct Scene {
    server: RedisServer,
    proxy: Proxy,
    events: Events,
    truth: Events,
}

async fn scene() -> Scene {
    scene_over(crate::topology::builder()).await
}

async fn scene_over(builder: Builder) -> Scene {
    let server = builder.start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let ours = connect(&proxy.url()).await;
    let prefix = ours.keyspace().prefix().to_owned();
    let theirs = config(&server.url()).with_prefix(&prefix).expect("a prefix");
    let theirs = Connection::connect(theirs).await.expect("a connection");
    Scene { events: Events::redis(&ours), truth: Events::redis(&theirs), server, proxy }
}

async fn open(events: &Events, scope: &str, position: Position) -> Subscription<u32> {
    events.subscribe(scope).from(position).open().await.expect("it opens")
}

async fn publish(events: &Events, scope: &str, number: u32) -> Cursor {
    let published = events.publish(scope, "n", &number).await.expect("published");
    published.cursor().expect("not fenced")
}

async fn item(subscription: &mut Subscription<u32>) -> Item<u32> {
    let next = tokio::time::timeout(SOON, subscription.next()).await;
    next.expect("an item in time").expect("it goes on")
}

async fn number(subscription: &mut Subscription<u32>) -> u32 {
    match item(subscription).await {
        Item::Event(event) => event.data,
        other => panic!("{other:?}"),
    }
}

/// What is published right after a subscription is open comes at once, not with the next look.
async fn at_once(events: &Events, truth: &Events, server: &RedisServer, rounds: u32) {
    for round in 0..rounds {
        let scope = format!("{rounds}:{round}");
        if round % 10 == 0 {
            let pause = ["CLIENT", "PAUSE", "30", "ALL"];
            server.command(&pause).await.expect("an answer").ok().expect("paused");
        }
        let mut subscription = open(events, &scope, Position::Now).await;
        publish(truth, &scope, round).await;
        let before = now();
        assert_eq!(number(&mut subscription).await, round);
        assert!(before.elapsed() < SECOND * 3 / 2, "it came with a look: {:?}", before.elapsed());
    }
}

#[tokio::test]
async fn what_is_published_right_after_a_subscription_arrives() {
    let Scene { server, events, truth, proxy } = scene().await;
    at_once(&events, &truth, &server, 1000).await;
    // However long the server takes to listen.
    let listens = |args: &[bytes::Bytes]| {
        args[0].eq_ignore_ascii_case(b"SSUBSCRIBE") || args[0].eq_ignore_ascii_case(b"SUBSCRIBE")
    };
    let late = proxy.rule(Rule::matching(listens).on_request().delay(SECOND / 10));
    at_once(&events, &truth, &server, 10).await;
    assert!(late.hits() >= 10);
}

#[tokio::test]
async fn on_a_server_without_sharded_channels_too() {
    let builder = crate::topology::builder().without_sharded_channels();
    let Scene { server, events, truth, proxy } = scene_over(builder).await;
    at_once(&events, &truth, &server, 1000).await;
    let late = proxy.rule(Rule::command("SUBSCRIBE").on_request().delay(SECOND / 10));
    at_once(&events, &truth, &server, 10).await;
    assert!(late.hits() >= 10);
}

#[tokio::test]
async fn in_a_cluster_too() {
    let all = crate::topology::cluster(3, 0).await;
    let connection = connect(&all.url()).await;
    let prefix = connection.keyspace().prefix().to_owned();
    let theirs = config(&all.url()).with_prefix(&prefix).expect("a prefix");
    let theirs = Connection::connect(theirs).await.expect("a connection");
    let (events, truth) = (Events::redis(&connection), Events::redis(&theirs));
    at_once(&events, &truth, &all.masters()[0], 1000).await;
}

#[tokio::test]
async fn messages_that_never_come_are_found_by_the_next_one_or_the_next_look() {
    let Scene { proxy, events, truth, server: _server } = scene().await;
    let mut subscription = open(&events, "s", Position::Now).await;
    proxy.drop_messages(true);
    for number in 0..10 {
        publish(&truth, "s", number).await;
    }
    // Nobody tells of them.
    let before = now();
    for expected in 0..10 {
        assert_eq!(number(&mut subscription).await, expected);
    }
    assert!(before.elapsed() < SECOND * 4, "{:?}", before.elapsed());
    for number in 10..20 {
        publish(&truth, "s", number).await;
    }
    proxy.drop_messages(false);
    publish(&truth, "s", 20).await;
    for expected in 10..=20 {
        assert_eq!(number(&mut subscription).await, expected);
    }
}

#[tokio::test]
async fn links_that_are_killed_lose_nothing() {
    let Scene { server, proxy, events, truth } = scene().await;
    let mut subscription = open(&events, "s", Position::Now).await;
    let publisher = background(async move {
        for number in 0..5000 {
            publish(&truth, "s", number).await;
        }
    });
    let mut slowest = Duration::ZERO;
    for expected in 0..5000 {
        if expected % 400 == 399 {
            if expected % 800 == 799 {
                proxy.cut_all();
            } else {
                server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.expect("an answer");
            }
        }
        let before = now();
        assert_eq!(number(&mut subscription).await, expected);
        slowest = slowest.max(before.elapsed());
    }
    publisher.await.expect("no panic");
    figures(&format!("slowest repair {slowest:?}"));
}

#[tokio::test]
async fn a_black_hole_is_found_by_its_silence() {
    let Scene { proxy, events, truth, server: _server } = scene().await;
    let mut subscription = open(&events, "s", Position::Now).await;
    publish(&truth, "s", 0).await;
    assert_eq!(number(&mut subscription).await, 0);
    proxy.black_hole(true);
    for number in 1..100 {
        publish(&truth, "s", number).await;
    }
    proxy.black_hole(false);
    // The links that lost anything stay silent: they have to be found and made anew.
    let before = now();
    for expected in 1..100 {
        assert_eq!(number(&mut subscription).await, expected);
    }
    let took = before.elapsed();
    figures(&format!("a black hole was found after {took:?}"));
    // Two looks.
    assert!(took < SECOND * 4, "{took:?}");
    publish(&truth, "s", 100).await;
    assert_eq!(number(&mut subscription).await, 100);
}

/// Reads so many events, or is told of them; how many it was told of.
async fn told_of(subscription: &mut Subscription<u32>, all: u64) -> u64 {
    let (mut cursor, mut seen, mut lost) = (None, 0, 0);
    while seen + lost < all {
        match item(subscription).await {
            Item::Event(event) => {
                assert!(cursor < Some(event.cursor()), "twice, or out of order");
                cursor = Some(event.cursor());
                seen += 1;
            }
            Item::Gap(gap) => {
                assert!(matches!(gap.lost, Lost::Exactly(_)), "{gap:?}");
                lost += gap.lost.count();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen + lost, all);
    lost
}

#[tokio::test]
async fn a_burst_with_default_settings_is_delivered_or_counted() {
    let Scene { events, truth, proxy: _proxy, server: _server } = scene().await;
    let all: u32 = if std::env::var_os("COORDINATOR_LONG").is_some() { 100_000 } else { 20_000 };
    publish(&truth, "s", 0).await;
    // A reader that reads, and one that only begins when all is over.
    let mut quick = open(&events, "s", Position::Now).await;
    let mut late = open(&events, "s", Position::Now).await;
    let publisher = background(async move {
        for chunk in 0..all / 200 {
            join_all((0..200).map(|number| publish(&truth, "s", chunk * 200 + number))).await;
        }
    });
    let lost = told_of(&mut quick, all.into()).await;
    publisher.await.expect("no panic");
    let late_lost = told_of(&mut late, all.into()).await;
    figures(&format!("of {all}, {lost} told to a reader, {late_lost} to a late one"));
    assert!(late_lost > u64::from(all) - 11_000, "what was not kept cannot have come");
    assert_eq!(late.cursor(), quick.cursor());
}

#[tokio::test]
async fn a_live_topic_counts_what_a_cut_link_lost() {
    let Scene { proxy, events, truth, server: _server } = scene().await;
    let topic = truth.live("t").expect("a topic");
    let live = events.live("t").expect("a topic");
    let mut subscription = live.subscribe::<u64>().await.expect("it listens");
    let (mut heard, mut lost, mut announced) = (0, 0, 0_u64);
    for round in 0..4 {
        for _ in 0..50 {
            topic.publish("n", &announced).await.expect("announced");
            announced += 1;
        }
        match round {
            0 => proxy.drop_messages(true),
            1 => proxy.drop_messages(false),
            2 => proxy.cut_all(),
            _ => {}
        }
    }
    while heard + lost < announced {
        match tokio::time::timeout(SOON, subscription.next()).await.expect("in time") {
            LiveItem::Event(_) => heard += 1,
            LiveItem::Lost(Lost::Exactly(count)) => lost += count,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard + lost, announced);
    assert!((50..announced).contains(&lost), "{lost} of {announced}");
}

#[tokio::test]
async fn a_channel_that_access_rules_forbid_is_an_error() {
    let builder = RedisServer::builder().config("user", "deaf on >pw ~* resetchannels +@all");
    let server = builder.start().await.expect("a server");
    let credentials = coordinator_core::config::Credentials::fixed(Some("deaf"), "pw");
    let config = config(&server.url()).with_credentials(credentials);
    let connection = Connection::connect(config).await.expect("a connection");
    let events = Events::redis(&connection);
    let refused = events.subscribe("s").open::<u32>().await.expect_err("it is forbidden");
    assert_eq!(refused.kind(), ErrorKind::Rejected);
    let topic = events.live("t").expect("a topic");
    let refused = topic.subscribe::<u32>().await.expect_err("it is forbidden");
    assert_eq!(refused.kind(), ErrorKind::Rejected);
    // What it may do, it does: whoever may listen reads it.
    publish(&events, "s", 1).await;
    assert_eq!(events.position("s").await.expect("an answer").number(), 0);
}

#[tokio::test]
async fn ten_thousand_readers_are_one_subscription_and_resume_with_few_commands() {
    let Scene { server, events, truth, proxy: _proxy } = scene().await;
    let mut cursor = publish(&truth, "s", 0).await;
    let mut readers = Vec::new();
    for _ in 0..10_000 {
        readers.push(open(&events, "s", Position::Now).await);
    }
    let channels = server.channels().await.expect("an answer");
    assert_eq!(channels.len(), 1, "{channels:?}");
    for number in 1..=20 {
        cursor = publish(&truth, "s", number).await;
    }
    for reader in &mut readers {
        for expected in 1..=20 {
            assert_eq!(number(reader).await, expected);
        }
    }
    // All of them come again at once: as newcomers, and with the place that they had come to.
    for position in [Position::Now, Position::After(cursor)] {
        let scripts = server.calls_of("evalsha").await;
        let mut again = join_all((0..10_000).map(|_| open(&events, "s", position))).await;
        if position == Position::Now {
            publish(&truth, "s", 21).await;
        }
        for reader in &mut again {
            assert_eq!(number(reader).await, 21);
        }
        let asked = server.calls_of("evalsha").await - scripts;
        assert!(asked < 100, "{asked} commands");
    }
}

#[tokio::test]
async fn ten_thousand_listeners_of_a_topic_are_one_subscription_and_one_look() {
    let Scene { server, events, truth, proxy: _proxy } = scene().await;
    let (topic, says) = (events.live("t").expect("a topic"), truth.live("t").expect("a topic"));
    let scripts = server.calls_of("evalsha").await;
    let opened = join_all((0..10_000).map(|_| topic.subscribe::<u32>())).await;
    let mut all: Vec<_> = opened.into_iter().map(|opened| opened.expect("it listens")).collect();
    let channels = server.channels().await.expect("an answer");
    assert_eq!(channels.len(), 1, "{channels:?}");
    for number in 0..20 {
        says.publish("n", &number).await.expect("announced");
    }
    for listener in &mut all {
        for expected in 0..20 {
            match tokio::time::timeout(SOON, listener.next()).await.expect("in time") {
                LiveItem::Event(event) => assert_eq!(event.data, expected),
                other => panic!("{other:?}"),
            }
        }
    }
    let asked = server.calls_of("evalsha").await - scripts;
    assert!(asked < 100, "{asked} commands");
}

#[tokio::test]
async fn a_lost_answer_is_found_by_the_key() {
    let Scene { proxy, events, truth, server: _server } = scene().await;
    publish(&events, "s", 0).await;
    proxy.rule(Rule::script(groups::hash("events.publish")).nth(1).on_reply().drop_frame());
    let lost = events.publish("s", "n", &1).idempotent("k").await;
    assert_eq!(lost.expect_err("no answer").kind(), ErrorKind::Indeterminate);
    let mut again = None;
    eventually(SOON, "it is asked again", async || {
        again = events.publish("s", "n", &1).idempotent("k").await.ok();
        again.is_some()
    })
    .await;
    assert!(matches!(again, Some(Published::Duplicate(_))), "{again:?}");
    assert_eq!(truth.position("s").await.expect("an answer").number(), 1);
}
