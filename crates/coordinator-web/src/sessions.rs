//! Sessions for HTTP: a tower layer that hands a handler its client's session, asks for it when it
//! is first used and not before, and writes a cookie when the token changes and not otherwise.

mod carrier;
mod cookie;
#[cfg(feature = "axum")]
mod extract;
mod fresh;
mod handle;
mod layer;

pub use cookie::{SameSite, SessionCookie};
#[cfg(feature = "axum")]
pub use extract::{LiveSession, SessionRejection};
pub use handle::WebSession;
pub use layer::{SessionFuture, SessionLayer, SessionService};
