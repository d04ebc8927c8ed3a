//! Backends with planted faults, each of which the contract must catch.

use super::super::backend::{
    Added, Backend, Batch, Cover, Edit, Head, Index, Listed, Parts, Place, Seen,
};
use coordinator_core::{BoxFuture, Result, key::Name};
use std::{sync::Arc, time::Duration};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    ForgetsKeys,
    HoldsOneMore,
    IgnoresTheBudget,
    SplitsPairs,
    TakesInLateAnswers,
    AppendsWhilePaused,
    SummarisesWithoutComparing,
    DropsWhatWasAppendedMeanwhile,
    LosesSummaries,
    ReplacesAllFields,
    ShortensTheTimeToLive,
    RenewsWithEdits,
    DeletesNothing,
    ListsTheDead,
}

pub(super) const ALL: &[Fault] = &[
    Fault::ForgetsKeys,
    Fault::HoldsOneMore,
    Fault::IgnoresTheBudget,
    Fault::SplitsPairs,
    Fault::TakesInLateAnswers,
    Fault::AppendsWhilePaused,
    Fault::SummarisesWithoutComparing,
    Fault::DropsWhatWasAppendedMeanwhile,
    Fault::LosesSummaries,
    Fault::ReplacesAllFields,
    Fault::ShortensTheTimeToLive,
    Fault::RenewsWithEdits,
    Fault::DeletesNothing,
    Fault::ListsTheDead,
];

const HEAD: Parts = Parts { window: false, pending: false, fields: false };

#[derive(Debug)]
pub(super) struct Broken {
    good: Arc<dyn Backend>,
    fault: Fault,
}

impl Broken {
    pub(super) fn new(good: Arc<dyn Backend>, fault: Fault) -> Self {
        Self { good, fault }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

impl Backend for Broken {
    fn append<'a>(&'a self, place: &'a Place, batch: &'a Batch) -> BoxFuture<'a, Result<Added>> {
        Box::pin(async move {
            let mut batch = batch.clone();
            match self.fault {
                Fault::ForgetsKeys => batch.key.clear(),
                Fault::HoldsOneMore => batch.window += 1,
                Fault::IgnoresTheBudget => batch.budget = None,
                Fault::SplitsPairs => batch.items.iter_mut().for_each(|item| {
                    item.calls.clear();
                    item.answers = None;
                }),
                Fault::TakesInLateAnswers if batch.items.len() == 1 => {
                    batch.items[0].answers = None;
                }
                Fault::AppendsWhilePaused => drop(self.good.resume(place).await?),
                Fault::ShortensTheTimeToLive => {
                    let seen = self.good.show(place, HEAD).await?;
                    if seen.is_some_and(|seen| seen.head.ends_in_ms > 3_600_000) {
                        self.good.delete(place).await?;
                    }
                }
                _ => {}
            }
            self.good.append(place, &batch).await
        })
    }

    fn summarise<'a>(
        &'a self,
        place: &'a Place,
        cover: &'a Cover,
    ) -> BoxFuture<'a, Result<(bool, Head)>> {
        Box::pin(async move {
            let mut cover = cover.clone();
            let seen = self.good.show(place, HEAD).await?;
            if let Some(Seen { head, .. }) = seen {
                match self.fault {
                    Fault::SummarisesWithoutComparing => {
                        cover.after = head.floor;
                        cover.up_to = cover.up_to.max(head.floor);
                    }
                    Fault::DropsWhatWasAppendedMeanwhile => cover.up_to = head.evicted,
                    _ => {}
                }
            }
            if self.is(Fault::LosesSummaries) {
                cover.text.clear();
            }
            self.good.summarise(place, &cover).await
        })
    }

    fn edit<'a>(&'a self, place: &'a Place, edit: &'a Edit) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            let mut edit = edit.clone();
            if self.is(Fault::RenewsWithEdits) {
                self.good.extend(place, edit.ttl).await?;
            }
            if self.is(Fault::ReplacesAllFields) {
                let parts = Parts { fields: true, ..HEAD };
                let fields = self.good.show(place, parts).await?.map(|seen| seen.fields);
                for (name, _) in fields.unwrap_or_default() {
                    if !edit.set.iter().any(|(other, _)| *other == name) {
                        edit.remove.push(name);
                    }
                }
            }
            self.good.edit(place, &edit).await
        })
    }

    fn pause<'a>(
        &'a self,
        place: &'a Place,
        reason: &'a [u8],
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        self.good.pause(place, reason, ttl)
    }

    fn resume<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool>> {
        self.good.resume(place)
    }

    fn extend<'a>(&'a self, place: &'a Place, ttl: Duration) -> BoxFuture<'a, Result<Option<u64>>> {
        self.good.extend(place, ttl)
    }

    fn delete<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            if self.is(Fault::DeletesNothing) {
                return Ok(self.good.show(place, HEAD).await?.is_some());
            }
            self.good.delete(place).await
        })
    }

    fn show<'a>(&'a self, place: &'a Place, parts: Parts) -> BoxFuture<'a, Result<Option<Seen>>> {
        self.good.show(place, parts)
    }

    fn list<'a>(
        &'a self,
        index: Index<'a>,
        after: Option<(u64, &'a Name)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>> {
        self.good.list(index, after, limit)
    }

    fn count(&self, shard: u16) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let count = self.good.count(shard).await?;
            Ok(if self.is(Fault::ListsTheDead) { count.max(1) } else { count })
        })
    }
}
