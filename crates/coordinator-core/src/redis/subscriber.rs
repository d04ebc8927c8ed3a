//! Messages by channel, over a link that carries nothing else and is resubscribed by us.
//!
//! One task owns the link. It counts who listens to what, confirms each subscription in band, and
//! tells listeners when messages may have been missed.

mod wire;

use super::{Connection, link::Link, setup::Role, tasks};
use crate::{Error, ErrorKind, Result, config::Config};
use bytes::Bytes;
use fred::{interfaces::EventInterface, types::config::Server};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::{
    broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    mpsc, oneshot,
};
use wire::Wire;

/// How many messages of one channel wait for a slow listener before it is told of a loss.
const PER_CHANNEL: usize = 256;
/// How often idle channels are given up and the link is probed.
const SWEEP: Duration = Duration::from_secs(1);
/// For how many sweeps an idle channel stays subscribed: listeners often come back at once.
const IDLE_SWEEPS: u32 = 2;
/// Every how many sweeps subscriptions are asserted anew in a cluster: the notice that a migrating
/// slot took a sharded one away is dropped by the client, and a classic one stays where it was.
const ASSERT_SWEEPS: u64 = 5;

/// What a subscription yields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Somebody published this on the channel.
    Payload(Bytes),
    /// Messages may have been missed: the link was cut, or this listener was too slow. Look at the
    /// state itself, then go on listening.
    Lost,
}

/// Listens to one channel. Dropping it gives the channel up when nobody else listens.
#[derive(Debug)]
pub struct Subscription {
    /// Taken only when dropped.
    messages: Option<broadcast::Receiver<Message>>,
    channel: String,
    subscriber: Subscriber,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // First out of the count, then the order to look at it.
        drop(self.messages.take());
        let channel = std::mem::take(&mut self.channel);
        let _ = self.subscriber.orders.send(Order::Leave { channel });
    }
}

impl Subscription {
    /// The next message, or notice of a loss; never ends by itself.
    ///
    /// # Cancel safety
    /// Cancel safe: no message is lost by dropping the future.
    pub async fn next(&mut self) -> Message {
        // It is there until it is dropped.
        let Some(messages) = &mut self.messages else { return std::future::pending().await };
        match messages.recv().await {
            Ok(message) => message,
            Err(RecvError::Lagged(_)) => Message::Lost,
            // The connection is closed: there is nothing more to say, ever.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Connection {
    /// Listens to a channel; returns when the server confirmed it, so that whatever is published
    /// from then on arrives. Uses sharded pub/sub where the server has it.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) without a link or a confirmation within the command
    /// timeout, [`Rejected`](ErrorKind::Rejected) if access rules forbid the channel.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn subscribe(&self, channel: &str) -> Result<Subscription> {
        const STEP: &str = "core.subscribe";
        self.check_open(STEP)?;
        let open = async || Subscriber::open(&self.inner.config);
        let subscriber = self.inner.messages.get_or_try_init(open).await?;
        let limit = self.inner.config.command_timeout();
        tokio::time::timeout(limit, subscriber.subscribe(channel)).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, STEP)
                .with_source("the subscription was not confirmed in time"))
        })
    }
}

/// A handle to the task that owns the link.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    orders: mpsc::UnboundedSender<Order>,
    link: Arc<Link>,
}

#[derive(Debug)]
enum Order {
    Subscribe {
        channel: String,
        answer: oneshot::Sender<Result<broadcast::Receiver<Message>>>,
    },
    /// A listener is gone.
    Leave {
        channel: String,
    },
}

impl Subscriber {
    fn open(config: &Config) -> Result<Self> {
        let link = Arc::new(Link::open(config, Role::Messages)?);
        let (orders, inbox) = mpsc::unbounded_channel();
        let wire = Wire::new(link.clone(), config);
        let reconnects = link.client().reconnect_rx();
        tasks::spawn(Desk { wire, reconnects, channels: HashMap::new(), sweeps: 0 }.run(inbox));
        Ok(Self { orders, link })
    }

    pub(super) fn is_up(&self) -> bool {
        self.link.is_up()
    }

    pub(super) async fn close(&self) {
        self.link.close().await;
    }

    async fn subscribe(&self, channel: &str) -> Result<Subscription> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::new(ErrorKind::Unavailable, "core.subscribe");
        self.orders
            .send(Order::Subscribe { channel: channel.to_owned(), answer })
            .map_err(|_| gone())?;
        let messages = answered.await.map_err(|_| gone())??;
        let channel = channel.to_owned();
        Ok(Subscription { messages: Some(messages), channel, subscriber: self.clone() })
    }
}

/// One channel at the desk.
struct Channel {
    listeners: broadcast::Sender<Message>,
    /// Whether the server has confirmed it since the link was last made.
    confirmed: bool,
    /// Whether somebody listened while it was not confirmed: messages may have been missed.
    missed: bool,
    idle_sweeps: u32,
}

/// The task's own state.
struct Desk {
    wire: Wire,
    /// Each time the link was made anew, the first included.
    reconnects: broadcast::Receiver<Server>,
    channels: HashMap<String, Channel>,
    sweeps: u64,
}

