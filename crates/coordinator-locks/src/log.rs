//! What the log of lock operations says, and how an entry is stored. When it is written and read
//! is not decided here.

use crate::{
    lease::LossReason,
    outcome::Blocked,
    token::{Fence, Identity},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// MessagePack: a map by field names.
const CODEC: u8 = 1;
/// How much of a circle is kept.
const CYCLE: usize = 16;

/// Something that happened to a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockEvent {
    /// It was acquired.
    #[non_exhaustive]
    Acquired {
        /// How long another held it meanwhile; `None` if it was free.
        waited: Option<Duration>,
    },
    /// Another held it for as long as somebody was ready to wait. Who does not wait at all is not
    /// in the log.
    #[non_exhaustive]
    TimedOut {
        /// How long that was.
        waited: Duration,
    },
    /// Its holder gave it up.
    #[non_exhaustive]
    Released {
        /// How long it was held; `None` if it was released by its token alone.
        held: Option<Duration>,
    },
    /// It was renewed when less than a third of its ttl was left.
    #[non_exhaustive]
    RenewedLate {
        /// How long it would have lasted.
        left: Duration,
    },
    /// Its holder lost it.
    #[non_exhaustive]
    Lost {
        /// Why.
        reason: LossReason,
        /// How long it was held.
        held: Duration,
    },
    /// Somebody took it away from the holder named.
    #[non_exhaustive]
    Forced {
        /// Why.
        reason: String,
        /// The host and process that did.
        by: String,
    },
    /// A wait was given up because owners waited for each other.
    #[non_exhaustive]
    Deadlock {
        /// How long it waited.
        waited: Duration,
        /// Who waited for whom, at most the first 16.
        cycle: Vec<Blocked>,
    },
    /// A client had more to tell than there was room for.
    #[non_exhaustive]
    Skipped {
        /// How many entries are missing.
        count: u64,
    },
    /// Something that a newer version has a name for.
    #[non_exhaustive]
    Other {
        /// That name.
        name: String,
    },
}

impl LockEvent {
    /// Its name, as it stands in the field `event` of tracing events and in the log.
    pub fn name(&self) -> &str {
        match self {
            Self::Acquired { .. } => "acquired",
            Self::TimedOut { .. } => "timed_out",
            Self::Released { .. } => "released",
            Self::RenewedLate { .. } => "renewed_late",
            Self::Lost { .. } => "lost",
            Self::Forced { .. } => "forced",
            Self::Deadlock { .. } => "deadlock",
            Self::Skipped { .. } => "skipped",
            Self::Other { name } => name,
        }
    }
}

/// One entry of the log of lock operations; see [`Locks::log`](crate::Locks::log).
///
/// Host, process, owner and task are those of the client to whom it happened: who acquired, waited
/// or lost; of a forced release who held the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogEntry {
    /// When, as time since the Unix epoch on the server's clock.
    pub at: Duration,
    /// The lock's name; empty for [`LockEvent::Skipped`].
    pub lock: String,
    /// What happened.
    pub event: LockEvent,
    /// The fence, of one that holds it.
    pub fence: Option<Fence>,
    /// The public id of the acquisition, where there is one.
    pub id: Option<String>,
    /// On whose behalf, if by an [`Owner`](crate::Owner).
    pub owner: Option<String>,
    /// The machine's host name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// What it says it does.
    pub task: Option<String>,
}

/// An entry as it is stored. Fields are only ever added.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    event: String,
    lock: String,
    host: String,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cycle: Vec<(String, String, String)>,
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An entry as bytes to be stored; `lock` is empty for one that is about no lock.
pub(crate) fn encode(
    lock: &str,
    fence: Option<u64>,
    identity: &Identity,
    event: &LockEvent,
) -> Vec<u8> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mut record = Record {
        event: event.name().to_owned(),
        lock: lock.to_owned(),
        host: identity.host.clone(),
        pid: identity.pid,
        fence,
        id: some(&identity.id),
        owner: identity.owner.clone(),
        task: identity.task.clone(),
        ..Record::default()
    };
    match event {
        LockEvent::Acquired { waited } => record.waited_ms = waited.map(millis),
        LockEvent::TimedOut { waited } => record.waited_ms = Some(millis(*waited)),
        LockEvent::Released { held } => record.held_ms = held.map(millis),
        LockEvent::RenewedLate { left } => record.left_ms = Some(millis(*left)),
        LockEvent::Lost { reason, held } => {
            record.reason = Some(reason.as_str().to_owned());
            record.held_ms = Some(millis(*held));
        }
        LockEvent::Forced { reason, by } => {
            record.reason = Some(reason.clone());
            record.by = Some(by.clone());
        }
        LockEvent::Deadlock { waited, cycle } => {
            record.waited_ms = Some(millis(*waited));
            let edge = |one: &Blocked| (one.owner.clone(), one.lock.clone(), one.holder.clone());
            record.cycle = cycle.iter().take(CYCLE).map(edge).collect();
        }
        LockEvent::Skipped { count } => record.count = Some(*count),
        LockEvent::Other { .. } => {}
    }
    let mut bytes = vec![CODEC];
    rmp_serde::encode::write_named(&mut bytes, &record).expect("strings and numbers always encode");
    bytes
}

