//! Ending many values by what their keys look like: all servers are looked through, step by step.

use crate::{backend::Key, cache::Cache, pattern::Pattern, walk::Walk};
use coordinator_core::Result;

/// How many keys are ended in one step.
const BATCH: usize = 512;

impl<T> Cache<T>
where
    T: Send + Sync + 'static,
{
    /// Ends every value of this cache whose key matches: `*` stands for any text, `?` for one
    /// character, `\\` before one of these for itself. How many there were.
    ///
    /// It looks through the whole of each server step by step and is meant for operators; a tag
    /// costs nothing. What was loaded before the call is given no longer, as with
    /// [`invalidate`](Self::invalidate).
    ///
    /// In a cluster whose slots move it begins anew, ten times at the most.
    ///
    /// # Errors
    /// As [`set`](Self::set); an error may come when some are ended.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some of them ended.
    pub async fn invalidate_pattern(&self, pattern: &str) -> Result<u64> {
        let pattern = Pattern::new(pattern)?;
        self.sweep(|key| pattern.matches(key)).await
    }

    /// Ends all values of this cache. How many there were.
    ///
    /// # Errors
    /// As [`invalidate_pattern`](Self::invalidate_pattern).
    ///
    /// # Cancel safety
    /// As [`invalidate_pattern`](Self::invalidate_pattern).
    pub async fn clear(&self) -> Result<u64> {
        self.sweep(|_| true).await
    }

    async fn sweep(&self, wanted: impl Fn(&str) -> bool) -> Result<u64> {
        let core = &self.core;
        let backend = &core.shared.backend;
        let mut ended = 0;
        let mut walk = Walk::new(&**backend, &core.namespace);
        while let Some(some) = walk.next().await? {
            let wanted = |key: &Key| wanted(key.key.as_str());
            let keys: Vec<Key> = some.into_iter().filter(wanted).collect();
            for keys in keys.chunks(BATCH) {
                core.forget_all(keys);
                ended += backend.invalidate(keys).await?;
                core.forget_all(keys);
            }
        }
        Ok(ended)
    }
}
