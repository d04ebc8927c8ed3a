//! Refusals: the status, the fields and the body (RFC 9457) of a request that does not go on.

use super::{
    body::LimitBody,
    fields::{self, Told},
};
use crate::problem::{BROKEN, BUSY, PROBLEM_JSON, Problem};
use coordinator::ratelimit::Source;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use std::time::Duration;

/// When to come back where nobody can say when it will be better.
const SOON: Duration = Duration::from_secs(1);
const EXCEEDED: (&str, &str) = (
    "https://iana.org/assignments/http-problem-types#quota-exceeded",
    "Request cannot be satisfied as assigned quota has been exceeded",
);

fn respond<B>(problem: &Problem<'_>, status: StatusCode) -> Response<LimitBody<B>> {
    let mut response = Response::new(LimitBody::own(problem.json()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    response
}

/// The answer to a request that limits denied: a quota's denial, or, if none but failure policies
/// denied it, an outage.
pub(super) fn refused<B>(told: &[Told], never_fits: StatusCode) -> Response<LimitBody<B>> {
    let denied: Vec<_> = told.iter().filter(|told| !told.decision.allowed).collect();
    let counted = |told: &&&Told| told.decision.source != Source::Fallback;
    let violated: Vec<_> = denied.iter().filter(counted).map(|told| &*told.name).collect();
    let latest =
        |latest: Duration, told: &&Told| told.decision.retry_after.map(|retry| retry.max(latest));
    let mut response;
    if violated.is_empty() {
        let retry = denied.iter().filter_map(|told| told.decision.retry_after).max();
        response = unavailable(retry.unwrap_or_default().max(SOON));
    } else {
        let retry = denied.iter().try_fold(Duration::ZERO, latest);
        let status = if retry.is_some() { StatusCode::TOO_MANY_REQUESTS } else { never_fits };
        let above = "The cost of the request is above the limit: waiting does not help.";
        let detail = retry.is_none().then_some(above);
        let problem = Problem { detail, violated: &violated, ..Problem::new(EXCEEDED, status) };
        response = respond(&problem, status);
        if let Some(retry) = retry {
            fields::retry_after(response.headers_mut(), retry.max(SOON));
        }
    }
    let status = response.status();
    fields::tell(response.headers_mut(), status, true, told);
    response
}

/// The answer where nobody can say whether the request is within its limits.
pub(super) fn unknown<B>() -> Response<LimitBody<B>> {
    unavailable(SOON)
}

fn unavailable<B>(retry: Duration) -> Response<LimitBody<B>> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = respond(&Problem::new(BUSY, status), status);
    fields::retry_after(response.headers_mut(), retry);
    response
}

/// The answer of a server whose limits are built wrongly.
pub(super) fn broken<B>() -> Response<LimitBody<B>> {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    respond(&Problem::new(BROKEN, status), status)
}
