//! `Limited`: what was decided of a request, for its handler.

use super::plan::Answered;
use coordinator::ratelimit::Decision;
use http::Extensions;
use std::{fmt, sync::Arc};

/// What the layers before a handler decided of its request: an extension of the request, and an
/// extractor of axum's.
///
/// ```
/// use axum::{Router, routing::get};
/// use coordinator::ratelimit::{Quota, RateLimiter};
/// use coordinator_web::limits::{Key, Limit, LimitLayer, Limited};
/// use std::time::Duration;
///
/// async fn handler(limited: Limited) -> String {
///     let decision = limited.named("burst").expect("the layer has such a limit");
///     format!("{} are left", decision.remaining)
/// }
///
/// let quota = Quota::sliding_window(100, Duration::from_secs(60)).with_name("burst");
/// let layer = LimitLayer::new(RateLimiter::embedded())
///     .with_limit(Limit::new(Key::everybody(), quota));
/// let app: Router = Router::new().route("/", get(handler)).layer(layer);
/// ```
#[derive(Clone, Default)]
pub struct Limited {
    each: Vec<(Arc<str>, Decision)>,
    unknown: bool,
}

impl Limited {
    /// The decisions, by the names that the headers have; the outer layers' first. Shadows are
    /// among them.
    pub fn each(&self) -> impl Iterator<Item = (&str, &Decision)> {
        self.each.iter().map(|(name, decision)| (&**name, decision))
    }

    /// The decision of a limit.
    pub fn named(&self, name: &str) -> Option<&Decision> {
        self.each().find(|(other, _)| *other == name).map(|(_, decision)| decision)
    }

    /// Whether the request was let through although nobody could say whether it is within its
    /// limits.
    pub fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// Adds to what the layers before have said.
    pub(super) fn insert(extensions: &mut Extensions, answered: &Answered) {
        let limited: &mut Self = extensions.get_or_insert_default();
        let each = answered.told.iter();
        limited.each.extend(each.map(|told| (told.name.clone(), told.decision.clone())));
        limited.unknown |= answered.unknown;
    }
}

/// Names and figures: whose they are stands in no log.
impl fmt::Debug for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, decision) in self.each() {
            map.entry(&name, &format_args!("{} of {}", decision.used, decision.limit));
        }
        map.finish()
    }
}

#[cfg(feature = "axum")]
mod extract {
    use super::Limited;
    use axum::{
        extract::{FromRequestParts, OptionalFromRequestParts},
        response::{IntoResponse, Response},
    };
    use http::{StatusCode, request::Parts};
    use std::convert::Infallible;

    /// The handler wants what no layer has put there.
    #[derive(Debug, Clone, Copy)]
    #[non_exhaustive]
    pub struct NotLimited;

    impl std::fmt::Display for NotLimited {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the route has no LimitLayer, and its handler wants what it decided")
        }
    }

    impl std::error::Error for NotLimited {}

    impl IntoResponse for NotLimited {
        fn into_response(self) -> Response {
            (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
        }
    }

    /// A route without a layer is answered with 500; `Option<Limited>` is `None` there.
    impl<S: Send + Sync> FromRequestParts<S> for Limited {
        type Rejection = NotLimited;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotLimited> {
            parts.extensions.get().cloned().ok_or(NotLimited)
        }
    }

    impl<S: Send + Sync> OptionalFromRequestParts<S> for Limited {
        type Rejection = Infallible;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
            Ok(parts.extensions.get().cloned())
        }
    }
}

#[cfg(feature = "axum")]
pub use extract::NotLimited;
