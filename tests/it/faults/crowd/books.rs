//! What the processes were told, what the servers have written, and whether the two agree with
//! each other and with the limits.

use super::{DEAREST, Limit};
use coordinator_checkers::rate_window::{Admission, Told, unaccounted, worst_excess};
use coordinator_harness::Resp;
use std::path::Path;

/// What a process was told.
#[derive(Debug, Default)]
pub(super) struct Roll {
    pub(super) ready: bool,
    /// It came to its end by itself.
    pub(super) ended: bool,
    pub(super) alone: Vec<Told>,
    pub(super) both: Vec<Told>,
    /// Calls that were perhaps applied.
    pub(super) unsure_alone: usize,
    pub(super) unsure_both: usize,
    /// By the server itself.
    pub(super) denied: u64,
    /// Failures, by what they say.
    pub(super) unavailable: u64,
    pub(super) indeterminate: u64,
}

impl Roll {
    /// Reads what is there as yet.
    pub(super) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut roll = Self::default();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let (word, numbers) = line.split_once(' ').unwrap_or((line, ""));
            let numbers: Vec<i64> =
                numbers.split_whitespace().map(|n| n.parse().expect("a number")).collect();
            let count = |n: usize| u64::try_from(numbers[n]).expect("a count");
            let told = || Told { cost: count(0), asked: numbers[1], known: numbers[2] };
            match word {
                "ready" => roll.ready = true,
                "alone" => roll.alone.push(told()),
                "both" => roll.both.push(told()),
                "alone?" => roll.unsure_alone += 1,
                "both?" => roll.unsure_both += 1,
                "end" => {
                    (roll.denied, roll.unavailable, roll.indeterminate) =
                        (count(0), count(1), count(2));
                    roll.ended = true;
                }
                _ => panic!("{line}"),
            }
        }
        roll
    }

    pub(super) fn add(&mut self, other: Self) {
        self.alone.extend(other.alone);
        self.both.extend(other.both);
        self.unsure_alone += other.unsure_alone;
        self.unsure_both += other.unsure_both;
        self.denied += other.denied;
        self.unavailable += other.unavailable;
        self.indeterminate += other.indeterminate;
    }
}

/// Every admission of a limit, as the scripts wrote it: its moment, and the running total, which
/// says what it cost.
pub(super) fn log_of(journals: &[Vec<Resp>], limit: &Limit) -> Result<Vec<Admission>, String> {
    let mut written: Vec<(i64, i64)> = Vec::new();
    for command in journals.iter().flatten() {
        let words = command.as_array().unwrap_or_default();
        let word = |n: usize| words.get(n).and_then(Resp::as_str).unwrap_or_default();
        let is_log = word(1).contains(":use:") && word(1).ends_with(limit.subject);
        if !word(0).eq_ignore_ascii_case("ZADD") || !is_log {
            continue;
        }
        // The entry with score 0 is the head.
        let pairs = words[2..].chunks_exact(2).filter(|pair| pair[0].as_int() != Some(0));
        for pair in pairs {
            let entry = pair[0].as_int().zip(pair[1].as_int());
            written.push(entry.ok_or_else(|| format!("not an entry of a log: {pair:?}"))?);
        }
    }
    written.sort_unstable();
    let mut log: Vec<Admission> = Vec::new();
    let mut before = None::<(i64, i64)>;
    for (at, total) in written {
        let last = before.map_or(0, |(_, total)| total);
        let expired = before.is_none_or(|(last_at, _)| at - last_at > limit.window_us());
        let cost = if expired && total <= last { total } else { total - last };
        let cost = u64::try_from(cost).unwrap_or(0);
        if !(1..=DEAREST).contains(&cost) || before.is_some_and(|(last_at, _)| at == last_at) {
            return Err(format!("{}: {total} at {at} follows {before:?}", limit.subject));
        }
        log.push(Admission { at, cost });
        before = Some((at, total));
    }
    Ok(log)
}

