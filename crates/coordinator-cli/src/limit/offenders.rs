//! `limit violations` and `limit top`: who was refused. Nothing is changed here.

use super::view::{OffenderView, ViolationView, ceil_ms, span};
use crate::{
    failure::{Failure, exit},
    output,
};
use coordinator::ratelimit::{RateLimiter, Violation, ViolationKind};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

/// Who was refused of late, each subject once for each limit, the last of them last.
pub(super) async fn violations(
    since: Duration,
    limits: &RateLimiter,
    json: bool,
) -> Result<u8, Failure> {
    let views = gathered(&limits.violations(since).await?);
    if json {
        output::json(&views)?;
        return Ok(exit::DONE);
    }
    let header = ["SUBJECT", "COUNT", "LAST", "KIND", "LIMIT", "WINDOW", "TENANT", "POLICY"];
    let rows = views.into_iter().map(|view| {
        let mut row = row(view.offender);
        let of = [view.kind.to_owned(), view.limit.to_string(), span(view.window_ms)];
        row.splice(3..3, of);
        row
    });
    output::line(&output::table(&header, rows))?;
    Ok(exit::DONE)
}

/// Who is refused most often, the worst first.
pub(super) async fn top(count: usize, limits: &RateLimiter, json: bool) -> Result<u8, Failure> {
    let offenders = limits.top_offenders(count).await?;
    let views = offenders.into_iter().map(|offender| OffenderView {
        subject: offender.subject,
        count: offender.denials,
        last_ms: ceil_ms(offender.last),
        tenant: offender.tenant,
        policy: offender.policy,
    });
    if json {
        output::json(&views.collect::<Vec<_>>())?;
    } else {
        let header = ["SUBJECT", "COUNT", "LAST", "TENANT", "POLICY"];
        output::line(&output::table(&header, views.map(row)))?;
    }
    Ok(exit::DONE)
}

fn row(view: OffenderView) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    // What a damaged record says may be later than the calendar goes.
    let last = Duration::from_millis(view.last_ms.min(253_402_300_799_000));
    vec![
        view.subject,
        view.count.to_string(),
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + last).to_string(),
        or_none(view.tenant),
        or_none(view.policy),
    ]
}

/// The records of each subject at each limit together. The counts of one window grow; those of the
/// next begin anew, and are added.
fn gathered(records: &[Violation]) -> Vec<ViolationView> {
    type Key<'a> = (Option<&'a str>, &'a str, Option<&'a str>, Duration, ViolationKind);
    let mut places: HashMap<Key<'_>, usize> = HashMap::new();
    let mut found: Vec<(ViolationView, u64)> = Vec::new();
    for record in records {
        let (tenant, policy) = (record.tenant.as_deref(), record.policy.as_deref());
        let key = (tenant, record.subject.as_str(), policy, record.window, record.kind);
        let place = *places.entry(key).or_insert(found.len());
        if place == found.len() {
            let offender = OffenderView {
                subject: record.subject.clone(),
                count: 0,
                last_ms: 0,
                tenant: record.tenant.clone(),
                policy: record.policy.clone(),
            };
            let (kind, window_ms) = (record.kind.as_str(), ceil_ms(record.window));
            let view = ViolationView { offender, kind, limit: record.limit, window_ms };
            found.push((view, 0));
        }
        let (view, before) = &mut found[place];
        // What was counted before within this window is in the count.
        let known = if record.is_first() { 0 } else { *before };
        view.offender.count += record.count.saturating_sub(known);
        *before = record.count;
        view.offender.last_ms = ceil_ms(record.at);
        view.limit = record.limit;
    }
    let mut views: Vec<_> = found.into_iter().map(|(view, _)| view).collect();
    views.sort_by_key(|view| view.offender.last_ms);
    views
}
