//! Servers: readiness, life and death, clocks, TLS.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{RedisServer, Resp, TlsFiles, eventually, fresh_prefix, process, rng, seed};

const SOON: Duration = Duration::from_secs(10);

fn gone(pid: u32) -> bool {
    matches!(process::state(pid), None | Some('Z' | 'X'))
}

#[tokio::test]
async fn a_server_answers_and_counts_calls() {
    let server = RedisServer::start().await.unwrap();
    assert!(server.command(&["SET", "a", "b"]).await.unwrap().is_ok());
    assert_eq!(server.command(&["GET", "a"]).await.unwrap().as_str(), Some("b"));
    assert!(server.command(&["GET", "none"]).await.unwrap().is_null());
    assert_eq!(server.command(&["DBSIZE"]).await.unwrap().as_int(), Some(1));
    let error = server.command(&["NOSUCH"]).await.unwrap();
    assert!(matches!(&error, Resp::Error(text) if text.starts_with("ERR unknown command")));
    assert_eq!((server.calls_of("GET").await, server.calls_of("evalsha").await), (2, 0));
    assert_eq!(server.url(), format!("redis://127.0.0.1:{}", server.port()));
}

#[tokio::test]
async fn a_directive_wins_over_the_default() {
    let server = RedisServer::builder()
        .config("maxmemory", "7mb")
        .config("requirepass", "s3cret")
        .config("user", "app on nopass ~app:* +get")
        .start()
        .await
        .unwrap();
    let answer = server.command(&["CONFIG", "GET", "maxmemory"]).await.unwrap();
    assert_eq!(answer.as_array().unwrap()[1].as_int(), Some(7 << 20));
    assert_eq!(server.command(&["ACL", "USERS"]).await.unwrap().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_bad_directive_is_told_from_the_log() {
    let error = RedisServer::builder().config("no-such-thing", "1").start().await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("ended with") && text.contains("no-such-thing"), "{text}");
}

#[tokio::test]
async fn a_missing_binary_comes_with_instructions() {
    let error = RedisServer::builder().binary("/nowhere/redis-server").start().await.unwrap_err();
    assert!(error.to_string().contains("cargo xtask setup"), "{error}");
}

#[tokio::test]
async fn a_killed_server_starts_again_in_its_place() {
    let plain = RedisServer::start().await.unwrap();
    let durable = RedisServer::builder().with_aof("always").start().await.unwrap();
    for (server, left) in [(&plain, 0), (&durable, 1)] {
        server.command(&["SET", "a", "b"]).await.unwrap();
        let (port, pid) = (server.port(), server.pid().unwrap());
        server.kill().await;
        assert_eq!(process::state(pid), None, "reaped");
        assert_eq!(server.pid(), None);
        assert!(server.command(&["PING"]).await.is_err());
        server.start_again().await.unwrap();
        assert!(server.start_again().await.is_err(), "it is running");
        assert_eq!(server.port(), port);
        assert_eq!(server.command(&["DBSIZE"]).await.unwrap().as_int(), Some(left));
    }
}

#[tokio::test]
async fn a_paused_server_is_silent_until_resumed() {
    let server = RedisServer::start().await.unwrap();
    server.pause().unwrap();
    let mut connection = server.connect().await.unwrap();
    connection.send(&["PING"]).await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(100), connection.read()).await;
    assert!(silent.is_err());
    server.resume().unwrap();
    assert_eq!(connection.read().await.unwrap().as_str(), Some("PONG"));
}

#[tokio::test]
async fn dropping_kills_a_paused_server_and_removes_its_folder() {
    let server = RedisServer::start().await.unwrap();
    let (pid, dir) = (server.pid().unwrap(), server.dir().to_owned());
    server.pause().unwrap();
    drop(server);
    assert_eq!(process::state(pid), None, "reaped");
    assert!(!dir.exists());
}

#[test]
fn a_server_outlives_the_thread_that_started_it() {
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(RedisServer::start()).unwrap()
    };
    let server = std::thread::spawn(start).join().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!gone(server.pid().unwrap()));
}

