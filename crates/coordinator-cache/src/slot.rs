//! A value as it was found: what it says of itself, and what is given of it.

use crate::{
    backend::{Tag, Version},
    entry::Hit,
};
use std::sync::Arc;

/// What is kept near: a value, or that there is none.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    pub(crate) value: Option<Arc<T>>,
    pub(crate) version: Version,
    pub(crate) soft_ms: u64,
    pub(crate) hard_ms: u64,
    pub(crate) near_ms: u64,
    pub(crate) loaded_ms: u64,
    pub(crate) load_us: u32,
    /// None rather than an empty list: it is cloned with each hit.
    pub(crate) tags: Option<Arc<[(Tag, Version)]>>,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), tags: self.tags.clone(), ..*self }
    }
}

impl<T> Slot<T> {
    pub(crate) fn tags(&self) -> &[(Tag, Version)] {
        self.tags.as_deref().unwrap_or_default()
    }

    /// What is given of it while it is fresh.
    pub(crate) fn fresh(self) -> Option<Hit<T>> {
        let Self { soft_ms, hard_ms, loaded_ms, version, .. } = self;
        let (value, stale, version) = (self.value?, false, Some(version));
        Some(Hit { value, stale, soft_ms, hard_ms, loaded_ms, version })
    }

    pub(crate) fn hit(&self, stale: bool) -> Option<Hit<T>> {
        let value = self.value.clone()?;
        let Self { soft_ms, hard_ms, loaded_ms, version, .. } = *self;
        Some(Hit { value, stale, soft_ms, hard_ms, loaded_ms, version: Some(version) })
    }
}
