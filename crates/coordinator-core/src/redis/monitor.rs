//! Watches a connection: probes it in band, keeps its [`State`] and its breaker true, and replaces
//! a link that is silent while the server answers on a new one.

use super::{classify, connection::Inner, link::Link, setup::Role, tally};
use crate::{
    clock::{Clock as _, SystemClock},
    health::{BreakerState, State},
};
use fred::{
    error::Error as FredError,
    interfaces::{ClientLike as _, EventInterface as _},
    types::{Value, config::Server},
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::MissedTickBehavior,
};

/// How often the links are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Every how many looks a PING is sent; after one that failed, at every look.
const LOOKS_PER_PROBE: u32 = 10;
/// After how many failed probes in a row a link that looks well is made anew: it is half open.
const FAILURES: u32 = 2;
/// How long a scout may take. A server farther away than that is found by the client's own, more
/// patient attempts.
const SCOUT: Duration = Duration::from_millis(400);
/// The pause before one: there are at most four a second, and where nobody answers less than two.
const BETWEEN_SCOUTS: Duration = Duration::from_millis(250);
/// How long the old link may still answer when a scout has.
const GRACE: Duration = Duration::from_millis(50);
/// For how many looks a lost link may say nothing of its attempts before they count as stuck: the
/// longest delay between two of them is half a second.
const STUCK: u32 = 7;
/// How many of these looks go by between two scouts.
const LOOKS_PER_SCOUT: u32 = 2;

/// What the client tells of its link.
struct Events {
    link: Arc<Link>,
    errors: Receiver<(FredError, Option<Server>)>,
    reconnects: Receiver<Server>,
}

impl Events {
    fn of(link: Arc<Link>) -> Self {
        let (errors, reconnects) = (link.client().error_rx(), link.client().reconnect_rx());
        Self { link, errors, reconnects }
    }
}

/// What became of a probe.
#[derive(PartialEq, Eq)]
enum Probe {
    Answered,
    /// The server spoke, and what it said was an error: it is alive, and no new link would help.
    Refused,
    Silent,
}

/// What a monitor remembers from look to look.
#[derive(Default)]
struct Watch {
    looks: u32,
    /// Probes without an answer in a row.
    failures: u32,
    troubled: bool,
    /// Looks at a lost link since it was last heard of.
    unheard: u32,
}

/// Runs until the connection is dropped.
pub(super) async fn watch(connection: Weak<Inner>) {
    let Some(link) = connection.upgrade().map(|inner| inner.link()) else { return };
    // A link that was not up yet is not made anew when it comes up.
    let mut was_up = link.is_up();
    let mut events = Events::of(link);
    let mut watch = Watch::default();
    let mut clock = tokio::time::interval(LOOK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Events hasten a look; a lagging or closed channel is no reason to stop looking.
        let (hastened, anew) = tokio::select! {
            event = events.errors.recv() => (event.is_ok(), false),
            event = events.reconnects.recv() => {
                (event.is_ok(), !matches!(event, Err(RecvError::Closed)))
            }
            _ = clock.tick() => (false, false),
        };
        let Some(inner) = connection.upgrade().filter(|inner| !inner.is_closed()) else { return };
        if anew {
            if was_up {
                tally::reconnected();
            }
            was_up = true;
            inner.breaker.hasten(SystemClock.now());
        }
        watch.look(&inner, hastened).await;
        let link = inner.link();
        if !Arc::ptr_eq(&link, &events.link) {
            tally::reconnected();
            events = Events::of(link);
        }
        if hastened {
            // A storm of events must not become a storm of looks.
            drop(inner);
            tokio::time::sleep(LOOK / 10).await;
        }
    }
}