impl Desk {
    /// Runs until every handle and subscription is dropped.
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        let client = self.wire.client().clone();
        let mut messages = client.message_rx();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(order) => self.serve(order, &mut inbox).await,
                    None => return,
                },
                message = messages.recv() => match message {
                    Ok(message) => self.deliver(&message.channel, message.value.into_bytes()),
                    Err(RecvError::Lagged(_)) => self.announce_loss(),
                    Err(RecvError::Closed) => messages = client.message_rx(),
                },
                made = self.reconnects.recv() => match made {
                    Ok(_) | Err(RecvError::Lagged(_)) => self.relink().await,
                    Err(RecvError::Closed) => self.reconnects = client.reconnect_rx(),
                },
                _ = sweep.tick() => self.sweep().await,
            }
        }
    }

    /// Serves an order and those that queued up behind it, so that many listeners of new channels
    /// share a confirmation.
    async fn serve(&mut self, first: Order, inbox: &mut mpsc::UnboundedReceiver<Order>) {
        let mut waiting = Vec::new();
        let mut left = Vec::new();
        let mut order = Some(first);
        while let Some(next) = order.take() {
            let (channel, answer) = match next {
                Order::Subscribe { channel, answer } => (channel, answer),
                Order::Leave { channel } => {
                    left.push(channel);
                    order = inbox.try_recv().ok();
                    continue;
                }
            };
            let known = self.channels.entry(channel.clone()).or_insert_with(|| Channel {
                listeners: broadcast::channel(PER_CHANNEL).0,
                confirmed: false,
                missed: false,
                idle_sweeps: 0,
            });
            known.idle_sweeps = 0;
            // Listening begins before the server is asked: nothing falls in between.
            waiting.push((channel, answer, known.listeners.subscribe()));
            order = inbox.try_recv().ok();
        }
        let refused = self.confirm().await;
        for (channel, answer, receiver) in waiting {
            let outcome = match self.channels.get(&channel) {
                Some(known) if known.confirmed => Ok(receiver),
                _ => Err(refused.get(&channel).map_or_else(
                    || {
                        Error::new(ErrorKind::Unavailable, "core.subscribe")
                            .with_source("there is no connection for messages")
                    },
                    |why| Error::new(why.kind(), "core.subscribe").with_source(why.chain()),
                )),
            };
            // Whoever stopped waiting leaves an idle channel for the sweep.
            let _ = answer.send(outcome);
        }
        let idle = |channel: &String| {
            let known = self.channels.get(channel);
            known.is_some_and(|known| known.listeners.receiver_count() == 0)
        };
        left.retain(idle);
        self.give_up(left).await;
    }

    /// Asks the server for every channel it has not confirmed; answers what it refused.
    async fn confirm(&mut self) -> HashMap<String, Error> {
        if !self.wire.ready().await {
            return HashMap::new();
        }
        // The link that is up now was announced before it was: what is announced here is past.
        while !matches!(self.reconnects.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed))
        {
            self.forget();
        }
        let missing: Vec<String> = self
            .channels
            .iter()
            .filter(|(_, channel)| !channel.confirmed)
            .map(|(name, _)| name.clone())
            .collect();
        let mut refused = HashMap::new();
        if missing.is_empty() {
            return refused;
        }
        for (name, outcome) in self.wire.subscribe(missing).await {
            match outcome {
                Ok(()) => {
                    if let Some(channel) = self.channels.get_mut(&name) {
                        channel.confirmed = true;
                        if std::mem::take(&mut channel.missed) {
                            let _ = channel.listeners.send(Message::Lost);
                        }
                    }
                }
                Err(error) => {
                    // Whoever listened before shall look by itself; whoever just asked is told.
                    match self.channels.get(&name) {
                        Some(channel) if channel.missed => {
                            let _ = channel.listeners.send(Message::Lost);
                        }
                        _ if error.is_retryable() => {}
                        _ => {
                            self.channels.remove(&name);
                        }
                    }
                    refused.insert(name, error);
                }
            }
        }
        refused
    }

    /// The link was made anew: the server has forgotten what we listen to.
    fn forget(&mut self) {
        self.wire.forget();
        for channel in self.channels.values_mut() {
            channel.missed |= channel.confirmed;
            channel.confirmed = false;
        }
    }

    async fn relink(&mut self) {
        self.forget();
        for (channel, error) in self.confirm().await {
            tracing::warn!(channel, error = %error.chain(), "a channel could not be resubscribed");
        }
    }

    fn deliver(&self, channel: &str, payload: Option<Bytes>) {
        if let (Some(channel), Some(payload)) = (self.channels.get(channel), payload) {
            // Without a listener the message has no use.
            let _ = channel.listeners.send(Message::Payload(payload));
        }
    }

    fn announce_loss(&self) {
        for channel in self.channels.values() {
            let _ = channel.listeners.send(Message::Lost);
        }
    }

    /// Unsubscribes from channels that nobody listens to.
    async fn give_up(&mut self, idle: Vec<String>) {
        for name in &idle {
            self.channels.remove(name);
        }
        if !idle.is_empty() && self.wire.is_up() {
            self.wire.unsubscribe(idle).await;
        }
    }

    /// Gives up idle channels, asserts what a cluster may have forgotten, probes the link.
    async fn sweep(&mut self) {
        self.sweeps += 1;
        let mut idle = Vec::new();
        for (name, channel) in &mut self.channels {
            if channel.listeners.receiver_count() > 0 {
                channel.idle_sweeps = 0;
                continue;
            }
            channel.idle_sweeps += 1;
            if channel.idle_sweeps >= IDLE_SWEEPS {
                idle.push(name.clone());
            }
        }
        self.give_up(idle).await;
        if !self.wire.is_up() || self.channels.is_empty() {
            return;
        }
        if self.wire.forgets() && self.sweeps.is_multiple_of(ASSERT_SWEEPS) {
            // Asserted without notice: a migrated slot is rare, and listeners look by themselves.
            let all = self.channels.keys().cloned().collect();
            self.wire.assert(all).await;
        }
        // What failed while the link was shaky is tried again here.
        self.confirm().await;
        if self.sweeps.is_multiple_of(2) {
            self.wire.probe().await;
        }
    }
}
