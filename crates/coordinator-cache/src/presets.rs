//! Caches that most services have, ready made: configuration of crews, data of users, results of
//! queries. They are thin: keys and tags by one rule, and a choice of options.

use crate::{
    cache::Cache,
    caches::Caches,
    entry::{Entry, Hit},
    error::LoadError,
    loader::Loading,
    options::{CacheBuilder, Near},
};
use coordinator_core::{BoxFuture, Result, key::Name};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use std::{error::Error as StdError, fmt, fmt::Write as _, future::Future, time::Duration};

impl Caches {
    /// The configuration of crews by their id, in the namespace `crew-config`; all of a crew ends
    /// with [`invalidate_crew`](Self::invalidate_crew).
    ///
    /// It is read far more often than it changes, and whoever changes it says so: fresh for an
    /// hour, less a random tenth; kept for a day after that, for when its source fails; 10,000 of
    /// them near.
    ///
    /// Make it once and clone it: each has a near cache of its own.
    ///
    /// # Examples
    /// ```
    /// use coordinator_cache::Caches;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let caches = Caches::embedded();
    /// let configs = caches.crew_config::<Vec<String>>();
    /// let load = |_| async { Ok::<_, std::io::Error>(vec!["night shift".to_owned()]) };
    /// let config = configs.get_or_load("42", load).await?;
    /// assert_eq!(config[0], "night shift");
    ///
    /// caches.invalidate_crew("42").await?;
    /// assert!(configs.get("42").await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn crew_config<T>(&self) -> ById<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        const HOUR: Duration = Duration::from_hours(1);
        let cache = self.cache("crew-config").with_ttl(HOUR).with_stale(24 * HOUR);
        let cache = cache.with_jitter(0.1).with_near(Near::entries(10_000));
        ById { cache: ready(cache), kind: "crew" }
    }

    /// Data of users by their id, in the namespace `user-data`; all of a user ends with
    /// [`invalidate_user`](Self::invalidate_user).
    ///
    /// Fresh for five minutes, less a random tenth; kept for ten minutes after that, for when
    /// their source fails; 10,000 of them near.
    ///
    /// Make it once and clone it: each has a near cache of its own.
    ///
    /// # Examples
    /// ```
    /// use coordinator_cache::Caches;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let caches = Caches::embedded();
    /// let names = caches.user_data::<String>();
    /// names.set("7", &"Ann".to_owned()).await?;
    /// assert_eq!(names.get("7").await?.as_deref().map(String::as_str), Some("Ann"));
    ///
    /// caches.invalidate_user("7").await?;
    /// assert!(names.get("7").await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn user_data<T>(&self) -> ById<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        const MINUTE: Duration = Duration::from_mins(1);
        let cache = self.cache("user-data").with_ttl(5 * MINUTE).with_stale(10 * MINUTE);
        let cache = cache.with_jitter(0.1).with_near(Near::entries(10_000));
        ById { cache: ready(cache), kind: "user" }
    }

    /// Results of queries by their text, in the namespace `query`; they end with the tags that they
    /// are given.
    ///
    /// Fresh for a minute, less a random fifth; kept for five minutes after that, for when the
    /// query fails; 256 of them near, as results may be long.
    ///
    /// Make it once and clone it: each has a near cache of its own.
    ///
    /// # Examples
    /// ```
    /// use coordinator_cache::Caches;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let caches = Caches::embedded();
    /// let counts = caches.queries::<u64>();
    /// let count = |_| async { Ok::<_, std::io::Error>(3) };
    /// let tasks = "select count(*) from tasks where crew = 42";
    /// assert_eq!(*counts.get_or_load(tasks, &["crew:42"], count).await?, 3);
    ///
    /// // White space does not tell queries apart.
    /// assert!(counts.get("select count(*)\n  from tasks where crew = 42").await?.is_some());
    /// caches.invalidate_crew("42").await?;
    /// assert!(counts.get(tasks).await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn queries<T>(&self) -> Queries<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        const MINUTE: Duration = Duration::from_mins(1);
        let cache = self.cache("query").with_ttl(MINUTE).with_stale(5 * MINUTE);
        let cache = cache.with_jitter(0.2).with_near(Near::entries(256));
        Queries { cache: ready(cache) }
    }
}

fn ready<T>(cache: CacheBuilder<T>) -> Cache<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    cache.build().expect("the options above are in their ranges")
}

/// A cache whose keys are ids and whose entries have the tag of theirs: see
/// [`Caches::crew_config`] and [`Caches::user_data`]. Clones share everything.
pub struct ById<T> {
    cache: Cache<T>,
    kind: &'static str,
}

impl<T> Clone for ById<T> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), kind: self.kind }
    }
}

