//! `limit check`, `limit peek` and `limit reset`: limits by their subjects.

use super::{
    rule::Asked,
    unasked,
    view::{CheckView, ResetView, ceil_ms, span},
};
use crate::{
    failure::{Failure, exit},
    output,
};
use coordinator::ratelimit::{Charge, Decision, RateLimiter, Source};
use serde_json::json;

/// Takes from all limits or from none.
pub(super) async fn check(
    asked: &Asked,
    cost: u64,
    id: Option<&str>,
    limits: &RateLimiter,
    json: bool,
) -> Result<u8, Failure> {
    let charges = asked.iter().map(|(subject, quota)| Charge::new(subject, quota).with_cost(cost));
    let charges: Vec<_> = charges.collect();
    let decided = match id {
        Some(id) => limits.once(id)?.check_all(&charges).await,
        None => limits.check_all(&charges).await,
    };
    tell(asked, &decided.map_err(unasked)?.each, json)
}

/// Looks at each limit.
pub(super) async fn peek(
    asked: &Asked,
    cost: u64,
    limits: &RateLimiter,
    json: bool,
) -> Result<u8, Failure> {
    let mut each = Vec::new();
    for (subject, quota) in asked.iter() {
        each.push(limits.peek_cost(subject, quota, cost).await.map_err(unasked)?);
    }
    tell(asked, &each, json)
}

fn tell(asked: &Asked, each: &[Decision], json: bool) -> Result<u8, Failure> {
    let Some(view) = CheckView::new(asked, each) else {
        return Err(Failure::new(exit::UNAVAILABLE, "no answer for the limit"));
    };
    if each.iter().any(|decision| decision.source == Source::Embedded) {
        output::note(
            "nothing is shared: without a server this limit ends with this process (name one \
             with --url redis://HOST or COORDINATOR_URL)",
        );
    }
    if json {
        output::json(&view)?;
    } else {
        output::line(&view.table())?;
    }
    Ok(if view.allowed { exit::DONE } else { exit::REFUSED })
}

/// Forgets what was taken from each limit.
pub(super) async fn reset(asked: &Asked, limits: &RateLimiter, json: bool) -> Result<u8, Failure> {
    let mut views = Vec::new();
    for (subject, quota) in asked.iter() {
        views.push(ResetView {
            subject: subject.to_owned(),
            limit: quota.limit(),
            window_ms: ceil_ms(quota.window()),
            // Forgetting again does no harm: the usual advice is right.
            used: limits.reset(subject, quota).await?,
        });
    }
    if json {
        output::json(&json!({ "reset": true, "limits": views }))?;
    } else {
        let rows = views.into_iter().map(|view| {
            vec![view.subject, view.limit.to_string(), span(view.window_ms), view.used.to_string()]
        });
        output::line(&output::table(&["SUBJECT", "LIMIT", "WINDOW", "WAS USED"], rows))?;
    }
    Ok(exit::DONE)
}
