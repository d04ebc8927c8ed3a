//! `cargo xtask demo`: four OS processes share a work list over a private redis-server, and the
//! ledger they leave is counted here once more, by code that knows nothing of how it was written.

use crate::process::{self, Stopwatch};
use crate::setup;
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Real requests, where somebody has put them beside the checkout.
const LOG: &str = "../shared/data/access.log";

/// Starts the server, builds the binary, runs it, counts its ledger.
pub(crate) fn run() -> Result<bool> {
    setup::run()?;
    let mut build = process::cargo(&["build", "--release", "--package", "coordinator-cli"]);
    build.arg("--message-format=json-render-diagnostics");
    let binary = process::executables(&process::output(&mut build)?).pop();
    let binary = binary.context("cargo built no program in coordinator-cli")?;
    let dir = tempfile::tempdir().context("no temporary folder")?;
    let server = Server::start(dir.path())?;
    let ledger = dir.path().join("ledger");

    let mut demo = Command::new(binary);
    demo.args(["demo", "--processes", "--instances", "4", "--ledger"]).arg(&ledger);
    demo.env("COORDINATOR_URL", format!("redis://127.0.0.1:{}", server.port));
    let log = Path::new(LOG);
    if log.is_file() {
        demo.arg("--log").arg(log);
    } else {
        println!("{LOG} is not there: generated requests");
    }
    let ended_well = process::succeeds(&mut demo)?;
    let count = Count::of(&fs::read_to_string(&ledger).unwrap_or_default());
    println!("ledger: {} writes for {} requests", count.writes, count.requests);
    Ok(ended_well && count.writes > 0 && count.writes == count.requests)
}

/// How many writes a ledger holds, and for how many different requests.
#[derive(Debug, PartialEq)]
struct Count {
    writes: usize,
    requests: usize,
}

impl Count {
    /// A ledger's line is `request-number fence worker`.
    fn of(ledger: &str) -> Self {
        let numbers = || ledger.lines().filter_map(|line| line.split_whitespace().next());
        Self { writes: numbers().count(), requests: numbers().collect::<HashSet<_>>().len() }
    }
}

/// A redis-server of our own that dies with us.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(dir: &Path) -> Result<Self> {
        // Another process may take the port between our looking and the server's binding it.
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let child = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "redis-server", "--bind", "127.0.0.1"])
                .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"])
                .args(["--maxmemory-policy", "noeviction", "--dir"])
                .arg(dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .context("cannot start redis-server through setpriv")?;
            let mut server = Self { child, port };
            if server.answers_within(Duration::from_secs(10)) {
                return Ok(server);
            }
        }
        bail!("redis-server did not answer PONG on five ports in turn")
    }

    fn answers_within(&mut self, limit: Duration) -> bool {
        let watch = Stopwatch::start();
        while watch.elapsed() < limit && matches!(self.child.try_wait(), Ok(None)) {
            if pings(self.port).unwrap_or(false) {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing of it is left afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that is loading answers too, so only the word itself counts.
fn pings(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_written_twice_shows_in_the_count() {
        assert_eq!(Count::of("1 10 a\n2 11 b\n"), Count { writes: 2, requests: 2 });
        assert_eq!(Count::of("1 10 a\n2 11 b\n1 12 b\n"), Count { writes: 3, requests: 2 });
    }
}
