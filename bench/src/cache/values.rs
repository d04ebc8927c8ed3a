//! What is cached: crews as a dispatcher knows them, made from their number, with names, ids and
//! words that compress no better than those of a service do.

use anyhow::{Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

const WORDS: &[&str] = &[
    "crew",
    "route",
    "depot",
    "late",
    "shift",
    "driver",
    "north",
    "harbour",
    "waits",
    "for",
    "the",
    "second",
    "truck",
    "customer",
    "asked",
    "to",
    "call",
    "before",
    "arrival",
    "gate",
    "code",
    "changed",
    "parcel",
    "fragile",
    "leave",
    "at",
    "reception",
    "needs",
    "a",
    "signature",
    "returned",
    "once",
    "weather",
    "delay",
    "expected",
    "until",
    "noon",
    "and",
    "spare",
    "key",
];
const NAMES: &[&str] = &[
    "Amara", "Bohdan", "Chiara", "Dmitri", "Elif", "Fatima", "Goran", "Hanna", "Ines", "Jakub",
    "Katrin", "Luis", "Mirela", "Nadia", "Olek", "Pavel", "Rosa", "Selim", "Tomas", "Wanda",
];
const ROLES: &[&str] = &["driver", "loader", "dispatcher", "lead", "trainee"];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Crew {
    pub(crate) id: u64,
    /// Which state of it this is: how it is seen that one is of before.
    pub(crate) version: u64,
    region: String,
    members: Vec<Member>,
    note: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Member {
    id: u64,
    name: String,
    email: String,
    role: String,
    since: String,
    active: bool,
}

impl Crew {
    /// A small one: for what is counted and not timed.
    pub(crate) fn small(id: u64, version: u64) -> Self {
        let (region, note) = ("north".to_owned(), String::new());
        Self { id, version, region, members: Vec::new(), note }
    }

    /// One that takes so many bytes, measured in a way; two thirds of it are members.
    ///
    /// # Errors
    /// If that is too few.
    pub(crate) fn of(
        id: u64,
        bytes: usize,
        measured: impl Fn(&Self) -> Result<usize>,
    ) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(id);
        let mut crew = Self::small(id, 0);
        while measured(&crew)? < bytes * 2 / 3 {
            let name = NAMES[rng.random_range(0..NAMES.len())];
            let id: u32 = rng.random();
            crew.members.push(Member {
                id: id.into(),
                name: name.to_owned(),
                email: format!("{}.{}@example.org", name.to_lowercase(), id % 1000),
                role: ROLES[rng.random_range(0..ROLES.len())].to_owned(),
                since: format!("20{:02}-{:02}-{:02}", id % 26, id % 12 + 1, id % 28 + 1),
                active: id % 7 > 0,
            });
        }
        while measured(&crew)? < bytes {
            crew.note.push_str(WORDS[rng.random_range(0..WORDS.len())]);
            crew.note.push(' ');
        }
        while measured(&crew)? > bytes && crew.note.pop().is_some() {}
        ensure!(measured(&crew)? <= bytes, "a crew takes more than {bytes} bytes");
        Ok(crew)
    }

    /// One that takes so many bytes of MessagePack, structs as maps.
    pub(crate) fn packed(id: u64, bytes: usize) -> Result<Self> {
        Self::of(id, bytes, |crew| Ok(rmp_serde::to_vec_named(crew)?.len()))
    }

    /// One that takes so many bytes of JSON.
    pub(crate) fn json(id: u64, bytes: usize) -> Result<Self> {
        Self::of(id, bytes, |crew| Ok(serde_json::to_vec(crew)?.len()))
    }
}
