//! What a run came to, for people and for programs.

use super::parent::{Row, Tally};
use crate::output;
use serde::Serialize;
use std::{fmt::Write as _, time::Duration};

/// The JSON document. Parts that come later add their keys.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    requests: u64,
    handled: u64,
    duplicates: u64,
    stale_writes_accepted: u64,
    stale_writes_refused: u64,
    wrong_accounts: u64,
    instances: u32,
    workers_lost: u64,
    reassigned: u64,
    seconds: f64,
    ok: bool,
    #[serde(skip)]
    invented: u64,
}

impl Summary {
    /// `undisturbed` is whether the run came to its own end.
    pub(crate) fn new(tally: Tally, instances: u32, took: Duration, undisturbed: bool) -> Self {
        let Tally { requests, findings, refused, workers_lost, reassigned } = tally;
        Self {
            requests,
            handled: findings.handled,
            duplicates: findings.duplicates,
            stale_writes_accepted: findings.stale_writes_accepted,
            stale_writes_refused: refused,
            wrong_accounts: findings.wrong_accounts,
            instances,
            workers_lost,
            reassigned,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            ok: undisturbed && findings.is_clean(),
            invented: findings.invented,
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
        if self.workers_lost > 0 {
            let _ = writeln!(text, "{} workers were lost on the way", self.workers_lost);
        }
        if self.reassigned > 0 {
            let _ = writeln!(text, "{} requests were given to others", self.reassigned);
        }
        text.push_str(if self.ok { "ok" } else { "FAILED" });
        text
    }

    fn checks(&self) -> [(bool, String); 4] {
        let (handled, requests) = (self.handled, self.requests);
        [
            (
                handled == requests && self.invented == 0,
                format!("every request was handled: {handled} of {requests}"),
            ),
            (self.duplicates == 0, format!("no request was written twice: {}", self.duplicates)),
            (
                self.stale_writes_accepted == 0,
                format!(
                    "no write of an overtaken holder was accepted: {}, refused: {}",
                    self.stale_writes_accepted, self.stale_writes_refused
                ),
            ),
            (
                self.wrong_accounts == 0,
                format!("no update was lost: {} accounts do not add up", self.wrong_accounts),
            ),
        ]
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
        &["WORKER", "PID", "HANDLED", "WAITED", "REFUSED", "STATE"],
        rows.iter().map(|row| {
            vec![
                row.id.to_string(),
                row.pid.to_string(),
                row.handled.to_string(),
                waited(row),
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