#[tokio::test]
async fn the_journal_tells_what_scripts_wrote_in_order() {
    let server = RedisServer::builder().with_aof("no").start().await.unwrap();
    let script = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('GET', KEYS[1]) \
        redis.call('ZADD', KEYS[2], 1732219200123456, ARGV[1])";
    let binary = b"\r\n*1\r\n\xff";
    let eval: [&[u8]; 6] = [b"EVAL", script.as_bytes(), b"2", b"{a}1", b"{a}2", binary];
    server.command(&eval).await.unwrap().ok().unwrap();
    server.command(&["DEL", "{a}1"]).await.unwrap();
    let journal = server.journal().unwrap();
    let words = |command: &Resp| -> Vec<Vec<u8>> {
        let words = command.as_array().unwrap().iter();
        let bytes = |word: &Resp| match word {
            Resp::Bulk(Some(bytes)) => bytes.clone(),
            other => panic!("{other:?}"),
        };
        words.map(bytes).collect()
    };
    let written: Vec<_> = journal.iter().map(words).collect();
    let find = |wanted: &[&[u8]]| written.iter().position(|words| words == wanted);
    let set = find(&[b"SET", b"{a}1", binary]).unwrap();
    let added = find(&[b"ZADD", b"{a}2", b"1732219200123456", binary]).unwrap();
    assert!(set < added && added < find(&[b"DEL", b"{a}1"]).unwrap(), "{journal:?}");
    assert!(!written.iter().any(|words| words[0] == b"GET"));
    assert!(RedisServer::start().await.unwrap().journal().is_err(), "none is kept");
}

