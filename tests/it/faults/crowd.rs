//! Four processes of 64 tasks each ask the same limits, while the scripts are flushed, the links
//! are killed and one of the processes is, or while the limits' slots move.
//!
//! Afterwards every true window is looked at: the servers' journals have each admission with the
//! moment that the script gave it, and the processes' rolls have what they were told.

mod books;
mod member;

use super::{SECOND, figures, now};
use crate::{
    stage::config,
    topology::{builder, node},
};
use books::{Roll, flaws, log_of};
use coordinator_core::clock::{Clock, SystemClock};
use coordinator_harness::{Cluster, RedisServer, Resp, eventually};
use coordinator_ratelimit::{Quota, SCRIPTS};
use member::{NUMBER, PREFIX, ROLL, URL};
use std::{path::PathBuf, process::Stdio, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    time::MissedTickBehavior,
};

const MEMBERS: usize = 4;
const TASKS: usize = 64;
/// A call costs 1, 2 or 3.
const DEAREST: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(20);
/// How many admissions a run takes at least, of [`ALONE`] and of the others. A machine that stops
/// for a while takes longer for them.
const ENOUGH: (usize, usize) = (300, 150);

/// A limit that all of them ask.
#[derive(Debug, Clone, Copy)]
struct Limit {
    subject: &'static str,
    units: u64,
    window: Duration,
}

impl Limit {
    fn quota(&self) -> Quota {
        Quota::sliding_window(self.units, self.window)
    }

    fn window_us(&self) -> i64 {
        i64::try_from(self.window.as_micros()).expect("a short window")
    }
}

/// Half of the tasks ask this one, without an id.
const ALONE: Limit = Limit { subject: "alone", units: 100, window: Duration::from_millis(250) };
/// The others ask both of these at once, with an id, and again until they are answered.
const USER: Limit = Limit { subject: "user", units: 40, window: Duration::from_millis(200) };
/// It remembers in granules, as high limits do.
const COMPANY: Limit = Limit { subject: "company", units: 180, window: Duration::from_secs(1) };
const TENANT: &str = "tenant";

/// The wall clock in µs, by which servers decide; one machine has one.
fn wall_us() -> i64 {
    i64::try_from(SystemClock.unix_time().as_micros()).expect("some time before the year 290000")
}

/// The processes, from the side of the one that started them.
struct Crowd {
    members: Vec<Child>,
    rolls: Vec<PathBuf>,
    _folder: TempDir,
}

impl Crowd {
    /// Starts them, and lets them go when all of them are connected.
    async fn start(url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let prefix = config(url).keyspace().prefix().to_owned();
        let rolls: Vec<_> = (0..MEMBERS).map(|n| folder.path().join(format!("roll-{n}"))).collect();
        let mut members = Vec::new();
        for (n, roll) in rolls.iter().enumerate() {
            let mut command = Command::new(std::env::current_exe().expect("this binary"));
            command.args(["--exact", &member::test_name(), "--nocapture"]);
            command.env(URL, url).env(PREFIX, &prefix).env(ROLL, roll).env(NUMBER, n.to_string());
            // It works until its input ends, so it does not outlive us.
            command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
            members.push(command.spawn().expect("a process"));
        }
        let mut crowd = Self { members, rolls, _folder: folder };
        eventually(PATIENCE, "all are connected", async || {
            (0..MEMBERS).all(|n| crowd.roll(n).ready)
        })
        .await;
        for member in &mut crowd.members {
            let input = member.stdin.as_mut().expect("a pipe");
            input.write_all(b"go\n").await.expect("it listens");
        }
        crowd
    }

    fn roll(&self, n: usize) -> Roll {
        Roll::read(&self.rolls[n])
    }

    /// Whether enough was admitted to say something.
    fn has_enough(&self) -> bool {
        let rolls = (0..MEMBERS).map(|n| self.roll(n));
        let sum =
            rolls.fold((0, 0), |sum, roll| (sum.0 + roll.alone.len(), sum.1 + roll.both.len()));
        sum.0 >= ENOUGH.0 && sum.1 >= ENOUGH.1
    }

    /// Kills the last one with SIGKILL in the midst of its work, and says when it was dead.
    async fn kill_last(&mut self) -> i64 {
        use std::os::unix::process::ExitStatusExt as _;
        let last = self.members.len() - 1;
        eventually(PATIENCE, "it has work in hand", async || !self.roll(last).alone.is_empty())
            .await;
        let mut member = self.members.pop().expect("one of four");
        member.start_kill().expect("a signal");
        let status = member.wait().await.expect("its end");
        assert_eq!(status.signal(), Some(9), "it ended by itself: {status}");
        wall_us()
    }

