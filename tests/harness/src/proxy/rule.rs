//! Which frames a fault applies to, which of them, and what the fault is.
//!
//! Rules are asked when a frame arrives at the proxy; the connection carries the action out when
//! the frame's turn to be passed on has come.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Reply,
}

type Matcher = Box<dyn Fn(&[Bytes]) -> bool + Send + Sync>;

/// Which of the matches a rule acts on.
#[derive(Debug, Clone, Copy)]
enum Pick {
    Every,
    Nth(usize),
    First(usize),
}

/// What happens to a frame.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Pass,
    Delay(Duration),
    /// Until the receiver sees `true`.
    Hold(watch::Receiver<bool>),
    Cut,
    Reset,
    Lose,
    Truncate(usize),
    Replace(Bytes),
}

/// A fault on single frames: what matches (`command`, …), which way (`on_request`, the default, or
/// `on_reply`), which of the matches (`every`, the default, `nth`, `times`), and one action.
/// Without an action it only counts.
///
/// Replies match by their request's arguments. Pushed messages are no replies and match nothing;
/// the first confirmation of a subscription counts as its reply.
pub struct Rule {
    matcher: Matcher,
    side: Side,
    pick: Pick,
    action: Kind,
}

/// An action before the rule is in place.
#[derive(Debug, Clone)]
enum Kind {
    Plain(Action),
    Hold,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("side", &self.side)
            .field("pick", &self.pick)
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}

impl Rule {
    /// Requests with this name, in any case. Two words match a subcommand: `"CLIENT TRACKING"`.
    #[must_use]
    pub fn command(name: &str) -> Self {
        let words: Vec<String> = name.split_whitespace().map(str::to_owned).collect();
        Self::matching(move |args| {
            let mut pairs = words.iter().zip(args);
            args.len() >= words.len()
                && pairs.all(|(word, arg)| arg.eq_ignore_ascii_case(word.as_bytes()))
        })
    }

    /// `EVALSHA` of this script. The `EVAL` that follows a NOSCRIPT carries the body instead:
    /// match it by [`containing`](Self::containing).
    #[must_use]
    pub fn script(sha1_hex: &str) -> Self {
        let sha = sha1_hex.to_owned();
        Self::matching(move |args| match args {
            [name, first, ..] => {
                name.eq_ignore_ascii_case(b"EVALSHA") && first.eq_ignore_ascii_case(sha.as_bytes())
            }
            _ => false,
        })
    }

    /// Requests of which some argument contains these bytes.
    #[must_use]
    pub fn containing(bytes: impl AsRef<[u8]>) -> Self {
        let needle = bytes.as_ref().to_vec();
        Self::matching(move |args| {
            needle.is_empty()
                || args.iter().any(|arg| arg.windows(needle.len()).any(|part| part == needle))
        })
    }

    /// All requests.
    #[must_use]
    pub fn any() -> Self {
        Self::matching(|_| true)
    }

    /// Requests for whose arguments, the name first, `matcher` is true. It must not call the proxy.
    #[must_use]
    pub fn matching(matcher: impl Fn(&[Bytes]) -> bool + Send + Sync + 'static) -> Self {
        let action = Kind::Plain(Action::Pass);
        Self { matcher: Box::new(matcher), side: Side::Request, pick: Pick::Every, action }
    }

    /// Acts on the request, on its way to the server.
    #[must_use]
    pub fn on_request(mut self) -> Self {
        self.side = Side::Request;
        self
    }

    /// Acts on the reply, after the server has executed the request.
    #[must_use]
    pub fn on_reply(mut self) -> Self {
        self.side = Side::Reply;
        self
    }

    /// Acts on every match.
    #[must_use]
    pub fn every(mut self) -> Self {
        self.pick = Pick::Every;
        self
    }

    /// Acts on the `n`-th match alone, counted from 1 over all connections.
    ///
    /// # Panics
    /// If `n` is 0.
    #[must_use]
    pub fn nth(mut self, n: usize) -> Self {
        assert!(n > 0, "matches are counted from 1");
        self.pick = Pick::Nth(n);
        self
    }

    /// Acts on the first `k` matches, counted over all connections.
    #[must_use]
    pub fn times(mut self, k: usize) -> Self {
        self.pick = Pick::First(k);
        self
    }

    /// Passes the frame on `d` after it came; those behind it wait.
    #[must_use]
    pub fn delay(self, d: Duration) -> Self {
        self.with(Action::Delay(d))
    }

