//! `limit replay`: a limit on the timestamps of an access log, before it is switched on.
//!
//! The embedded limiter decides, on a clock that the log moves. Logs know whole seconds, and the
//! limiter, as a server, never admits two at one time: it takes the next µs. So a second of the
//! log is given more µs than it has lines, and the window ends in the middle of a second's idle
//! rest: see [`Timeline`].

use super::{
    By, ReplayArgs,
    rule::{Algorithm, Rule},
};
use crate::{
    access_log::{self, Format},
    failure::{Failure, exit},
    output,
};
use coordinator::{
    clock::ManualClock,
    ratelimit::{Precision, Quota, RateLimiter},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    sync::Arc,
    time::Duration,
};

/// How many lines that cannot be read are shown, and how much of each.
const SHOWN: usize = 5;
const SHOWN_CHARS: usize = 120;
/// How often the bar moves, in lines.
const STEP: u64 = 1024;

/// What it came to.
#[derive(Debug, Serialize)]
struct Replayed {
    requests: u64,
    unparsed: u64,
    allowed: u64,
    denied: u64,
    subjects: u64,
    subjects_denied: u64,
    worst: Vec<Worst>,
}

#[derive(Debug, Serialize)]
struct Worst {
    subject: String,
    denied: u64,
}

/// Replays a log.
pub(super) async fn run(args: &ReplayArgs, json: bool) -> Result<u8, Failure> {
    if args.rule.subject.is_some() {
        return Err(Failure::usage("the rule of a replay is for every subject: write 30/60s"));
    }
    args.rule.quota(args.algorithm).validate()?;
    let mut log = read(&args.log, args.by, args.format)?;
    log.requests.sort_by_key(|request| request.at);
    let denied = replay(&log, &args.rule, args.algorithm).await?;
    let told = judge(&log, &denied, args.worst);
    log.tell_of_unparsed();
    if json {
        output::json(&told)?;
    } else {
        output::line(&told.text())?;
    }
    Ok(exit::DONE)
}

/// A request: when, and by which of the subjects.
#[derive(Debug, Clone, Copy)]
struct Request {
    at: u64,
    subject: u32,
}

/// What a log says.
#[derive(Debug, Default)]
struct Log {
    requests: Vec<Request>,
    subjects: HashMap<Box<str>, u32>,
    unparsed: u64,
    /// The number and the beginning of the first lines that could not be read.
    shown: Vec<(u64, String)>,
}

fn read(path: &Path, by: By, format: Format) -> Result<Log, Failure> {
    let failed = |error: io::Error| {
        Failure::usage(format!("cannot read the log {}: {error}", path.display()))
    };
    if path == Path::new("-") {
        return Log::read(&mut io::stdin().lock(), by, format, &bar(None)).map_err(failed);
    }
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    Log::read(&mut BufReader::new(file), by, format, &bar(Some(size))).map_err(failed)
}

/// A bar on stderr, if that is a terminal.
fn bar(length: Option<u64>) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    match ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %") {
        Ok(style) if length.is_some() => bar.with_style(style),
        _ => bar,
    }
}

impl Log {
    fn read(
        lines: &mut impl BufRead,
        by: By,
        format: Format,
        bar: &ProgressBar,
    ) -> io::Result<Self> {
        bar.set_message("reading");
        let mut log = Self::default();
        let mut bytes = Vec::new();
        let mut read = 0;
        for number in 1.. {
            bytes.clear();
            if lines.read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            read += bytes.len() as u64;
            if number % STEP == 0 {
                bar.set_position(read);
            }
            let line = String::from_utf8_lossy(&bytes);
            log.note(number, line.trim_end_matches(['\r', '\n']), by, format);
        }
        bar.finish_and_clear();
        Ok(log)
    }

    fn note(&mut self, number: u64, text: &str, by: By, format: Format) {
        if text.is_empty() {
            return;
        }
        let Some(line) = access_log::parse(text, format) else {
            self.unparsed += 1;
            if self.shown.len() < SHOWN {
                self.shown.push((number, text.chars().take(SHOWN_CHARS).collect()));
            }
            return;
        };
        let subject = match by {
            By::Ip => self.subject(line.host),
            By::Path => self.subject(line.path),
            By::IpAndPath => self.subject(&format!("{} {}", line.host, line.path)),
        };
        self.requests.push(Request { at: line.at, subject });
    }

    fn subject(&mut self, name: &str) -> u32 {
        if let Some(known) = self.subjects.get(name) {
            return *known;
        }
        let next = u32::try_from(self.subjects.len()).expect("their names do not fit in memory");
        self.subjects.insert(name.into(), next);
        next
    }

