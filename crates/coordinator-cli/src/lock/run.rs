//! `lock run`: a command under a lock. The lock is released before we end, however that is.

use super::{
    RunArgs,
    child::Child,
    nested::{Grant, Outer},
    view,
};
use crate::{
    failure::{Failure, exit},
    output,
    signals::{self, Signals},
};
use coordinator::locks::{Locks, Outcome, Release};
use std::{fmt, pin::pin};

/// How the command ended.
enum Ended {
    /// By itself, with this code.
    Itself(u8),
    /// We ended it, because the lock was lost.
    Lost,
}

/// Acquires, runs and releases; the answer is the exit code.
pub(super) async fn run(
    args: &RunArgs,
    locks: &Locks,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let owner = args.place.owner.as_deref();
    let outer = tokio::select! {
        outer = Outer::find(locks, &args.name, owner) => outer?,
        signal = signals.next() => return Ok(signals::code(signal.as_raw())),
    };
    if let Some(outer) = outer {
        return again(args, locks, &outer, signals).await;
    }
    let lock = args.place.lock(locks, &args.name)?;
    let mut lock = lock.with_ttl(args.ttl).with_wait(args.wait);
    if let Some(max_hold) = args.max_hold {
        lock = lock.with_max_hold(max_hold);
    }
    let outcome = tokio::select! {
        outcome = lock.acquire() => outcome?,
        // What the attempt may have left is given up while the connection is closed.
        signal = signals.next() => return Ok(signals::code(signal.as_raw())),
    };
    let guard = match outcome {
        Outcome::Acquired(guard) => guard,
        Outcome::TimedOut { holder } => {
            output::note(view::held(&args.name, holder.as_ref()));
            return Ok(exit::REFUSED);
        }
        Outcome::Deadlock { cycle } => {
            output::note(view::deadlock(&cycle));
            return Ok(exit::REFUSED);
        }
        _ => {
            return Err(Failure::new(exit::UNAVAILABLE, "an answer of a newer library"));
        }
    };
    let grant = Grant { name: &args.name, fence: guard.fence(), owner, is_again: false };
    let ended = command(args, &grant, guard.lost(), signals).await;
    let released = guard.release().await;
    if let Err(error) = &released {
        output::note(format_args!(
            "lock {} could not be released and expires within {}: {}",
            args.name,
            humantime::format_duration(args.ttl),
            error.chain()
        ));
    }
    match ended? {
        Ended::Lost => Ok(exit::LOST),
        // It ended before anybody noticed, but ran without the lock all the same.
        Ended::Itself(_) if matches!(released, Ok(Release::AlreadyGone)) => {
            output::note(format_args!("lock {} was lost before the command ended", args.name));
            Ok(exit::LOST)
        }
        Ended::Itself(code) => Ok(code),
    }
}

/// Runs under the lease of an outer run, which renews it, tells of its loss and gives it up.
async fn again(
    args: &RunArgs,
    locks: &Locks,
    outer: &Outer,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let owner = args.place.owner.as_deref();
    let grant = Grant { name: &args.name, fence: outer.fence, owner, is_again: true };
    let gone = async {
        outer.gone(locks).await;
        "the run around this one holds it no more"
    };
    match command(args, &grant, gone, signals).await? {
        Ended::Lost => Ok(exit::LOST),
        Ended::Itself(code) => Ok(code),
    }
}

async fn command(
    args: &RunArgs,
    grant: &Grant<'_>,
    lost: impl Future<Output = impl fmt::Display>,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let mut child = Child::spawn(&args.command, grant)?;
    let mut lost = pin!(lost);
    loop {
        tokio::select! {
            // A command that ends at the moment of the loss may have run past it.
            biased;
            reason = &mut lost => {
                output::note(format_args!(
                    "lock {} was lost: {reason}; the command is ended",
                    args.name
                ));
                child.end().await;
                return Ok(Ended::Lost);
            }
            code = child.wait() => return Ok(Ended::Itself(code?)),
            signal = signals.next() => child.forward(signal),
        }
    }
}
