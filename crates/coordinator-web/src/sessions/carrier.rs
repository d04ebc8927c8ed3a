//! How a token travels: in a cookie, or in a header of the client's own making. It asks nobody
//! whether the token is any good.

use super::cookie::SessionCookie;
use coordinator::sessions::Token;
use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, SET_COOKIE},
};

/// What the client is to be told of its token.
#[derive(Debug, Clone, Default)]
pub(super) enum Tell {
    /// Nothing: it has the right one, or has none, or nobody knows.
    #[default]
    Nothing,
    /// That this is the one to use from now on.
    Use(Token),
    /// That the one it has is of no use any more.
    Forget,
}

/// What a request brought.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) token: Option<Token>,
    /// Whether there was anything in the token's place.
    pub(super) any: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Carrier {
    Cookie(SessionCookie),
    Bearer,
}

impl Carrier {
    pub(super) fn sent(&self, headers: &HeaderMap) -> Sent {
        match self {
            Self::Cookie(cookie) => {
                let lines = headers.get_all(COOKIE).iter();
                let pairs = lines.flat_map(|line| line.as_bytes().split(|c| *c == b';'));
                one(pairs.filter_map(|pair| {
                    let at = pair.iter().position(|c| *c == b'=')?;
                    let named = pair[..at].trim_ascii() == cookie.name().as_bytes();
                    named.then(|| pair[at + 1..].trim_ascii())
                }))
            }
            Self::Bearer => one(headers.get_all(AUTHORIZATION).iter().filter_map(|line| {
                let (scheme, token) = line.as_bytes().trim_ascii().split_at_checked(7)?;
                scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
            })),
        }
    }

    /// Tells a client that keeps cookies; one that sends a header is told by the handler.
    pub(super) fn tell(&self, tell: &Tell, headers: &mut HeaderMap) {
        let Self::Cookie(cookie) = self else { return };
        let value = match tell {
            Tell::Nothing => return,
            Tell::Use(token) => cookie.set(&token.reveal()),
            Tell::Forget => cookie.removal(),
        };
        headers.append(SET_COOKIE, value);
        if !is_private(headers) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }

    /// What a client is asked for that brought no session: `WWW-Authenticate`, which an answer of
    /// 401 has.
    pub(super) fn challenge(&self, sent: bool) -> HeaderValue {
        match self {
            Self::Cookie(cookie) => {
                let text = format!("Cookie cookie-name=\"{}\"", cookie.name());
                HeaderValue::try_from(text).expect("the name of a cookie is ASCII")
            }
            Self::Bearer if sent => HeaderValue::from_static("Bearer error=\"invalid_token\""),
            Self::Bearer => HeaderValue::from_static("Bearer"),
        }
    }
}

/// The token among what a client sent, if there is one and only one. Two different ones: somebody
/// planted one of them, and nobody can say which.
fn one<'a>(values: impl Iterator<Item = &'a [u8]>) -> Sent {
    let (mut sent, mut many) = (Sent::default(), false);
    for value in values {
        sent.any = true;
        let token = str::from_utf8(value).ok().and_then(Token::parse);
        match (&sent.token, token) {
            (None, Some(token)) => sent.token = Some(token),
            (Some(first), Some(token)) if *first != token => many = true,
            _ => {}
        }
    }
    sent.token = sent.token.filter(|_| !many);
    sent
}

/// Whether nobody but this client can be handed the answer from a cache.
fn is_private(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let mut directives = lines.flat_map(|line| line.as_bytes().split(|c| *c == b','));
    directives.any(|directive| {
        let directive = directive.trim_ascii();
        // `private="…"` keeps caches from some fields alone.
        directive.eq_ignore_ascii_case(b"no-store") || directive.eq_ignore_ascii_case(b"private")
    })
}
