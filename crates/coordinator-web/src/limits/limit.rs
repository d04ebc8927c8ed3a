//! `Limit`: one limit of a layer, its key, its quota and what a request costs it.

use super::key::{Key, Unkeyed};
use coordinator::ratelimit::Quota;
use http::request::Parts;
use std::{fmt, sync::Arc, time::Duration};

type Cost = dyn Fn(&Parts) -> u64 + Send + Sync;

/// One limit: who is counted, how much is allowed, and what a request costs.
///
/// ```
/// use coordinator::ratelimit::Quota;
/// use coordinator_web::limits::{Key, Limit};
/// use std::time::Duration;
///
/// let quota = Quota::sliding_window(1000, Duration::from_secs(60)).with_name("work");
/// let limit = Limit::new(Key::client_ip(), quota)
///     .with_cost(|parts| if parts.uri.path() == "/search" { 10 } else { 1 });
/// ```
#[derive(Clone)]
pub struct Limit {
    key: Key,
    quota: Quota,
    cost: Option<Arc<Cost>>,
}

/// What a request is charged.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) subject: String,
    pub(super) cost: u64,
}

impl Limit {
    /// A limit that each request costs 1.
    pub fn new(key: impl Into<Key>, quota: Quota) -> Self {
        Self { key: key.into(), quota, cost: None }
    }

    /// What a request costs. 0 means that the limit is not its business: it takes nothing, and no
    /// header tells of it.
    pub fn with_cost<F>(mut self, cost: F) -> Self
    where
        F: Fn(&Parts) -> u64 + Send + Sync + 'static,
    {
        self.cost = Some(Arc::new(cost));
        self
    }

    pub(super) fn quota(&self) -> &Quota {
        &self.quota
    }

    /// What the request is charged, if it is at all.
    pub(super) fn due(&self, parts: &Parts) -> Result<Option<Due>, Unkeyed> {
        let cost = self.cost.as_ref().map_or(1, |cost| cost(parts));
        if cost == 0 {
            return Ok(None);
        }
        Ok(self.key.find(parts)?.map(|subject| Due { subject, cost }))
    }

    /// The name of its quota, or its window, as `per-60s`: what stays if the limit changes.
    pub(super) fn label(&self) -> String {
        self.quota.name().map_or_else(|| per(self.quota.window()), ToOwned::to_owned)
    }
}

fn per(window: Duration) -> String {
    if window.subsec_nanos() == 0 {
        format!("per-{}s", window.as_secs())
    } else if window.subsec_micros().is_multiple_of(1000) {
        format!("per-{}ms", window.as_millis())
    } else {
        format!("per-{}us", window.as_micros())
    }
}

/// The name, or, where it is taken, the first of `name-2`, `name-3` … that is not.
pub(super) fn distinct(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut unique = name.to_owned();
    let mut number = 1;
    while taken(&unique) {
        number += 1;
        unique = format!("{name}-{number}");
    }
    unique
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut limit = f.debug_struct("Limit");
        limit.field("key", &self.key).field("quota", &self.quota);
        limit.field("weighted", &self.cost.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_without_a_name_has_that_of_its_window() {
        let label = |window| Limit::new(Key::everybody(), Quota::sliding_window(1, window)).label();
        assert_eq!(label(Duration::from_mins(1)), "per-60s");
        assert_eq!(label(Duration::from_millis(1500)), "per-1500ms");
        assert_eq!(label(Duration::from_micros(1_000_001)), "per-1000001us");
        let named = Quota::fixed_window(1, Duration::from_mins(1)).with_name("a");
        assert_eq!(Limit::new(Key::everybody(), named).label(), "a");
    }

    #[test]
    fn names_are_distinct() {
        let taken = ["a", "a-2"];
        assert_eq!(distinct("a", |name| taken.contains(&name)), "a-3");
        assert_eq!(distinct("b", |name| taken.contains(&name)), "b");
    }
}
