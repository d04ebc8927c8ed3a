//! Sessions whose data is a type of the caller's, with a version.
//!
//! Each field of the type is a field of the session, so that what other versions of a program keep
//! beside it stays.

use super::{Created, Data, Lookup, NewSession, Session, Sessions, Updated, packed};
use crate::token::Token;
use coordinator_core::{
    Error, Result,
    codec::{self, Codec},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt, marker::PhantomData, ops::ControlFlow};

/// What a session keeps, as a type: a struct, or a map with texts for keys.
///
/// ```
/// use coordinator_sessions::{Data, NewSession, SessionData, Sessions};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Shop {
///     cart: Vec<String>,
///     #[serde(default)]
///     coupon: Option<String>,
/// }
///
/// impl SessionData for Shop {
///     const VERSION: u32 = 2;
///
///     // Version 1 had one article.
///     fn migrate(_from: u32, data: &mut Data) -> coordinator_core::Result<()> {
///         let article: Option<String> = data.get("article")?;
///         data.set("cart", &article.into_iter().collect::<Vec<_>>())?;
///         data.remove("article");
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = Sessions::embedded().typed::<Shop>();
/// let shop = Shop { cart: Vec::new(), coupon: None };
/// let session = sessions.create(NewSession::user("ann"), &shop).await?.session()?;
/// let token = session.token().expect("a new session has one");
/// sessions.update(token, |shop| Ok(shop.cart.push("pear".to_owned()))).await?;
/// let found = sessions.load(token).await?.live().expect("it lives");
/// assert_eq!(found.data.cart, ["pear"]);
/// # Ok(())
/// # }
/// ```
pub trait SessionData: Serialize + DeserializeOwned {
    /// The version of this type, at least 1: raise it when older data has to be changed to be read,
    /// or older programs must not write any more. A field that may be missing
    /// (`#[serde(default)]`) needs no new version.
    const VERSION: u32;

    /// Makes data of an older version what this version reads; by default that is the same.
    ///
    /// `from` is 0 where the data has none: it was written field by field, or
    /// migrated from elsewhere. It is called with each load until an update has written what it
    /// changed, so it must come to the same each time.
    ///
    /// # Errors
    /// What it fails with: the data is then not read, and nothing is written.
    fn migrate(from: u32, data: &mut Data) -> Result<()> {
        let _ = (from, data);
        Ok(())
    }
}

/// A session with what it keeps.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Typed<T> {
    /// The session; its own [data](Session::data) is as it is stored.
    pub session: Session,
    /// What it keeps, in this version.
    pub data: T,
}

/// Sessions whose data is a `T`; see [`Sessions::typed`].
pub struct TypedSessions<T> {
    sessions: Sessions,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for TypedSessions<T> {
    fn clone(&self) -> Self {
        Self { sessions: self.sessions.clone(), of: PhantomData }
    }
}

impl<T> fmt::Debug for TypedSessions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedSessions").field("sessions", &self.sessions).finish()
    }
}

impl Sessions {
    /// The same sessions, with data of a type. Everything but data is asked of `Sessions`.
    pub fn typed<T: SessionData>(&self) -> TypedSessions<T> {
        TypedSessions { sessions: self.clone(), of: PhantomData }
    }
}

impl<T: SessionData> TypedSessions<T> {
    /// The sessions, whatever their data.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Creates a session with this data, besides the fields that `new` sets.
    ///
    /// # Errors
    /// As [`Sessions::create`]; [`Misuse`](coordinator_core::ErrorKind::Misuse) if the data is no
    /// struct or map, or cannot be serialized.
    ///
    /// # Cancel safety
    /// As [`Sessions::create`].
    pub async fn create(&self, new: NewSession, data: &T) -> Result<Created> {
        self.sessions.create(new.with_values(pieces(data)?).with_schema(T::VERSION)).await
    }

