//! `limit replay` beside a count by brute force, which shares no line with it.

use crate::support::{Done, binary, done, keys};
use serde_json::{Value, json};
use std::{collections::HashMap, fmt::Write as _, io::Write as _, path::Path, process::Stdio};
use tempfile::NamedTempFile;

/// A request: its time in seconds, its address and its path.
type Request = (i64, String, String);

async fn replay(log: &Path, args: &[&str]) -> Done {
    let log = log.to_str().expect("a plain path");
    done(binary(&[&["--json", "limit", "replay", log], args].concat())).await
}

/// Reads a log as simply as can be: every line of it is one that can be read.
fn requests(text: &str) -> Vec<Request> {
    let mut requests: Vec<Request> = text
        .lines()
        .map(|line| {
            let (time, rest) = line.split_once('[').expect("a time").1.split_once(']').expect("]");
            // These logs are of one month and one zone: days will do.
            let day: i64 = time[..2].parse().expect("a day");
            let part = |from: usize| time[from..from + 2].parse::<i64>().expect("a number");
            let at = ((day * 24 + part(12)) * 60 + part(15)) * 60 + part(18);
            let path = rest.split(' ').nth(2).expect("a path");
            let address = line.split(' ').next().expect("an address");
            (at, address.to_owned(), path.to_owned())
        })
        .collect();
    requests.sort_by_key(|request| request.0);
    requests
}

/// What the limit comes to by its definition: a request at t counts those admitted in (t − W, t].
fn by_definition(requests: &[Request], limit: usize, window_us: i64, by: &str) -> Value {
    let mut admitted: HashMap<String, Vec<i64>> = HashMap::new();
    let mut denied: HashMap<String, u64> = HashMap::new();
    for (at, address, path) in requests {
        let subject = match by {
            "ip" => address.clone(),
            "path" => path.clone(),
            _ => format!("{address} {path}"),
        };
        let before = admitted.entry(subject.clone()).or_default();
        let counted =
            before.iter().filter(|then| **then * 1_000_000 > at * 1_000_000 - window_us).count();
        if counted < limit {
            before.push(*at);
        } else {
            *denied.entry(subject).or_default() += 1;
        }
    }
    let all: u64 = denied.values().sum();
    let (subjects, bad) = (admitted.len(), denied.len());
    let mut worst: Vec<_> = denied.into_iter().collect();
    worst.sort_by(|(one, a), (other, b)| b.cmp(a).then_with(|| one.cmp(other)));
    let worst =
        worst.into_iter().map(|(subject, denied)| json!({ "subject": subject, "denied": denied }));
    json!({
        "requests": requests.len(),
        "unparsed": 0,
        "allowed": requests.len() as u64 - all,
        "denied": all,
        "subjects": subjects,
        "subjects_denied": bad,
        "worst": worst.collect::<Vec<_>>(),
    })
}

/// Rules with their limit and their window in µs.
const RULES: [(&str, usize, i64); 9] = [
    ("30/60s", 30, 60_000_000),
    ("1/1s", 1, 1_000_000),
    // Shorter than the times that a second's requests would get one after the other.
    ("2/1us", 2, 1),
    ("2/500ms", 2, 500_000),
    ("3/1500ms", 3, 1_500_000),
    ("2/60s", 2, 60_000_000),
    ("5/10s", 5, 10_000_000),
    ("120/1h", 120, 3_600_000_000),
    ("0/1s", 0, 1_000_000),
];

async fn agrees(log: &Path) {
    let requests = requests(&std::fs::read_to_string(log).expect("a log"));
    let mut refused = 0;
    for by in ["ip", "path", "ip+path"] {
        for (rule, limit, window) in RULES {
            let args = ["--rule", rule, "--by", by, "--worst", "1000000"];
            let told = replay(log, &args).await.exits(0).json();
            assert_eq!(told, by_definition(&requests, limit, window, by), "{rule} by {by}");
            refused += usize::from(limit > 0 && told["denied"] != 0);
        }
    }
    assert!(refused >= 12, "the rules refuse next to nobody: {refused}");
}

/// A log of few addresses and paths in bursts, many of them a window's length apart.
fn generated() -> NamedTempFile {
    let mut text = String::new();
    let mut state = 42_u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..600 {
        // Bursts at seconds that are multiples of ten: then windows of 10 s and 60 s end upon them.
        let at = random(720) * 10 + random(8) / 7;
        let (hour, minute, second) = (at / 3600, at / 60 % 60, at % 60);
        for _ in 0..=random(8) {
            let (address, path) = (random(9), random(5));
            let _ = writeln!(
                text,
                "10.0.0.{address} - - [17/May/2015:{hour:02}:{minute:02}:{second:02} +0000] \
                 \"GET /{path}?q={path} HTTP/1.1\" 200 7 \"-\" \"curl\""
            );
        }
    }
    written(text.as_bytes())
}

