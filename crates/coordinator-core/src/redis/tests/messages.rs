//! Fence 2 and what is built on links that listen: messages, invalidations, blocking reads.

use super::{connect, start};
use crate::{
    ErrorKind,
    redis::{Connection, Invalidation, Message, Subscription},
};
use coordinator_harness::{Proxy, RedisServer, eventually};
use std::time::Duration;

/// What to put behind a URL to speak either version of the protocol.
const PROTOCOLS: [&str; 2] = ["", "?protocol=resp2"];

async fn next(subscription: &mut Subscription) -> Message {
    tokio::time::timeout(Duration::from_secs(5), subscription.next()).await.expect("a message")
}

/// A server without sharded pub/sub, as before 7.0.
async fn classic() -> RedisServer {
    RedisServer::builder().without_sharded_channels().start().await.expect("a server")
}

async fn publish(server: &RedisServer, channel: &str, payload: &str) {
    let sent = server.command(&["SPUBLISH", channel, payload]).await;
    if sent.expect("an answer").ok().is_err() {
        let sent = server.command(&["PUBLISH", channel, payload]).await;
        sent.expect("an answer").ok().expect("a publish");
    }
}

async fn what_is_published_after_subscribing_arrives(server: RedisServer) {
    for protocol in PROTOCOLS {
        let connection = connect(&(server.url() + protocol)).await;
        for n in 0..100 {
            let channel = format!("c{n}");
            let mut subscription = connection.subscribe(&channel).await.expect("a subscription");
            publish(&server, &channel, "message").await;
            assert_eq!(next(&mut subscription).await, Message::Payload("message".into()));
        }
    }
}

#[tokio::test]
async fn a_confirmed_subscription_misses_nothing() {
    what_is_published_after_subscribing_arrives(RedisServer::start().await.expect("a server"))
        .await;
}

#[tokio::test]
async fn a_confirmed_classic_subscription_misses_nothing() {
    what_is_published_after_subscribing_arrives(classic().await).await;
}

async fn a_refused_channel_harms_no_other(server: RedisServer) {
    let rules = ["ACL", "SETUSER", "app", "on", ">pw", "~*", "resetchannels", "&app:*", "+@all"];
    server.command(&rules).await.expect("an answer").ok().expect("a user");
    let url = server.url().replace("redis://", "redis://app:pw@");
    for protocol in PROTOCOLS {
        let connection = connect(&(url.clone() + protocol)).await;
        let mut good = connection.subscribe("app:good").await.expect("allowed");
        for _ in 0..3 {
            let error = connection.subscribe("other").await.expect_err("forbidden");
            assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
            let also = connection.subscribe("app:also").await;
            also.expect("the next one is not harmed");
            connection.ping().await.expect("nor are commands");
        }
        publish(&server, "app:good", "x").await;
        loop {
            match next(&mut good).await {
                Message::Payload(payload) => break assert_eq!(payload, "x"),
                // Refusals over classic channels begin the link anew.
                Message::Lost => publish(&server, "app:good", "x").await,
            }
        }
    }
}

#[tokio::test]
async fn a_refused_subscription_is_an_error_of_its_own() {
    a_refused_channel_harms_no_other(RedisServer::start().await.expect("a server")).await;
}

#[tokio::test]
async fn a_refused_classic_subscription_is_an_error_of_its_own() {
    a_refused_channel_harms_no_other(classic().await).await;
}

async fn a_refusal_to_leave_harms_no_other(server: RedisServer) {
    let rules = ["ACL", "SETUSER", "app", "on", ">pw", "~*", "resetchannels", "&app:*", "+@all"];
    let silent = ["-sunsubscribe", "-unsubscribe"].map(str::to_owned);
    let known = |rule: &String| server.version() >= (7, 0, 0) || rule != "-sunsubscribe";
    let rules = rules.map(str::to_owned).into_iter().chain(silent.into_iter().filter(known));
    let rules: Vec<_> = rules.collect();
    server.command(&rules).await.expect("an answer").ok().expect("a user");
    let connection = connect(&server.url().replace("redis://", "redis://app:pw@")).await;
    for n in 0..10 {
        let leaving = connection.subscribe(&format!("app:{n}")).await.expect("allowed");
        drop(leaving);
        // Given up while the next ones are asked for: each hears its own answer.
        let error = connection.subscribe("other").await.expect_err("forbidden");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
        connection.subscribe("app:x").await.expect("allowed");
    }
}

