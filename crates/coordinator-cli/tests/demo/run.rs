//! A demo that runs: its files, its workers, and what it printed.

use coordinator_harness::{RedisServer, eventually, fresh_prefix};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub(crate) const LONG: Duration = Duration::from_mins(1);

/// The binary, with nothing of this environment that would configure it.
pub(crate) fn coordinator() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    for name in ["COORDINATOR_URL", "COORDINATOR_PREFIX", "REDIS_URL", "REDIS_HOST", "USE_REDIS"] {
        command.env_remove(name);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Exit code, stdout and stderr of a run.
pub(crate) async fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().await.expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), out, err)
}

pub(crate) fn json(text: &str) -> Value {
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    serde_json::from_str(text).expect("a JSON document")
}

/// A log of `lines` requests in turn by `clients` clients, and where the ledger shall be.
pub(crate) struct Files {
    folder: TempDir,
    clients: usize,
    lines: usize,
}

impl Files {
    /// Each line asks for another path.
    pub(crate) fn new(lines: usize, clients: usize) -> Self {
        Self::with_paths(lines, clients, lines)
    }

    pub(crate) fn with_paths(lines: usize, clients: usize, paths: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = String::new();
        for line in 0..lines {
            let (client, path) = (client_of(line + 1, clients), line % paths);
            let _ = writeln!(
                log,
                r#"10.0.{client}.1 - - [17/May/2015:10:05:03 +0000] "GET /{path} HTTP/1.1" 200 7"#
            );
        }
        std::fs::write(folder.path().join("access.log"), log).expect("a log");
        Self { folder, clients, lines }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger")
    }

    pub(crate) fn written(&self) -> usize {
        std::fs::read_to_string(self.ledger()).map_or(0, |text| text.lines().count())
    }

    pub(crate) async fn wait_for(&self, lines: usize) {
        let what = format!("{lines} lines in the ledger");
        eventually(LONG, &what, async || self.written() >= lines).await;
    }

    /// Waits until each of the four workers is at it: a fault that comes sooner does not bite.
    pub(crate) async fn wait_for_all_workers(&self) {
        eventually(LONG, "every worker writes", async || {
            let text = std::fs::read_to_string(self.ledger()).unwrap_or_default();
            let wrote = |worker| text.lines().filter(|line| line.ends_with(worker)).count() >= 10;
            [" 1", " 2", " 3", " 4"].into_iter().all(wrote)
        })
        .await;
    }

    /// Each line once, and for each client fences that never fall.
    pub(crate) fn check(&self) {
        let ledger = std::fs::read_to_string(self.ledger()).expect("a ledger");
        let mut seen = BTreeSet::new();
        let mut fences: HashMap<usize, u64> = HashMap::new();
        for line in ledger.lines() {
            let words: Vec<u64> =
                line.split(' ').map(|word| word.parse().expect("a number")).collect();
            let [number, fence, worker] = words[..] else {
                panic!("three numbers: {line}");
            };
            assert!((1..=4).contains(&worker), "{line}");
            assert!(seen.insert(number), "written twice: {line}");
            let client = client_of(usize::try_from(number).expect("a line"), self.clients);
            let last = fences.entry(client).or_default();
            assert!(fence >= *last, "a fence fell: {line}");
            *last = fence;
        }
        let all: BTreeSet<u64> = (1..=self.lines as u64).collect();
        assert_eq!(seen, all);
    }
}

pub(crate) fn client_of(line: usize, clients: usize) -> usize {
    // Strides, so that a client's requests do not come all at once.
    line * 7 % clients
}

/// A running demo over processes.
pub(crate) struct Run {
    pub(crate) child: Child,
    pub(crate) pids: Vec<Pid>,
    /// What it says on stderr.
    said: PathBuf,
}

impl Run {
    pub(crate) async fn start(server: &RedisServer, files: &Files, extra: &[&str]) -> Self {
        let said = files.folder.path().join("said");
        let child = coordinator()
            .args(["--json", "-v", "--prefix", &fresh_prefix()])
            .args(["--url", &server.url()])
            .args(["demo", "--processes", "--instances", "4"])
            .arg("--log")
            .arg(files.log())
            .arg("--ledger")
            .arg(files.ledger())
            .args(extra)
            .stdout(Stdio::piped())
            // A file never fills up, as a pipe that nobody reads does.
            .stderr(std::fs::File::create(&said).expect("a file"))
            // What it leaves behind where it is killed goes with the folder.
            .env("TMPDIR", files.folder.path())
            .spawn()
            .expect("the binary runs");
        let mut pids = Vec::new();
        eventually(LONG, "it says its workers' pids", async || {
            let text = std::fs::read_to_string(&said).expect("a file");
            let words = text.lines().filter_map(|line| line.split_once(": pid "));
            pids = words.filter_map(|(_, pid)| Pid::from_raw(pid.parse().ok()?)).collect();
            pids.len() == 4 && text.ends_with('\n')
        })
        .await;
        Self { child, pids, said }
    }

    pub(crate) fn signal(&self, worker: usize, signal: Signal) {
        kill_process(self.pids[worker], signal).expect("the worker is there");
    }

    pub(crate) fn signal_parent(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("it runs");
        kill_process(pid, signal).expect("it runs");
    }

    /// Its exit code and what it printed.
    pub(crate) async fn end(self) -> (Option<i32>, Value) {
        let said = || std::fs::read_to_string(&self.said).unwrap_or_default();
        let ended = tokio::time::timeout(LONG, self.child.wait_with_output()).await;
        let output = ended.unwrap_or_else(|_| panic!("it hangs: {}", said()));
        let output = output.expect("it ends");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(!text.is_empty(), "{}: {}", output.status, said());
        (output.status.code(), json(&text))
    }
}

/// Whether a process has ended, whoever is to take note of it.
pub(crate) fn has_ended(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|it| it.starts_with('Z')))
}
