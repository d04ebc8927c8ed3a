//! The ledger: what the handling of a request writes to. It knows nothing of locks but fences.
//!
//! It looks at a write and writes in one step, as every resource that trusts fences must. It does
//! not judge itself: what it let in is examined afterwards, by [`checks`](super::checks).

use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Write as _},
};

/// Who writes: the fence of the writer's lease, and the id of its acquisition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) fence: u64,
    pub(crate) owner: String,
}

/// A new value for a client's account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) client: String,
    /// The request that is handled with it.
    pub(crate) number: u64,
    pub(crate) value: u64,
    pub(crate) stamp: Stamp,
}

/// What the ledger says to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    /// The request was handled before: nothing was written.
    AlreadyDone,
    /// A newer holder was here: nothing was written.
    Stale,
}

/// One client's account.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// What the last accepted write put there.
    pub(crate) value: u64,
    /// The highest fence that has read or written.
    highest: u64,
    owner: String,
}

impl Account {
    fn admits(&self, stamp: &Stamp) -> bool {
        stamp.fence > self.highest || (stamp.fence == self.highest && stamp.owner == self.owner)
    }

    fn note(&mut self, stamp: &Stamp) {
        self.highest = stamp.fence;
        self.owner.clone_from(&stamp.owner);
    }
}

/// An accepted write, in the order of acceptance.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) client: String,
    pub(crate) stamp: Stamp,
}

/// Decides on a write to an account; the last argument is whether its request was handled before.
pub(crate) type Rule = fn(&Account, &Write, bool) -> Verdict;

/// The rule: each request once, and nobody after a newer holder.
pub(crate) fn fenced(account: &Account, write: &Write, done: bool) -> Verdict {
    if done {
        Verdict::AlreadyDone
    } else if account.admits(&write.stamp) {
        Verdict::Accepted
    } else {
        Verdict::Stale
    }
}

/// The accounts of all clients.
#[derive(Debug)]
pub(crate) struct Ledger {
    rule: Rule,
    accounts: HashMap<String, Account>,
    done: HashSet<u64>,
    history: Vec<Entry>,
    refused: u64,
    file: Option<File>,
}

impl Ledger {
    /// An empty one, which writes down in `file` what it accepts.
    pub(crate) fn new(rule: Rule, file: Option<File>) -> Self {
        Self {
            rule,
            accounts: HashMap::new(),
            done: HashSet::new(),
            history: Vec::new(),
            refused: 0,
            file,
        }
    }

    /// The value of a client's account, for a holder that is going to write; `None` if a newer
    /// holder was here.
    ///
    /// Reading counts as being seen: a late write of an older holder, between the newer one's read
    /// and its write, would be lost otherwise.
    pub(crate) fn read(&mut self, client: &str, stamp: &Stamp) -> Option<u64> {
        let account = self.accounts.entry(client.to_owned()).or_default();
        if !account.admits(stamp) {
            self.refused += 1;
            return None;
        }
        account.note(stamp);
        Some(account.value)
    }

    /// Looks at a write and writes it, in one step.
    ///
    /// # Errors
    /// If the file could not be written; then nothing was.
    pub(crate) fn write(&mut self, worker: u32, write: Write) -> io::Result<Verdict> {
        let account = self.accounts.entry(write.client.clone()).or_default();
        let verdict = (self.rule)(account, &write, self.done.contains(&write.number));
        match verdict {
            Verdict::Accepted => {}
            Verdict::Stale => {
                self.refused += 1;
                return Ok(verdict);
            }
            Verdict::AlreadyDone => return Ok(verdict),
        }
        if let Some(file) = &mut self.file {
            // One call, and no buffer of ours: what was accepted survives our own end.
            let line = format!("{} {} {worker}\n", write.number, write.stamp.fence);
            file.write_all(line.as_bytes())?;
        }
        account.note(&write.stamp);
        account.value = write.value;
        self.done.insert(write.number);
        self.history.push(Entry { number: write.number, client: write.client, stamp: write.stamp });
        Ok(verdict)
    }

    /// Whether a request was handled.
    pub(crate) fn is_done(&self, number: u64) -> bool {
        self.done.contains(&number)
    }

    /// How many requests were handled.
    pub(crate) fn handled(&self) -> usize {
        self.done.len()
    }

    /// How many reads and writes of holders that had been overtaken were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Every accepted write, in the order of acceptance.
    pub(crate) fn history(&self) -> &[Entry] {
        &self.history
    }

    /// Each client and the value of its account.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.accounts.iter().map(|(client, account)| (client.as_str(), account.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn stamp(fence: u64, owner: &str) -> Stamp {
        let owner = owner.to_owned();
        Stamp { fence, owner }
    }

    fn put(ledger: &mut Ledger, number: u64, fence: u64, owner: &str) -> Verdict {
        let write = Write { client: "c".into(), number, value: number, stamp: stamp(fence, owner) };
        ledger.write(1, write).expect("no file, no error")
    }

    #[test]
    fn only_a_higher_fence_or_the_same_holder_writes() {
        let mut ledger = Ledger::new(fenced, None);
        assert_eq!(put(&mut ledger, 1, 5, "a"), Verdict::Accepted);
        assert_eq!(put(&mut ledger, 2, 5, "a"), Verdict::Accepted);
        assert_eq!(put(&mut ledger, 3, 5, "b"), Verdict::Stale);
        assert_eq!(put(&mut ledger, 3, 4, "a"), Verdict::Stale);
        assert_eq!(put(&mut ledger, 3, 6, "b"), Verdict::Accepted);
        assert_eq!((ledger.refused(), ledger.handled()), (2, 3));
    }

    #[test]
    fn a_request_is_written_once() {
        let mut ledger = Ledger::new(fenced, None);
        assert_eq!(put(&mut ledger, 1, 5, "a"), Verdict::Accepted);
        assert_eq!(put(&mut ledger, 1, 6, "b"), Verdict::AlreadyDone);
        assert!(ledger.is_done(1));
        assert_eq!(ledger.history().len(), 1);
    }

    #[test]
    fn a_newer_reader_shuts_an_older_writer_out() {
        let mut ledger = Ledger::new(fenced, None);
        assert_eq!(ledger.read("c", &stamp(5, "a")), Some(0));
        assert_eq!(ledger.read("c", &stamp(6, "b")), Some(0));
        assert_eq!(ledger.read("c", &stamp(5, "a")), None);
        assert_eq!(put(&mut ledger, 1, 5, "a"), Verdict::Stale);
        assert_eq!(put(&mut ledger, 2, 6, "b"), Verdict::Accepted);
        assert_eq!(ledger.read("other", &stamp(1, "a")), Some(0));
    }

    #[test]
    fn the_file_has_a_line_for_each_accepted_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::new(fenced, Some(File::create(&path).unwrap()));
        for (number, fence) in [(7, 2), (8, 1), (7, 3), (9, 3)] {
            put(&mut ledger, number, fence, "a");
        }
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "7 2 1\n9 3 1\n");
    }

    #[test]
    fn what_cannot_be_written_down_is_not_accepted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut ledger = Ledger::new(fenced, Some(full));
        let write = Write { client: "c".into(), number: 1, value: 1, stamp: stamp(1, "a") };
        assert!(ledger.write(1, write).is_err());
        assert_eq!(ledger.handled(), 0);
        assert_eq!(ledger.accounts().collect::<Vec<_>>(), [("c", 0)]);
    }
}
