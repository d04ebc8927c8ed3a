//! A private Redis or Valkey server of one test.
//!
//! It can be killed, started again, stopped and let run, asked, and set to another time. Several
//! of them together are [`Cluster`](crate::Cluster) and [`Sentinel`](crate::Sentinel).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::builder::{Builder, Version, version};
use crate::clock::Clock;
use crate::port::Port;
use crate::process;
use crate::resp::{Connection, Resp};
use crate::util::locked;

/// How long a server may take from its start to `+PONG`, with an append-only file to load.
const START: Duration = Duration::from_secs(30);

/// A running server, private to its test. Dropping it kills it and removes its folder.
///
/// All methods take `&self`, so that a server can be killed by one task while others use it.
#[derive(Debug)]
pub struct RedisServer {
    child: Mutex<Option<Child>>,
    clock: Option<Clock>,
    builder: Builder,
    version: Version,
    program: PathBuf,
    port: Port,
    folder: TempDir,
}

impl RedisServer {
    /// Starts a server with the defaults: a free loopback port, a folder of its own, nothing
    /// persisted, `DEBUG` allowed where the version asks for permission.
    ///
    /// # Errors
    /// If there is no server binary, or it does not start.
    ///
    /// # Cancel safety
    /// Cancel safe: the server is killed.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// Configures a server before it is started.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn launch(builder: Builder) -> Result<Self> {
        let program = builder.program()?;
        let version = version(&program)?;
        for _ in 0..10 {
            let folder = tempfile::Builder::new()
                .prefix("coordinator-redis-")
                .tempdir()
                .context("make a folder for the server")?;
            let port = Port::lease()?;
            std::fs::write(
                folder.path().join("redis.conf"),
                builder.render(version, port.number(), folder.path()),
            )
            .context("write redis.conf")?;
            let clock = builder.clock_shim.then(|| Clock::new(folder.path())).transpose()?;
            let server = Self {
                child: Mutex::new(None),
                clock,
                builder: builder.clone(),
                version,
                program: program.clone(),
                port,
                folder,
            };
            match server.run().await {
                Ok(()) => return Ok(server),
                Err(error) if is_clash(&error) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("ten ports in a row were taken by somebody else")
    }

    /// Starts the process and waits for it.
    async fn run(&self) -> Result<()> {
        let conf = self.folder.path().join("redis.conf");
        let conf = conf.to_str().context("the folder's name is not UTF-8")?;
        let args: &[&str] = if self.builder.sentinel { &[conf, "--sentinel"] } else { &[conf] };
        let env = self.clock.as_ref().map(Clock::env).transpose()?;
        let env = env.as_ref().map_or(&[][..], |env| env.as_slice());
        // Only what this start has to say goes into its error.
        let said = self.log().len();
        let output = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("redis.log"))
            .context("open redis.log")?;
        *self.child() = Some(process::spawn(&self.program, args, env, &output)?);
        match timeout(START, self.ready()).await {
            Ok(Ok(())) => Ok(()),
            outcome => {
                self.stop();
                let why = match outcome {
                    Ok(Err(error)) => format!("{error:#}"),
                    _ => format!("no +PONG within {START:?}"),
                };
                let log = self.log();
                let log = log.get(said..).unwrap_or_default();
                bail!("{} did not start: {why}\n{log}", self.program.display())
            }
        }
    }

