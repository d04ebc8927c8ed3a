//! Counting and listing many sessions.

use super::people;
use crate::{
    Plan,
    figures::{Rounds, ms, quantile},
    report::{Bound, Report, Table},
};
use anyhow::{Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_sessions::{Filter, Page, Sessions};
use std::time::{Duration, Instant};

pub(crate) const TITLE: &str = "Counting and listing";

const SMALL: usize = 100_000;
const LARGE: usize = 1_000_000;
/// How many counts, and how many pages, in a round.
const CALLS: usize = 500;
const PAGE: usize = 100;

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let (size, rows) = if plan.long {
        (
            LARGE,
            [
                "count of 1,000,000",
                "page of 100 of 1,000,000",
                "page of 100 of a company, 1,000,000 in all",
            ],
        )
    } else {
        (
            SMALL,
            [
                "count of 100,000",
                "page of 100 of 100,000",
                "page of 100 of a company, 100,000 in all",
            ],
        )
    };
    let server = RedisServer::start().await?;
    let connection = Connection::connect(Config::from_url(&server.url())?).await?;
    let sessions = Sessions::redis(&connection).with_reaping(None);
    let sessions = sessions.with_idle_timeout(Duration::from_hours(6));
    people::fill(&sessions, 0..size).await?;
    let mut rows = rows.map(|name| (name, vec![Rounds::default(); 3]));
    for _ in 0..plan.rounds {
        let samples = [
            counts(&sessions, size).await?,
            pages(&sessions, &Filter::all()).await?,
            pages(&sessions, &Filter::company("company-7")).await?,
        ];
        for ((_, figures), mut samples) in rows.iter_mut().zip(samples) {
            figures[0].0.push(ms(quantile(&mut samples, 500)));
            figures[1].0.push(ms(quantile(&mut samples, 990)));
            figures[2].0.push(ms(quantile(&mut samples, 1000)));
        }
    }
    for ((name, figures), most) in rows.iter().zip([1.0, 3.0]) {
        report.goal(format!("p50 in ms: {name}"), figures.first().cloned(), Bound::AtMost(most));
    }
    report.add(Table {
        title: TITLE,
        about: "One task, one call after the other. Pages follow each other from the first one \
                on, and begin anew at the end; each has all that its sessions keep. A company's \
                300 sessions are spread over the shards. `--long` takes a million sessions. \
                Times in ms.",
        columns: vec![("p50", 2), ("p99", 2), ("longest", 2)],
        rows: rows.into(),
    });
    Ok(())
}

async fn counts(sessions: &Sessions, size: usize) -> Result<Vec<Duration>> {
    let mut samples = Vec::new();
    for _ in 0..CALLS {
        let asked = Instant::now();
        let count = sessions.count(&Filter::all()).await?;
        samples.push(asked.elapsed());
        ensure!(usize::try_from(count)? == size, "{count} of {size} live");
    }
    Ok(samples)
}

/// Full pages only: the last one of a list may be short.
async fn pages(sessions: &Sessions, filter: &Filter) -> Result<Vec<Duration>> {
    let mut samples = Vec::new();
    let mut page = Page::first(PAGE);
    while samples.len() < CALLS {
        let asked = Instant::now();
        let found = sessions.list(filter, &page).await?;
        let took = asked.elapsed();
        if found.sessions.len() == PAGE {
            samples.push(took);
        }
        ensure!(found.sessions.len() == PAGE || found.next.is_none(), "a page in between is full");
        page = match found.next {
            Some(next) => page.after(next),
            None => Page::first(PAGE),
        };
    }
    Ok(samples)
}