#[tokio::test]
async fn a_refused_unsubscription_shifts_no_answer() {
    a_refusal_to_leave_harms_no_other(RedisServer::start().await.expect("a server")).await;
    a_refusal_to_leave_harms_no_other(classic().await).await;
}

#[tokio::test]
async fn a_cut_link_is_resubscribed_and_the_loss_is_told() {
    let (new, old) = (RedisServer::start().await.expect("a server"), classic().await);
    for (server, protocol) in [(&new, ""), (&old, ""), (&new, PROTOCOLS[1]), (&old, PROTOCOLS[1])] {
        let proxy = Proxy::start(server.addr()).await.expect("a proxy");
        let connection = connect(&(proxy.url() + protocol)).await;
        let mut subscription = connection.subscribe("c").await.expect("a subscription");
        for round in 0..20 {
            proxy.cut_all();
            while next(&mut subscription).await != Message::Lost {}
            let word = format!("round {round}");
            publish(server, "c", &word).await;
            loop {
                match next(&mut subscription).await {
                    Message::Payload(payload) if payload == word => break,
                    Message::Payload(_) => {}
                    // Cutting a link that was just being made costs one more.
                    Message::Lost => publish(server, "c", &word).await,
                }
            }
        }
    }
}

#[tokio::test]
async fn a_burst_is_delivered_or_told_as_lost() {
    let (server, connection) = start().await;
    let mut subscription = connection.subscribe("c").await.expect("a subscription");
    let word = if server.version() < (7, 0, 0) { "PUBLISH" } else { "SPUBLISH" };
    let burst = format!("for i = 1, 20000 do redis.call('{word}', 'c', i) end return 1");
    server.command(&["EVAL", &burst, "0"]).await.expect("an answer").ok().expect("a burst");
    let (mut last, mut lost) = (0, false);
    while last < 20_000 {
        match next(&mut subscription).await {
            Message::Lost => lost = true,
            Message::Payload(payload) => {
                let number: u32 = String::from_utf8_lossy(&payload).parse().expect("a number");
                assert!(number == last + 1 || lost, "{number} after {last} without notice");
                (last, lost) = (number, false);
            }
        }
    }
}

#[tokio::test]
async fn listeners_share_a_channel_that_is_given_up_when_idle() {
    let (server, connection) = start().await;
    let one = connection.subscribe("c").await.expect("a subscription");
    let other = connection.subscribe("c").await.expect("a subscription");
    let sharded = server.version() >= (7, 0, 0);
    let asked = if sharded { "ssubscribe" } else { "subscribe" };
    assert_eq!(server.calls_of(asked).await, 1);
    assert_eq!(server.channels().await.expect("an answer"), ["c"]);
    drop((one, other));
    eventually(Duration::from_secs(10), "the channel is given up", async || {
        server.channels().await.expect("an answer").is_empty()
    })
    .await;
}

