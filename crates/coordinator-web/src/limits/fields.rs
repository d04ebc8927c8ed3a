//! The header fields: `RateLimit-Policy` and `RateLimit` as structured fields (RFC 9651, in the
//! words of draft-ietf-httpapi-ratelimit-headers-11), and `Retry-After` (RFC 9110). They decide
//! nothing.

use coordinator::ratelimit::{Decision, Quota, Source};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{LOCATION, RETRY_AFTER},
};
use std::{fmt::Write as _, sync::Arc, time::Duration};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// A limit that was asked, as it is told.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// What [`shown`] made of it.
    pub(super) name: Arc<str>,
    window: Duration,
    shadow: bool,
    pub(super) decision: Decision,
}

impl Told {
    pub(super) fn new(name: Arc<str>, quota: &Quota, decision: Decision) -> Self {
        Self { name, window: quota.refills_in(), shadow: quota.is_shadow(), decision }
    }

    /// The same with what the limiter itself gave back, since another limit denied.
    pub(super) fn undone(mut self) -> Self {
        self.given_back(self.decision.taken());
        self
    }

    /// Adds what was given back.
    pub(super) fn given_back(&mut self, units: u64) {
        let decision = &mut self.decision;
        if units > 0 {
            decision.used = decision.used.saturating_sub(units);
            decision.remaining = decision.limit.saturating_sub(decision.used);
            decision.retry_after = Some(Duration::ZERO);
        }
    }

    /// In how many seconds more than the remaining may be used, as far as it is known: when a
    /// call like this one fits, or else when all is free.
    fn window_left(&self) -> Option<u64> {
        let decision = &self.decision;
        let next = decision.retry_after.filter(|retry| !retry.is_zero());
        // Admissions of one microsecond are told apart, so that all can be free one later.
        let all = decision.reset_after.min(self.window);
        Some(ceil(next.unwrap_or(all))).filter(|seconds| *seconds > 0)
    }

    fn policy(&self, list: &mut String) {
        item(list, &self.name);
        write!(list, ";q={}", self.decision.limit).expect("a String takes all that is written");
        if self.window >= Duration::from_secs(1) {
            write!(list, ";w={}", ceil(self.window)).expect("a String takes all that is written");
        }
    }

    fn standing(&self, list: &mut String, refused: bool) {
        item(list, &self.name);
        write!(list, ";r={}", self.decision.remaining).expect("a String takes all that is written");
        // When the others are free again is no reason to come back later than need be.
        let told = !refused || !self.decision.allowed;
        if let Some(seconds) = self.window_left().filter(|_| told) {
            write!(list, ";t={seconds}").expect("a String takes all that is written");
        }
    }
}

/// Whole seconds, rounded up.
pub(super) fn ceil(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// A name as it stands in fields and bodies: what no structured field can hold is percent-encoded.
pub(super) fn shown(name: &str) -> Arc<str> {
    let mut shown = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b' '..=b'~' => shown.push(char::from(byte)),
            _ => write!(shown, "%{byte:02X}").expect("a String takes all that is written"),
        }
    }
    shown.into()
}

/// A String as a member of a List.
fn item(list: &mut String, name: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push('"');
    for c in name.chars() {
        if c == '"' || c == '\\' {
            list.push('\\');
        }
        list.push(c);
    }
    list.push('"');
}

/// Tells of limits, beside what the service itself said: a List may have several lines.
pub(super) fn tell(headers: &mut HeaderMap, status: StatusCode, refused: bool, told: &[Told]) {
    let (mut policies, mut standings) = (String::new(), String::new());
    // Whoever is sent elsewhere is not to wait on the way.
    let moved = status.is_redirection() && headers.contains_key(LOCATION);
    for limit in told.iter().filter(|limit| !limit.shadow) {
        limit.policy(&mut policies);
        // A failure policy does not know what is left.
        if limit.decision.source != Source::Fallback && !moved {
            limit.standing(&mut standings, refused);
        }
    }
    for (name, list) in [(POLICY, policies), (LIMIT, standings)] {
        if !list.is_empty() {
            let value = HeaderValue::try_from(list).expect("a list is printable ASCII");
            headers.append(name, value);
        }
    }
}

