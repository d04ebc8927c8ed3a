//! `coordinator demo`: several instances of one service share a work list without stepping on each
//! other, and what they did is checked by somebody who knows nothing of locks.
//!
//! The parent owns the work list and the [`ledger`]. Workers ask it for a request, wait for room in
//! the [`limits`] of its client and its path, take the lock of the client, count in its session and
//! in the document of the path ([`keeping`]), look the path's profile up in a cache ([`profiles`]),
//! publish an event ([`herald`]), and write to its account with the fence of their lease. At the
//! end the [`checks`] look at what the ledger let in, count in [`windows`] what the limits let in,
//! the [`audit`] reads sessions and documents again, and the [`witness`] tells what it heard. Parts
//! that come later slot in as further [`steps`] of handling a request and as further checks.

mod audit;
mod checks;
mod child;
mod crew;
mod desk;
mod herald;
mod keeping;
mod ledger;
mod limits;
mod live;
mod parent;
mod processes;
mod profiles;
mod protocol;
mod report;
mod requests;
mod steps;
mod tasks;
mod visits;
mod windows;
mod witness;
mod work;
mod worker;

use self::{
    keeping::Keeping,
    ledger::Ledger,
    parent::{End, Parent},
    report::Summary,
    requests::Generator,
    steps::Manners,
    witness::Witness,
    work::Work,
};
use crate::{
    cli,
    context::{Context, Need},
    failure::{Failure, exit},
    output,
    signals::Signals,
};
use coordinator::{Coordinator, clock::Clock, config::Fallback};
use std::{fs::File, path::PathBuf, sync::Arc, time::Duration};

/// How often the parent looks around.
const LOOK_AROUND: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Exit codes: 0 all checks hold, 1 they do not or it was interrupted, 3 Redis unavailable.

Examples:
  coordinator demo
  coordinator demo --seconds 3 --json
  coordinator demo --url redis://127.0.0.1 --processes --log access.log --ledger writes.txt";

/// What the demonstration is told.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "they are the switches of a command line")]
pub(crate) struct DemoArgs {
    /// How many instances share the work
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    instances: u32,
    /// For how long requests are generated
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Take the requests from all lines of this access log (combined format) instead
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Each instance is a process of its own; needs a Redis URL
    #[arg(long)]
    processes: bool,
    /// Write each accepted write to this file, as a line: request-number fence worker
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Be a worker of the parent behind this socket
    #[arg(long, hide = true, requires = "id", value_name = "SOCKET")]
    worker: Option<PathBuf>,
    /// Which worker to be
    #[arg(long, hide = true, requires = "worker", value_name = "N")]
    id: Option<u32>,
    /// How long the work under a lock takes [default: 1ms for generated requests, else 0s]
    #[arg(long, hide = true, value_parser = cli::duration)]
    work: Option<Duration>,
    /// Go on without noticing that a lock was lost, so that only fences keep late writes out
    #[arg(long, hide = true)]
    careless: bool,
    /// Take far more of the limits than is allowed, so that the check has something to find
    #[arg(long, hide = true)]
    greedy: bool,
    /// Count without looking whether others did meanwhile, so that the check has something to find
    #[arg(long, hide = true)]
    hasty: bool,
    /// Say of some events that they are published, so that the check has something to find
    #[arg(long, hide = true)]
    forgetful: bool,
    /// Which run a worker is of
    #[arg(long, hide = true, value_name = "N")]
    run: Option<u64>,
}