#[tokio::test]
async fn invalidations_arrive_and_survive_a_cut_link() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    let mut tracking = connection.track("app:").await.expect("tracking");
    let limit = Duration::from_secs(5);
    server.command(&["SET", "other", "1"]).await.expect("a set");
    server.command(&["SET", "app:a", "1"]).await.expect("a set");
    let heard = tokio::time::timeout(limit, tracking.next()).await.expect("in time");
    assert_eq!(heard, Invalidation::Key("app:a".into()));
    proxy.cut_all();
    let heard = tokio::time::timeout(limit, tracking.next()).await.expect("in time");
    assert_eq!(heard, Invalidation::All);
    // Told again when it is armed again; from then on changes are heard.
    let heard = tokio::time::timeout(limit, tracking.next()).await.expect("in time");
    assert_eq!(heard, Invalidation::All);
    server.command(&["SET", "app:b", "1"]).await.expect("a set");
    loop {
        match tokio::time::timeout(limit, tracking.next()).await.expect("in time") {
            Invalidation::Key(key) => break assert_eq!(key, "app:b"),
            Invalidation::All => {}
        }
    }
}

#[tokio::test]
async fn a_probe_reads_what_is_there_and_has_a_deaf_link_armed_anew() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    let mut tracking = connection.track("app:").await.expect("tracking");
    let prober = tracking.prober();
    let keys = ["app:mark".to_owned()];
    let limit = Duration::from_secs(5);
    let probe = async || tokio::time::timeout(limit, prober.probe(&keys)).await.expect("in time");
    assert_eq!(probe().await.expect("it is heard")[0].value, None);
    server.command(&["SET", "app:mark", "\u{1}x"]).await.expect("a set");
    assert_eq!(probe().await.expect("it is heard")[0].value, Some("\u{1}x".into()));
    let heard = tokio::time::timeout(limit, tracking.next()).await.expect("in time");
    assert_eq!(heard, Invalidation::Key("app:mark".into()));
    // Nobody asked for it: as a server that lost track without a cut.
    fred::interfaces::TrackingInterface::stop_tracking(&prober.client).await.expect("it is off");
    assert_eq!(probe().await.expect_err("it is deaf").kind(), ErrorKind::Unavailable);
    for _ in 0..2 {
        let heard = tokio::time::timeout(limit, tracking.next()).await.expect("in time");
        assert_eq!(heard, Invalidation::All);
    }
    probe().await.expect("it is heard again");
    // Whoever waits for other things, too, drops the wait in the midst of arming.
    for _ in 0..50 {
        prober.deaf.notify_one();
        for _ in 0..2 {
            let soon = Duration::from_micros(200);
            while tokio::time::timeout(soon, tracking.next()).await.is_err() {}
        }
    }
    probe().await.expect("it is heard");
}

#[tokio::test]
async fn the_older_protocol_has_no_invalidations() {
    let server = RedisServer::start().await.expect("a server");
    let connection = connect(&(server.url() + PROTOCOLS[1])).await;
    let error = connection.track("app:").await.expect_err("not in this protocol");
    assert_eq!(error.kind(), ErrorKind::Misuse, "{}", error.chain());
}

#[tokio::test]
async fn a_blocking_read_holds_up_nobody() {
    let server = RedisServer::start().await.expect("a server");
    for protocol in PROTOCOLS {
        let connection = connect(&(server.url() + protocol)).await;
        server.command(&["FLUSHALL"]).await.expect("an answer");
        reads_while_others_ask(&server, connection).await;
    }
}

async fn reads_while_others_ask(server: &RedisServer, connection: Connection) {
    let (stream, limit) = ("s", Duration::from_secs(5));
    let waiting = {
        let connection = connection.clone();
        async move { connection.read_stream(stream, "0", 10, limit).await }
    };
    let busy = async {
        for _ in 0..50 {
            connection.ping().await.expect("an answer");
        }
        let fields = ["XADD", stream, "1-1", "message", "x", "subscribe", "y"];
        server.command(&fields).await.expect("an answer").ok().expect("an entry");
    };
    let (read, ()) = futures::join!(waiting, busy);
    let entries = read.expect("an entry");
    assert_eq!((entries.len(), entries[0].id.as_str()), (1, "1-1"));
    assert_eq!(entries[0].fields[1], ("subscribe".into(), "y".into()));
    let none = connection.read_stream(stream, "1-1", 10, Duration::from_millis(20)).await;
    assert_eq!(none.expect("an answer"), []);
}
