//! Watches a connection: probes it in band and keeps its [`State`] true.

use super::{classify, connection::Inner, tally};
use crate::{
    clock::{Clock as _, SystemClock},
    health::State,
};
use fred::{interfaces::EventInterface, prelude::ClientLike, types::Value};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::broadcast::error::RecvError;

/// How often the links are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Every how many looks a PING is sent; after one that failed, at every look.
const LOOKS_PER_PROBE: u32 = 10;
/// After how many failed probes in a row a link that looks well is made anew: it is half open.
const FAILURES: u32 = 2;

/// Runs until the connection is dropped.
pub(super) async fn watch(connection: Weak<Inner>) {
    let Some((mut errors, mut reconnects)) = connection.upgrade().map(|inner| {
        let client = inner.commands.client();
        (client.error_rx(), client.reconnect_rx())
    }) else {
        return;
    };
    let mut looks = 0_u32;
    let mut failures = 0_u32;
    let mut troubled = false;
    // A link that was not up yet is not made anew when it comes up.
    let mut was_up = connection.upgrade().is_some_and(|inner| inner.commands.is_up());
    loop {
        // Events hasten a look; a lagging or closed channel is no reason to stop looking.
        let hastened = tokio::select! {
            event = errors.recv() => event.is_ok(),
            event = reconnects.recv() => {
                if was_up && !matches!(event, Err(RecvError::Closed)) {
                    tally::reconnected();
                }
                was_up = true;
                event.is_ok()
            }
            () = tokio::time::sleep(LOOK) => false,
        };
        let Some(inner) = connection.upgrade().filter(|inner| !inner.is_closed()) else { return };
        if !hastened {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS_PER_PROBE) {
                tally::publish();
                inner.recent.turn_over(SystemClock.now());
            }
        }
        if inner.commands.is_up() && (looks.is_multiple_of(LOOKS_PER_PROBE) || troubled) {
            // A server that answers with an error (BUSY, MISCONF) is alive, and no new link
            // would cure it.
            let answer = inner.commands.client().ping::<Value>(None).await;
            troubled = answer.is_err();
            let silent = answer.is_err_and(|error| classify::is_silence(&error));
            failures = if silent { failures + 1 } else { 0 };
        }
        settle(&inner, troubled);
        if failures >= FAILURES && inner.commands.is_up() {
            failures = 0;
            tracing::warn!("the server does not answer on this connection, making it anew");
            let anew = inner.commands.client().force_reconnection();
            let _ = tokio::time::timeout(inner.config.connect_timeout(), anew).await;
        }
        if hastened {
            // A storm of events must not become a storm of looks.
            drop(inner);
            tokio::time::sleep(LOOK / 10).await;
        }
    }
}

fn settle(inner: &Arc<Inner>, probe_failed: bool) {
    let messages_down = inner.messages.get().is_some_and(|messages| !messages.is_up());
    let state = if !inner.commands.is_up() {
        State::Disconnected
    } else if probe_failed || messages_down {
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
        inner.tally.move_to(state);
        true
    });
}