    /// Looks a session up and counts that as activity, as [`Sessions::load`].
    ///
    /// Data of an older version is [migrated](SessionData::migrate) in memory: it is written with
    /// the next update. Data of a newer one is read if it can be.
    ///
    /// # Errors
    /// As [`Sessions::load`]; [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if the data cannot
    /// be read as a `T`, also where it is newer: it is never taken for no data, nor overwritten.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn load(&self, token: &Token) -> Result<Lookup<Typed<T>>> {
        typed(self.sessions.load(token).await?)
    }

    /// The same without counting as activity.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn peek(&self, token: &Token) -> Result<Lookup<Typed<T>>> {
        typed(self.sessions.peek(token).await?)
    }

    /// Changes the data by compare-and-set, as [`Sessions::update`].
    ///
    /// Fields that `update` changes are written, and no others: what the session has besides
    /// stays. Where the data was of an older version, what the migration changed and the new
    /// version are written in the same step. Data of a newer version is never written:
    /// [`Updated::Newer`].
    ///
    /// # Errors
    /// As [`load`](Self::load) and [`Sessions::update`]; nothing is written then.
    ///
    /// # Cancel safety
    /// As [`Sessions::update`].
    pub async fn update(
        &self,
        token: &Token,
        mut update: impl FnMut(&mut T) -> Result<()>,
    ) -> Result<Lookup<Updated>> {
        let change = |schema: u32, data: &mut Data| {
            if schema > T::VERSION {
                return Ok(ControlFlow::Break(Updated::Newer { schema }));
            }
            let mut value: T = read(schema, data)?;
            let before = pieces(&value)?;
            update(&mut value)?;
            let after = pieces(&value)?;
            for field in before.keys().filter(|field| !after.contains_key(*field)) {
                data.remove(field);
            }
            for (field, piece) in after {
                // Compared as this version writes it: what it does not know of a field stays.
                if before.get(&field) != Some(&piece) {
                    data.set_bytes(&field, piece)?;
                }
            }
            Ok(ControlFlow::Continue(Some(T::VERSION)))
        };
        self.sessions.update_with_schema(token, change).await
    }
}

fn typed<T: SessionData>(found: Lookup<Session>) -> Result<Lookup<Typed<T>>> {
    let Lookup::Live(session) = found else { return Ok(found.gone()) };
    let data = read(session.schema(), &mut session.data().clone())?;
    Ok(Lookup::Live(Typed { session, data }))
}

/// Reads what is there, made what this version reads.
fn read<T: SessionData>(schema: u32, data: &mut Data) -> Result<T> {
    let corrupt = |why: String| Error::corrupt("sessions.typed", why);
    if schema < T::VERSION {
        T::migrate(schema, data)?;
    }
    let mut entries = Vec::new();
    for field in data.fields() {
        let Some(stored) = data.bytes(field)? else { continue };
        let (codec, payload) = codec::unwrap(&stored)?;
        if codec != Codec::MessagePack {
            return Err(corrupt(format!("the field {field} is of another codec")));
        }
        entries.push((field.to_owned(), payload.to_vec()));
    }
    rmp_serde::from_slice(&packed::join(&entries)).map_err(|error| {
        let version = T::VERSION;
        corrupt(format!("data of version {schema} cannot be read as version {version}: {error}"))
    })
}

/// The fields of a value, each as it is stored.
fn pieces<T: Serialize>(value: &T) -> Result<BTreeMap<String, Vec<u8>>> {
    let misuse = |why: String| Error::misuse("sessions.typed", why);
    let packed = rmp_serde::to_vec_named(value)
        .map_err(|error| misuse(format!("the data cannot be serialized: {error}")))?;
    let entries = packed::split(&packed)
        .ok_or_else(|| misuse("data is a struct, or a map with texts for keys".to_owned()))?;
    let stored = entries
        .into_iter()
        .map(|(field, payload)| Ok((field, codec::wrap(Codec::MessagePack, &payload)?)));
    stored.collect()
}