    /// Lets them finish what they have begun; what all of them were told, the dead one too.
    async fn end(mut self) -> Roll {
        for member in &mut self.members {
            drop(member.stdin.take());
        }
        for member in &mut self.members {
            let status = tokio::time::timeout(PATIENCE, member.wait()).await;
            let status = status.expect("it ends in time").expect("its end");
            assert!(status.success(), "one of the processes failed, see above: {status}");
        }
        let mut all = Roll::default();
        for n in 0..MEMBERS {
            let mut roll = self.roll(n);
            assert_eq!(roll.ended, n < self.members.len(), "roll {n}");
            if !roll.ended {
                // Nobody knows how far its calls had come.
                roll.unsure_alone += TASKS / 2;
                roll.unsure_both += TASKS / 2;
            }
            all.add(roll);
        }
        all
    }
}

/// Looks at every window of every limit, and whether the limits were really made use of.
fn examine(what: &str, journals: &[Vec<Resp>], roll: &Roll) {
    let limits = [
        (ALONE, &roll.alone, roll.unsure_alone),
        (USER, &roll.both, roll.unsure_both),
        (COMPANY, &roll.both, roll.unsure_both),
    ];
    let mut found = Vec::new();
    let mut logs = Vec::new();
    for (limit, told, unsure) in limits {
        let log = log_of(journals, &limit).unwrap_or_else(|flaw| panic!("{what}: {flaw}"));
        figures(&format!(
            "{what}: {}: {} admissions of {} units, {} told, {unsure} unsure",
            limit.subject,
            log.len(),
            log.iter().map(|one| one.cost).sum::<u64>(),
            told.len(),
        ));
        found.extend(flaws(&limit, told, unsure, &log));
        logs.push(log);
    }
    figures(&format!(
        "{what}: {} denied, {} surely not applied, {} unknown",
        roll.denied, roll.unavailable, roll.indeterminate
    ));
    let costs = |n: usize| logs[n].iter().map(|one| one.cost).collect::<Vec<_>>();
    if costs(1) != costs(2) {
        found.push("one limit was charged without the other".to_owned());
    }
    assert!(found.is_empty(), "{what}: {found:#?}");
    // Else a limit that admits too much would not have shown.
    for (limit, log) in [(ALONE, &logs[0]), (USER, &logs[1])] {
        assert!(books::was_full(&limit, log), "{what}: {} was never full", limit.subject);
    }
    let (alone, both) = (logs[0].len(), logs[1].len());
    assert!(alone >= ENOUGH.0 && both >= ENOUGH.1, "{what}: INVALID, {alone} and {both} admitted");
    assert!(roll.denied >= 1000, "{what}: INVALID, {} denied", roll.denied);
}

/// How often servers have answered with such an error.
async fn errors(servers: &[RedisServer], kinds: &[&str]) -> u64 {
    let mut sum = 0;
    for server in servers {
        let info = server.command(&["INFO", "errorstats"]).await.and_then(Resp::ok);
        let info = info.expect("an answer");
        for line in info.as_str().expect("text").lines() {
            for kind in kinds {
                let count = line.strip_prefix(&format!("errorstat_{kind}:count="));
                sum += count.map_or(0, |count| count.parse::<u64>().expect("a number"));
            }
        }
    }
    sum
}

#[tokio::test]
async fn no_window_is_too_full_through_flushed_scripts_killed_links_and_a_dead_process() {
    let server = builder().with_aof("no").start().await.expect("a server");
    // So that whoever finds a script unknown finds it flushed.
    for script in SCRIPTS {
        server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("a script");
    }
    let mut crowd = Crowd::start(&server.url()).await;
    let (mut flushes, mut rounds, mut killed, mut dead_at) = (0, 0, 0, None);
    let began = now();
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let flushed = server.command(&["SCRIPT", "FLUSH"]).await.and_then(Resp::ok);
        flushed.expect("an answer");
        flushes += 1;
        if flushes % 30 != 0 {
            continue;
        }
        let answer = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        killed += answer.expect("an answer").as_int().expect("a number of clients");
        rounds += 1;
        assert!(began.elapsed() < PATIENCE, "INVALID: {flushes} flushes, few admissions");
        match dead_at {
            None if rounds >= 4 => dead_at = Some(crowd.kill_last().await),
            _ if rounds >= 8 && began.elapsed() >= SECOND * 3 && crowd.has_enough() => break,
            _ => {}
        }
    }
    let roll = crowd.end().await;
    let dead_at = dead_at.expect("one was killed");
    let unknown = errors(std::slice::from_ref(&server), &["NOSCRIPT"]).await;
    figures(&format!(
        "flushes: {flushes} with {unknown} unknown scripts, {killed} clients killed in {rounds}"
    ));
    examine("flushes", &[server.journal().expect("a journal")], &roll);
    assert!(unknown >= flushes, "INVALID: {flushes} flushes, {unknown} felt");
    // Each process has a link at the least; some may be on their way back.
    assert!(killed >= rounds * 2, "INVALID: {killed} killed in {rounds} rounds");
    assert!(roll.indeterminate >= 10, "INVALID: {} calls were lost", roll.indeterminate);
    for told in [&roll.alone, &roll.both] {
        let after = told.iter().filter(|told| told.asked > dead_at).count();
        assert!(after >= 20, "it went on for {after} calls after one process had died");
    }
}

