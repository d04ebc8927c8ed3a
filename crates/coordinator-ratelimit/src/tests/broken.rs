//! Backends with planted faults, each of which the contract must catch.

use crate::{
    backend::{
        Alerts, Ask, Backend, Call, Entered, Entry, From, How, Offender, Place, Record, Return,
        Seen, Series, Standing, Taken, Terms,
    },
    embedded::Embedded,
};
use coordinator_core::{BoxFuture, Result, clock::Clock, key::Name};
use std::{sync::Arc, time::Duration};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    ChargesDenials,
    TakesFromSome,
    ForgetsIds,
    RemembersDenialsByTheirId,
    GivesBackTwice,
    GivesBackWhatHasLeft,
    RetriesTooEarly,
    IgnoresEpochs,
    RecordsNoDenials,
    IsNearAgainAndAgain,
    RefusesInShadow,
    HasASlotMore,
    RevivesSlots,
    ClaimsForAll,
}

pub(super) const ALL: &[Fault] = &[
    Fault::ChargesDenials,
    Fault::TakesFromSome,
    Fault::ForgetsIds,
    Fault::RemembersDenialsByTheirId,
    Fault::GivesBackTwice,
    Fault::GivesBackWhatHasLeft,
    Fault::RetriesTooEarly,
    Fault::IgnoresEpochs,
    Fault::RecordsNoDenials,
    Fault::IsNearAgainAndAgain,
    Fault::RefusesInShadow,
    Fault::HasASlotMore,
    Fault::RevivesSlots,
    Fault::ClaimsForAll,
];

#[derive(Debug)]
pub(super) struct Broken {
    good: Embedded,
    fault: Fault,
    denied: std::sync::Mutex<std::collections::HashMap<String, Taken>>,
    refunds: std::sync::Mutex<u64>,
}

impl Broken {
    pub(super) fn new(good: Embedded, fault: Fault) -> Self {
        Self {
            good,
            fault,
            denied: std::sync::Mutex::default(),
            refunds: std::sync::Mutex::default(),
        }
    }

    fn number(&self) -> u64 {
        let mut number = self.refunds.lock().expect("unpoisoned");
        *number += 1;
        *number
    }

    async fn call(&self, call: &Call) -> Result<Taken> {
        let mut changed = call.clone();
        match self.fault {
            Fault::ForgetsIds => changed.once = None,
            Fault::IgnoresEpochs => changed.check_epochs = false,
            Fault::RecordsNoDenials => {
                changed.asks.iter_mut().for_each(|ask| ask.unasked = None);
            }
            Fault::IsNearAgainAndAgain => {
                let near = |ask: &mut Ask| ask.near = ask.near.min(1);
                changed.asks.iter_mut().for_each(near);
            }
            Fault::RefusesInShadow => {
                let refuse = |ask: &mut Ask| {
                    if ask.how == How::Shadow {
                        ask.how = How::IfItFits;
                    }
                };
                changed.asks.iter_mut().for_each(refuse);
            }
            _ => {}
        }
        let id = call.once().map(|(_, id, _)| id);
        if let Some(id) = &id
            && self.fault == Fault::RemembersDenialsByTheirId
            && let Some(known) = self.denied.lock().expect("unpoisoned").get(id)
        {
            return Ok(known.clone());
        }
        let mut taken = self.good.take_all(&changed).await?;
        if let Taken::Decided { taken: decided, standings } = &mut taken {
            if !*decided && self.fault == Fault::ChargesDenials {
                for ask in &changed.asks {
                    let ask = Ask { how: How::Always, unasked: None, ..ask.clone() };
                    let call = Call { asks: vec![ask], once: None, check_epochs: false };
                    self.good.take_all(&call).await?;
                }
            }
            if !*decided && self.fault == Fault::TakesFromSome {
                for ask in &changed.asks {
                    let call = Call { asks: vec![ask.clone()], once: None, check_epochs: false };
                    self.good.take_all(&call).await?;
                }
            }
            if self.fault == Fault::RetriesTooEarly {
                for standing in standings {
                    standing.retry_us = standing.retry_us.map(|us| us.saturating_sub(1));
                }
            }
        }
        if let (Some(id), Taken::Decided { taken: false, .. }) = (id, &taken) {
            self.denied.lock().expect("unpoisoned").insert(id, taken.clone());
        }
        Ok(taken)
    }
}

impl Backend for Broken {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.good.clock()
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn take<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Standing>> {
        Box::pin(async move {
            let call = Call { asks: vec![ask.clone()], once: None, check_epochs: false };
            match self.call(&call).await? {
                Taken::Decided { standings, .. } => Ok(standings[0]),
                Taken::Epochs(_) => unreachable!("no epoch was asked for"),
            }
        })
    }

    fn take_all<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Taken>> {
        Box::pin(self.call(call))
    }

    fn peek<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Seen>>> {
        self.good.peek(asks)
    }

    fn refund<'a>(&'a self, back: &'a Return) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let mut back = back.clone();
            match self.fault {
                Fault::GivesBackTwice => {
                    // Another admission's, as it seems.
                    back.receipt[2] += self.number();
                }
                Fault::GivesBackWhatHasLeft => {
                    // Whatever is newest.
                    let ask = Ask {
                        place: back.place.clone(),
                        terms: back.terms,
                        cost: 1,
                        how: How::Always,
                        near: 0,
                        unasked: None,
                    };
                    let call = Call { asks: vec![ask], once: None, check_epochs: false };
                    if let Taken::Decided { standings, .. } = self.good.take_all(&call).await? {
                        back.receipt = standings[0].receipt;
                    }
                }
                _ => {}
            }
            self.good.refund(&back).await
        })
    }

    fn reset<'a>(&'a self, place: &'a Place, terms: &'a Terms) -> BoxFuture<'a, Result<u64>> {
        self.good.reset(place, terms)
    }

    fn epoch<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>> {
        self.good.epoch(series)
    }

    fn reset_policy<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>> {
        self.good.reset_policy(series)
    }

    fn enter<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<Entered>> {
        Box::pin(async move {
            let mut entry = entry.clone();
            entry.terms.limit += u64::from(self.fault == Fault::HasASlotMore);
            self.good.enter(&entry).await
        })
    }

    fn stay<'a>(
        &'a self,
        place: &'a Place,
        terms: &'a Terms,
        token: &'a Name,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let held = self.good.stay(place, terms, token).await?;
            if !held && self.fault == Fault::RevivesSlots {
                let (place, token) = (place.clone(), token.clone());
                let entry = Entry { place, terms: *terms, token, unasked: None };
                return Ok(matches!(self.good.enter(&entry).await?, Entered::Slot { .. }));
            }
            Ok(held)
        })
    }

    fn leave<'a>(&'a self, place: &'a Place, token: &'a Name) -> BoxFuture<'a, Result<bool>> {
        self.good.leave(place, token)
    }

    fn violations(
        &self,
        shard: u16,
        from: From,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>>> {
        self.good.violations(shard, from, limit)
    }

    fn top(&self, shard: u16, limit: usize) -> BoxFuture<'_, Result<Vec<Offender>>> {
        self.good.top(shard, limit)
    }

    fn claim<'a>(
        &'a self,
        shard: u16,
        claim: &'a Name,
        claimant: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let theirs = self.good.claim(shard, claim, claimant, ttl).await?;
            Ok(theirs || self.fault == Fault::ClaimsForAll)
        })
    }

    fn listen(&self, shard: u16) -> BoxFuture<'_, Result<Box<dyn Alerts>>> {
        self.good.listen(shard)
    }
}