impl<T> fmt::Debug for ById<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ById").field("kind", &self.kind).field("cache", &self.cache).finish()
    }
}

impl<T> ById<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// `crew:<id>`, checked: where it is no tag, nothing would end what is stored.
    fn tag(&self, id: &str) -> Result<String> {
        let tag = format!("{}:{id}", self.kind);
        Name::new(id)?;
        Name::new(&tag)?;
        Ok(tag)
    }

    /// The value of an id: any text of 1 to 507 bytes.
    ///
    /// # Errors
    /// As [`Cache::get`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get(&self, id: &str) -> Result<Option<Hit<T>>> {
        self.cache.get(id).await
    }

    /// Stores the value of an id.
    ///
    /// # Errors
    /// As [`Cache::set`].
    ///
    /// # Cancel safety
    /// As [`Cache::set`].
    pub async fn set(&self, id: &str, value: &T) -> Result<()> {
        self.cache.set_with(id, value, Entry::new().tags([self.tag(id)?])).await
    }

    /// The value of an id, loaded if there is none in its time: see [`Cache::get_or_load`].
    ///
    /// # Errors
    /// As [`Cache::get_or_load`].
    ///
    /// # Cancel safety
    /// Cancel safe: the load goes on.
    pub async fn get_or_load<F, L, E>(&self, id: &str, loader: F) -> Result<Hit<T>, LoadError>
    where
        F: FnOnce(Loading<T>) -> L + Send + 'static,
        L: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let tags = vec![self.tag(id)?];
        self.cache.get_or_load(id, tagged(tags, loader)).await
    }

    /// The cache itself, for everything else. What is stored through it has no tag of its own.
    pub fn cache(&self) -> &Cache<T> {
        &self.cache
    }
}

type Failed = Box<dyn StdError + Send + Sync>;
type Tagged<T> = Box<dyn FnOnce(Loading<T>) -> BoxFuture<'static, Result<T, Failed>> + Send>;

/// A loader that notes tags before it begins.
fn tagged<T, F, L, E>(tags: Vec<String>, loader: F) -> Tagged<T>
where
    T: Send + Sync + 'static,
    F: FnOnce(Loading<T>) -> L + Send + 'static,
    L: Future<Output = Result<T, E>> + Send + 'static,
    E: Into<Failed>,
{
    Box::new(move |loading| {
        Box::pin(async move {
            for tag in &tags {
                loading.tag(tag).await;
            }
            loader(loading).await.map_err(Into::into)
        })
    })
}

/// Results of queries by their text: see [`Caches::queries`]. Clones share everything.
///
/// Two texts are one query if they differ in white space alone, also within quotes: where that
/// matters, as where parameters do, put what differs into the text.
pub struct Queries<T> {
    cache: Cache<T>,
}

impl<T> Clone for Queries<T> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone() }
    }
}

impl<T> fmt::Debug for Queries<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries").field("cache", &self.cache).finish()
    }
}

