//! What a server is started with.
//!
//! It finds the binary, asks it for its version and writes the configuration; the running server
//! is [`RedisServer`]'s.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use crate::util::locked;
use crate::{RedisServer, TlsFiles};

/// Where to look for a server if neither the builder nor the environment names one.
const NAMES: [&str; 2] = ["redis-server", "valkey-server"];

/// Configures a [`RedisServer`]; see [`RedisServer::builder`].
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Builder {
    pub(crate) directives: Vec<(String, String)>,
    pub(crate) clock_shim: bool,
    pub(crate) tls: bool,
    pub(crate) unix_socket: bool,
    pub(crate) sentinel: bool,
    classic: bool,
    binary: Option<PathBuf>,
}

impl Builder {
    /// Adds a directive, written as it would be in `redis.conf`: quote an empty or spaced value.
    ///
    /// Later ones win over earlier ones and over the defaults, as in the file. Repeatable ones,
    /// such as `user`, add up.
    #[must_use]
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.directives.push((key.to_owned(), value.to_owned()));
        self
    }

    /// As [`config`](Self::config), but before all others, which win over it.
    pub(crate) fn config_first(mut self, key: &str, value: &str) -> Self {
        self.directives.insert(0, (key.to_owned(), value.to_owned()));
        self
    }

    /// Lets the tests move the server's wall clock ([`RedisServer::set_clock_offset_ms`]).
    ///
    /// Needs a C compiler.
    #[must_use]
    pub fn with_clock_shim(mut self) -> Self {
        self.clock_shim = true;
        self
    }

    /// Persists to an append-only file with this `appendfsync`: `always`, `everysec` or `no`.
    #[must_use]
    pub fn with_aof(self, appendfsync: &str) -> Self {
        self.config("appendonly", "yes").config("appendfsync", appendfsync)
    }

    /// Listens with TLS only, with the good server certificate, and requires a client certificate.
    ///
    /// `.config("tls-auth-clients", "no")` makes the latter optional; `tls-cert-file` and
    /// `tls-key-file` replace the former by a bad one.
    #[must_use]
    pub fn with_tls(mut self, files: &TlsFiles) -> Self {
        self.tls = true;
        let path = |path: &Path| format!("\"{}\"", path.display());
        self.config("tls-cert-file", &path(&files.server.cert))
            .config("tls-key-file", &path(&files.server.key))
            .config("tls-ca-cert-file", &path(&files.ca))
            .config("tls-auth-clients", "yes")
    }

    /// Takes sharded channels away, as before Redis 7.0; an older server is left as it is.
    #[must_use]
    pub fn without_sharded_channels(mut self) -> Self {
        self.classic = true;
        self
    }

    /// Starts this binary instead of the environment's `COORDINATOR_REDIS_SERVER` or the first
    /// `redis-server` or `valkey-server` of the `PATH`.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Listens on a unix socket too ([`RedisServer::socket`]).
    #[must_use]
    pub fn unix_socket(mut self, on: bool) -> Self {
        self.unix_socket = on;
        self
    }

    /// Starts the server and waits until it answers `+PONG`.
    ///
    /// # Errors
    /// If there is no server binary, or it does not start; with the end of its log.
    ///
    /// # Cancel safety
    /// Cancel safe: the server is killed.
    pub async fn start(self) -> Result<RedisServer> {
        RedisServer::launch(self).await
    }

    /// The binary to start, by name or by path.
    pub(crate) fn program(&self) -> Result<PathBuf> {
        let named = self
            .binary
            .clone()
            .or_else(|| std::env::var_os("COORDINATOR_REDIS_SERVER").map(PathBuf::from));
        if let Some(path) = named {
            if path.is_file() {
                return Ok(path);
            }
            bail!("there is no server at {}; `cargo xtask setup` installs one", path.display());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = NAMES.iter().find_map(|name| {
            std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
        });
        found.context(
            "found no redis-server, which these tests need. Run `cargo xtask setup`, or install \
             Redis >= 6.2 or Valkey >= 7.2 yourself (Debian: apt-get install redis-server), or \
             name one in COORDINATOR_REDIS_SERVER",
        )
    }

    /// The configuration file for this version, port and folder.
    pub(crate) fn render(&self, version: Version, port: u16, folder: &Path) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            writeln!(text, "{key} {value}").expect("a String takes all that is written");
        };
        let folder = folder.display();
        line("bind", "127.0.0.1");
        line("dir", &format!("\"{folder}\""));
        line("logfile", &format!("\"{folder}/redis.log\""));
        line("daemonize", "no");
        if self.tls {
            line("port", "0");
            line("tls-port", &port.to_string());
        } else {
            line("port", &port.to_string());
        }
        if self.unix_socket || self.tls {
            line("unixsocket", &format!("\"{folder}/redis.sock\""));
        }
        if !self.sentinel {
            line("save", "\"\"");
            line("appendonly", "no");
            line("repl-diskless-sync-delay", "0");
            if version >= (7, 0, 0) {
                line("enable-debug-command", "yes");
                if self.classic {
                    line("rename-command", "SSUBSCRIBE \"\"");
                    line("rename-command", "SPUBLISH \"\"");
                }
            }
        }
        for (key, value) in &self.directives {
            line(key, value);
        }
        text
    }
}

/// Major, minor, patch.
pub(crate) type Version = (u32, u32, u32);

/// Asks a binary for its version, once per process.
pub(crate) fn version(program: &Path) -> Result<Version> {
    static KNOWN: Mutex<Option<HashMap<PathBuf, Version>>> = Mutex::new(None);
    let mut guard = locked(&KNOWN);
    let known = guard.get_or_insert_default();
    if let Some(version) = known.get(program) {
        return Ok(*version);
    }
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .split_whitespace()
        .find_map(|word| parse(word.strip_prefix("v=")?))
        .with_context(|| format!("{} has no version: {text}", program.display()))?;
    known.insert(program.to_owned(), version);
    Ok(version)
}

fn parse(text: &str) -> Option<Version> {
    let mut parts = text
        .split('.')
        .map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}
