//! What ends at a ms of the wall clock, as the keys of a server do.

use std::collections::HashMap;

/// Values that end at a ms of the wall clock, as the keys of a server.
#[derive(Debug)]
pub(super) struct Expiring<T> {
    entries: HashMap<String, (T, i64)>,
    sweep_at: usize,
}

impl<T> Default for Expiring<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), sweep_at: 1024 }
    }
}

impl<T> Expiring<T> {
    /// How many there are, ended ones included that nobody has noticed.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What has expired is gone for good, also if the clock is set back afterwards.
    pub(super) fn get(&mut self, key: &str, t: i64) -> Option<&T> {
        if self.entries.get(key).is_some_and(|(_, until)| t / 1000 > *until) {
            self.entries.remove(key);
        }
        self.entries.get(key).map(|(value, _)| value)
    }

    pub(super) fn put(&mut self, key: &str, value: T, t: i64, ttl_ms: i64) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, (_, until)| t / 1000 <= *until);
            self.sweep_at = (self.entries.len() * 2).max(1024);
        }
        self.entries.insert(key.to_owned(), (value, t / 1000 + ttl_ms));
    }

    /// Takes a value out, with the ms at which it ends.
    pub(super) fn take(&mut self, key: &str, t: i64) -> Option<(T, i64)> {
        self.entries.remove(key).filter(|(_, until)| t / 1000 <= *until)
    }

    /// Puts it back.
    pub(super) fn put_back(&mut self, key: String, value: T, until: i64) {
        self.entries.insert(key, (value, until));
    }

    /// Changes a value and keeps the time at which it ends.
    pub(super) fn change(&mut self, key: &str, change: impl FnOnce(&mut T)) {
        if let Some((value, _)) = self.entries.get_mut(key) {
            change(value);
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }
}
