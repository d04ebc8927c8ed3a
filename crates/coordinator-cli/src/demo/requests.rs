//! The requests of a demo: the lines of an access log, or generated ones.
//!
//! What a line says beside whose request it is, and for what, is not looked at.

use crate::{access_log, failure::Failure};
use coordinator::clock::Instant;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The client, or the path, of a line that cannot be read.
const NOBODY: &str = "-";
/// The longest client that is believed: host names end at 253 bytes.
const CLIENT_MAX_BYTES: usize = 253;
/// How much of a path tells it from others: limits take names of up to 512 bytes.
const PATH_MAX_BYTES: usize = 400;
/// How many clients and paths there are among generated requests.
const CLIENTS: u32 = 48;
const PATHS: u32 = 24;

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The line of the log it stands in, or its place among the generated ones; from 1 on.
    pub(crate) number: u64,
    /// Whose request it is.
    pub(crate) client: String,
    /// What is asked for.
    pub(crate) path: String,
}

/// Reads every request of a log in the combined format. A line that is not in that format is a
/// request too, of nobody; an empty line is none.
pub(crate) fn read_log(path: &Path) -> Result<Vec<Request>, Failure> {
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::usage(format!("cannot read the log {}: {error}", path.display()))
    })?;
    Ok(parse_log(&bytes))
}

fn parse_log(bytes: &[u8]) -> Vec<Request> {
    (1..)
        .zip(bytes.split(|&byte| byte == b'\n'))
        .filter_map(|(number, line)| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                return None;
            }
            let line = String::from_utf8_lossy(line);
            let path = access_log::path_of(&line).unwrap_or(NOBODY);
            let path = path[..path.floor_char_boundary(PATH_MAX_BYTES)].to_owned();
            Some(Request { number, client: client_of(&line).to_owned(), path })
        })
        .collect()
}

/// The first word of `host ident user [time] "request" …`.
fn client_of(line: &str) -> &str {
    let client = line.split(' ').next().unwrap_or_default();
    let dated = line.split_once(" [").is_some_and(|(_, rest)| rest.contains("] \""));
    if !dated || client.is_empty() || client.len() > CLIENT_MAX_BYTES {
        return NOBODY;
    }
    client
}

/// Makes requests up until a moment: some clients ask far more often than others, and some paths
/// are asked for far more often.
#[derive(Debug)]
pub(crate) struct Generator {
    until: Instant,
    next: u64,
    clients: Skewed,
    paths: Skewed,
}

/// Picks one of many, the first far more often than the last.
#[derive(Debug)]
struct Skewed {
    /// How likely each is, summed up.
    weights: Vec<f64>,
}

impl Skewed {
    fn new(many: u32) -> Self {
        let mut sum = 0.0;
        let weights = (0..many).map(|place| {
            sum += 1.0 / f64::from(place + 4);
            sum
        });
        Self { weights: weights.collect() }
    }

    fn pick(&self) -> usize {
        let most = self.weights.last().copied().unwrap_or_default();
        let point = rand::rng().random_range(0.0..most);
        self.weights.partition_point(|weight| *weight <= point)
    }
}

impl Generator {
    pub(crate) fn new(until: Instant) -> Self {
        Self { until, next: 1, clients: Skewed::new(CLIENTS), paths: Skewed::new(PATHS) }
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// The next request, until it is over.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Request> {
        if self.is_over(now) {
            return None;
        }
        let number = self.next;
        self.next += 1;
        let client = format!("10.0.0.{}", self.clients.pick() + 1);
        let path = format!("/page/{}", self.paths.pick() + 1);
        Some(Request { number, client, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashMap, time::Duration};

    const LINE: &str = r#"83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 5"#;

    #[test]
    fn every_line_with_something_in_it_is_a_request() {
        let log = format!("{LINE}\n\nrubbish\n\r\n{LINE}\r\n \n{LINE}");
        let requests = parse_log(log.as_bytes());
        let seen: Vec<_> =
            requests.iter().map(|request| (request.number, request.client.as_str())).collect();
        let known = "83.149.9.216";
        assert_eq!(seen, [(1, known), (3, "-"), (5, known), (6, "-"), (7, known)]);
        let paths: Vec<_> = requests.iter().map(|request| request.path.as_str()).collect();
        assert_eq!(paths, ["/", "-", "/", "-", "/"]);
        assert!(parse_log(b"").is_empty());
        assert!(parse_log(b"\n").is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_the_client() {
        let mut log = LINE.as_bytes().to_vec();
        log.extend_from_slice(b" \"\xff\xfe\x00\"\n\xff\xff\xff\n");
        let requests = parse_log(&log);
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].client, "83.149.9.216");
        assert_eq!(requests[1].client, "-");
    }

    #[test]
    fn a_path_is_no_longer_than_a_limit_takes() {
        let log = LINE.replace("GET /", &format!("GET /{}", "☃".repeat(1000)));
        let path = parse_log(log.as_bytes())[0].path.clone();
        assert_eq!(path, format!("/{}", "☃".repeat(133)));
    }

    #[test]
    fn a_line_in_another_format_is_nobodys() {
        let long = format!("{}{}", "x".repeat(254), &LINE[12..]);
        for line in ["83.149.9.216", r#" - - [t] "GET /""#, "1.2.3.4 - - GET /", &long] {
            assert_eq!(client_of(line), "-", "{line}");
        }
        assert_eq!(client_of(r#"::1 - bob [t] "GET /" 200"#), "::1");
    }

    #[test]
    fn a_log_that_is_not_there_is_a_usage_error() {
        let failure = read_log(Path::new("/nowhere/access.log")).expect_err("no such file");
        assert_eq!(failure.exit, 2);
        assert!(failure.message.contains("/nowhere/access.log"));
    }

    #[test]
    fn generated_requests_are_skewed_and_end() {
        let end = Instant::from_start(Duration::from_secs(1));
        let mut generator = Generator::new(end);
        let mut clients: HashMap<String, u64> = HashMap::new();
        let mut paths: HashMap<String, u64> = HashMap::new();
        for number in 1..=20_000 {
            let request = generator.next(Instant::from_start(Duration::ZERO)).expect("it goes on");
            assert_eq!(request.number, number);
            *clients.entry(request.client).or_default() += 1;
            *paths.entry(request.path).or_default() += 1;
        }
        assert_eq!(paths.len(), 24);
        assert!(paths["/page/1"] > 3 * paths["/page/20"]);
        assert_eq!(clients.len(), 48);
        assert!(clients["10.0.0.1"] > 3 * clients["10.0.0.40"]);
        assert_eq!(generator.next(end), None);
    }
}
