//! Rate limits, sessions and event streams for HTTP services: tower layers and axum extractors over
//! coordinator's parts, with the headers, cookies and bodies that clients understand.
//!
//! ```
//! use axum::{Router, body::Body, routing::get};
//! use coordinator::ratelimit::{Quota, RateLimiter};
//! use coordinator_web::limits::{Key, Limit, LimitLayer};
//! use std::time::Duration;
//! use tower::ServiceExt as _;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limits = RateLimiter::embedded(); // or Coordinator::connect("redis://…").await?.limits()
//! let quota = Quota::sliding_window(1, Duration::from_secs(60)).with_name("burst");
//! let layer = LimitLayer::new(limits).with_limit(Limit::new(Key::path(), quota));
//!
//! let app = Router::new().route("/", get(async || "hello")).layer(layer);
//! let request = || http::Request::get("/").body(Body::empty());
//!
//! let answer = app.clone().oneshot(request()?).await?;
//! assert_eq!(answer.headers()["RateLimit-Policy"], r#""burst";q=1;w=60"#);
//! assert_eq!(answer.headers()["RateLimit"], r#""burst";r=0;t=60"#);
//!
//! let answer = app.oneshot(request()?).await?;
//! assert_eq!(answer.status(), 429);
//! assert_eq!(answer.headers()["Retry-After"], "60");
//! # Ok(())
//! # }
//! ```
//!
//! Sessions are [`sessions::SessionLayer`], event streams [`events::Sse`].
//!
//! # Guarantees
//! Of [limits]:
//! * A request is charged to all limits that it has a key for before the service sees it, or it is
//!   refused and charged to none.
//! * Who comes back after `Retry-After` is let in, if nobody else took what had become free.
//!   Seconds are rounded up, and no `t` of a refusal is later.
//! * An outage is never told as a quota: it is 503, or let through, as was asked for.
//! * A quota that is a shadow refuses nobody, and no header tells of it.
//! * The service that said it is ready is the one that is called.
//! * No header of a request is believed unless that was asked for.
//! * No subject stands in a header, a body, a log or a `Debug`.
//!
//! Of [sessions]:
//! * A request whose handler uses no session asks nobody, and sets no cookie.
//! * A cookie is set when the token has changed, and not otherwise. What is no token creates
//!   nothing.
//! * What a call changed is changed when it returns, whatever becomes of the request; changes of
//!   different values by different requests all survive.
//! * An outage is 503: it is no absence, it takes no cookie from anybody, and after a look that
//!   failed the request writes nothing.
//! * The token from before a login leads to nothing after it.
//! * No token stands in a body, a log or a `Debug`.
//!
//! Of [events]:
//! * A browser that is cut anywhere resumes, and sees each event that is kept once and in order, or
//!   a `gap` in its stead.
//! * An event that is followed live is written as text once in this process.
//! * A client that does not read takes no more than a few pieces and a page, and over HTTP/1.1, on
//!   connections that write several buffers at once, is gone by its deadline.
//! * No event and no id of a client ends a stream or a process.
//!
//! # Not guaranteed
//! * That a client that is gone without a word is known before the kernel says so.
//! * That several limits without a [tenant](limits::LimitLayer::with_tenant), or rules and limits
//!   of one layer, are asked at one moment: one comes after the other, and what was taken is given
//!   back where a later one denies, as far as the server answers.
//! * That a request is charged whose client went away while its limits were asked, or that it is
//!   not.
//! * Limits of bodies: a request is charged by its head.
//! * That a login takes over what another request changes in the anonymous session at that moment.
//! * That the client is told of a token that changes after the answer went out.
//!
//! # Features
//! * `axum` (default): the extractors, [`Key::route`](limits::Key::route), and addresses from
//!   axum's `ConnectInfo`. Without it everything else works over tower alone.
//! * `redis` (default): the facade's `redis`.
//! * `tower-sessions`: a store for the crate of that name.

pub mod events;
pub mod limits;
mod problem;
pub mod sessions;
#[cfg(feature = "tower-sessions")]
pub mod tower_sessions;

/// The book's pages of this crate, so that their examples compile and run.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../../docs/guide/web.md")]
    struct Web;
    #[doc = include_str!("../../../docs/guide/sse.md")]
    struct Sse;
}