/// Reads an entry back; a damaged one is still one that somebody wrote.
pub(crate) fn decode(at: Duration, bytes: &[u8]) -> LogEntry {
    let record = match bytes {
        [CODEC, record @ ..] => rmp_serde::from_slice(record).ok(),
        _ => None,
    };
    let record =
        record.unwrap_or_else(|| Record { event: "unreadable".into(), ..Record::default() });
    let ms = |value: Option<u64>| value.map(Duration::from_millis);
    let (waited, held) = (ms(record.waited_ms), ms(record.held_ms));
    let reason = record.reason.unwrap_or_default();
    let event = match (record.event.as_str(), LossReason::from_word(&reason)) {
        ("acquired", _) => LockEvent::Acquired { waited },
        ("timed_out", _) => LockEvent::TimedOut { waited: waited.unwrap_or_default() },
        ("released", _) => LockEvent::Released { held },
        ("renewed_late", _) => {
            LockEvent::RenewedLate { left: ms(record.left_ms).unwrap_or_default() }
        }
        ("lost", Some(reason)) => LockEvent::Lost { reason, held: held.unwrap_or_default() },
        ("forced", _) => LockEvent::Forced { reason, by: record.by.unwrap_or_default() },
        ("deadlock", _) => {
            let edge = |(owner, lock, holder)| Blocked { owner, lock, holder };
            let cycle = record.cycle.into_iter().map(edge).collect();
            LockEvent::Deadlock { waited: waited.unwrap_or_default(), cycle }
        }
        ("skipped", _) => LockEvent::Skipped { count: record.count.unwrap_or_default() },
        (name, _) => LockEvent::Other { name: name.to_owned() },
    };
    LogEntry {
        at,
        lock: record.lock,
        event,
        fence: record.fence.map(Fence::new),
        id: record.id,
        owner: record.owner,
        host: record.host,
        pid: record.pid,
        task: record.task,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            host: "h".into(),
            pid: 7,
            task: Some("t".into()),
            id: "i".into(),
            owner: Some("o".into()),
        }
    }

    #[test]
    fn every_event_is_read_back() {
        let second = Duration::from_secs(1);
        let blocked = Blocked { owner: "a".into(), lock: "b".into(), holder: "c".into() };
        let mut events = vec![
            LockEvent::Acquired { waited: None },
            LockEvent::Acquired { waited: Some(second) },
            LockEvent::TimedOut { waited: second },
            LockEvent::Released { held: None },
            LockEvent::Released { held: Some(second) },
            LockEvent::RenewedLate { left: second },
            LockEvent::Forced { reason: "r".into(), by: "b".into() },
            LockEvent::Deadlock { waited: second, cycle: vec![blocked] },
            LockEvent::Skipped { count: 3 },
            LockEvent::Other { name: "melted".into() },
        ];
        events.extend(LossReason::ALL.map(|reason| LockEvent::Lost { reason, held: second }));
        for event in events {
            let read = decode(second, &encode("n", Some(5), &identity(), &event));
            assert_eq!(read.event, event);
            assert_eq!((read.at, read.lock.as_str(), read.pid), (second, "n", 7));
            assert_eq!(read.fence, Some(Fence::new(5)));
            let told = (read.host, read.id, read.owner, read.task);
            let some = |text: &str| Some(text.to_owned());
            assert_eq!(told, ("h".to_owned(), some("i"), some("o"), some("t")));
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_entry_all_the_same() {
        for bytes in [&b""[..], b"\x01", b"\x01\xc1", b"\x09\x80", b"\xff"] {
            let read = decode(Duration::ZERO, bytes);
            assert_eq!(read.event, LockEvent::Other { name: "unreadable".into() }, "{bytes:?}");
        }
        // A map with a field that we do not know.
        let newer = b"\x01\x82\xa5event\xa8acquired\xa3new\x01";
        assert_eq!(decode(Duration::ZERO, newer).event, LockEvent::Acquired { waited: None });
    }
}
