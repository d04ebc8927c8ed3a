//! `SessionCookie`: the cookie that carries a token, as it is written. What a client sent is read
//! in `carrier.rs`.

use coordinator::{Error, Result};
use http::HeaderValue;
use std::time::Duration;

/// When other sites make a browser send the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SameSite {
    /// When somebody follows a link to this site, and not with what another site posts or embeds.
    #[default]
    Lax,
    /// Never: who follows a link from elsewhere arrives without a session.
    Strict,
    /// Always. Whatever another site makes the browser post is sent with the session: the service
    /// needs a defence of its own.
    None,
}

impl SameSite {
    fn text(self) -> &'static str {
        match self {
            Self::Lax => "Lax",
            Self::Strict => "Strict",
            Self::None => "None",
        }
    }
}

/// The cookie of a [`SessionLayer`](super::SessionLayer): by default `__Host-session`, for the
/// whole site, over TLS alone, out of scripts' reach, `SameSite=Lax`, gone with the browser's
/// session.
///
/// ```
/// use coordinator_web::sessions::{SameSite, SessionCookie};
/// use std::time::Duration;
///
/// let cookie = SessionCookie::new()
///     .with_same_site(SameSite::Strict)
///     .with_max_age(Duration::from_secs(12 * 3600));
/// cookie.validate()?;
///
/// // A browser would refuse it, so it is refused here.
/// assert!(SessionCookie::new().with_domain("example.com").validate().is_err());
/// # Ok::<(), coordinator::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SessionCookie {
    name: String,
    same_site: SameSite,
    secure: bool,
    path: String,
    domain: Option<String>,
    max_age: Option<Duration>,
}

impl Default for SessionCookie {
    fn default() -> Self {
        Self::new()
    }
}

impl SessionCookie {
    /// The name that it has by default. A browser takes a cookie whose name begins with `__Host-`
    /// over TLS alone, from this host alone and for the whole of it, so that no subdomain can plant
    /// one.
    pub const NAME: &'static str = "__Host-session";

    /// The cookie with its defaults.
    pub fn new() -> Self {
        Self {
            name: Self::NAME.to_owned(),
            same_site: SameSite::default(),
            secure: true,
            path: "/".to_owned(),
            domain: None,
            max_age: None,
        }
    }

