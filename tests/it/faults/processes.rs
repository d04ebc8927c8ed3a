//! Processes that work on one server at once: this test binary once more, asked line by line. What
//! each of them does stands with its tests.

use super::{SECOND, cache, sessions};
use crate::stage::config;
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::{eventually, is_stopped, signal};
use coordinator_sessions::Sessions;
use futures::future::join_all;
use std::{io::Write as _, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const ROLE: &str = "COORDINATOR_PROCESS_ROLE";
const URL: &str = "COORDINATOR_PROCESS_URL";
const PREFIX: &str = "COORDINATOR_PROCESS_PREFIX";

/// How long one may take for an answer.
const PATIENCE: Duration = Duration::from_mins(5);

/// What stands before an answer: the test runner says things on the same pipe.
const MARK: &str = "> ";

/// A process, from the side of the one that started it. It does not outlive us: it works until its
/// input ends.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts one, and waits until it is ready.
    pub(super) async fn start(role: &str, url: &str, prefix: &str) -> Self {
        let (_, module) = module_path!().split_once("::").expect("a module of the test binary");
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args(["--exact", &format!("{module}::one_of_them"), "--nocapture"]);
        command.env(ROLE, role).env(URL, url).env(PREFIX, prefix);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a process");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut process = Self { child, input, output };
        assert_eq!(process.answer().await.as_deref(), Some("ready"));
        process
    }

    /// Starts so many.
    pub(super) async fn several(count: usize, role: &str, url: &str, prefix: &str) -> Vec<Self> {
        join_all((0..count).map(|_| Self::start(role, url, prefix))).await
    }

    pub(super) async fn tell(&mut self, order: &str) {
        self.input.write_all(format!("{order}\n").as_bytes()).await.expect("it listens");
    }

    /// The next thing it says; `None` once it has ended.
    pub(super) async fn answer(&mut self) -> Option<String> {
        let answer = async {
            while let Some(line) = self.output.next_line().await.expect("lines") {
                if let Some(answer) = line.strip_prefix(MARK) {
                    return Some(answer.to_owned());
                }
            }
            None
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("it answers in time")
    }

    pub(super) async fn ask(&mut self, order: &str) -> String {
        self.tell(order).await;
        self.answer().await.expect("it failed, see above")
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("it is not reaped")
    }

    /// Stops it with SIGSTOP.
    pub(super) fn pause(&self) {
        signal(self.pid(), "STOP").expect("a signal");
    }

    /// Lets it run again.
    pub(super) fn resume(&self) {
        signal(self.pid(), "CONT").expect("a signal");
    }

    /// Waits until it has stopped itself.
    pub(super) async fn stopped(&self) {
        let pid = self.pid();
        eventually(SECOND * 20, "it stops itself", async || is_stopped(pid)).await;
    }

    /// Ends it with SIGKILL in the midst of its work.
    pub(super) async fn kill(&mut self) {
        use std::os::unix::process::ExitStatusExt as _;
        self.child.start_kill().expect("a signal");
        let status = self.child.wait().await.expect("its end");
        assert_eq!(status.signal(), Some(9), "it ended by itself: {status}");
    }
}

/// Says a line to whoever started this process.
pub(super) fn say(answer: &str) {
    let mut out = std::io::stdout().lock();
    // The test runner may have left half a line.
    out.write_all(format!("\n{MARK}{answer}\n").as_bytes()).expect("somebody listens");
    out.flush().expect("somebody listens");
}

/// What a process has been given.
pub(super) struct Given {
    pub(super) url: String,
    pub(super) prefix: String,
    input: Lines<BufReader<tokio::io::Stdin>>,
}

impl Given {
    pub(super) fn config(&self) -> Config {
        config(&self.url).with_prefix(&self.prefix).expect("a prefix")
    }

    pub(super) async fn connection(&self) -> Connection {
        Connection::connect(self.config()).await.expect("a connection")
    }

    pub(super) async fn sessions(&self) -> Sessions {
        Sessions::redis(&self.connection().await).with_reaping(None)
    }

    /// The next order, word by word; `None` is the end.
    pub(super) async fn order(&mut self) -> Option<Vec<String>> {
        let line = self.input.next_line().await.expect("lines")?;
        Some(line.split(' ').map(str::to_owned).collect())
    }
}

/// Not a test by itself: the tests beside it start it.
#[tokio::test]
async fn one_of_them() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let var = |name| std::env::var(name).expect("it is set with the role");
    let input = BufReader::new(tokio::io::stdin()).lines();
    let given = Given { url: var(URL), prefix: var(PREFIX), input };
    match role.split_once(' ') {
        Some(("cache", role)) => cache::serve(role, given).await,
        Some(("sessions", role)) => sessions::serve(role, given).await,
        _ => panic!("nobody is a {role}"),
    }
}
