//! The fences against the client's faults, each against a real server: none of these tests passes
//! over the bare client.

mod breaker;
mod fences;
mod link;
mod messages;
mod security;
mod telemetry;
mod topology;

use super::{Arg, Connection, Script};
use crate::config::Config;
use coordinator_harness::{RedisServer, fresh_prefix};
use std::time::Duration;

/// Answers its argument behind an integer.
static ECHO: Script = Script::new("test.echo", "return {1, ARGV[1], {ARGV[1], ARGV[1]}}");
static INCREMENT: Script = Script::new("test.increment", "return redis.call('INCR', KEYS[1])");

fn config(url: &str) -> Config {
    Config::from_url(url)
        .expect("a URL")
        .with_prefix(&fresh_prefix())
        .expect("a prefix")
        .with_command_timeout(Duration::from_millis(500))
        .with_connect_timeout(Duration::from_secs(2))
}

async fn connect(url: &str) -> Connection {
    Connection::connect(config(url)).await.expect("a connection")
}

async fn start() -> (RedisServer, Connection) {
    let server = RedisServer::start().await.expect("a server");
    let connection = connect(&server.url()).await;
    (server, connection)
}

async fn echo(connection: &Connection, text: &str) -> String {
    let reply = connection
        .run(&ECHO, vec![connection.keyspace().shard("t", 0).key("x", "")], vec![Arg::from(text)])
        .await
        .expect("an echo");
    let mut fields = reply.fields("test.echo");
    fields.int().expect("the leading integer");
    fields.text().expect("the text")
}
