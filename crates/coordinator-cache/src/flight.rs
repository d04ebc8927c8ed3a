//! One load per key and process: who comes while one is under way waits for its outcome.
//!
//! It knows nothing of loaders or of what they store.

use crate::{entry::Hit, error::LoadError};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// How a load ended; none for what is known not to be there.
pub(crate) type Outcome<T> = Result<Option<Hit<T>>, LoadError>;

/// Of a load; dropped with whoever makes it.
#[derive(Debug)]
struct Seats<T> {
    told: watch::Sender<Option<Landed<T>>>,
    seen: Arc<Seen>,
}

/// What is seen of a load's key while it is under way.
#[derive(Debug, Default)]
struct Seen {
    /// How many joined, and how many of them before it was last seen that nothing ended the key.
    joined: AtomicU64,
    sure: AtomicU64,
    /// The key was ended since.
    ended: AtomicBool,
}

/// What became of a load for whoever waited.
#[derive(Debug)]
pub(crate) enum Landed<T> {
    Outcome(Outcome<T>),
    /// It was for several keys, and did not bring this one.
    Missing,
    /// It was given up by whoever made it.
    Lost,
}

impl<T> Clone for Landed<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Outcome(outcome) => Self::Outcome(outcome.clone()),
            Self::Missing => Self::Missing,
            Self::Lost => Self::Lost,
        }
    }
}

/// Loads under way, by key.
#[derive(Debug)]
pub(crate) struct Flights<T> {
    table: Mutex<HashMap<Arc<str>, Arc<Seats<T>>>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { table: Mutex::default() }
    }
}

/// What became of whoever wanted a load.
pub(crate) enum Joined<T> {
    /// He makes it.
    Pilot(Pilot<T>),
    /// Somebody else does.
    Passenger(Passenger<T>),
}

/// Makes the load; dropped without an outcome, the load has failed.
pub(crate) struct Pilot<T> {
    flights: Arc<Flights<T>>,
    key: Arc<str>,
    seats: Arc<Seats<T>>,
}

/// Waits for a load.
pub(crate) struct Passenger<T> {
    told: watch::Receiver<Option<Landed<T>>>,
    seen: Arc<Seen>,
    /// How many joined before; none for whoever makes the load.
    number: Option<u64>,
}

impl<T> Flights<T> {
    fn table(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Seats<T>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the load of a key that is under way, or begins one.
    pub(crate) fn join(self: &Arc<Self>, key: &str) -> Joined<T> {
        let mut table = self.table();
        if let Some(seats) = table.get(key) {
            let number = Some(seats.seen.joined.fetch_add(1, Ordering::AcqRel));
            let (told, seen) = (seats.told.subscribe(), seats.seen.clone());
            return Joined::Passenger(Passenger { told, seen, number });
        }
        let key: Arc<str> = key.into();
        let seats = Arc::new(Seats { told: watch::channel(None).0, seen: Arc::default() });
        table.insert(key.clone(), seats.clone());
        Joined::Pilot(Pilot { flights: self.clone(), key, seats })
    }

    /// Whoever comes from now on does not join the load that is under way: what that brings may be
    /// older than a change that he knows of.
    pub(crate) fn detach(&self, key: &str) {
        self.table().remove(key);
    }

    /// The same for all.
    pub(crate) fn detach_all(&self) {
        self.table().clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table().len()
    }
}

impl<T> Pilot<T> {
    /// A seat for the pilot himself.
    pub(crate) fn passenger(&self) -> Passenger<T> {
        let (told, seen) = (self.seats.told.subscribe(), self.seats.seen.clone());
        Passenger { told, seen, number: None }
    }

    /// How many joined so far.
    pub(crate) fn joined(&self) -> u64 {
        self.seats.seen.joined.load(Ordering::Acquire)
    }

    /// Nothing had ended the key when so many had joined.
    pub(crate) fn sure(&self, joined: u64) {
        self.seats.seen.sure.fetch_max(joined, Ordering::AcqRel);
    }

