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

/// The server's own figures of these commands.
pub(crate) async fn ran(server: &RedisServer, commands: &[&str]) -> Result<Ran> {
    ran_where(server, |name| commands.contains(&name)).await
}

/// The server's own figures of the commands whose names are wanted.
pub(crate) async fn ran_where(server: &RedisServer, wanted: impl Fn(&str) -> bool) -> Result<Ran> {
    let info = server.command(&["INFO", "commandstats"]).await?.ok()?;
    let mut all = Ran::default();
    for line in info.as_str().context("INFO is text")?.lines() {
        let Some((name, figures)) =
            line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        if wanted(name) {
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
    let (_, mut calls) = sent_by(server, async { Ok(call.await?) }).await?;
    let last = calls.pop().context("no script was run")?;
    last.into_iter().map(|part| Ok(String::from_utf8(part)?)).collect()
}

/// What was made of some work, and each script that was run meanwhile, as it was sent: in bytes.
pub(crate) async fn sent_by<T>(
    server: &RedisServer,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, Vec<Vec<Vec<u8>>>)> {
    let mut tap = server.connect().await?;
    tap.command(&["MONITOR"]).await?.ok()?;
    let made = work.await?;
    server.command(&["ECHO", "end"]).await?.ok()?;
    let mut calls = Vec::new();
    loop {
        let line = tap.read().await?;
        let line = line.as_str().context("a line of the monitor")?;
        let Some((who, command)) = line.split_once("] ") else { continue };
        let call = unquoted(command).with_context(|| format!("{command} is quoted otherwise"))?;
        let name = call.first().context("a command")?;
        if name.eq_ignore_ascii_case(b"ECHO") {
            return Ok((made, calls));
        }
        if name.eq_ignore_ascii_case(b"EVALSHA") && !who.ends_with("lua") {
            calls.push(call);
        }
    }
}

/// Reads the quoted words of a line of MONITOR.
fn unquoted(line: &str) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut bytes = line.bytes();
    while let Some(quote) = bytes.next() {
        if quote != b'"' {
            continue;
        }
        let mut word = Vec::new();
        loop {
            match bytes.next()? {
                b'"' => break,
                b'\\' => word.push(match bytes.next()? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    b'x' => {
                        let digit = |byte: u8| char::from(byte).to_digit(16);
                        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                        u8::try_from(16 * high + low).ok()?
                    }
                    other => other,
                }),
                byte => word.push(byte),
            }
        }
        words.push(word);
    }
    Some(words)
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

/// Whether an answer is an array that begins with this number.
pub(crate) fn leads(first: i64) -> impl Fn(&Resp) -> bool {
    move |answer| answer.as_array().and_then(|fields| fields.first()?.as_int()) == Some(first)
}

/// Whether an answer is the id of an event.
pub(crate) fn is_id(answer: &Resp) -> bool {
    answer.as_str().is_some_and(|text| text.contains('-'))
}

/// Sends a call so many times, and expects such an answer to each.
pub(crate) async fn repeat<A: AsRef<[u8]>>(
    raw: &mut Connection,
    call: &[A],
    times: usize,
    expected: impl Fn(&Resp) -> bool,
) -> Result<()> {
    for _ in 0..times.div_ceil(PIPE) {
        for _ in 0..PIPE {
            raw.send(call).await?;
        }
        for _ in 0..PIPE {
            let answer = raw.read().await?.ok()?;
            ensure!(expected(&answer), "an unexpected answer: {answer:?}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_monitor_is_read_back_in_bytes() {
        let line = r#""EVALSHA" "a b" "\x00\xfF\n\"\\" """#;
        let words: [&[u8]; 4] = [b"EVALSHA", b"a b", b"\x00\xff\n\"\\", b""];
        assert_eq!(unquoted(line).unwrap(), words);
        assert_eq!(unquoted(r#""no end"#), None);
    }
}
