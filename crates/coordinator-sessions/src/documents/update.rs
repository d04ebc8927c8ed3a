//! Updating a document: read, change, compare and set, and again where another was faster.

use super::{
    Document,
    namespace::Namespace,
    put::{Put, PutRequest},
};
use coordinator_core::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};

/// What became of an update.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use = "an update may have changed nothing"]
pub enum Updated<T> {
    /// It was written.
    #[non_exhaustive]
    Stored {
        /// What was written.
        value: T,
        /// The version that it has.
        version: u64,
    },
    /// There is no such document.
    Absent,
    /// The closure gave up, and the document stays as it is.
    GivenUp,
    /// Others were faster, each time.
    Conflict {
        /// The version that is there, if any.
        current: Option<u64>,
    },
}

impl<T> Updated<T> {
    /// What was written, if anything was.
    pub fn stored(self) -> Option<T> {
        match self {
            Self::Stored { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Whether it was written.
    pub fn is_stored(&self) -> bool {
        matches!(self, Self::Stored { .. })
    }
}

impl Namespace {
    /// Changes a document that is there: reads it, lets `change` at it, and writes it if nobody
    /// wrote in between; otherwise all of that again, up to the namespace's number of attempts.
    ///
    /// So `change` may run several times, each time on what was just read. No change of another is
    /// lost. The document lives for the namespace's ttl anew, unless
    /// [`with_renewal`](Self::with_renewal) says otherwise. Updates of one document by one process
    /// take turns.
    ///
    /// # Errors
    /// As [`get`](Self::get), and then nothing was written; and as a [`PutRequest`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the change was written.
    pub async fn update<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        mut change: impl FnMut(&mut T),
    ) -> Result<Updated<T>> {
        let done = self.revise_if(name, |value| match value {
            Some(mut value) => {
                change(&mut value);
                Ok(value)
            }
            None => Err(Updated::Absent),
        });
        done.await
    }

    /// Changes a document, creates it or leaves it alone: `change` gets the value, or `None` where
    /// there is none, and answers what is to be written, or `None` to give up. Otherwise as
    /// [`update`](Self::update).
    ///
    /// ```
    /// # use coordinator_sessions::{Documents, documents::Updated};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let seats = Documents::embedded().namespace("seats")?;
    /// let take = |taken: Option<u32>| Some(taken.unwrap_or(0) + 1).filter(|taken| *taken <= 2);
    /// assert_eq!(seats.revise("room", take).await?.stored(), Some(1));
    /// assert_eq!(seats.revise("room", take).await?.stored(), Some(2));
    /// assert_eq!(seats.revise("room", take).await?, Updated::GivenUp);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`update`](Self::update).
    ///
    /// # Cancel safety
    /// As [`update`](Self::update).
    pub async fn revise<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Updated<T>> {
        self.revise_if(name, |value| change(value).ok_or(Updated::GivenUp)).await
    }

    async fn revise_if<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        mut change: impl FnMut(Option<T>) -> Result<T, Updated<T>>,
    ) -> Result<Updated<T>> {
        if self.attempts == 0 {
            return Err(Error::misuse("documents.update", "an update tries at least once"));
        }
        let place = self.place(name)?;
        let _turn = self.inner.turns.take(&place, &**self.clock()).await;
        let mut conflict = None;
        for _ in 0..self.attempts {
            let (value, version) = match self.read(&place).await? {
                Some(Document { value, version, .. }) => (Some(value), Some(version)),
                None => (None, None),
            };
            let value = match change(value) {
                Ok(value) => value,
                Err(instead) => return Ok(instead),
            };
            let mut request = PutRequest::new(self, name, &value);
            request = match version {
                Some(version) => request.if_version(version),
                None => request.if_absent(),
            };
            if !self.renewed {
                request = request.keeping_ttl();
            }
            match request.await? {
                Put::Stored { version, .. } => return Ok(Updated::Stored { value, version }),
                Put::Conflict { current } => conflict = current,
            }
        }
        Ok(Updated::Conflict { current: conflict })
    }
}
