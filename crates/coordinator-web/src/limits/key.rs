//! Keys: from a request to the subject that its limits count. They ask nobody.

use super::client_ip::ClientIp;
use http::{HeaderName, request::Parts};
use std::{fmt, sync::Arc};

/// The longest subject in bytes; a name has 512 at most.
const LONGEST: usize = 500;

/// Why a request has no key although it must have one: the server is built wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unkeyed(pub(super) &'static str);

type Find = dyn Fn(&Parts) -> Result<Option<String>, Unkeyed> + Send + Sync;

/// From a request to the subject that a limit counts.
///
/// A request without a key is not limited by it; [`or`](Self::or) says what counts then.
/// Subjects are of the form `kind:value`, so that what one key reads from a client can never be
/// what another key reads. A value that is longer than a name can be is cut, and a hash of all of
/// it stands at its end.
///
/// ```
/// use coordinator_web::limits::{ClientIp, Key};
///
/// // Who is logged in, as an earlier layer found out; else the address.
/// #[derive(Clone)]
/// struct User(String);
/// let user = Key::new("user", |parts| Some(parts.extensions.get::<User>()?.0.clone()));
/// let key = user.or(ClientIp::new()).and(Key::path());
///
/// let mut request = http::Request::get("/search").body(()).unwrap();
/// request.extensions_mut().insert(User("42".to_owned()));
/// let (parts, ()) = request.into_parts();
/// assert_eq!(key.subject(&parts).as_deref(), Some("all:user%3A42:path%3A/search"));
/// ```
#[derive(Clone)]
pub struct Key {
    kind: Arc<str>,
    find: Arc<Find>,
}

impl Key {
    /// A key of one's own: its kind, such as `user`, and what it reads from the request. Nothing
    /// and an empty text mean that the request has no such key.
    ///
    /// What it reads should be known to be true, as the user of a checked session is: whoever can
    /// choose a key has as many limits as they like.
    pub fn new<F>(kind: &str, find: F) -> Self
    where
        F: Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    {
        let kind: Arc<str> = escaped(kind).into();
        let prefix = kind.clone();
        let find = move |parts: &Parts| {
            let value = find(parts).filter(|value| !value.is_empty());
            Ok(value.map(|value| format!("{prefix}:{value}")))
        };
        Self { kind, find: Arc::new(find) }
    }

    pub(super) fn must<F>(kind: &str, find: F) -> Self
    where
        F: Fn(&Parts) -> Result<String, Unkeyed> + Send + Sync + 'static,
    {
        let kind: Arc<str> = kind.into();
        let prefix = kind.clone();
        let find = move |parts: &Parts| Ok(Some(format!("{prefix}:{}", find(parts)?)));
        Self { kind, find: Arc::new(find) }
    }

    /// The client's address: [`ClientIp::new`], which trusts no header.
    pub fn client_ip() -> Self {
        ClientIp::new().into()
    }

    /// The value of a header. One that is no visible ASCII, or is missing, is no key.
    ///
    /// It becomes part of a key at the server: of a secret, such as an API key, take a hash with
    /// [`Key::new`].
    pub fn header(name: HeaderName) -> Self {
        let kind = format!("header-{name}");
        Self::new(&kind, move |parts| {
            parts.headers.get(&name)?.to_str().ok().map(ToOwned::to_owned)
        })
    }

    /// The path, as the client wrote it: `/users/1` and `/users/2` are two keys, and so are two
    /// ways to write one path. [`route`](Self::route) is what a router made of it.
    pub fn path() -> Self {
        Self::new("path", |parts| Some(parts.uri.path().to_owned()))
    }

    /// The route that axum's router found, as `/users/{id}`; the path where there is none, as
    /// outside of a router.
    #[cfg(feature = "axum")]
    pub fn route() -> Self {
        Self::new("path", |parts| {
            let route = parts.extensions.get::<axum::extract::MatchedPath>();
            Some(route.map_or(parts.uri.path(), |route| route.as_str()).to_owned())
        })
    }

    /// One key for all requests.
    pub fn everybody() -> Self {
        Self::new("everybody", |_| Some("-".to_owned()))
    }

    /// Both together, as address and path; no key where one of them is missing.
    pub fn and(self, other: impl Into<Self>) -> Self {
        let other = other.into();
        let kind = format!("{}+{}", self.kind, other.kind).into();
        let find = move |parts: &Parts| {
            let (Some(a), Some(b)) = ((self.find)(parts)?, (other.find)(parts)?) else {
                return Ok(None);
            };
            Ok(Some(format!("all:{}:{}", escaped(&a), escaped(&b))))
        };
        Self { kind, find: Arc::new(find) }
    }

    /// This one, and where it is missing the other.
    pub fn or(self, other: impl Into<Self>) -> Self {
        let other = other.into();
        let kind = format!("{}|{}", self.kind, other.kind).into();
        let find = move |parts: &Parts| match (self.find)(parts) {
            Ok(Some(subject)) => Ok(Some(subject)),
            Ok(None) | Err(_) => (other.find)(parts),
        };
        Self { kind, find: Arc::new(find) }
    }

