//! What becomes of what a scope yields: blocks of text, and the place that ids name.

use super::{
    place::{self, Place},
    shared::Shared,
    text::{Block, Refused},
};
use bytes::Bytes;
use coordinator::events::{Gap, RawEvent, RawItem};
use serde::Serialize;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// The type of the event that tells of loss.
const GAP: &str = "gap";

/// A scope that a stream follows.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) scope: String,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) struct Writer {
    scopes: Vec<String>,
    places: Vec<(u64, Place)>,
    shared: Arc<Shared>,
    ready: VecDeque<Bytes>,
    unsaved: bool,
}

/// What a page is told of loss.
#[derive(Debug, Serialize)]
struct Told<'a> {
    scope: &'a str,
    lost: u64,
    at_least: bool,
    reason: &'static str,
}

impl Writer {
    pub(super) fn new(followed: Vec<Followed>, shared: Arc<Shared>) -> Self {
        let places = followed.iter().map(|one| (place::mark(&one.scope), one.place)).collect();
        let scopes = followed.into_iter().map(|one| one.scope).collect();
        Self { scopes, places, shared, ready: VecDeque::new(), unsaved: false }
    }

    /// What comes before all: a client that is cut off right after it can resume.
    pub(super) fn open(&mut self, retry: Duration) {
        let block = Block::new().comment("open").retry(retry);
        self.ready.push_back(own(block.id(&place::id(&self.places))).end());
    }

    /// Says of a scope that it is not known where the client was.
    pub(super) fn malformed(&mut self, index: usize) {
        self.lost(index, 0, true, "malformed");
    }

    /// Takes what a scope yielded.
    pub(super) fn take(&mut self, index: usize, item: RawItem, last: bool) {
        match item {
            RawItem::Event(event) => {
                self.places[index].1 = Place { at: event.cursor(), finished: last };
                self.event(index, &event);
                if last {
                    self.save();
                }
            }
            RawItem::Gap(Gap { lost, reason, to, .. }) => {
                self.places[index].1.at = to;
                self.lost(index, lost.count(), lost.is_lower_bound(), reason.as_str());
                // Else it would be told again to whoever resumes.
                self.save();
            }
            RawItem::Passed(at) => {
                self.places[index].1.at = at;
                self.unsaved = true;
            }
            // What is not known cannot be written.
            _ => {}
        }
    }

    fn event(&mut self, index: usize, event: &RawEvent) {
        let shared = &self.shared;
        let rendered = event.rendered(|event| {
            shared.encoded();
            render(event).unwrap_or_default()
        });
        if rendered.is_empty() {
            self.lost(index, 1, false, "unreadable");
            self.save();
            return;
        }
        let block =
            if self.places.len() == 1 { rendered } else { self.wrapped(index, event, &rendered) };
        self.ready.push_back(block);
        self.unsaved = false;
    }

    /// An event of one of several scopes: its own lines, between those that say of which.
    fn wrapped(&self, index: usize, event: &RawEvent, rendered: &Bytes) -> Bytes {
        let id = own(Block::new().id(&place::id(&self.places)));
        let scope = serde_json::to_string(&self.scopes[index]).expect("a text is JSON");
        if !is_json(event.content_type()) {
            let data = serde_json::to_string(&String::from_utf8_lossy(&event.data()));
            let data = data.expect("a text is JSON");
            let block = own(id.event(event.kind()));
            return block.data(&format!("{{\"scope\":{scope},\"data\":{data}}}")).end();
        }
        // Without the line of its own id, and the empty one.
        let begin = rendered.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = &rendered[begin..rendered.len() - 1];
        let head = id.data(&format!("{{\"scope\":{scope},\"data\":")).end();
        [&head[..head.len() - 1], lines, b"data: }\n\n"].concat().into()
    }

    fn lost(&mut self, index: usize, lost: u64, at_least: bool, reason: &'static str) {
        let told = Told { scope: &self.scopes[index], lost, at_least, reason };
        let json = serde_json::to_string(&told).expect("texts and numbers are JSON");
        self.ready.push_back(own(Block::new().event(GAP)).data(&json).end());
    }

    /// Tells the place alone.
    pub(super) fn save(&mut self) {
        self.unsaved = false;
        self.ready.push_back(own(Block::new().id(&place::id(&self.places))).end());
    }

    /// Whether the place has moved without the client knowing.
    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// A sign of life.
    pub(super) fn live(&mut self) {
        self.ready.push_back(Block::new().comment("").end());
    }

    /// The last that is said by a stream that ends before its scopes do.
    pub(super) fn leave(&mut self, retry: Duration) {
        if self.unsaved {
            self.save();
        }
        self.ready.push_back(Block::new().comment("draining").retry(retry).end());
    }

    /// The next piece, of so many bytes at most.
    pub(super) fn next(&mut self, most: usize) -> Option<Bytes> {
        let first = self.ready.front_mut()?;
        if first.len() > most {
            return Some(first.split_to(most));
        }
        self.ready.pop_front()
    }
}

/// An event, as every stream of its scope alone writes it; none if it cannot be text.
fn render(event: &RawEvent) -> Option<Bytes> {
    let data = event.data();
    let text = str::from_utf8(&data).ok().filter(|_| event.is_readable())?;
    let block = Block::new().id(&event.cursor().to_string()).ok()?;
    Some(block.event(event.kind()).ok()?.data(text).end())
}

fn own(block: Result<Block, Refused>) -> Block {
    block.expect("our own ids and types, and those that were rendered before, hold no line ends")
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind == "application/json" || kind.ends_with("+json")
}