    fn tell_of_unparsed(&self) {
        for (number, text) in &self.shown {
            output::note(format_args!("line {number} cannot be read: {text}"));
        }
        let more = self.unparsed.saturating_sub(self.shown.len() as u64);
        if more > 0 {
            output::note(format_args!("{more} more lines cannot be read"));
        }
    }
}

/// Where a log's seconds are on the limiter's clock, and the quota that belongs to it.
///
/// A request of second t counts the admissions e with t − W < e ≤ t, all whole seconds; so a W that
/// is none may as well be the next whole one. The n requests that share second t are decided at µs
/// of [tS, tS + n], where S is the length of a second. With an S above 2n a window of WS − S/2 µs
/// is exact: what second t − W admitted, at (t − W)S + n at the latest, is out for the first of t;
/// what second t − W + 1 admitted, at its very beginning, is still in for the last of t.
struct Timeline {
    quota: Quota,
    second: u64,
    first: u64,
}

impl Timeline {
    fn new(log: &Log, rule: &Rule, algorithm: Algorithm) -> Self {
        let quota = rule.quota(algorithm).with_violations(false);
        if algorithm != Algorithm::Sliding {
            // These have no use for a time of its own for each.
            return Self { quota, second: 1_000_000, first: 0 };
        }
        let same_second = |one: &Request, next: &Request| one.at == next.at;
        let busiest = log.requests.chunk_by(same_second).map(|chunk| chunk.len() as u64).max();
        let second = (2 * busiest.unwrap_or(0) + 2).max(1_000_000);
        let window = quota.window();
        let seconds = window.as_secs() + u64::from(window.subsec_nanos() > 0);
        let span = Duration::from_micros(seconds.saturating_mul(second) - second / 2);
        Self {
            quota: Quota::sliding_window(quota.limit(), span)
                .with_precision(Precision::Exact)
                .with_violations(false),
            second,
            // The limiter's time begins after its zero.
            first: log.requests.first().map_or(0, |request| request.at).saturating_sub(1),
        }
    }

    fn at(&self, second: u64) -> Duration {
        Duration::from_micros((second - self.first) * self.second)
    }
}

/// How many requests of each subject are refused.
async fn replay(log: &Log, rule: &Rule, algorithm: Algorithm) -> Result<Vec<u64>, Failure> {
    let timeline = Timeline::new(log, rule, algorithm);
    let clock = ManualClock::new();
    let limits = RateLimiter::embedded_with_clock(Arc::new(clock.clone())).without_fast_deny();
    let bar = bar(Some(log.requests.len() as u64));
    bar.set_message("replaying");
    let mut denied = vec![0; log.subjects.len()];
    for (number, request) in (1_u64..).zip(&log.requests) {
        clock.set_unix_time(timeline.at(request.at));
        // Its number stands for it: a path may be longer than the name of a subject.
        let subject = request.subject.to_string();
        if !limits.check(&subject, &timeline.quota).await?.allowed {
            denied[request.subject as usize] += 1;
        }
        if number % STEP == 0 {
            bar.set_position(number);
        }
    }
    bar.finish_and_clear();
    Ok(denied)
}

fn judge(log: &Log, denied: &[u64], worst: usize) -> Replayed {
    let requests = log.requests.len() as u64;
    let all: u64 = denied.iter().sum();
    let each = log.subjects.iter().map(|(name, number)| (denied[*number as usize], &**name));
    let mut bad: Vec<_> = each.filter(|(denied, _)| *denied > 0).collect();
    bad.sort_unstable_by_key(|(denied, name)| (Reverse(*denied), *name));
    let worst = bad.iter().take(worst);
    Replayed {
        requests,
        unparsed: log.unparsed,
        allowed: requests - all,
        denied: all,
        subjects: log.subjects.len() as u64,
        subjects_denied: bad.len() as u64,
        worst: worst
            .map(|(denied, name)| Worst { subject: (*name).to_owned(), denied: *denied })
            .collect(),
    }
}

impl Replayed {
    /// For people.
    fn text(&self) -> String {
        let figures = [
            ("requests", self.requests),
            ("unparsed", self.unparsed),
            ("allowed", self.allowed),
            ("denied", self.denied),
            ("subjects", self.subjects),
            ("subjects denied", self.subjects_denied),
        ];
        let figures = figures.map(|(name, number)| vec![name.to_owned(), number.to_string()]);
        let mut text = output::table(&[], figures);
        if !self.worst.is_empty() {
            let rows = self.worst.iter().map(|it| vec![it.denied.to_string(), it.subject.clone()]);
            text.push_str("\n\n");
            text.push_str(&output::table(&["DENIED", "SUBJECT"], rows));
        }
        text
    }
}
