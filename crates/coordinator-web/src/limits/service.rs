//! `LimitService`: the way of a request through a layer. What is asked is `plan.rs`'s, what is
//! answered `problem.rs`'s.

use super::{
    body::LimitBody,
    fields,
    limited::Limited,
    plan::{Plan, Verdict},
    problem,
};
use bytes::Bytes;
use coordinator::clock::BoxFuture;
use http::{Request, Response, header::RETRY_AFTER};
use http_body::Body;
use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};
use tower_service::Service;

/// A service behind a [`LimitLayer`](super::LimitLayer).
///
/// # Cancel safety
/// Dropping the future of a call leaves it open whether the request is charged; what is charged is
/// not given back.
#[derive(Clone)]
pub struct LimitService<S> {
    inner: S,
    plan: Arc<Plan>,
}

impl<S> LimitService<S> {
    pub(super) fn new(inner: S, plan: Arc<Plan>) -> Self {
        Self { inner, plan }
    }
}

impl<S, B, C> Service<Request<B>> for LimitService<S>
where
    S: Service<Request<B>, Response = Response<C>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    C: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<LimitBody<C>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that said it is ready is the one to call; its copy has yet to say so.
        let copy = self.inner.clone();
        let ready = mem::replace(&mut self.inner, copy);
        Box::pin(serve(self.plan.clone(), ready, request))
    }
}

async fn serve<S, B, C>(
    plan: Arc<Plan>,
    mut ready: S,
    request: Request<B>,
) -> Result<Response<LimitBody<C>>, S::Error>
where
    S: Service<Request<B>, Response = Response<C>>,
{
    let (mut parts, body) = request.into_parts();
    let verdict = match plan.asking(&parts) {
        Ok(asking) => plan.ask(asking).await,
        Err(unkeyed) => {
            tracing::error!("limits that cannot work: {}", unkeyed.0);
            Verdict::Broken
        }
    };
    let mut answered = match verdict {
        Verdict::Passed(answered) => answered,
        Verdict::Refused(answered) => return Ok(problem::refused(&answered.told, plan.never_fits)),
        Verdict::Unknown => return Ok(problem::unknown()),
        Verdict::Broken => return Ok(problem::broken()),
    };
    Limited::insert(&mut parts.extensions, &answered);
    let response = ready.call(Request::from_parts(parts, body)).await?;
    let (mut parts, body) = response.into_parts();
    if plan.refunds(parts.status) {
        plan.give_back(&mut answered).await;
    }
    // What the service says of coming back is not to be earlier than what is told of a limit.
    let refused = parts.headers.contains_key(RETRY_AFTER);
    fields::tell(&mut parts.headers, parts.status, refused, &answered.told);
    Ok(Response::from_parts(parts, LimitBody::passed(body)))
}

impl<S: fmt::Debug> fmt::Debug for LimitService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitService")
            .field("inner", &self.inner)
            .field("plan", &self.plan)
            .finish()
    }
}
