//! What a server tells of changes, in our own terms. It asks the server nothing.

use crate::backend::{Changed, Feed, Key, Marks, Probe};
use coordinator_core::{
    BoxFuture, Result,
    key::Name,
    redis::{Invalidation, Message, Prober, Subscription, Tracking},
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream, SelectAll},
};
use std::{collections::VecDeque, sync::Arc};

/// What stands at a key, `<base><shard>}:<kind>:<names>`; none of what nobody waits for.
pub(super) fn read(base: &str, key: &[u8]) -> Option<Changed> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(base)?;
    let (_, rest) = rest.split_once("}:")?;
    let (kind, names) = rest.split_once(':').unwrap_or((rest, ""));
    let name = |encoded| Name::decode(encoded).ok();
    let pair = || {
        let (ns, key) = names.split_once(':')?;
        Some(Key::new(name(ns)?, name(key)?))
    };
    match kind {
        "val" => pair().map(Changed::Value),
        "lease" => pair().map(Changed::Lease),
        "tag" => name(names).map(Changed::Tag),
        "mark" => Some(Changed::Mark),
        _ => None,
    }
}

/// Changes as the server follows them.
pub(super) struct Tracked {
    pub(super) tracking: Tracking,
    pub(super) base: Arc<str>,
    /// The markers of all shards.
    pub(super) marks: Arc<[String]>,
}

/// Asks down the links that changes are told by.
struct Asker {
    prober: Prober,
    marks: Arc<[String]>,
}

impl Probe for Asker {
    fn probe(&self) -> BoxFuture<'_, Result<Marks>> {
        Box::pin(async {
            let probed = self.prober.probe(&self.marks).await?;
            let mark = |value: Option<bytes::Bytes>| super::version(&value?);
            let marks = probed
                .into_iter()
                .filter_map(|probed| Some((u16::try_from(probed.key).ok()?, mark(probed.value))));
            Ok(marks.collect())
        })
    }
}

impl Feed for Tracked {
    fn prober(&self) -> Option<Arc<dyn Probe>> {
        Some(Arc::new(Asker { prober: self.tracking.prober(), marks: self.marks.clone() }))
    }

    fn next(&mut self) -> BoxFuture<'_, Changed> {
        Box::pin(async {
            loop {
                match self.tracking.next().await {
                    Invalidation::Key(key) => {
                        if let Some(changed) = read(&self.base, &key) {
                            return changed;
                        }
                    }
                    _ => return Changed::All,
                }
            }
        })
    }
}

/// Changes as scripts tell of them.
pub(super) struct Heard {
    messages: SelectAll<BoxStream<'static, Message>>,
    queued: VecDeque<Changed>,
    base: Arc<str>,
}

impl Heard {
    pub(super) fn new(subscriptions: Vec<Subscription>, base: Arc<str>) -> Self {
        let each = subscriptions.into_iter().map(|subscription| {
            stream::unfold(subscription, |mut subscription| async {
                let message = subscription.next().await;
                Some((message, subscription))
            })
            .boxed()
        });
        Self { messages: stream::select_all(each), queued: VecDeque::new(), base }
    }
}

impl Feed for Heard {
    fn prober(&self) -> Option<Arc<dyn Probe>> {
        None
    }

    fn next(&mut self) -> BoxFuture<'_, Changed> {
        Box::pin(async {
            loop {
                if let Some(changed) = self.queued.pop_front() {
                    return changed;
                }
                match self.messages.next().await {
                    Some(Message::Payload(keys)) => {
                        let keys = keys.split(|byte| *byte == b' ');
                        self.queued.extend(keys.filter_map(|key| read(&self.base, key)));
                    }
                    Some(_) => return Changed::All,
                    // Subscriptions do not end.
                    None => std::future::pending().await,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_strange_ones_are_passed_over() {
        let name = |text| Name::new(text).expect("a name");
        let key = Key::new(name("a:b"), name("{c} d"));
        let read = |key: &str| read("app:1:{c", key.as_bytes());
        let at = |kind: &str| format!("app:1:{{c17}}:{kind}:{}", key.encoded());
        assert_eq!(read(&at("val")), Some(Changed::Value(key.clone())));
        assert_eq!(read(&at("lease")), Some(Changed::Lease(key.clone())));
        assert_eq!(read("app:1:{c0}:tag:crew%3A42"), Some(Changed::Tag(name("crew:42"))));
        assert_eq!(read("app:1:{c0}:mark"), Some(Changed::Mark));
        for strange in [
            "",
            "app:1:{c0}:ears",
            "app:1:{c0}:val:a",
            "app:1:{c0}:val:a:%zz",
            "app:1:{c0}:tag:",
            "app:1:{c0}:tag:a:b",
            "app:1:{l0}:val:a:b",
            "app:1:{c0",
            "app:2:{c0}:mark",
        ] {
            assert_eq!(read(strange), None, "{strange}");
        }
    }
}
