//! `lock acquire`, `lock renew` and `lock release`: a lock that outlives the command which took
//! it, held by its token alone. There is no watchdog.

use super::{
    AcquireArgs, ReleaseArgs, RenewArgs,
    view::{self, BlockedView, HolderView, millis},
};
use crate::{
    failure::{Failure, exit},
    output,
    signals::{self, Signals},
};
use coordinator::locks::{Detached, Locks, Outcome, Release, Renew};
use futures::FutureExt as _;
use serde_json::json;

/// Takes a lock and prints its token.
pub(super) async fn acquire(
    args: &AcquireArgs,
    locks: &Locks,
    json: bool,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let lock = args.place.lock(locks, &args.name)?;
    let lock = lock.with_ttl(args.ttl).with_wait(args.wait).with_watchdog(false);
    let outcome = tokio::select! {
        outcome = lock.acquire() => outcome?,
        // What the attempt may have left is given up while the connection is closed.
        signal = signals.next() => return Ok(signals::code(signal.as_raw())),
    };
    let guard = match outcome {
        Outcome::Acquired(guard) => guard,
        Outcome::TimedOut { holder } => {
            if json {
                let holder = holder.as_ref().map(HolderView::from);
                output::json(&json!({ "acquired": false, "holder": holder }))?;
            } else {
                output::note(view::held(&args.name, holder.as_ref()));
            }
            return Ok(exit::REFUSED);
        }
        Outcome::Deadlock { cycle } => {
            if json {
                let cycle: Vec<_> = cycle.iter().map(BlockedView::from).collect();
                output::json(&json!({ "acquired": false, "holder": null, "cycle": cycle }))?;
            } else {
                output::note(view::deadlock(&cycle));
            }
            return Ok(exit::REFUSED);
        }
        _ => {
            return Err(Failure::new(exit::UNAVAILABLE, "an answer of a newer library"));
        }
    };
    if let Some(signal) = signals.next().now_or_never() {
        // Who interrupts us does not read the token.
        guard.release().await?;
        return Ok(signals::code(signal.as_raw()));
    }
    let held = guard.detach();
    let answer = if json { in_json(&held)? } else { in_lines(&held) };
    if let Err(error) = output::write(&answer) {
        // Nobody knows the token: nobody could release it.
        locks.release(&held.name, &held.token).await?;
        return Err(output::unwritten(&error));
    }
    Ok(exit::DONE)
}

fn in_json(held: &Detached) -> Result<String, Failure> {
    let text = output::json_text(&json!({
        "acquired": true,
        "token": held.token.expose(),
        "fence": held.fence.get(),
        "expires_in_ms": millis(held.remaining),
    }))?;
    Ok(format!("{text}\n"))
}

/// Lines that a shell can `eval`: hex digits and numbers need no quotes.
fn in_lines(held: &Detached) -> String {
    format!(
        "token={}\nfence={}\nexpires_in_ms={}\n",
        held.token.expose(),
        held.fence,
        millis(held.remaining)
    )
}

/// Prolongs a lock.
pub(super) async fn renew(args: &RenewArgs, locks: &Locks, json: bool) -> Result<u8, Failure> {
    let token = args.token.read()?;
    match locks.renew(&args.name, &token, args.ttl).await? {
        Renew::Renewed if json => output::json(&json!({ "renewed": true }))?,
        Renew::Renewed => output::line("renewed")?,
        lost => {
            let Renew::Lost(reason) = lost else {
                return Err(Failure::new(exit::UNAVAILABLE, "an answer of a newer library"));
            };
            if json {
                output::json(&json!({ "renewed": false, "reason": view::reason(reason) }))?;
            } else {
                output::note(format_args!("lock {} is not yours any more: {reason}", args.name));
            }
            return Ok(exit::REFUSED);
        }
    }
    Ok(exit::DONE)
}

/// Gives a lock up, or takes one away.
pub(super) async fn release(args: &ReleaseArgs, locks: &Locks, json: bool) -> Result<u8, Failure> {
    if args.force {
        return force(args, locks, json).await;
    }
    let token = args.token.read()?;
    let released = locks.release(&args.name, &token).await? == Release::Released;
    if json {
        output::json(&json!({ "released": released }))?;
    } else if released {
        output::line("released")?;
    } else {
        output::note(format_args!("lock {} was gone already", args.name));
    }
    Ok(if released { exit::DONE } else { exit::REFUSED })
}

async fn force(args: &ReleaseArgs, locks: &Locks, json: bool) -> Result<u8, Failure> {
    let reason = args.reason.as_deref().unwrap_or_default();
    let taken = locks.force_release(&args.name, reason).await?;
    let holder = taken.as_ref().map(|held| &held.holder);
    if json {
        let view = holder.map(HolderView::from);
        output::json(&json!({ "released": taken.is_some(), "holder": view }))?;
    } else if let Some(holder) = holder {
        output::line(&format!(
            "released: it was held by {} pid {} since {}",
            output::plain(&holder.host),
            holder.pid,
            view::stamp(holder.since)
        ))?;
    } else {
        output::note(format_args!("lock {} is not held", args.name));
    }
    Ok(if taken.is_some() { exit::DONE } else { exit::REFUSED })
}
