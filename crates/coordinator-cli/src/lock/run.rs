//! `lock run`: a command under a lock. The lock is released before we end, however that is.

use super::{RunArgs, child::Child, view};
use crate::{
    failure::{Failure, exit},
    output,
    signals::{self, Signals},
};
use coordinator::locks::{Guard, Locks, Outcome, Release};

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
    let mut lock = locks.named(&args.name).with_ttl(args.ttl).with_wait(args.wait);
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
        _ => {
            return Err(Failure::new(exit::UNAVAILABLE, "an answer of a newer library"));
        }
    };
    let ended = command(args, &guard, signals).await;
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

async fn command(args: &RunArgs, guard: &Guard, signals: &mut Signals) -> Result<Ended, Failure> {
    let mut child = Child::spawn(&args.command, guard.lease())?;
    loop {
        tokio::select! {
            // A command that ends at the moment of the loss may have run past it.
            biased;
            reason = guard.lost() => {
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
