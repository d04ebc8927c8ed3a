//! The binary and a private server, and what a run of it came to.

use coordinator_harness::{Builder, RedisServer, Resp, eventually, fresh_prefix};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
};

/// Far beyond what anything here takes; whoever reaches it hangs.
pub(crate) const LONG: Duration = Duration::from_mins(1);
/// What the command may take to say that there is no server.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// Nothing listens there.
pub(crate) const DEAD: &str = "redis://127.0.0.1:1";

const VARIABLES: &[&str] = &[
    "COORDINATOR_FENCE",
    "COORDINATOR_FILE",
    "COORDINATOR_HELD",
    "COORDINATOR_LOCK",
    "COORDINATOR_OWNER",
    "COORDINATOR_PREFIX",
    "COORDINATOR_TOKEN",
    "COORDINATOR_URL",
    "REDIS_DB",
    "REDIS_HOST",
    "REDIS_KEY_PREFIX",
    "REDIS_PASSWORD",
    "REDIS_PORT",
    "REDIS_TTL_SECONDS",
    "REDIS_URL",
    "SESSION_TTL",
    "USE_REDIS",
];

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The one JSON document on the one line of stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).expect("stdout is JSON")
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }

    /// Stderr is exactly one line of ours, which has `text` in it.
    #[track_caller]
    pub(crate) fn complains(self, text: &str) -> Self {
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("coordinator: "), "{self:?}");
        assert!(self.stderr.contains(text), "{self:?}");
        self
    }
}

/// The keys of an object.
pub(crate) fn keys(object: &Value) -> BTreeSet<&str> {
    let object = object.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

/// The binary, with nothing of our environment that it reads. It leads a process group, so that it
/// is never in the foreground of whoever runs the tests.
pub(crate) fn binary(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Runs it to its end.
pub(crate) async fn done(mut command: Command) -> Done {
    finish(command.spawn().expect("the binary runs")).await
}

/// Waits for its end.
pub(crate) async fn finish(child: Child) -> Done {
    let output = tokio::time::timeout(LONG, child.wait_with_output()).await;
    let output = output.expect("it ends").expect("its output can be read");
    Done {
        code: output.status.code().expect("it ends by itself"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Runs it to its end with this on stdin.
pub(crate) async fn fed(mut command: Command, text: &str) -> Done {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).await.expect("it reads");
    drop(stdin);
    finish(child).await
}

/// Sends a signal to a running binary.
pub(crate) fn send(child: &Child, signal: Signal) {
    let id = child.id().expect("it runs");
    let pid = Pid::from_raw(id.try_into().expect("a process id")).expect("a process id");
    kill_process(pid, signal).expect("it can be signalled");
}

/// Waits for a file that a command under the lock makes, and reads it.
pub(crate) async fn written(file: &Path) -> String {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    eventually(LONG, "the command writes", async || read().ends_with('\n')).await;
    read().trim().to_owned()
}

/// Whether a process runs; a zombie does not.
pub(crate) fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}

/// A folder for what the commands under a lock write.
pub(crate) struct Desk {
    pub(crate) folder: TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Says something to commands that look for a file.
    pub(crate) fn put(&self, name: &str) {
        std::fs::write(self.file(name), "").expect("a file");
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The binary in the folder; scripts find it in `BIN`.
    pub(crate) fn command(&self, site: &Site, args: &[&str]) -> Command {
        let mut command = site.command(args);
        command.current_dir(self.folder.path()).env("BIN", env!("CARGO_BIN_EXE_coordinator"));
        command
    }

    pub(crate) fn spawn(&self, site: &Site, args: &[&str]) -> Child {
        self.command(site, args).spawn().expect("the binary runs")
    }
}

/// A private server and a prefix, and the binary told of both by its environment.
pub(crate) struct Site {
    pub(crate) server: RedisServer,
    pub(crate) prefix: String,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::of(RedisServer::builder()).await
    }

    pub(crate) async fn of(builder: Builder) -> Self {
        Self { server: builder.start().await.expect("a server"), prefix: fresh_prefix() }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = binary(args);
        command.env("COORDINATOR_URL", self.server.url()).env("COORDINATOR_PREFIX", &self.prefix);
        command
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).spawn().expect("the binary runs")
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Done {
        done(self.command(args)).await
    }

    /// Takes a lock and answers its token.
    pub(crate) async fn acquire(&self, name: &str) -> String {
        let args = ["--json", "lock", "acquire", name, "--ttl", "10m"];
        let answer = self.run(&args).await.exits(0).json();
        answer["token"].as_str().expect("a token").to_owned()
    }

    /// Gives up what [`acquire`](Self::acquire) took.
    pub(crate) async fn release(&self, name: &str, token: &str) {
        self.run(&["lock", "release", name, "--token", token]).await.exits(0);
    }

    /// Waits until so many stand in the queue of a lock, as the server has it.
    pub(crate) async fn waited_for(&self, name: &str, waiters: i64) {
        eventually(LONG, "they wait", async || {
            let Some(queue) = self.keys(&format!("queue:{name}")).await.pop() else {
                return waiters == 0;
            };
            let count = self.server.command(&["ZCARD", &queue]).await;
            count.expect("ZCARD is answered").as_int() == Some(waiters)
        })
        .await;
    }

    /// The keys of locks that are held, as the server has them.
    pub(crate) async fn held(&self) -> Vec<String> {
        self.keys("lock:*").await
    }

    async fn keys(&self, end: &str) -> Vec<String> {
        let pattern = format!("{}:*:{end}", self.prefix);
        let answer = self.server.command(&["KEYS", &pattern]).await;
        let answer = answer.and_then(Resp::ok).expect("KEYS is answered");
        let found = answer.as_array().expect("KEYS answers an array").iter();
        found.map(|key| key.as_str().expect("a key").to_owned()).collect()
    }

    /// Waits until somebody holds a lock, and answers its key.
    pub(crate) async fn key(&self) -> String {
        eventually(LONG, "a lock is held", async || self.held().await.len() == 1).await;
        self.held().await.remove(0)
    }
}
