//! Why a value could not be loaded.

use coordinator_core::Error;
use std::{error::Error as StdError, sync::Arc, time::Duration};

/// Why a value could not be had from a cache with a loader. Clones share the cause.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The loader failed, with this error.
    #[error("the loader failed")]
    Loader(#[source] Arc<dyn StdError + Send + Sync>),
    /// The loader panicked.
    #[error("the loader panicked")]
    Panicked,
    /// The loader took longer than the cache's hard timeout.
    #[error("the loader took longer than {0:?}")]
    TimedOut(Duration),
    /// It is known that there is no value: an optional loader said so.
    #[error("it is known that there is no value")]
    Negative,
    /// The load ended without an outcome: the runtime is shutting down.
    #[error("the load ended without an outcome")]
    Ended,
    /// The key or the value cannot be: see the source.
    #[error("the cache was asked for what cannot be")]
    Misuse(#[source] Arc<Error>),
}

impl LoadError {
    pub(crate) fn loader(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Loader(Arc::from(error.into()))
    }
}

impl From<Error> for LoadError {
    fn from(error: Error) -> Self {
        Self::Misuse(Arc::new(error))
    }
}
