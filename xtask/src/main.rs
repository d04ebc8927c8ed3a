//! The project's chores as `cargo xtask <command>`: one file per command, and no logic here.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks on stdout and stderr"
)]

mod bench;
mod book;
mod check;
mod coverage;
mod demo;
mod metadata;
mod mutate;
mod process;
mod setup;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The chores of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Installs what the tests need where it can, and says what to do where it cannot
    Setup,
    /// Format, house rules, clippy, every crate alone, docs, licences
    Check(check::Args),
    /// Setup, then unit, doc and integration tests on embedded and a private redis-server
    Test(test::Args),
    /// Several OS processes sharing a work list over a private redis-server
    Demo,
    /// Locks beside a bare client and others: one table, ratios, goals; fails if one is missed
    Bench(bench::Args),
    /// Which share of the lines the tests run; fails below its floor
    Coverage,
    /// The book as web pages, with mdBook, which it installs where it is not there
    Book,
}

fn main() -> ExitCode {
    let done = process::enter_root().and_then(|()| match Cli::parse().command {
        Command::Setup => setup::run(),
        Command::Check(args) => check::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Demo => demo::run(),
        Command::Bench(args) => bench::run(&args),
        Command::Coverage => coverage::run(),
        Command::Book => book::run(),
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
