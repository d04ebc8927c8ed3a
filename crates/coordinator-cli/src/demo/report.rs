//! What a run came to, for people and for programs.

use super::{
    audit::Audit,
    parent::{Row, Tally},
    profiles::Reads,
};
use crate::output;
use serde::Serialize;
use std::{fmt::Write as _, time::Duration};

/// The JSON document. Parts that come later add their keys.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    requests: u64,
    handled: u64,
    duplicates: u64,
    over_admitted: u64,
    limited: u64,
    stale_writes_accepted: u64,
    stale_writes_refused: u64,
    wrong_accounts: u64,
    /// None where the run did not come to its own end.
    #[serde(flatten)]
    audit: Option<Audit>,
    /// The part of the profiles that the cache had, 0 to 1.
    cache_hit_rate: f64,
    instances: u32,
    workers_lost: u64,
    reassigned: u64,
    seconds: f64,
    ok: bool,
    #[serde(skip)]
    profiles: u64,
    #[serde(skip)]
    invented: u64,
    #[serde(skip)]
    unadmitted: u64,
    #[serde(skip)]
    apart: bool,
}

/// Whether the locks did their work, and not the fences alone: a ledger that has to refuse every
/// tenth write or more was written to without mutual exclusion. A few refusals are the fences'
/// own work, after a lease was lost; lost workers explain more.
fn holders_were_kept_apart(refused: u64, handled: u64, disturbances: u64) -> bool {
    disturbances > 0 || refused.saturating_mul(10) <= handled
}

/// Hits among reads, in ten thousandths; 0 without any.
fn hit_rate(reads: Reads) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    let rate = reads.hits as f64 / reads.all.max(1) as f64;
    (rate * 10_000.0).round() / 10_000.0
}

impl Summary {
    /// There is an audit if the run came to its own end.
    pub(crate) fn new(tally: Tally, audit: Option<Audit>, instances: u32, took: Duration) -> Self {
        let Tally { requests, findings, refused, limited, workers_lost, reassigned, reads } = tally;
        let apart = holders_were_kept_apart(refused, findings.handled, workers_lost + reassigned);
        Self {
            requests,
            handled: findings.handled,
            duplicates: findings.duplicates,
            over_admitted: findings.over_admitted,
            limited,
            stale_writes_accepted: findings.stale_writes_accepted,
            stale_writes_refused: refused,
            wrong_accounts: findings.wrong_accounts,
            audit,
            cache_hit_rate: hit_rate(reads),
            profiles: reads.all,
            instances,
            workers_lost,
            reassigned,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            ok: audit.is_some_and(|audit| audit.is_clean())
                && apart
                && requests > 0
                && findings.is_clean(),
            apart,
            invented: findings.invented,
            unadmitted: findings.unadmitted,
        }
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.ok
    }

    /// The workers and the checks in plain words; the last line says whether all is well.
    pub(crate) fn text(&self, rows: &[Row]) -> String {
        let mut text = table(rows);
        text.push_str("\n\n");
        for (holds, what) in self.checks() {
            let mark = if holds { '✓' } else { '✗' };
            let _ = writeln!(text, "{mark} {what}");
        }
        let _ = writeln!(
            text,
            "\n{} of {} requests handled by {} instances in {:.1} s{}",
            self.handled,
            self.requests,
            self.instances,
            self.seconds,
            self.rate()
        );
        let _ = writeln!(
            text,
            "{:.1} % of {} profiles came from the cache",
            self.cache_hit_rate * 100.0,
            self.profiles
        );
        if self.workers_lost > 0 {
            let _ = writeln!(text, "{} workers were lost on the way", self.workers_lost);
        }
        if self.reassigned > 0 {
            let _ = writeln!(text, "{} requests were given to others", self.reassigned);
        }
        text.push_str(if self.ok { "ok" } else { "FAILED" });
        text
    }

    fn checks(&self) -> Vec<(bool, String)> {
        let (handled, requests) = (self.handled, self.requests);
        let mut checks = vec![
            (
                handled == requests && requests > 0 && self.invented == 0,
                format!("every request was handled: {handled} of {requests}"),
            ),
            (self.duplicates == 0, format!("no request was written twice: {}", self.duplicates)),
            (
                self.over_admitted == 0 && self.unadmitted == 0,
                format!(
                    "no window let in more than its limit: {} over, {} past the limits, {} times \
                     one was full",
                    self.over_admitted, self.unadmitted, self.limited
                ),
            ),
            (
                self.stale_writes_accepted == 0,
                format!(
                    "no write of an overtaken holder was accepted: {}, refused: {}",
                    self.stale_writes_accepted, self.stale_writes_refused
                ),
            ),
            (self.apart, "holders were kept apart by the locks, not by refusals alone".to_owned()),
            (
                self.wrong_accounts == 0,
                format!("no update was lost: {} accounts do not add up", self.wrong_accounts),
            ),
        ];
        checks.extend(self.audit.iter().flat_map(Audit::checks));
        checks
    }

    fn rate(&self) -> String {
        if self.seconds <= 0.0 {
            return String::new();
        }
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let rate = self.handled as f64 / self.seconds;
        format!(", {rate:.0} a second")
    }
}

/// The workers.
pub(crate) fn table(rows: &[Row]) -> String {
    output::table(
        &["WORKER", "PID", "HANDLED", "WAITED", "LIMITED", "REFUSED", "STATE"],
        rows.iter().map(|row| {
            vec![
                row.id.to_string(),
                row.pid.to_string(),
                row.handled.to_string(),
                waited(row),
                row.limited.to_string(),
                row.refused.to_string(),
                row.state.text().to_owned(),
            ]
        }),
    )
}

/// How long a lock took on average.
fn waited(row: &Row) -> String {
    let locks = u32::try_from(row.acquired).unwrap_or(u32::MAX);
    let mean = row.waited.checked_div(locks).unwrap_or_default();
    format!("{:.1} ms", mean.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_rate_is_that_of_all_workers_together() {
        assert_eq!(hit_rate(Reads { hits: 2, all: 3 }).to_string(), "0.6667");
        assert_eq!(hit_rate(Reads::default()).to_string(), "0");
    }

    #[test]
    fn a_lock_that_excludes_nobody_is_found_by_its_refusals() {
        assert!(holders_were_kept_apart(0, 100, 0));
        assert!(holders_were_kept_apart(10, 100, 0));
        assert!(!holders_were_kept_apart(11, 100, 0));
        assert!(!holders_were_kept_apart(36_489, 1533, 0));
        assert!(holders_were_kept_apart(50, 100, 1));
    }
}
