//! Rate limits for HTTP: a tower layer that asks [`coordinator::ratelimit`] before a service sees
//! a request, and tells clients in headers how they stand.

mod asked;
mod body;
mod client_ip;
mod fields;
mod key;
mod layer;
mod limit;
mod limited;
mod plan;
mod problem;
mod service;

pub use asked::Asked;
pub use body::LimitBody;
pub use client_ip::{ClientIp, PeerAddr};
pub use key::Key;
pub use layer::{LimitLayer, Outage};
pub use limit::Limit;
pub use limited::Limited;
#[cfg(feature = "axum")]
pub use limited::NotLimited;
pub use service::LimitService;