/// The newest admission of a log at a node, if it is there.
async fn newest(node: &RedisServer, key: &str) -> Option<i64> {
    let last = node.command(&["ZRANGE", key, "-1", "-1", "WITHSCORES"]).await.ok()?;
    last.as_array()?.get(1)?.as_int()
}

async fn log_key(all: &Cluster, limit: &Limit) -> String {
    let pattern = format!("*:use:*{}", limit.subject);
    let mut found = None;
    eventually(PATIENCE, "the limit has a log", async || {
        for node in all.masters() {
            let keys = node.command(&["KEYS", &pattern]).await.expect("an answer");
            found = keys.as_array().and_then(|keys| Some(keys.first()?.as_str()?.to_owned()));
            if found.is_some() {
                return true;
            }
        }
        false
    })
    .await;
    found.expect("it was found")
}

/// Moves a limit's slot to another master, half of it first: its log, or all but the log.
async fn move_slot(all: &Cluster, key: &str, log_first: bool) {
    let from = all.owner_of(key).await.expect("an owner");
    let mut masters = all.masters().iter().cycle().skip_while(|node| node.port() != from.port());
    let to = masters.nth(1).expect("another");
    let before = errors(all.nodes(), &["ASK", "TRYAGAIN"]).await;
    let moving = all.begin_move(key, to).await.expect("a move");
    let slot = from.command(&["CLUSTER", "KEYSLOT", key]).await.expect("an answer");
    let slot = slot.as_int().expect("a slot").to_string();
    let keys = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await.expect("keys");
    let keys = keys.as_array().expect("keys").iter().filter_map(Resp::as_str);
    let half: Vec<_> = keys.filter(|one| (*one == key) == log_first).map(str::to_owned).collect();
    if !half.is_empty() {
        moving.carry(&half).await.expect("they are carried");
    }
    eventually(PATIENCE, "calls meet a slot that is half here and half there", async || {
        errors(all.nodes(), &["ASK", "TRYAGAIN"]).await >= before + 10
    })
    .await;
    moving.finish().await.expect("its end");
    let arrived = newest(to, key).await;
    eventually(PATIENCE, "it goes on at its new place", async || {
        newest(to, key).await.is_some_and(|at| Some(at) > arrived)
    })
    .await;
}

#[tokio::test]
async fn no_window_is_too_full_while_slots_move_to_and_fro() {
    let all = Cluster::start_with(2, 0, &node().with_aof("no")).await.expect("a cluster");
    let crowd = Crowd::start(&all.url()).await;
    let keys = [log_key(&all, &ALONE).await, log_key(&all, &USER).await];
    let began = now();
    let mut moves = 0;
    // There and back, twice at least, and for as long as a few windows take.
    while moves < 8 || began.elapsed() < SECOND * 3 || !crowd.has_enough() {
        let key = &keys[moves % 2];
        move_slot(&all, key, moves % 4 < 2).await;
        moves += 1;
        assert!(began.elapsed() < PATIENCE, "INVALID: {moves} moves, few admissions");
    }
    let roll = crowd.end().await;
    let halfway = errors(all.nodes(), &["ASK", "TRYAGAIN"]).await;
    let moved = errors(all.nodes(), &["MOVED"]).await;
    figures(&format!("moves: {moves}, calls met {halfway} halfway and {moved} behind"));
    let journals: Vec<_> =
        all.nodes().iter().map(|node| node.journal().expect("a journal")).collect();
    for (n, journal) in journals.iter().enumerate() {
        let log = log_of(std::slice::from_ref(journal), &ALONE);
        assert!(!log.is_ok_and(|log| log.is_empty()), "INVALID: node {n} never had it");
    }
    examine("moves", &journals, &roll);
    assert!(moved >= 8, "INVALID: {moved} calls were sent on");
}
