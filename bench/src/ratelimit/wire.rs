//! What goes over the wire: the calls of the library as it sends them, the server's own figures,
//! and a connection that sends a call again and again.

use anyhow::{Context as _, Result, ensure};
use coordinator_harness::{Connection, RedisServer, Resp};

/// A command with its arguments.
pub(crate) type Call = Vec<String>;

/// How many calls are on their way at once.
const PIPE: usize = 50;

/// How often the server ran a command, and for how long in all.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ran {
    pub(crate) calls: f64,
    pub(crate) us: f64,
}

/// The server's own figures of commands.
pub(crate) async fn ran(server: &RedisServer, commands: &[&str]) -> Result<Ran> {
    let info = server.command(&["INFO", "commandstats"]).await?.ok()?;
    let mut all = Ran::default();
    for line in info.as_str().context("INFO is text")?.lines() {
        let Some((name, figures)) =
            line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        if commands.contains(&name) {
            let figure = |name: &str| {
                let mut figures = figures.split(',').filter_map(|figure| figure.split_once('='));
                figures.find(|(found, _)| *found == name).and_then(|(_, n)| n.parse::<f64>().ok())
            };
            all.calls += figure("calls").context("calls are counted")?;
            all.us += figure("usec").context("time is measured")?;
        }
    }
    Ok(all)
}

/// The last script that is run meanwhile, as it is sent: nobody rebuilds by hand what the library
/// makes of a call.
pub(crate) async fn sent<T>(
    server: &RedisServer,
    call: impl Future<Output = coordinator_core::Result<T>>,
) -> Result<Call> {
    let mut tap = server.connect().await?;
    tap.command(&["MONITOR"]).await?.ok()?;
    call.await?;
    server.command(&["ECHO", "end"]).await?.ok()?;
    let mut last = None;
    loop {
        let line = tap.read().await?;
        let line = line.as_str().context("a line of the monitor")?;
        let Some((who, command)) = line.split_once("] ") else { continue };
        let call: Call = command
            .trim_matches('"')
            .split("\" \"")
            .inspect(|part| debug_assert!(!part.contains('\\')))
            .map(str::to_owned)
            .collect();
        match call[0].to_uppercase().as_str() {
            "ECHO" => return last.context("no script was run"),
            "EVALSHA" if !who.ends_with("lua") => last = Some(call),
            _ => {}
        }
    }
}

/// A script of our own as a call: loaded, with its keys and arguments.
pub(crate) async fn script(
    server: &RedisServer,
    source: &str,
    keys: &[&str],
    args: &[u64],
) -> Result<Call> {
    let hash = server.command(&["SCRIPT", "LOAD", source]).await?.ok()?;
    let hash = hash.as_str().context("a hash is text")?.to_owned();
    let mut call = vec!["EVALSHA".to_owned(), hash, keys.len().to_string()];
    call.extend(keys.iter().map(|key| (*key).to_owned()));
    call.extend(args.iter().map(u64::to_string));
    Ok(call)
}

/// The keys of a call of EVALSHA.
pub(crate) fn keys(call: &Call) -> Result<&[String]> {
    let count: usize = call.get(2).context("a count of keys")?.parse()?;
    call.get(3..3 + count).context("keys")
}

/// Sends a call so many times, and expects the same first number in each answer.
pub(crate) async fn repeat(
    raw: &mut Connection,
    call: &Call,
    times: usize,
    first: i64,
) -> Result<()> {
    for _ in 0..times.div_ceil(PIPE) {
        for _ in 0..PIPE {
            raw.send(call).await?;
        }
        for _ in 0..PIPE {
            let answer = raw.read().await?.ok()?;
            let leads = answer.as_array().and_then(|fields| fields.first()?.as_int());
            ensure!(leads == Some(first), "{first} was expected first in {answer:?}");
        }
    }
    Ok(())
}

/// How many bytes the server uses for each key.
pub(crate) async fn bytes(server: &RedisServer) -> Result<Vec<(String, i64)>> {
    let keys = server.command(&["KEYS", "*"]).await?.ok()?;
    let mut all = Vec::new();
    for key in keys.as_array().context("keys are an array")? {
        let key = key.as_str().context("a key is text")?;
        let bytes = server.command(&["MEMORY", "USAGE", key, "SAMPLES", "0"]).await?.ok()?;
        // It may have expired just now.
        if let Resp::Int(bytes) = bytes {
            all.push((key.to_owned(), bytes));
        }
    }
    Ok(all)
}
