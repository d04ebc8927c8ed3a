//! `lock run` within `lock run`: what the outer run tells the inner one through the environment,
//! and whether the server says so too.

use crate::failure::Failure;
use coordinator::{
    key::Name,
    locks::{Fence, HeldLock, Locks},
};
use std::time::Duration;
use tokio::time::sleep;

/// What the runs around this one hold for their owners: `name=fence` by spaces, the names encoded.
const HELD: &str = "COORDINATOR_HELD";

/// The lock under which a command runs, for the command's environment.
#[derive(Debug)]
pub(super) struct Grant<'a> {
    pub(super) name: &'a str,
    pub(super) fence: Fence,
    pub(super) owner: Option<&'a str>,
    /// Whether an outer run holds it.
    pub(super) is_again: bool,
}

impl Grant<'_> {
    /// What the command finds in its environment. Without an owner, what runs further out have
    /// told stays.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("COORDINATOR_FENCE", self.fence.to_string()),
            ("COORDINATOR_LOCK", self.name.to_owned()),
        ];
        if let Some(owner) = self.owner {
            variables.push(("COORDINATOR_OWNER", owner.to_owned()));
            if let Ok(name) = Name::new(self.name) {
                variables.push((HELD, and(&inherited(), &name, self.fence)));
            }
        }
        variables
    }
}

fn inherited() -> String {
    std::env::var(HELD).unwrap_or_default()
}

fn and(held: &str, name: &Name, fence: Fence) -> String {
    let others = held
        .split(' ')
        .filter(|entry| entry.split_once('=').is_some_and(|(other, _)| other != name.encoded()));
    let mut all: Vec<_> = others.map(str::to_owned).collect();
    all.push(format!("{}={fence}", name.encoded()));
    all.join(" ")
}

fn fence_of(held: &str, name: &Name) -> Option<Fence> {
    let mut entries = held.split(' ').filter_map(|entry| entry.split_once('='));
    let (_, fence) = entries.find(|(other, _)| *other == name.encoded())?;
    fence.parse().ok().map(Fence::new)
}

/// A lock that an outer run holds for the same owner.
#[derive(Debug)]
pub(super) struct Outer {
    name: String,
    owner: String,
    pub(super) fence: Fence,
    ttl: Duration,
}

impl Outer {
    /// The outer run of this owner that holds the lock, if the environment tells of one and the
    /// server knows exactly that grant.
    pub(super) async fn find(
        locks: &Locks,
        name: &str,
        owner: Option<&str>,
    ) -> Result<Option<Self>, Failure> {
        let Some(owner) = owner else { return Ok(None) };
        let Some(fence) = fence_of(&inherited(), &Name::new(name)?) else { return Ok(None) };
        let mut outer =
            Self { name: name.to_owned(), owner: owner.to_owned(), fence, ttl: Duration::ZERO };
        let held = locks.show(name).await?.filter(|held| outer.is(held));
        Ok(held.map(|held| {
            outer.ttl = held.ttl;
            outer
        }))
    }

    fn is(&self, held: &HeldLock) -> bool {
        held.holder.fence == self.fence && held.holder.owner.as_deref() == Some(&*self.owner)
    }

    /// Completes when the outer run holds the lock no more. It ends us by itself when it loses the
    /// lock; this is for one that died, whose lease ends when nobody renews it.
    pub(super) async fn gone(&self, locks: &Locks) {
        let mut left = self.ttl;
        loop {
            sleep(left.max(Duration::from_millis(100))).await;
            left = match locks.show(&self.name).await {
                Ok(Some(held)) if self.is(&held) => held.ttl,
                Ok(_) => return,
                // Where the server is away, the outer run knows how long its lease lasts.
                Err(_) => Duration::from_secs(1),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn what_is_handed_on_is_read_back_whatever_the_names() {
        let names = ["a", "b c=1", "a=2", "é☃ "].map(name);
        let mut held = String::new();
        for (fence, name) in (1..).zip(&names) {
            assert_eq!(fence_of(&held, name), None);
            held = and(&held, name, Fence::new(fence));
        }
        for (fence, name) in (1..).zip(&names) {
            assert_eq!(fence_of(&held, name), Some(Fence::new(fence)), "{held}");
        }
        held = and(&held, &names[0], Fence::new(9));
        assert_eq!(fence_of(&held, &names[0]), Some(Fence::new(9)));
        assert_eq!(held.split(' ').count(), 4, "{held}");
    }

    #[test]
    fn what_is_no_list_holds_nothing() {
        for held in ["", " ", "a", "a=", "a=x", "=1", "aa=1"] {
            assert_eq!(fence_of(held, &name("a")), None, "{held}");
        }
    }
}
