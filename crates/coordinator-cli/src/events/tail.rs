//! `events tail`: the events of a scope as they come, a line of JSON each.

use super::{
    ScopeArg,
    view::{EventView, GapView},
};
use crate::{
    failure::{Failure, exit},
    output,
    signals::Signals,
};
use clap::Args;
use coordinator::{
    Config, Coordinator,
    events::{Cursor, Position, RawItem},
};
use serde::Serialize;
use std::{io, str::FromStr};

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    #[command(flatten)]
    pub(super) scope: ScopeArg,
    /// Only events of these types: * stands for any characters, ? for one; may be said again
    #[arg(long, value_name = "GLOB")]
    types: Vec<String>,
    /// Where to begin: with what is published from now on, with the earliest event that is kept, or
    /// after the one with this id
    #[arg(long, value_name = "now|earliest|ID", default_value = "now")]
    from: From,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct From(Position);

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(match text {
            "now" => Position::Now,
            "earliest" => Position::Earliest,
            id => Position::After(
                id.parse::<Cursor>().map_err(|_| "write now, earliest or the id of an event")?,
            ),
        }))
    }
}

/// Follows a scope until it is told to end.
pub(super) async fn run(args: &TailArgs, config: Config) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let following = async {
        let coordinator = Coordinator::with_config(config).await?;
        let done = follow(args, &coordinator).await;
        coordinator.close().await;
        done
    };
    tokio::select! {
        done = following => done,
        _ = signals.next() => Ok(exit::DONE),
    }
}

async fn follow(args: &TailArgs, coordinator: &Coordinator) -> Result<u8, Failure> {
    let scope = &args.scope.scope;
    let subscription = coordinator.events().subscribe(scope).types(&args.types);
    let mut subscription = subscription.from(args.from.0).open_raw().await?;
    let mut left = args.count;
    while left != Some(0) {
        let Some(item) = subscription.next().await else { break };
        let read = match item {
            RawItem::Event(event) => {
                left = left.map(|left| left - 1);
                tell(&EventView::new(scope, &event))?
            }
            RawItem::Gap(gap) => tell(&GapView::new(&gap))?,
            _ => true,
        };
        if !read {
            break;
        }
    }
    Ok(exit::DONE)
}

/// Writes a line; whether anybody reads it.
fn tell(line: &impl Serialize) -> Result<bool, Failure> {
    match output::write(&format!("{}\n", output::json_text(line)?)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(output::unwritten(&error)),
    }
}