impl<T> Queries<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The key of a query: the SHA-256 of its text, trimmed and with a single space for each run of
    /// white space, as 64 hex digits.
    pub fn key(query: &str) -> String {
        let mut hasher = Sha256::new();
        for (at, word) in query.split_whitespace().enumerate() {
            if at > 0 {
                hasher.update(b" ");
            }
            hasher.update(word);
        }
        let mut key = String::with_capacity(64);
        for byte in hasher.finalize() {
            let _ = write!(key, "{byte:02x}");
        }
        key
    }

    /// The result of a query, if there is one in its time.
    ///
    /// # Errors
    /// As [`Cache::get`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get(&self, query: &str) -> Result<Option<Hit<T>>> {
        self.cache.get(&Self::key(query)).await
    }

    /// Stores the result of a query, which ends with any of these tags: at most 32 of them.
    ///
    /// What changes between the query and this call ends nothing; use
    /// [`get_or_load`](Self::get_or_load).
    ///
    /// # Errors
    /// As [`Cache::set`].
    ///
    /// # Cancel safety
    /// As [`Cache::set`].
    pub async fn set(&self, query: &str, result: &T, tags: &[&str]) -> Result<()> {
        let entry = Entry::new().tags(tags.iter().copied());
        self.cache.set_with(&Self::key(query), result, entry).await
    }

    /// The result of a query, loaded if there is none in its time; it ends with any of these tags:
    /// at most 32 of them. See [`Cache::get_or_load`].
    ///
    /// # Errors
    /// As [`Cache::get_or_load`].
    ///
    /// # Cancel safety
    /// Cancel safe: the load goes on.
    pub async fn get_or_load<F, L, E>(
        &self,
        query: &str,
        tags: &[&str],
        loader: F,
    ) -> Result<Hit<T>, LoadError>
    where
        F: FnOnce(Loading<T>) -> L + Send + 'static,
        L: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let tags =
            self.cache.core.tags(&tags.iter().map(|&tag| tag.to_owned()).collect::<Vec<_>>())?;
        let tags = tags.iter().map(|tag| tag.as_str().to_owned()).collect();
        self.cache.get_or_load(&Self::key(query), tagged(tags, loader)).await
    }

    /// The cache itself, for everything else; its keys are those of [`key`](Self::key).
    pub fn cache(&self) -> &Cache<T> {
        &self.cache
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::ErrorKind;

    fn brings(value: u32) -> impl Future<Output = Result<u32, LoadError>> + Send + 'static {
        std::future::ready(Ok(value))
    }

    #[tokio::test]
    async fn a_crew_and_a_user_end_apart_however_they_were_stored() {
        let caches = Caches::embedded();
        let (crews, users) = (caches.crew_config::<u32>(), caches.user_data::<u32>());
        crews.set("1", &10).await.expect("memory");
        assert_eq!(*crews.get_or_load("2", |_| brings(20)).await.expect("loaded"), 20);
        users.set("1", &30).await.expect("memory");
        assert_eq!(*users.get_or_load("2", |_| brings(40)).await.expect("loaded"), 40);
        let there = async || {
            let crews = crews.cache().get_many(&["1", "2"]).await.expect("memory");
            let users = users.cache().get_many(&["1", "2"]).await.expect("memory");
            crews.iter().chain(&users).map(Option::is_some).collect::<Vec<_>>()
        };
        assert_eq!(there().await, [true; 4]);
        caches.invalidate_crew("1").await.expect("memory");
        assert_eq!(there().await, [false, true, true, true]);
        caches.invalidate_user("2").await.expect("memory");
        assert_eq!(there().await, [false, true, true, false]);
        caches.invalidate_crew("2").await.expect("memory");
        caches.invalidate_user("1").await.expect("memory");
        assert_eq!(there().await, [false; 4]);
    }

    #[tokio::test]
    async fn what_ends_while_it_is_loaded_is_not_kept() {
        let caches = Caches::embedded();
        let crews = caches.crew_config::<u32>();
        let other = caches.clone();
        let load = |_| async move {
            other.invalidate_crew("1").await?;
            Ok::<_, coordinator_core::Error>(1)
        };
        assert_eq!(*crews.get_or_load("1", load).await.expect("loaded"), 1);
        assert!(crews.get("1").await.expect("memory").is_none());
    }

    #[tokio::test]
    async fn an_id_whose_tag_would_be_too_long_is_refused() {
        let crews = Caches::embedded().crew_config::<u32>();
        let (longest, too_long) = ("x".repeat(507), "x".repeat(508));
        crews.set(&longest, &1).await.expect("it is stored");
        crews.get_or_load(&longest, |_| brings(2)).await.expect("it is there");
        for bad in ["", &too_long] {
            let refused = crews.set(bad, &1).await.expect_err("it cannot be");
            assert_eq!(refused.kind(), ErrorKind::Misuse);
            let refused = crews.get_or_load(bad, |_| brings(1)).await;
            assert!(matches!(refused, Err(LoadError::Misuse(_))), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_query_is_its_words_and_ends_with_each_of_its_tags() {
        let same = ["a b", " a b", "a b\n", "a\t\r\n b", "a\u{a0}b"];
        let keys: Vec<_> = same.iter().map(|query| Queries::<u32>::key(query)).collect();
        // What `printf 'a b' | sha256sum` says.
        assert_eq!(keys, ["c8687a08aa5d6ed2044328fa6a697ab8e96dc34291e8c2034ae8c38e6fcc6d65"; 5]);
        assert_ne!(Queries::<u32>::key("ab"), keys[0]);
        let caches = Caches::embedded();
        let queries = caches.queries::<u32>();
        for end in ["t", "u"] {
            queries.set("a b", &1, &["t", "u"]).await.expect("memory");
            let load = |_| brings(2);
            assert_eq!(*queries.get_or_load("c", &["t", "u"], load).await.expect("loaded"), 2);
            assert!(queries.get("a  b").await.expect("memory").is_some());
            assert!(queries.get("c").await.expect("memory").is_some());
            caches.invalidate_tag(end).await.expect("memory");
            assert!(queries.get("a b").await.expect("memory").is_none(), "{end}");
            assert!(queries.get("c").await.expect("memory").is_none(), "{end}");
        }
        let many: Vec<_> = (0..33).map(|tag| tag.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let refused = queries.get_or_load("d", &many, |_| brings(1)).await;
        assert!(matches!(refused, Err(LoadError::Misuse(_))), "{refused:?}");
    }
}
