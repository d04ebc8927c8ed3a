//! The body of an answer: the text of a stream as it comes, with its signs of life and its
//! deadlines.

use super::{
    feed::Feed,
    flight::{Flight, PIECE},
    shared::Room,
    sse::Settings,
    writer::Writer,
};
use bytes::Bytes;
use coordinator::clock::{BoxFuture, Instant};
use http_body::{Body, Frame, SizeHint};
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// How often at most the place is told of a stream whose events all pass by.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// The client did not read for as long as the write deadline says; the connection ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stalled;

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client of an event stream does not read")
    }
}

impl std::error::Error for Stalled {}

/// What an [`Sse`](super::Sse) answers with.
///
/// It has at most eight frames under way, and gives out the next when one of them is dropped, as a
/// server does that has written it. Whoever collects a body in a test drops each frame as it comes.
#[derive(Debug)]
pub struct SseBody(State);

#[derive(Debug)]
enum State {
    /// A text, and then the end.
    Whole(Bytes),
    Live(Box<Stream>),
    Over,
}

impl SseBody {
    pub(super) fn whole(text: impl Into<Bytes>) -> Self {
        Self(State::Whole(text.into()))
    }

    pub(super) fn live(stream: Stream) -> Self {
        Self(State::Live(Box::new(stream)))
    }
}

impl Body for SseBody {
    type Data = Bytes;
    type Error = Stalled;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Stalled>>> {
        let next = match &mut self.0 {
            State::Live(stream) => ready!(stream.poll(context)),
            State::Whole(text) => {
                let text = std::mem::take(text);
                self.0 = State::Over;
                return Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))));
            }
            State::Over => None,
        };
        if !matches!(next, Some(Ok(_))) {
            // What it follows is let go at once, however long the server keeps the body.
            self.0 = State::Over;
        }
        Poll::Ready(next.map(|next| next.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Whole(text) => text.is_empty(),
            State::Live(_) => false,
            State::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Whole(text) => SizeHint::with_exact(text.len() as u64),
            State::Live(_) => SizeHint::default(),
            State::Over => SizeHint::with_exact(0),
        }
    }
}

/// A stream that goes on.
pub(super) struct Stream {
    settings: Arc<Settings>,
    room: Room,
    feed: Feed,
    writer: Writer,
    flight: Flight,
    draining: BoxFuture<'static, ()>,
    alarm: Option<(Instant, BoxFuture<'static, ()>)>,
    /// When the last piece was given out, and the place told last.
    wrote: Instant,
    saved: Instant,
    over: bool,
}

impl Stream {
    pub(super) fn new(settings: Arc<Settings>, room: Room, feed: Feed, writer: Writer) -> Self {
        let now = settings.clock.now();
        let mut draining = room.shared().draining();
        Self {
            flight: Flight::new(settings.clock.clone()),
            draining: Box::pin(async move {
                // An error says that nobody can drain any more.
                if draining.wait_for(|draining| *draining).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }),
            settings,
            room,
            feed,
            writer,
            alarm: None,
            wrote: now,
            saved: now,
            over: false,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Stalled>>> {
        loop {
            let now = self.settings.clock.now();
            let stalls = self.flight.due(self.settings.write_deadline);
            if stalls.is_some_and(|due| due <= now) {
                self.room.shared().stalled();
                return Poll::Ready(Some(Err(Stalled)));
            }
            if self.flight.is_full(context.waker()) {
                ready!(self.wait(stalls.unwrap_or(now), context));
                continue;
            }
            if let Some(piece) = self.writer.next(PIECE) {
                self.wrote = now;
                return Poll::Ready(Some(Ok(self.flight.send(piece))));
            }
            if self.over {
                // A server that is not asked any more knows no deadline.
                if self.flight.is_empty(context.waker()) {
                    return Poll::Ready(None);
                }
                ready!(self.wait(stalls.unwrap_or(now), context));
                continue;
            }
            if self.draining.as_mut().poll(context).is_ready() {
                self.writer.leave(self.settings.retry_spread());
                self.over = true;
                continue;
            }
            match self.feed.poll(context) {
                Poll::Ready(Some(fed)) => {
                    self.writer.take(fed.index, fed.item, fed.last);
                    if !self.writer.is_unsaved() {
                        self.saved = now;
                    }
                    continue;
                }
                Poll::Ready(None) => {
                    self.over = true;
                    continue;
                }
                Poll::Pending => {}
            }
            let alive = self.wrote + self.settings.keep_alive;
            let save = self.writer.is_unsaved().then_some(self.saved + CHECKPOINT);
            if save.is_some_and(|due| due <= now) {
                self.writer.save();
                self.saved = now;
                continue;
            }
            if alive <= now {
                self.writer.live();
                continue;
            }
            let due = [save, stalls].into_iter().flatten().fold(alive, Instant::min);
            ready!(self.wait(due, context));
        }
    }

    /// Ready when it may be that time; pending with an alarm set.
    fn wait(&mut self, due: Instant, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.alarm {
                // An alarm that comes too early only looks again.
                Some((at, alarm)) if *at <= due => {
                    ready!(alarm.as_mut().poll(context));
                    self.alarm = None;
                    return Poll::Ready(());
                }
                _ => self.alarm = Some((due, self.settings.clock.sleep_until(due))),
            }
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("feed", &self.feed)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