fn written(text: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text).expect("it is written");
    file
}

#[tokio::test]
async fn a_generated_log_is_replayed_as_the_definition_says() {
    agrees(generated().path()).await;
}

#[tokio::test]
async fn a_real_log_is_replayed_as_the_definition_says() {
    let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/access.log");
    // The project keeps no copy of it; the generated one is harder anyway.
    if log.exists() {
        agrees(&log).await;
    }
}

const LINE: &str = r#"1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 5"#;

#[tokio::test]
async fn lines_that_cannot_be_read_are_counted_and_shown() {
    let mut text = format!("{LINE}\n\nrub\u{7}bish\n{LINE} \"-\" \"curl\"\r\n").into_bytes();
    text.extend_from_slice(b"\xff\xfe\n");
    text.extend_from_slice("x y z\n".repeat(5).as_bytes());
    text.extend_from_slice(LINE.as_bytes());
    let log = written(&text);
    let done = replay(log.path(), &["--rule", "2/1s"]).await.exits(0);
    let told = done.json();
    let expected =
        ["allowed", "denied", "requests", "subjects", "subjects_denied", "unparsed", "worst"];
    assert!(keys(&told).into_iter().eq(expected), "{told}");
    assert_eq!((told["requests"].as_u64(), told["unparsed"].as_u64()), (Some(3), Some(7)));
    assert_eq!((told["allowed"].as_u64(), told["denied"].as_u64()), (Some(2), Some(1)));
    assert_eq!(told["worst"], json!([{ "subject": "1.2.3.4", "denied": 1 }]));
    let said: Vec<_> = done.stderr.lines().collect();
    assert_eq!(said.len(), 6, "{done:?}");
    assert!(said[0].contains("line 3 ") && said[0].contains("rub\\u{7}bish"), "{done:?}");
    assert!(said[5].contains("2 more"), "{done:?}");
    // In the common format nothing follows the size.
    let strict = replay(log.path(), &["--rule", "2/1s", "--format", "common"]).await.exits(0);
    assert_eq!(strict.json()["requests"], 2);
}

#[tokio::test]
async fn stdin_is_a_log_and_people_read_a_table() {
    let mut command = binary(&["limit", "replay", "-", "--rule", "1/60s", "--by", "path"]);
    let log = written(format!("{LINE}\n{LINE}\n").as_bytes());
    command.stdin(Stdio::from(log.reopen().expect("a file")));
    let done = done(command).await.exits(0);
    assert!(done.stdout.contains("subjects denied") && done.stdout.contains("DENIED"), "{done:?}");
    assert!(done.stderr.is_empty(), "no bar where nobody looks: {done:?}");
}

#[tokio::test]
async fn a_log_without_requests_is_a_log() {
    let log = written(b"");
    for algorithm in ["sliding", "gcra", "fixed"] {
        let args = ["--rule", "1/60s", "--algorithm", algorithm];
        let told = replay(log.path(), &args).await.exits(0).json();
        assert_eq!((&told["requests"], &told["worst"]), (&0.into(), &json!([])));
    }
}

#[tokio::test]
async fn other_algorithms_are_replayed_on_the_same_times() {
    // Five at the end of a minute of the clock, two at the beginning of the next.
    let times = ["10:00:59"; 5].into_iter().chain(["10:01:00", "10:01:01"]);
    let lines = times.map(|time| LINE.replace("10:05:03", time) + "\n");
    let log = written(lines.collect::<String>().as_bytes());
    for (algorithm, denied) in [("sliding", 4), ("fixed", 2), ("gcra", 4)] {
        let args = ["--rule", "3/60s", "--algorithm", algorithm];
        let told = replay(log.path(), &args).await.exits(0).json();
        assert_eq!(told["denied"], denied, "{algorithm}");
    }
}

#[tokio::test]
async fn wrong_calls_exit_2() {
    let log = written(LINE.as_bytes());
    let path = log.path().to_str().expect("a plain path");
    for args in [
        &[path][..],
        &[path, "--rule", "x/60s"],
        &[path, "--rule", "10/0s"],
        &[path, "--rule", "u=10/60s"],
        &[path, "--rule", "10/60s", "--by", "user"],
        &[path, "--rule", "10/60s", "--format", "json"],
        &["/nowhere/at/all", "--rule", "10/60s"],
        &["/tmp", "--rule", "10/60s"],
    ] {
        let done = done(binary(&[&["limit", "replay"], args].concat())).await;
        done.exits(2).complains("");
    }
}
