//! Port-level tests: both backends against a brute-force oracle and against each other, on a clock
//! that the tests stop and step; every step delivered twice; broken backends that must be caught.

mod broken;
mod contract;
mod oracle;
#[cfg(feature = "redis")]
mod scripts;
mod stage;
mod twins;
mod watch;

use crate::{
    backend::{Ask, Call, How, Place},
    quota::Quota,
};
use coordinator_core::key::Name;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn place(subject: &str, quota: &Quota) -> Place {
    Place {
        shard: 0,
        tenant: Some(name("acme")),
        policy: quota.policy.clone(),
        epoch: 0,
        subject: name(subject),
    }
}

fn ask(subject: &str, quota: &Quota, cost: u64) -> Ask {
    quota.validate().expect("a quota");
    Ask {
        place: place(subject, quota),
        terms: quota.terms,
        cost,
        how: How::IfItFits,
        near: quota.near_from(),
        unasked: Some(0),
    }
}

fn call(asks: Vec<Ask>) -> Call {
    Call { asks, once: None, check_epochs: false }
}