/// Runs the demonstration; the exit code is 0 if all checks hold.
pub(crate) async fn run(args: &DemoArgs, context: &Context) -> Result<u8, Failure> {
    let manners = Manners {
        // Work without end needs a pace, or its history fills the memory.
        work: args.work.unwrap_or(match args.log {
            Some(_) => Duration::ZERO,
            None => Duration::from_millis(1),
        }),
        careless: args.careless,
        greedy: args.greedy,
        hasty: args.hasty,
        forgetful: args.forgetful,
        run: args.run.unwrap_or_else(rand::random),
    };
    if let (Some(socket), Some(id)) = (&args.worker, args.id) {
        return child::run(socket, id, manners, context).await;
    }
    let need = if args.processes { Need::Redis } else { Need::EmbeddedIsFine };
    // Instances that fell back would each have limits of their own.
    let config = context.config(need)?.with_fallback(Fallback::None);
    let clock = config.clock().clone();
    let listed = args.log.as_deref().map(requests::read_log).transpose()?;
    // A server that is not there is told at once, and not by four workers.
    let own = Coordinator::with_config(config.clone()).await?;
    let keeping = Keeping::new(&own, manners.run, false)?;
    let witness = Witness::open(&own, manners.run).await?;
    let ledger = Ledger::new(ledger::fenced, open_ledger(args)?);
    let started = clock.now();
    let work = match listed {
        Some(requests) => Work::listed(requests),
        None => Work::generated(Generator::new(started + Duration::from_secs(args.seconds))),
    };
    let parent = Arc::new(Parent::new(clock.clone(), work, ledger, args.instances));
    let end = work_through(args, context, &own, &parent, manners).await?;
    let took = clock.now().saturating_since(started);
    let audit = match &end {
        End::Complete => {
            let events = witness.examine(&parent.published(), &*clock).await?;
            Some(audit::examine(&parent.visits(), &keeping, events, &*clock).await?)
        }
        _ => None,
    };
    own.close().await;
    let summary = Summary::new(parent.tally(), audit, args.instances, took);
    tell(context, &summary, &parent, end)
}

/// The file of `--ledger`, emptied.
fn open_ledger(args: &DemoArgs) -> Result<Option<File>, Failure> {
    let open = |path: &PathBuf| {
        File::create(path).map_err(|error| {
            Failure::usage(format!("cannot write the ledger {}: {error}", path.display()))
        })
    };
    args.ledger.as_ref().map(open).transpose()
}

/// Has the work done, until it is over for one reason or another.
async fn work_through(
    args: &DemoArgs,
    context: &Context,
    own: &Coordinator,
    parent: &Arc<Parent>,
    manners: Manners,
) -> Result<End, Failure> {
    let config = own.config();
    let clock = &**config.clock();
    let mut signals = Signals::listen()?;
    let mut crew = if args.processes {
        processes::start(parent, context, config, args.instances, manners)?
    } else {
        crew::start(parent, own, args.instances, manners).await?
    };
    for worker in crew.pids().filter(|_| context.verbose > 0) {
        output::note(format_args!("worker {}: pid {}", worker.0, worker.1));
    }
    let conduct = async {
        tokio::select! {
            () = parent.over() => {}
            () = look_around(parent, clock) => {}
            _ = signals.next() => parent.finish(End::Interrupted),
        }
        crew.leave().await;
    };
    if context.json {
        conduct.await;
    } else {
        tokio::select! {
            () = conduct => {}
            () = live::draw(parent, clock) => {}
        }
    }
    Ok(parent.take_end().unwrap_or(End::Interrupted))
}

/// Looks around now and then, for ever.
async fn look_around(parent: &Parent, clock: &dyn Clock) {
    loop {
        clock.sleep(LOOK_AROUND).await;
        parent.look_around();
    }
}

/// Says what it came to.
fn tell(context: &Context, summary: &Summary, parent: &Parent, end: End) -> Result<u8, Failure> {
    if context.json {
        output::json(summary)?;
    } else {
        output::line(&summary.text(&parent.rows()))?;
    }
    match end {
        End::Failed(failure) => Err(failure),
        End::Interrupted => Err(Failure::new(exit::REFUSED, "the demo was interrupted")),
        End::Complete if summary.is_ok() => Ok(exit::DONE),
        End::Complete => Ok(exit::REFUSED),
    }
}