    /// The subject of a request, as it is asked for at the limiter; to look at a limit elsewhere.
    /// `None` also where there must be an address and nobody knows it.
    pub fn subject(&self, parts: &Parts) -> Option<String> {
        self.find(parts).ok().flatten()
    }

    pub(super) fn find(&self, parts: &Parts) -> Result<Option<String>, Unkeyed> {
        Ok((self.find)(parts)?.map(|subject| fitted(subject, LONGEST)))
    }
}

impl From<ClientIp> for Key {
    fn from(ip: ClientIp) -> Self {
        Self::must("ip", move |parts| ip.subject(parts))
    }
}

/// Its kind alone: what it reads is nobody's business.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.kind)
    }
}

/// So that joined parts stay apart.
fn escaped(part: &str) -> String {
    part.replace('%', "%25").replace(':', "%3A")
}

/// At most so many bytes, in which `:` and `%` count three times, as they do when they are
/// escaped. The hash (FNV-1a) keeps long texts apart; it need not resist anybody, since whoever
/// could find another text with the same one could send the same text.
pub(super) fn fitted(text: String, longest: usize) -> String {
    let weight = |c: char| if c == ':' || c == '%' { 3 } else { c.len_utf8() };
    if text.chars().map(weight).sum::<usize>() <= longest {
        return text;
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut room = longest.saturating_sub(17);
    let fits = |c: &char| {
        let left = room.checked_sub(weight(*c));
        room = left.unwrap_or(0);
        left.is_some()
    };
    let head: String = text.chars().take_while(fits).collect();
    format!("{head}~{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator::key::Name;
    use http::header::{HOST, USER_AGENT};

    fn parts(path: &str, headers: &[(HeaderName, &str)]) -> Parts {
        let mut request = http::Request::get(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_missing_header_is_no_key_and_an_empty_one_neither() {
        let key = Key::header(HOST);
        assert_eq!(key.find(&parts("/", &[])), Ok(None));
        assert_eq!(key.find(&parts("/", &[(HOST, "")])), Ok(None));
        assert_eq!(key.find(&parts("/", &[(HOST, "a")])), Ok(Some("header-host:a".into())));
        let both = key.clone().and(Key::path());
        assert_eq!(both.find(&parts("/", &[])), Ok(None));
        assert_eq!(key.or(Key::path()).find(&parts("/x", &[])), Ok(Some("path:/x".into())));
    }

    #[test]
    fn an_address_that_nobody_knows_is_a_fault_unless_there_is_another_key() {
        assert!(Key::client_ip().find(&parts("/", &[])).is_err());
        assert!(Key::client_ip().subject(&parts("/", &[])).is_none());
        assert!(Key::path().and(Key::client_ip()).find(&parts("/", &[])).is_err());
        let key = Key::client_ip().or(Key::everybody());
        assert_eq!(key.find(&parts("/", &[])), Ok(Some("everybody:-".into())));
    }

    #[test]
    fn no_client_can_be_what_it_is_not() {
        let host = Key::header(HOST);
        let pair = host.clone().and(Key::header(USER_AGENT));
        let subject = |key: &Key, host: &str, agent: &str| {
            key.find(&parts("/", &[(HOST, host), (USER_AGENT, agent)])).unwrap().unwrap()
        };
        let honest = subject(&pair, "a", "b");
        assert_eq!(honest, "all:header-host%3Aa:header-user-agent%3Ab");
        assert_ne!(subject(&pair, "a:header-user-agent:b", "b"), honest);
        assert_ne!(subject(&pair, "a%3Ab", "b"), subject(&pair, "a:b", "b"));
        for forged in ["a:b", "all:header-host%3Aa:header-user-agent%3Ab", "path:/"] {
            assert!(subject(&host, forged, "").starts_with("header-host:"));
        }
        assert_ne!(Key::new("a:b", |_| Some("c".into())).subject(&parts("/", &[])), {
            Key::new("a", |_| Some("b:c".into())).subject(&parts("/", &[]))
        });
    }

    #[test]
    fn long_values_are_names_and_stay_apart() {
        for filler in ["x", "é", "💥", ":", "%"] {
            let find = |end: &str| {
                let value = filler.repeat(700) + end;
                let key = Key::new("user", move |_| Some(value.clone()));
                key.and(Key::path()).find(&parts("/", &[])).unwrap().unwrap()
            };
            let (a, b) = (find("a"), find("b"));
            assert!(Name::new(&a).is_ok(), "{} bytes", a.len());
            assert_ne!(a, b);
            assert_eq!(a, find("a"));
        }
        assert_eq!(fitted("x".repeat(500), 500), "x".repeat(500));
        assert_eq!(fitted("x".repeat(501), 500).len(), 500);
    }

    #[test]
    fn debug_tells_the_kind_alone() {
        let key = Key::client_ip().and(Key::path()).or(Key::header(HOST));
        assert_eq!(format!("{key:?}"), "Key(ip+path|header-host)");
    }
}