/// When to come back.
pub(super) fn retry_after(headers: &mut HeaderMap, after: Duration) {
    headers.insert(RETRY_AFTER, HeaderValue::from(ceil(after)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator::{clock::ManualClock, ratelimit::RateLimiter};
    use sfv::{BareItem, List, ListEntry, Parser};

    const SECOND: Duration = Duration::from_secs(1);

    fn parsed(headers: &HeaderMap, name: &str) -> Vec<(String, Vec<(String, i64)>)> {
        let lines: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let list: List = Parser::new(&lines.join(&b","[..])).parse().unwrap();
        let item = |entry: &ListEntry| {
            let ListEntry::Item(item) = entry else { panic!("an inner list") };
            let BareItem::String(name) = &item.bare_item else { panic!("no String") };
            let number = |value: &BareItem| match value {
                BareItem::Integer(number) => i64::from(*number),
                other => panic!("{other:?} is no Integer"),
            };
            let parameters = item.params.iter();
            let parameters = parameters.map(|(key, value)| (key.to_string(), number(value)));
            (name.as_str().to_owned(), parameters.collect())
        };
        list.iter().map(item).collect()
    }

    async fn told(quota: &Quota, cost: u64) -> Told {
        let clock = Arc::new(ManualClock::new());
        let decision =
            RateLimiter::embedded_with_clock(clock).check_cost("a", quota, cost).await.unwrap();
        let name = shown(quota.name().unwrap_or("default"));
        Told::new(name, quota, decision)
    }

    fn lines(told: &[Told], refused: bool) -> (HeaderMap, String, String) {
        let mut headers = HeaderMap::new();
        tell(&mut headers, StatusCode::OK, refused, told);
        let line = |name: HeaderName| {
            headers.get(name).map_or("", |line| line.to_str().unwrap()).to_owned()
        };
        let (policy, limit) = (line(POLICY), line(LIMIT));
        (headers, policy, limit)
    }

    #[tokio::test]
    async fn the_fields_are_those_of_the_draft() {
        let burst = told(&Quota::sliding_window(100, 60 * SECOND).with_name("burst"), 50).await;
        let day = Quota::sliding_window(1000, 86400 * SECOND).with_name("daily");
        let daily = told(&day, 1).await;
        let (headers, policy, limit) = lines(&[burst, daily], false);
        assert_eq!(policy, r#""burst";q=100;w=60,"daily";q=1000;w=86400"#);
        assert_eq!(limit, r#""burst";r=50;t=60,"daily";r=999;t=86400"#);
        let number = |key: &str, value| (key.to_owned(), value);
        assert_eq!(
            parsed(&headers, "ratelimit-policy"),
            [
                ("burst".to_owned(), vec![number("q", 100), number("w", 60)]),
                ("daily".to_owned(), vec![number("q", 1000), number("w", 86400)]),
            ]
        );
        assert_eq!(
            parsed(&headers, "ratelimit"),
            [
                ("burst".to_owned(), vec![number("r", 50), number("t", 60)]),
                ("daily".to_owned(), vec![number("r", 999), number("t", 86400)]),
            ]
        );
    }

    #[tokio::test]
    async fn a_window_is_in_whole_seconds_rounded_up_and_left_out_below_one() {
        for (ms, w) in [(1, ""), (999, ""), (1000, ";w=1"), (1001, ";w=2"), (2000, ";w=2")] {
            let quota = Quota::sliding_window(5, Duration::from_millis(ms)).with_name("a");
            let (_, policy, limit) = lines(&[told(&quota, 1).await], false);
            assert_eq!(policy, format!("\"a\";q=5{w}"));
            assert_eq!(limit, format!("\"a\";r=4;t={}", ms.div_ceil(1000)));
        }
    }

    #[tokio::test]
    async fn gcra_tells_its_burst_and_the_time_in_which_it_comes_back() {
        let quota = Quota::gcra(10, SECOND, 25).with_name("a");
        let (_, policy, limit) = lines(&[told(&quota, 25).await], false);
        assert_eq!(policy, r#""a";q=25;w=3"#);
        assert_eq!(limit, r#""a";r=0;t=3"#);
    }

    #[tokio::test]
    async fn any_name_is_a_string_that_parses_back() {
        for name in ["say \"hi\"", "back\\slash", "\\\"", "a,b;c=1", "café\n\u{7f}", "%"] {
            let quota = Quota::sliding_window(Quota::MAX, SECOND).with_name(name);
            let (headers, ..) = lines(&[told(&quota, 1).await], false);
            for field in ["ratelimit-policy", "ratelimit"] {
                assert_eq!(parsed(&headers, field)[0].0, *shown(name), "{name}");
            }
        }
        assert_eq!(&*shown("café\n"), "caf%C3%A9%0A");
    }

    #[tokio::test]
    async fn a_shadow_is_not_told() {
        let quota = Quota::sliding_window(1, SECOND).with_shadow(true);
        assert!(lines(&[told(&quota, 1).await], false).0.is_empty());
    }

    #[tokio::test]
    async fn lines_that_are_there_stay_and_a_redirection_is_not_slowed() {
        let limit = [told(&Quota::sliding_window(1, SECOND).with_name("a"), 1).await];
        let mut headers = HeaderMap::new();
        headers.insert(LIMIT, HeaderValue::from_static("\"inner\";r=1"));
        tell(&mut headers, StatusCode::OK, false, &limit);
        let names: Vec<_> = parsed(&headers, "ratelimit").into_iter().map(|item| item.0).collect();
        assert_eq!(names, ["inner", "a"]);

        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static("/"));
        tell(&mut headers, StatusCode::FOUND, false, &limit);
        assert!(headers.contains_key(POLICY) && !headers.contains_key(LIMIT));
        let mut headers = HeaderMap::new();
        tell(&mut headers, StatusCode::NOT_MODIFIED, false, &limit);
        assert!(headers.contains_key(LIMIT));
    }

    #[test]
    fn seconds_are_rounded_up() {
        for (micros, seconds) in [(0, 0), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2)] {
            assert_eq!(ceil(Duration::from_micros(micros)), seconds);
        }
        assert_eq!(ceil(Duration::from_nanos(1)), 1);
    }
}
