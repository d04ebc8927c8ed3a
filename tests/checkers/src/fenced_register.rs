//! A register that is guarded by fencing tokens, as the resource behind a lock should be.
//!
//! It is the independent witness of mutual exclusion: it trusts no lock server, only the numbers
//! that the writers bring (Kleppmann, "How to do distributed locking", 2016). It is not a model of
//! the lock itself.

/// What the register thinks of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a verdict is closed: callers match all of it")]
pub enum Verdict {
    /// The fence is the newest so far, or the newest once more from the same owner.
    Accepted,
    /// A newer fence has been here: the correct rejection of a writer that lost its lease.
    Stale {
        /// The newest fence so far.
        seen: u64,
    },
    /// The newest fence came from somebody else: the lock gave one fence to two owners.
    Violation {
        /// The owner who brought this fence first.
        owner: String,
    },
}

/// Accepts a write iff its fence is above every earlier one, or equal and from the same owner.
#[derive(Debug, Clone, Default)]
pub struct FencedRegister {
    newest: Option<(u64, String)>,
    accepted: u64,
    stale: u64,
    violations: u64,
}

impl FencedRegister {
    /// An empty register: the first write is accepted, whatever its fence.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges one write and counts the verdict. Only an accepted write changes the register.
    pub fn write(&mut self, fence: u64, owner: &str) -> Verdict {
        match &self.newest {
            Some((seen, _)) if fence < *seen => {
                self.stale += 1;
                Verdict::Stale { seen: *seen }
            }
            Some((seen, first)) if fence == *seen && first != owner => {
                self.violations += 1;
                Verdict::Violation { owner: first.clone() }
            }
            _ => {
                self.newest = Some((fence, owner.to_owned()));
                self.accepted += 1;
                Verdict::Accepted
            }
        }
    }

    /// The newest accepted fence and its owner.
    #[must_use]
    pub fn newest(&self) -> Option<(u64, &str)> {
        self.newest.as_ref().map(|(fence, owner)| (*fence, owner.as_str()))
    }

    /// How many writes were accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// How many writes were refused because a newer fence had been seen.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.stale
    }

    /// How many writes shared a fence with another owner. Anything but 0 is a broken lock.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rising_fences_and_repeats_of_one_owner_are_accepted() {
        let mut register = FencedRegister::new();
        for (fence, owner) in [(0, "a"), (0, "a"), (1, "b"), (7, "a"), (7, "a")] {
            assert_eq!(register.write(fence, owner), Verdict::Accepted);
        }
        assert_eq!((register.accepted(), register.stale(), register.violations()), (5, 0, 0));
        assert_eq!(register.newest(), Some((7, "a")));
    }

    #[test]
    fn a_stale_writer_is_refused_and_changes_nothing() {
        let mut register = FencedRegister::new();
        register.write(5, "a");
        assert_eq!(register.write(4, "a"), Verdict::Stale { seen: 5 });
        assert_eq!(register.write(4, "b"), Verdict::Stale { seen: 5 });
        assert_eq!(register.write(5, "a"), Verdict::Accepted);
        assert_eq!(register.stale(), 2);
    }

    /// Planted bug: a lock whose counter is read, then incremented, in two steps.
    #[test]
    fn finds_a_lock_that_gives_one_fence_twice() {
        let mut counter = 0;
        let mut register = FencedRegister::new();
        let read_by_both = counter;
        for owner in ["a", "b"] {
            counter = read_by_both + 1;
            register.write(counter, owner);
        }
        assert_eq!(register.violations(), 1);
        assert_eq!(register.write(1, "b"), Verdict::Violation { owner: "a".to_owned() });
    }

    /// Planted bug: a server that forgets its counter in a restart and starts anew.
    #[test]
    fn finds_a_counter_that_starts_again() {
        let mut register = FencedRegister::new();
        register.write(1, "a");
        register.write(2, "b");
        register.write(1, "c");
        assert_eq!(register.write(2, "d"), Verdict::Violation { owner: "b".to_owned() });
        assert_eq!((register.stale(), register.violations()), (1, 1));
    }
}