    /// Another name. One without `__Host-` can be planted by whoever controls a subdomain.
    pub fn with_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// When other sites make a browser send it; default [`SameSite::Lax`].
    pub fn with_same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// For how long a browser keeps it, in whole seconds, at least one; by default until it is
    /// closed.
    ///
    /// It is counted from when the token was given out, and is not prolonged by use: let it be at
    /// least the absolute timeout of sessions. When a session ends is decided by the server.
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = Some(max_age);
        self
    }

    /// For which paths it is sent; default `/`. Not with a `__Host-` name.
    pub fn with_path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Sends it to subdomains of this domain too. Not with a `__Host-` name.
    pub fn with_domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.to_owned());
        self
    }

    /// Lets it go over connections that anybody can read: for a service that is tried out without
    /// TLS. Not with a `__Host-` or `__Secure-` name, nor with [`SameSite::None`].
    pub fn without_secure(mut self) -> Self {
        self.secure = false;
        self
    }

    /// Whether browsers take it.
    ///
    /// # Errors
    /// [`Misuse`](coordinator::ErrorKind::Misuse) for a name, a path or a domain that no cookie can
    /// have, for what the prefix of its name forbids, for [`SameSite::None`] without `Secure`, and
    /// for a lifetime under a second.
    pub fn validate(&self) -> Result<()> {
        let misuse = |why: &str| Err(Error::misuse("web.sessions", why));
        let named = |prefix: &str| {
            let start = self.name.get(..prefix.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if self.name.is_empty() || !self.name.bytes().all(is_token) {
            return misuse("the name of a cookie has letters, digits and !#$%&'*+-.^_`|~");
        }
        let written = |c: u8| c.is_ascii_graphic() && c != b';';
        if !self.path.starts_with('/') || !self.path.bytes().all(written) {
            return misuse("the path of a cookie begins with / and has neither blanks nor ;");
        }
        let in_domain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
        if self.domain.as_ref().is_some_and(|d| d.is_empty() || !d.bytes().all(in_domain)) {
            return misuse("a domain has letters, digits, dots and hyphens");
        }
        if named("__Host-") && !(self.secure && self.path == "/" && self.domain.is_none()) {
            return misuse("a __Host- cookie is Secure, of the path / and of no domain");
        }
        if named("__Secure-") && !self.secure {
            return misuse("a __Secure- cookie is Secure");
        }
        if self.same_site == SameSite::None && !self.secure {
            return misuse("a cookie with SameSite=None is Secure");
        }
        if self.max_age.is_some_and(|age| age.as_secs() == 0) {
            return misuse("a cookie lives at least a second");
        }
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set(&self, token: &str) -> HeaderValue {
        self.written(token, self.max_age.map(|age| age.as_secs()))
    }

    /// The same cookie, ended: a browser that knows it forgets it.
    pub(super) fn removal(&self) -> HeaderValue {
        self.written("", Some(0))
    }

    fn written(&self, value: &str, max_age: Option<u64>) -> HeaderValue {
        let mut text = format!("{}={value}; Path={}", self.name, self.path);
        if let Some(domain) = &self.domain {
            text.push_str("; Domain=");
            text.push_str(domain);
        }
        if let Some(seconds) = max_age {
            text.push_str(&format!("; Max-Age={seconds}"));
        }
        text.push_str(if self.secure { "; Secure; HttpOnly" } else { "; HttpOnly" });
        text.push_str("; SameSite=");
        text.push_str(self.same_site.text());
        let mut value = HeaderValue::try_from(text).expect("a cookie that was validated is ASCII");
        value.set_sensitive(true);
        value
    }
}

/// A character of a token (RFC 9110).
fn is_token(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::cookie::{Cookie, SameSite as Parsed};

    fn text(value: &HeaderValue) -> &str {
        value.to_str().unwrap()
    }

    #[test]
    fn a_cookie_is_written_so() {
        let day = Duration::from_hours(24);
        let plain = SessionCookie::new().with_name("sid").without_secure();
        for (cookie, set, removal) in [
            (
                SessionCookie::new(),
                "__Host-session=t; Path=/; Secure; HttpOnly; SameSite=Lax",
                "__Host-session=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax",
            ),
            (
                SessionCookie::new().with_same_site(SameSite::Strict).with_max_age(day),
                "__Host-session=t; Path=/; Max-Age=86400; Secure; HttpOnly; SameSite=Strict",
                "__Host-session=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict",
            ),
            (
                SessionCookie::new().with_same_site(SameSite::None),
                "__Host-session=t; Path=/; Secure; HttpOnly; SameSite=None",
                "__Host-session=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=None",
            ),
            (
                plain.with_path("/app").with_domain("example.com"),
                "sid=t; Path=/app; Domain=example.com; HttpOnly; SameSite=Lax",
                "sid=; Path=/app; Domain=example.com; Max-Age=0; HttpOnly; SameSite=Lax",
            ),
        ] {
            cookie.validate().unwrap();
            assert_eq!(text(&cookie.set("t")), set);
            assert_eq!(text(&cookie.removal()), removal);
            assert!(cookie.set("t").is_sensitive(), "no log shows it");
        }
    }

    #[test]
    fn another_library_reads_the_same() {
        let cookie = SessionCookie::new().with_max_age(Duration::from_millis(2999));
        let value = cookie.set("v1.7.abc_-");
        let parsed = Cookie::parse(text(&value)).unwrap();
        assert_eq!(parsed.name_value(), ("__Host-session", "v1.7.abc_-"));
        assert_eq!((parsed.secure(), parsed.http_only()), (Some(true), Some(true)));
        assert_eq!((parsed.path(), parsed.domain()), (Some("/"), None));
        assert_eq!(parsed.same_site(), Some(Parsed::Lax));
        assert_eq!(parsed.max_age(), Some(::cookie::time::Duration::seconds(2)));
        let removal = cookie.removal();
        let parsed = Cookie::parse(text(&removal)).unwrap();
        assert_eq!(parsed.value(), "");
        assert_eq!(parsed.max_age(), Some(::cookie::time::Duration::ZERO));
    }

    #[test]
    fn what_no_browser_takes_is_refused() {
        let sid = || SessionCookie::new().with_name("sid");
        let host = SessionCookie::new;
        for wrong in [
            host().with_name(""),
            host().with_name("a b"),
            host().with_name("a=b"),
            host().with_name("a;b"),
            host().with_name("é"),
            sid().with_path("app"),
            sid().with_path("/a;b"),
            sid().with_path("/a b"),
            sid().with_path("/é"),
            sid().with_domain(""),
            sid().with_domain("a;b"),
            host().with_domain("example.com"),
            host().with_path("/app"),
            host().without_secure(),
            host().with_name("__HOST-sid").without_secure(),
            host().with_name("__Secure-sid").without_secure(),
            sid().without_secure().with_same_site(SameSite::None),
            host().with_max_age(Duration::from_millis(999)),
        ] {
            let error = wrong.validate().expect_err(&format!("{wrong:?}"));
            assert_eq!(error.kind(), coordinator::ErrorKind::Misuse);
        }
        sid().with_path("/a").with_domain("a.example").validate().unwrap();
        sid().without_secure().validate().unwrap();
        host().with_name("__Secure-sid").with_path("/app").validate().unwrap();
    }
}