/// What is wrong with a log, by itself and beside what was told.
pub(super) fn flaws(limit: &Limit, told: &[Told], unsure: usize, log: &[Admission]) -> Vec<String> {
    let subject = limit.subject;
    let mut flaws = Vec::new();
    if let Some(excess) = worst_excess(log, limit.window_us(), limit.units) {
        flaws.push(format!(
            "{subject}: {} in a window of {}: {excess:?}",
            excess.admitted, limit.units
        ));
    }
    if let Some(missed) = unaccounted(told, log) {
        flaws.push(format!("{subject}: told, and not in the log: {missed:?}"));
    }
    if log.len() > told.len() + unsure {
        let (log, told) = (log.len(), told.len());
        flaws.push(format!("{subject}: {log} in the log, {told} told and {unsure} unsure"));
    }
    flaws
}

/// Whether some window was as full as may be.
pub(super) fn was_full(limit: &Limit, log: &[Admission]) -> bool {
    worst_excess(log, limit.window_us(), limit.units - 1).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMIT: Limit = Limit { subject: "x", units: 4, window: Duration::from_micros(100) };

    fn zadd(key: &str, pairs: &[(i64, i64)]) -> Resp {
        let bulk = |text: &str| Resp::Bulk(Some(text.as_bytes().to_vec()));
        let mut words = vec![bulk("ZADD"), bulk(key), bulk("0"), bulk("head")];
        for (at, total) in pairs {
            words.extend([bulk(&at.to_string()), bulk(&total.to_string())]);
        }
        Resp::Array(words)
    }

    fn told(asked: i64, known: i64, cost: u64) -> Told {
        Told { asked, known, cost }
    }

    #[test]
    fn a_log_is_put_together_from_what_all_servers_wrote() {
        let there = vec![zadd("{r}:use:s:x", &[(10, 1)]), zadd("{r}:use:s:x", &[(30, 5)])];
        let here = vec![zadd("{r}:use:s:x", &[(20, 3)]), zadd("{r}:use:s:y", &[(21, 9)])];
        let log = log_of(&[there, here], &LIMIT).unwrap();
        let at = |at, cost| Admission { at, cost };
        assert_eq!(log, [at(10, 1), at(20, 2), at(30, 2)]);
        assert!(was_full(&LIMIT, &log));
    }

    #[test]
    fn a_log_that_begins_anew_or_goes_two_ways_is_seen() {
        let of = |pairs: &[(i64, i64)]| log_of(&[vec![zadd("{r}:use:s:x", pairs)]], &LIMIT);
        assert!(of(&[(10, 1), (20, 2)]).is_ok());
        assert!(of(&[(10, 1), (111, 1)]).is_ok(), "its window was over");
        assert!(of(&[(10, 3), (110, 1)]).is_err(), "it forgot");
        assert!(of(&[(10, 3), (20, 4), (21, 4)]).is_err(), "two of them went on");
        assert!(of(&[(10, 3), (10, 4)]).is_err(), "two at one moment");
        assert!(of(&[(10, 1), (20, 9)]).is_err(), "something is missing");
    }

    #[test]
    fn each_flaw_is_seen() {
        let at = |at, cost| Admission { at, cost };
        let log = [at(10, 2), at(20, 2), at(115, 2)];
        let all = [told(5, 12, 2), told(15, 25, 2), told(100, 120, 2)];
        assert_eq!(flaws(&LIMIT, &all, 0, &log), [""; 0]);
        assert_eq!(flaws(&LIMIT, &all[..2], 1, &log), [""; 0]);
        let one = |told: &[Told], unsure, log: &[Admission], flaw: &str| {
            let found = flaws(&LIMIT, told, unsure, log);
            assert!(found.len() == 1 && found[0].contains(flaw), "{found:?}");
        };
        one(&all[..2], 0, &log, "2 told and 0 unsure");
        one(&all, 0, &log[..2], "not in the log");
        one(&all, 0, &[at(10, 2), at(16, 2), at(109, 2)], "6 in a window of 4");
        one(&all, 0, &[at(10, 2), at(16, 2), at(121, 2)], "not in the log");
    }
}