impl Watch {
    async fn look(&mut self, inner: &Arc<Inner>, hastened: bool) {
        if hastened {
            self.unheard = 0;
        } else {
            self.looks = self.looks.wrapping_add(1);
        }
        let regular = self.looks.is_multiple_of(LOOKS_PER_PROBE);
        if regular && !hastened {
            tally::publish();
            inner.recent.turn_over(SystemClock.now());
        }
        let link = inner.link();
        if link.is_up() {
            self.unheard = 0;
        } else if !hastened {
            self.unheard += 1;
            inner.note_silence(&link);
        }
        let stuck = self.unheard >= STUCK && !inner.is_cluster();
        // Without anything to ask a probe would tell nothing.
        let can_ask = link.is_up() || stuck;
        let due = if inner.breaker.allows() {
            regular || self.troubled || stuck
        } else {
            can_ask && inner.breaker.begin_probe(SystemClock.now())
        };
        if can_ask && due {
            let probe = if link.is_up() {
                self.ping(inner, &link).await
            } else {
                self.find(inner, &link).await
            };
            self.troubled = probe != Probe::Answered;
            if probe == Probe::Silent {
                inner.breaker.probe_failed(SystemClock.now(), rand::random());
            } else {
                inner.breaker.answered();
            }
        }
        settle(inner, self.troubled || inner.breaker.state() != BreakerState::Closed);
    }

    /// Asks on the link and, where that is in doubt, on new ones meanwhile.
    async fn ping(&mut self, inner: &Inner, link: &Link) -> Probe {
        let mut answer = std::pin::pin!(link.client().ping::<Value>(None));
        loop {
            let scout = async {
                tokio::time::sleep(BETWEEN_SCOUTS).await;
                let doubted = self.failures > 0 || !inner.breaker.allows();
                if doubted && !inner.is_cluster() { scout(inner).await } else { None }
            };
            let found = tokio::select! {
                biased;
                answer = &mut answer => return self.judge(inner, link, &answer),
                found = scout => found,
            };
            let Some(found) = found else { continue };
            // A server that was merely stopped answers on both.
            if let Ok(answer) = tokio::time::timeout(GRACE, &mut answer).await
                && !answer.as_ref().is_err_and(classify::is_silence)
            {
                return self.judge(inner, link, &answer);
            }
            return self.adopt(inner, found).await;
        }
    }

    fn judge(&mut self, inner: &Inner, link: &Link, answer: &Result<Value, FredError>) -> Probe {
        let Err(error) = answer else {
            self.failures = 0;
            return Probe::Answered;
        };
        if !classify::is_silence(error) {
            self.failures = 0;
            return Probe::Refused;
        }
        self.failures += 1;
        inner.note_silence(link);
        if self.failures >= FAILURES && link.is_up() {
            self.failures = 0;
            if inner.rejoin() {
                tracing::warn!("the server does not answer on this connection, making it anew");
            }
        }
        Probe::Silent
    }

    /// Looks for the server where there is no link and the client's own attempt seems stuck: an
    /// attempt that a black hole swallowed lasts as long as the connect timeout.
    async fn find(&mut self, inner: &Inner, link: &Link) -> Probe {
        self.unheard = STUCK - LOOKS_PER_SCOUT;
        match scout(inner).await {
            Some(found) if !link.is_up() => self.adopt(inner, found).await,
            _ => Probe::Silent,
        }
    }

    async fn adopt(&mut self, inner: &Inner, found: Link) -> Probe {
        tracing::warn!("the server answers on a new connection alone, which replaces the old one");
        self.failures = 0;
        self.unheard = 0;
        inner.replace_link(found).await;
        Probe::Answered
    }
}

/// A new link, if the server greets it soon. Not for clusters: it would be one to each node.
async fn scout(inner: &Inner) -> Option<Link> {
    Link::connect_within(&inner.config, Role::Commands, SCOUT).await.ok()
}

/// The place of a state among the gauges.
pub(super) fn place(state: State) -> usize {
    match state {
        State::Connected => 0,
        State::Degraded => 1,
        State::Disconnected => 2,
    }
}

fn settle(inner: &Inner, troubled: bool) {
    let messages_down = inner.messages.get().is_some_and(|messages| !messages.is_up());
    let state = if !inner.link().is_up() {
        State::Disconnected
    } else if troubled || messages_down {
        State::Degraded
    } else {
        State::Connected
    };
    inner.state.send_if_modified(|known| {
        if *known == state {
            return false;
        }
        tracing::info!(from = ?*known, to = ?state, "the connection's state changed");
        *known = state;
        inner.tally.move_to(place(state));
        true
    });
}