/// Not a test by itself: [`a_killed_parent_leaves_no_server`] runs and kills it.
#[tokio::test]
async fn parent_to_be_killed() {
    let Ok(file) = std::env::var("HARNESS_TEST_PARENT") else {
        return;
    };
    let servers = [RedisServer::start().await.unwrap(), RedisServer::start().await.unwrap()];
    servers[1].pause().unwrap();
    let line =
        |server: &RedisServer| format!("{} {}\n", server.pid().unwrap(), server.dir().display());
    let part = format!("{file}.part");
    std::fs::write(&part, line(&servers[0]) + &line(&servers[1])).unwrap();
    std::fs::rename(part, file).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_parent_leaves_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servers");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::server::parent_to_be_killed"])
        .env("HARNESS_TEST_PARENT", &file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually(SOON, "the parent has started its servers", async || file.exists()).await;
    let text = std::fs::read_to_string(&file).unwrap();
    let servers: Vec<(u32, &Path)> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(pid, dir)| (pid.parse().unwrap(), Path::new(dir)))
        .collect();
    assert_eq!(servers.len(), 2);
    assert!(servers.iter().all(|(pid, _)| !gone(*pid)));
    parent.kill().unwrap();
    parent.wait().unwrap();
    for (pid, dir) in servers {
        eventually(SOON, "the server died with its parent", async || gone(pid)).await;
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[tokio::test]
async fn the_clock_moves_forth_and_back() {
    let server = RedisServer::builder().with_clock_shim().start().await.unwrap();
    server.command(&["SET", "a", "b", "PX", "10000"]).await.unwrap();
    server.advance_clock(Duration::from_secs(9)).await.unwrap();
    assert_eq!(server.command(&["EXISTS", "a"]).await.unwrap().as_int(), Some(1));
    server.advance_clock(Duration::from_secs(2)).await.unwrap();
    assert_eq!(server.command(&["EXISTS", "a"]).await.unwrap().as_int(), Some(0));

    server.set_clock_offset_ms(0).await.unwrap();
    server.command(&["SET", "a", "b", "PX", "10000"]).await.unwrap();
    server.set_clock_offset_ms(-7_200_000).await.unwrap();
    let pttl = server.command(&["PTTL", "a"]).await.unwrap().as_int().unwrap();
    assert!((7_205_000..=7_210_000).contains(&pttl), "{pttl}");
    let script = ["EVAL", "local t = redis.call('TIME') return t[1]", "0"];
    let script = server.command(&script).await.unwrap().as_int().unwrap();
    let outside = server.command(&["TIME"]).await.unwrap().as_array().unwrap()[0].as_int().unwrap();
    assert!((script..=script + 5).contains(&outside));

    server.pause().unwrap();
    server.set_clock_offset_ms(0).await.unwrap();
    server.resume().unwrap();
    let pttl = server.command(&["PTTL", "a"]).await.unwrap().as_int().unwrap();
    assert!(pttl <= 10_000, "{pttl}");
    server.set_clock_offset_ms(3_600_000).await.unwrap();
    server.restart().await.unwrap();
    let moved = server.command(&["TIME"]).await.unwrap().as_array().unwrap()[0].as_int().unwrap();
    assert!(moved > outside + 7_200, "the offset survives a restart");
}

#[tokio::test]
async fn a_stopped_clock_is_moved_by_the_test_alone() {
    let server = RedisServer::builder().with_clock_shim().start().await.unwrap();
    server.advance_clock(Duration::from_mins(1)).await.unwrap();
    server.stop_clock().await.unwrap();
    server.command(&["SET", "a", "b", "PX", "10000"]).await.unwrap();
    let time = async || format!("{:?}", server.command(&["TIME"]).await.unwrap());
    let stopped = time().await;
    // Past at least one turn of its timers.
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(time().await, stopped);
    assert_eq!(server.command(&["PTTL", "a"]).await.unwrap().as_int(), Some(10_000));
    server.advance_clock(Duration::from_millis(9_999)).await.unwrap();
    assert_eq!(server.command(&["PTTL", "a"]).await.unwrap().as_int(), Some(1));
    server.advance_clock(Duration::from_millis(2)).await.unwrap();
    assert_eq!(server.command(&["EXISTS", "a"]).await.unwrap().as_int(), Some(0));
}

#[tokio::test]
async fn without_the_shim_the_clock_cannot_be_moved() {
    let server = RedisServer::start().await.unwrap();
    let error = server.advance_clock(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().contains("with_clock_shim"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_is_offered() {
    let server = RedisServer::builder().unix_socket(true).start().await.unwrap();
    let mut connection = crate::Connection::unix(&server.socket().unwrap()).await.unwrap();
    assert_eq!(connection.command(&["PING"]).await.unwrap().as_str(), Some("PONG"));
}

/// Asks over TLS with the reference client, which verifies the chain but not the name.
fn tls_ping(server: &RedisServer, ca: &Path, client: Option<&crate::CertFiles>) -> bool {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &server.port().to_string(), "--tls", "--cacert"]).arg(ca);
    if let Some(client) = client {
        command.arg("--cert").arg(&client.cert).arg("--key").arg(&client.key);
    }
    let output = command.arg("PING").output().unwrap();
    output.stdout.trim_ascii() == b"PONG"
}

#[tokio::test]
async fn tls_is_demanded_and_bad_certificates_are_bad() {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles::generate(folder.path()).unwrap();
    let server = RedisServer::builder().with_tls(&files).start().await.unwrap();
    assert!(server.url().starts_with("rediss://"));
    assert!(tls_ping(&server, &files.ca, Some(&files.client)));
    assert!(!tls_ping(&server, &files.ca, None), "no client certificate");
    assert!(!tls_ping(&server, &files.ca, Some(&files.stranger_client)), "a stranger's");
    assert!(!tls_ping(&server, &files.other_ca, Some(&files.client)), "another authority");
    let mut plain = crate::Connection::tcp(server.addr()).await.unwrap();
    assert!(plain.command(&["PING"]).await.is_err(), "not TLS");
    assert_eq!(server.command(&["PING"]).await.unwrap().as_str(), Some("PONG"));

    let bad = |cert: &crate::CertFiles| {
        RedisServer::builder()
            .with_tls(&files)
            .config("tls-auth-clients", "no")
            .config("tls-cert-file", cert.cert.to_str().unwrap())
            .config("tls-key-file", cert.key.to_str().unwrap())
    };
    let expired = bad(&files.expired).start().await.unwrap();
    assert!(!tls_ping(&expired, &files.ca, None), "expired");
    let wrong_name = bad(&files.wrong_name).start().await.unwrap();
    assert!(tls_ping(&wrong_name, &files.ca, None), "redis-cli does not look at the name");
}

#[tokio::test]
#[should_panic(expected = "not within 20ms: pigs fly")]
async fn eventually_says_what_did_not_happen() {
    eventually(Duration::from_millis(20), "pigs fly", async || false).await;
}

#[tokio::test]
#[should_panic(expected = "a hanging look")]
async fn eventually_ends_although_the_condition_hangs() {
    let hang = async || std::future::pending::<bool>().await;
    eventually(Duration::from_millis(20), "a hanging look", hang).await;
}

#[test]
fn prefixes_are_fresh_and_seeds_stay() {
    use rand::RngExt as _;
    assert_ne!(fresh_prefix(), fresh_prefix());
    assert_eq!(seed(), seed());
    assert_eq!(rng().random::<u64>(), rng().random::<u64>());
}

#[tokio::test]
async fn a_start_waits_for_a_port_that_a_stranger_holds() {
    let server = RedisServer::start().await.unwrap();
    server.kill().await;
    let stranger = tokio::net::TcpListener::bind(server.addr()).await.unwrap();
    let leave = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(stranger);
    };
    let (started, ()) = tokio::join!(server.start_again(), leave);
    started.unwrap();
    assert_eq!(server.command(&["PING"]).await.unwrap().as_str(), Some("PONG"));
}