    /// Keeps the frame, and those behind it, until [`RuleHandle::let_go`]; later matches then pass.
    ///
    /// A held request still reaches the server after its client has gone, as one that waits in a
    /// socket does.
    #[must_use]
    pub fn hold(mut self) -> Self {
        self.action = Kind::Hold;
        self
    }

    /// Closes both sides of the connection in the frame's place. On a request the server never
    /// sees it; on a reply the server has executed it and the client never hears.
    #[must_use]
    pub fn cut(self) -> Self {
        self.with(Action::Cut)
    }

    /// As [`cut`](Self::cut), with a TCP reset towards the client instead of an orderly end.
    #[must_use]
    pub fn reset(self) -> Self {
        self.with(Action::Reset)
    }

    /// Swallows the frame, and all that comes after it in both directions, leaving the connection
    /// open, as a half-open link does.
    #[must_use]
    pub fn drop_frame(self) -> Self {
        self.with(Action::Lose)
    }

    /// Passes on the first `n` bytes of the frame, then cuts.
    #[must_use]
    pub fn truncate(self, n: usize) -> Self {
        self.with(Action::Truncate(n))
    }

    /// Passes on these bytes in the frame's place, be they a forged reply or garbage.
    ///
    /// On a request, they must be one request, or the pairing of later replies is lost.
    #[must_use]
    pub fn replace(self, bytes: impl Into<Bytes>) -> Self {
        self.with(Action::Replace(bytes.into()))
    }

    fn with(mut self, action: Action) -> Self {
        self.action = Kind::Plain(action);
        self
    }
}

/// A rule in place, shared by the connections and its handle.
#[derive(Debug)]
pub(crate) struct RuleState {
    rule: Rule,
    matches: AtomicUsize,
    removed: AtomicBool,
    hits: watch::Sender<usize>,
    gone: watch::Sender<bool>,
}

impl RuleState {
    pub(crate) fn new(rule: Rule) -> Self {
        Self {
            rule,
            matches: AtomicUsize::new(0),
            removed: AtomicBool::new(false),
            hits: watch::Sender::new(0),
            gone: watch::Sender::new(false),
        }
    }

    /// Counts a match and says whether this rule acts on it.
    pub(crate) fn fires(&self, side: Side, args: &[Bytes]) -> bool {
        if self.rule.side != side || self.removed.load(Ordering::SeqCst) {
            return false;
        }
        if !(self.rule.matcher)(args) {
            return false;
        }
        let n = self.matches.fetch_add(1, Ordering::SeqCst) + 1;
        match self.rule.pick {
            Pick::Every => true,
            Pick::Nth(wanted) => n == wanted,
            Pick::First(k) => n <= k,
        }
    }

    /// Whether the rule has no action.
    pub(crate) fn only_counts(&self) -> bool {
        matches!(self.rule.action, Kind::Plain(Action::Pass))
    }

    /// Counts a hit and says what to do.
    pub(crate) fn act(&self) -> Action {
        self.hits.send_modify(|n| *n += 1);
        match &self.rule.action {
            Kind::Plain(action) => action.clone(),
            Kind::Hold => Action::Hold(self.gone.subscribe()),
        }
    }
}

/// The hold on a rule in place. Dropping it leaves the rule as it is.
#[derive(Debug)]
pub struct RuleHandle {
    state: Arc<RuleState>,
}

impl RuleHandle {
    pub(crate) fn new(state: Arc<RuleState>) -> Self {
        Self { state }
    }

    /// How many frames the rule has acted on.
    #[must_use]
    pub fn hits(&self) -> usize {
        *self.state.hits.borrow()
    }

    /// Waits until the rule has acted on a frame; at once if it has before.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_hit(&self) {
        self.wait_hits(1).await;
    }

    /// Waits until the rule has acted on `n` frames since it was added.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_hits(&self, n: usize) {
        let mut hits = self.state.hits.subscribe();
        // It cannot fail: the sender lives in self.
        let _ = hits.wait_for(|hits| *hits >= n).await;
    }

    /// Lets everything go that the rule holds, and holds nothing any more.
    pub fn let_go(&self) {
        self.state.gone.send_replace(true);
    }

    /// Ends the rule. What it holds is let go.
    pub fn remove(&self) {
        self.state.removed.store(true, Ordering::SeqCst);
        self.let_go();
    }
}
