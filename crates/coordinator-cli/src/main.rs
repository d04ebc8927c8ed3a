//! The `coordinator` command, built from the public API of [`coordinator`] alone.
//!
//! It reads the command line and hands over to one module per verb; it decides nothing.

mod access_log;
mod cache;
mod cli;
mod context;
mod conversation;
mod demo;
mod doc;
mod events;
mod failure;
mod health;
mod kept;
mod limit;
mod lock;
mod output;
mod session;
mod signals;

use crate::{
    cli::{Cli, Verb},
    context::Context,
    failure::Failure,
};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { global, verb } = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    let context = Context::from(global);
    output::log(context.verbose);
    let done = Box::pin(run(&verb, &context)).await;
    ExitCode::from(done.unwrap_or_else(|failure| {
        output::note(&failure);
        failure.exit()
    }))
}

async fn run(verb: &Verb, context: &Context) -> Result<u8, Failure> {
    match verb {
        Verb::Cache(args) => cache::run(args, context).await,
        Verb::Demo(args) => demo::run(args, context).await,
        Verb::Conversation(args) => conversation::run(args, context).await,
        Verb::Doc(args) => doc::run(args, context).await,
        Verb::Events(args) => events::run(args, context).await,
        Verb::Health => health::run(context).await,
        Verb::Limit(args) => limit::run(args, context).await,
        Verb::Lock(args) => lock::run(args, context).await,
        Verb::Session(args) => session::run(args, context).await,
        Verb::Completions { shell } => cli::completions(*shell),
    }
}
