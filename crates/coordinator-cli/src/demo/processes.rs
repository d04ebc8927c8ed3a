//! The workers of a run in processes of their own: started here, heard over a unix socket.
//!
//! A worker that dies is noticed by the end of its socket and of its process, whichever comes
//! first. What it is told (the URL may hold a password) stands in its environment, which only its
//! owner can read, never on its command line.

use super::{
    crew::{Crew, Door, GRACE},
    desk::write_lines,
    parent::Parent,
    protocol::{Answer, Ask, Frame, encode},
    steps::Manners,
    tasks::Tasks,
};
use crate::{
    context::Context,
    failure::{Failure, exit},
};
use coordinator::{Config, clock::Clock};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{UnixListener, UnixStream},
    process::{Child, Command},
    sync::mpsc,
};

/// The longest path that a socket may have.
const SOCKET_PATH_MAX: usize = 107;

/// Starts the workers `1..=instances`.
pub(crate) fn start(
    parent: &Arc<Parent>,
    context: &Context,
    config: &Config,
    instances: u32,
    manners: Manners,
) -> Result<Crew, Failure> {
    let (folder, path) = place().map_err(|error| local("make a folder for the socket", &error))?;
    let listener =
        UnixListener::bind(&path).map_err(|error| local("listen on a socket", &error))?;
    let mut door = Tasks::new();
    door.start(admit(listener, parent.clone()));
    let mut watchers = Tasks::new();
    let mut pids = Vec::new();
    for id in 1..=instances {
        let mut child = command(context, config, &path, id, manners)
            .and_then(|mut command| command.spawn())
            .map_err(|error| local("start a worker", &error))?;
        pids.extend(child.id());
        let parent = parent.clone();
        let clock = config.clock().clone();
        watchers.start(async move {
            watch(&mut child, id, &parent, &*clock).await;
        });
    }
    let door = Door { _admitting: door, _folder: folder };
    Ok(Crew::new(watchers, pids, Some(door)))
}

fn local(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(exit::REFUSED, format!("cannot {what}: {error}"))
}

/// A folder that is ours alone, and a path in it that is short enough for a socket.
fn place() -> std::io::Result<(TempDir, PathBuf)> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("coordinator-demo-");
    let folder = builder.tempdir()?;
    let path = folder.path().join("parent");
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok((folder, path));
    }
    let folder = builder.tempdir_in("/tmp")?;
    let path = folder.path().join("parent");
    Ok((folder, path))
}

fn command(
    context: &Context,
    config: &Config,
    socket: &Path,
    id: u32,
    manners: Manners,
) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--prefix", config.keyspace().prefix()]).args((0..context.verbose).map(|_| "-v"));
    if let Some(timeout) = context.timeout {
        command.args(["--timeout", &format!("{}ms", timeout.as_millis().max(1))]);
    }
    command
        .arg("demo")
        .arg("--worker")
        .arg(socket)
        .args(["--id", &id.to_string()])
        .args(["--run", &manners.run.to_string()])
        .args(["--work", &format!("{}us", manners.work.as_micros())]);
    if manners.hasty {
        command.arg("--hasty");
    }
    if manners.forgetful {
        command.arg("--forgetful");
    }
    if manners.careless {
        command.arg("--careless");
    }
    if manners.greedy {
        command.arg("--greedy");
    }
    if let Some(url) = &context.url {
        command.env("COORDINATOR_URL", url).env_remove("USE_REDIS");
    }
    let log = if context.verbose > 0 { Stdio::inherit() } else { Stdio::null() };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C is for the parent, which tells the workers in its own way.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

/// Waits for a worker's end, and brings it about when all is over and it does not come.
async fn watch(child: &mut Child, id: u32, parent: &Parent, clock: &dyn Clock) {
    let dismissed = async {
        parent.over().await;
        clock.sleep(GRACE).await;
    };
    tokio::select! {
        _ = child.wait() => {}
        () = dismissed => {
            // It fails only if the worker has ended by itself after all.
            let _ = child.kill().await;
        }
    }
    parent.farewell(id);
}

/// Lets workers in, for as long as this is not dropped.
async fn admit(listener: UnixListener, parent: Arc<Parent>) {
    let mut talks = Tasks::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => talks.start(talk(stream, parent.clone())),
            // Too many open files, at worst: the worker waits, and ends are near.
            Err(error) => {
                tracing::warn!(%error, "a worker could not be let in");
                tokio::task::yield_now().await;
            }
        }
        talks.reap();
    }
}

/// Answers one worker until it goes.
async fn talk(stream: UnixStream, parent: Arc<Parent>) {
    let (reader, writer) = stream.into_split();
    let (outbox, outgoing) = mpsc::unbounded_channel();
    let mut tasks = Tasks::new();
    tasks.start(write_lines(writer, outgoing));
    let mut lines = BufReader::new(reader).lines();
    let mut worker = None;
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(Frame { id, body }) = serde_json::from_str::<Frame<Ask>>(&line) else {
            break;
        };
        let answer = match (worker, body) {
            (None, Ask::Hello { id, pid }) => {
                if !parent.welcome(id, pid) {
                    break;
                }
                worker = Some(id);
                Answer::Noted
            }
            (None, _) => break,
            (Some(worker), Ask::Next) => {
                let (parent, outbox) = (parent.clone(), outbox.clone());
                tasks.reap();
                tasks.start(async move {
                    let answer = parent.next(worker).await;
                    // A worker that has gone is noticed by the reader.
                    let _ = outbox.send(encode(id, &answer));
                });
                continue;
            }
            (Some(worker), ask) => parent.note(worker, ask),
        };
        if outbox.send(encode(id, &answer)).is_err() {
            break;
        }
    }
    if let Some(worker) = worker {
        parent.farewell(worker);
    }
}