    /// The key was ended: whoever joined since it was last seen that it was not may have come after
    /// that, and loads by himself. Nobody joins any more.
    pub(crate) fn ended(&self) {
        self.seats.seen.ended.store(true, Ordering::Release);
        self.leave();
    }

    /// Whether nobody took the key from this load.
    #[cfg(test)]
    fn is_attached(&self) -> bool {
        self.flights.table().get(&self.key).is_some_and(|seats| Arc::ptr_eq(seats, &self.seats))
    }

    /// Tells the outcome to all who wait.
    pub(crate) fn land(self, outcome: Outcome<T>) {
        self.leave();
        self.seats.told.send_replace(Some(Landed::Outcome(outcome)));
    }

    /// Tells all who wait that it brought nothing of this key.
    pub(crate) fn land_without(self) {
        self.leave();
        self.seats.told.send_replace(Some(Landed::Missing));
    }

    /// Whoever comes from now on does not join: he would find it landed.
    fn leave(&self) {
        let mut table = self.flights.table();
        if table.get(&self.key).is_some_and(|seats| Arc::ptr_eq(seats, &self.seats)) {
            table.remove(&self.key);
        }
    }
}

impl<T> Drop for Pilot<T> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<T> Passenger<T> {
    /// The outcome. Cancel safe.
    pub(crate) async fn landed(&mut self) -> Landed<T> {
        let landed = match self.told.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().expect("it was waited for"),
            Err(_) => Landed::Lost,
        };
        let sure = self.seen.sure.load(Ordering::Acquire);
        let late = self.number.is_some_and(|number| number >= sure);
        if late && self.seen.ended.load(Ordering::Acquire) { Landed::Lost } else { landed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pilot(flights: &Arc<Flights<u32>>) -> Pilot<u32> {
        match flights.join("a") {
            Joined::Pilot(pilot) => pilot,
            Joined::Passenger(_) => panic!("there was none"),
        }
    }

    #[tokio::test]
    async fn all_who_come_meanwhile_get_the_one_outcome() {
        let flights = Arc::new(Flights::default());
        let pilot = pilot(&flights);
        let Joined::Passenger(mut other) = flights.join("a") else { panic!("there was one") };
        pilot.land(Ok(None));
        assert!(matches!(other.landed().await, Landed::Outcome(Ok(None))));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_pilot_that_is_lost_ends_the_wait() {
        let flights = Arc::new(Flights::default());
        let pilot = pilot(&flights);
        let mut seat = pilot.passenger();
        drop(pilot);
        assert!(matches!(seat.landed().await, Landed::Lost));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn whoever_joined_after_the_key_was_last_seen_to_be_well_gets_nothing_of_what_it_was() {
        let flights = Arc::new(Flights::default());
        let pilot = pilot(&flights);
        let mut own = pilot.passenger();
        let join = || match flights.join("a") {
            Joined::Passenger(seat) => seat,
            Joined::Pilot(_) => panic!("there was one"),
        };
        let (mut early, joined) = (join(), pilot.joined());
        let mut late = join();
        pilot.sure(joined);
        pilot.ended();
        assert!(!pilot.is_attached());
        pilot.land(Ok(None));
        for seat in [&mut own, &mut early] {
            assert!(matches!(seat.landed().await, Landed::Outcome(Ok(None))));
        }
        assert!(matches!(late.landed().await, Landed::Lost));
    }

    #[tokio::test]
    async fn whoever_is_told_joins_the_next() {
        let flights = Arc::new(Flights::default());
        let first = pilot(&flights);
        let mut seat = first.passenger();
        first.land_without();
        assert!(matches!(seat.landed().await, Landed::Missing));
        assert!(matches!(flights.join("a"), Joined::Pilot(_)));
    }

    #[tokio::test]
    async fn whoever_comes_after_a_change_joins_no_older_load() {
        let flights = Arc::new(Flights::default());
        let old = pilot(&flights);
        flights.detach("a");
        assert!(!old.is_attached());
        let new = pilot(&flights);
        // The old one lands beside the new one's key.
        old.land(Ok(None));
        assert!(new.is_attached());
        drop(new);
        assert_eq!(flights.len(), 0);
    }
}
