//! Taking and giving up a lock that nobody else wants.

use crate::{
    Plan,
    figures::{Rounds, quantile, us},
    peers::{self, Peer},
    report::{Bound, Report, Table},
};
use anyhow::Result;
use std::time::Instant;

pub(crate) const TITLE: &str = "Uncontended acquire and release";

const PEERS: [Peer; 4] = [peers::BARE, peers::OURS, peers::RSLOCK, peers::BATON];
/// Contenders change after so many pairs, many times in a round.
const BLOCK: usize = 50;
const BLOCKS_PER_SECOND: u64 = 20;

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let mut open = Vec::new();
    for peer in PEERS {
        let mut turns = peer.open(&plan.url, peer.name, 1, 1).await?.remove(0);
        for _ in 0..BLOCK {
            turns.acquire().await?;
            turns.release().await?;
        }
        open.push(turns);
    }
    let mut rows = PEERS.map(|peer| (peer.name, vec![Rounds::default(), Rounds::default()]));
    for _ in 0..plan.rounds {
        let mut samples = PEERS.map(|_| Vec::new());
        for _ in 0..plan.time.as_secs() * BLOCKS_PER_SECOND {
            for (turns, samples) in open.iter_mut().zip(&mut samples) {
                for _ in 0..BLOCK {
                    let start = Instant::now();
                    turns.acquire().await?;
                    turns.release().await?;
                    samples.push(start.elapsed());
                }
            }
        }
        for ((_, figures), samples) in rows.iter_mut().zip(&mut samples) {
            figures[0].0.push(us(quantile(samples, 500)));
            figures[1].0.push(us(quantile(samples, 990)));
        }
    }
    let table = Table {
        title: TITLE,
        about: "One task, one key, over and over. The bare client sends SET NX PX and a script \
                that compares and deletes. Times in µs.",
        columns: vec![("p50", 0), ("p99", 0)],
        rows: rows.into(),
    };
    let ratio = |base: &str| {
        let (ours, base) = (table.figure(peers::OURS.name, "p50")?, table.figure(base, "p50")?);
        Some(ours.over(base))
    };
    let bare = ratio(peers::BARE.name);
    report.goal("uncontended p50, ours over the bare client", bare, Bound::AtMost(1.15));
    report.add(table);
    Ok(())
}