    /// Waits for exactly `+PONG`: a server that still loads answers too, with an error.
    async fn ready(&self) -> Result<()> {
        loop {
            if let Some(status) = self.child().as_mut().and_then(|child| child.try_wait().ok()?) {
                bail!("it ended with {status}");
            }
            let answer = async { self.connect().await?.command(&["PING"]).await };
            if matches!(answer.await, Ok(Resp::Simple(text)) if text == "PONG") {
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// The port it listens on, with TLS if it was configured so.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Loopback and [`port`](Self::port).
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    /// `redis://127.0.0.1:PORT`, or `rediss://…` with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.builder.tls { "rediss" } else { "redis" };
        format!("{scheme}://{}", self.addr())
    }

    /// The path of the unix socket, if there is one.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        let has = self.builder.unix_socket || self.builder.tls;
        has.then(|| self.folder.path().join("redis.sock"))
    }

    /// The server's process id; `None` between [`kill`](Self::kill) and
    /// [`start_again`](Self::start_again).
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Its folder, with `redis.conf`, `redis.log` and what it persists.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Major, minor and patch of the binary.
    #[must_use]
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// Kills it with SIGKILL, stopped or not, and reaps it. Nothing happens if it is dead.
    ///
    /// # Cancel safety
    /// Has no point at which it could be cancelled.
    #[expect(
        clippy::unused_async,
        reason = "reads as the fault it is, next to start_again().await"
    )]
    pub async fn kill(&self) {
        self.stop();
    }

    /// Starts a killed server on the same port, in the same folder, with the configuration file as
    /// it is now: as after a crash, what the server itself rewrote stays (Sentinel does that).
    ///
    /// # Errors
    /// If it is running, or does not start.
    ///
    /// # Cancel safety
    /// Not cancel safe: the server may be starting.
    pub async fn start_again(&self) -> Result<()> {
        ensure!(self.pid().is_none(), "the server is running: kill it first");
        let mut outcome = self.run().await;
        // Whoever has taken the port meanwhile is a stranger with a short-lived connection.
        for _ in 0..100 {
            if !outcome.as_ref().is_err_and(is_clash) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
            outcome = self.run().await;
        }
        outcome
    }

    /// [`kill`](Self::kill), then [`start_again`](Self::start_again).
    ///
    /// # Errors
    /// If it does not start.
    ///
    /// # Cancel safety
    /// Not cancel safe: the server may be dead or starting.
    pub async fn restart(&self) -> Result<()> {
        self.kill().await;
        self.start_again().await
    }

    /// Stops it with SIGSTOP; its sockets stay open and the kernel goes on accepting.
    ///
    /// # Errors
    /// If it is dead.
    pub fn pause(&self) -> Result<()> {
        process::signal(self.pid().context("the server is dead")?, "STOP")
    }

    /// Lets a stopped server run again with SIGCONT.
    ///
    /// # Errors
    /// If it is dead.
    pub fn resume(&self) -> Result<()> {
        process::signal(self.pid().context("the server is dead")?, "CONT")
    }

    /// Opens a connection: TCP, or the unix socket if the server speaks TLS only. It is
    /// authenticated if the builder was given a `requirepass`.
    ///
    /// # Errors
    /// If the server is dead.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(&self) -> Result<Connection> {
        let mut connection = match self.socket() {
            Some(path) if self.builder.tls => Connection::unix(&path).await?,
            _ => Connection::tcp(self.addr()).await?,
        };
        let password = self.builder.directives.iter().rfind(|(key, _)| key == "requirepass");
        if let Some((_, password)) = password {
            connection.command(&["AUTH", password.trim_matches('"')]).await?;
        }
        Ok(connection)
    }

    /// Runs one command on a connection of its own. An error reply is an `Ok(Resp::Error(_))`.
    ///
    /// What looks at the state of a connection needs [`connect`](Self::connect): `WAIT` here waits
    /// for no write at all.
    ///
    /// # Errors
    /// If the server is dead or does not answer within 10 s.
    ///
    /// # Cancel safety
    /// The command may run although this was cancelled.
    pub async fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Resp> {
        self.connect().await?.command(args).await
    }

    /// How often the server has executed a command since it started, as `INFO commandstats` counts;
    /// a subcommand is written `client|list`.
    ///
    /// # Panics
    /// If the server does not answer: a count that is not known must not pass for 0.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn calls_of(&self, command: &str) -> u64 {
        let info = self.command(&["INFO", "commandstats"]).await;
        let info = info.and_then(Resp::ok).expect("INFO is answered by a running server");
        let prefix = format!("cmdstat_{}:calls=", command.to_lowercase());
        let mut lines = info.as_str().expect("INFO is text").lines();
        let calls = lines.find_map(|line| line.strip_prefix(&prefix)?.split(',').next());
        calls.map_or(0, |calls| calls.parse().expect("calls are a number"))
    }

    /// How many commands the server has executed since it started, those of scripts included, and
    /// `INFO` not.
    ///
    /// # Panics
    /// If the server does not answer: a count that is not known must not pass for 0.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn calls(&self) -> u64 {
        let info = self.command(&["INFO", "commandstats"]).await;
        let info = info.and_then(Resp::ok).expect("INFO is answered by a running server");
        let lines = info.as_str().expect("INFO is text").lines();
        let others = lines.filter(|line| !line.starts_with("cmdstat_info:"));
        let calls = others.filter_map(|line| line.split_once(":calls=")?.1.split(',').next());
        calls.map(|calls| calls.parse::<u64>().expect("calls are a number")).sum()
    }

    /// The channels that somebody listens to here, sharded ones and others.
    ///
    /// # Errors
    /// If the server is dead or does not answer within 10 s.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn channels(&self) -> Result<Vec<String>> {
        let mut kinds = vec!["CHANNELS"];
        if self.version >= (7, 0, 0) {
            kinds.push("SHARDCHANNELS");
        }
        let mut all = Vec::new();
        for kind in kinds {
            let answer = self.command(&["PUBSUB", kind]).await?.ok()?;
            let names = answer.as_array().context("channels are an array")?;
            all.extend(names.iter().filter_map(|name| name.as_str().map(str::to_owned)));
        }
        Ok(all)
    }

    /// Moves the wall clock forward, on top of what was set before. Nothing sleeps.
    ///
    /// # Errors
    /// Without [`Builder::with_clock_shim`].
    ///
    /// # Cancel safety
    /// Not cancel safe: the clock may have moved.
    pub async fn advance_clock(&self, by: Duration) -> Result<()> {
        let us = i64::try_from(by.as_micros()).context("that is too far")?;
        self.set_offset_us(self.clock()?.offset_us()?.checked_add(us).context("that is too far")?)
            .await
    }

    /// Sets how far the server's wall clock is from the true one. 0 heals it. When this returns,
    /// every later command sees the new time; a dead or stopped server sees it when it runs.
    ///
    /// # Errors
    /// Without [`Builder::with_clock_shim`].
    ///
    /// # Cancel safety
    /// Not cancel safe: the clock may have moved.
    pub async fn set_clock_offset_ms(&self, ms: i64) -> Result<()> {
        self.set_offset_us(ms.checked_mul(1000).context("that is too far")?).await
    }

    /// The same in µs.
    ///
    /// # Errors
    /// Without [`Builder::with_clock_shim`].
    ///
    /// # Cancel safety
    /// Not cancel safe: the clock may have moved.
    pub async fn set_clock_offset_us(&self, us: i64) -> Result<()> {
        self.set_offset_us(us).await
    }

    /// Stops the wall clock where it is, for good: from then on only the tests move it, and what
    /// they see does not depend on how busy the machine is.
    ///
    /// # Errors
    /// Without [`Builder::with_clock_shim`].
    ///
    /// # Cancel safety
    /// Not cancel safe: the clock may have stopped.
    pub async fn stop_clock(&self) -> Result<()> {
        let clock = self.clock()?;
        clock.stop_at_us(self.time_us().await? - clock.offset_us()?)
    }

    async fn set_offset_us(&self, offset: i64) -> Result<()> {
        let clock = self.clock()?;
        let running = self.pid().is_some_and(|pid| process::state(pid) != Some('T'));
        if !running {
            return clock.set_offset_us(offset);
        }
        let moved = offset - clock.offset_us()?;
        let before = self.time_us().await?;
        clock.set_offset_us(offset)?;
        // Redis remembers the time per turn of its event loop: ask until it has noticed.
        for _ in 0..200 {
            let passed = self.time_us().await? - before - moved;
            if (0..5_000_000).contains(&passed) {
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
        bail!("the server's clock did not move: the shim is not in effect")
    }

    fn clock(&self) -> Result<&Clock> {
        self.clock
            .as_ref()
            .context("start the server with RedisServer::builder().with_clock_shim()")
    }

    async fn time_us(&self) -> Result<i64> {
        let answer = self.command(&["TIME"]).await?.ok()?;
        match answer.as_array().context("TIME is an array")? {
            [s, us] => Some(s.as_int().zip(us.as_int()).context("TIME is two numbers")?),
            _ => None,
        }
        .map(|(s, us)| s * 1_000_000 + us)
        .context("TIME is two numbers")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        locked(&self.child)
    }

    fn stop(&self) {
        if let Some(mut child) = self.child().take() {
            // Both fail only for a process that is gone already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("redis.log")).unwrap_or_default()
    }
}

fn is_clash(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("already in use")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}
