//! `cargo xtask bench`: builds the benchmark, a workspace of its own, and runs it. What is
//! measured and how is its own business; here its figures find their way into the book.

use crate::metadata::Metadata;
use crate::{process, setup};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `cargo xtask bench` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Part,
}

/// What can be measured.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Locks beside a bare client, a BLPOP baton, rslock and SET NX; goals that are missed fail
    Locks(Options),
    /// Rate limits beside their bare script, trypema, GCRA and a naive zset; missed goals fail
    Ratelimit(Options),
    /// Sessions and conversations beside their bare scripts and others' stores; missed goals fail
    Sessions {
        #[command(flatten)]
        options: Options,
        /// A million sessions, and 300,000 keys around those that expire: some minutes more
        #[arg(long)]
        long: bool,
    },
    /// Events beside their bare script, bare pub/sub and others; missed goals fail
    Events {
        #[command(flatten)]
        options: Options,
        /// A minute of kills for each instead of ten seconds, in every round
        #[arg(long)]
        long: bool,
    },
    /// The cache beside bare GET and SET, moka and other caches; missed goals fail
    Cache {
        #[command(flatten)]
        options: Options,
        /// A stampede of 80,000 callers instead of 10,000 on eight instances
        #[arg(long)]
        long: bool,
    },
}

impl Part {
    fn name(&self) -> &'static str {
        match self {
            Self::Locks(_) => "locks",
            Self::Ratelimit(_) => "ratelimit",
            Self::Sessions { .. } => "sessions",
            Self::Events { .. } => "events",
            Self::Cache { .. } => "cache",
        }
    }

    fn options(&self) -> &Options {
        match self {
            Self::Locks(options)
            | Self::Ratelimit(options)
            | Self::Sessions { options, .. }
            | Self::Events { options, .. }
            | Self::Cache { options, .. } => options,
        }
    }

    fn is_long(&self) -> bool {
        matches!(
            self,
            Self::Sessions { long: true, .. }
                | Self::Events { long: true, .. }
                | Self::Cache { long: true, .. }
        )
    }
}

#[derive(Debug, clap::Args)]
struct Options {
    /// How long each contender runs in each round
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// How many rounds each contender runs
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measures only scenarios whose title holds this
    #[arg(long)]
    only: Option<String>,
    /// Writes every figure of every round as one JSON document
    #[arg(long)]
    json: Option<PathBuf>,
    /// Puts the table between the marks of this page; do that on an idle machine
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// What stands around the table of a part.
fn marks(part: &str) -> [String; 2] {
    ["begin", "end"].map(|which| format!("<!-- bench {part}: {which} -->"))
}

/// Builds, runs, and writes what was asked for. Missed goals are a failure.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let (part, options) = (args.part.name(), args.part.options());
    setup::run()?;
    let page = match &options.markdown {
        Some(path) => Some(Page::read(path, part)?),
        None => None,
    };
    let mut bench = Command::new(build()?);
    bench.arg(part);
    bench.args(["--seconds", &options.seconds.to_string()]);
    bench.args(["--rounds", &options.rounds.to_string()]);
    if let Some(part) = &options.only {
        bench.args(["--only", part]);
    }
    if args.part.is_long() {
        bench.arg("--long");
    }
    if let Some(path) = &options.json {
        bench.arg("--json").arg(path);
    }
    let output = bench.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.context("cannot start the benchmark")?;
    let table = String::from_utf8(output.stdout).context("its output is not UTF-8")?;
    println!("{table}");
    if let Some(page) = page
        && !table.is_empty()
    {
        page.write(&table)?;
    }
    Ok(output.status.success())
}

/// Builds beside our own artefacts, with the lock file that is committed.
fn build() -> Result<String> {
    let target = Metadata::load()?.target_directory;
    let mut build = process::cargo(&["build", "--release", "--locked"]);
    build.args(["--manifest-path", "bench/Cargo.toml"]).env("CARGO_TARGET_DIR", target);
    build.arg("--message-format=json-render-diagnostics");
    let built = process::executables(&process::output(&mut build)?).pop();
    built.context("cargo built no program in bench/")
}

/// A page with a place for the table.
#[derive(Debug)]
struct Page<'a> {
    path: &'a Path,
    part: &'static str,
    text: String,
}

impl<'a> Page<'a> {
    /// Looks for the place before minutes are spent on measuring.
    fn read(path: &'a Path, part: &'static str) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let [begin, end] = marks(part);
        filled(&text, part, "")
            .with_context(|| format!("{} has no {begin} … {end}", path.display()))?;
        Ok(Self { path, part, text })
    }

    fn write(&self, table: &str) -> Result<()> {
        let text = filled(&self.text, self.part, table).context("the marks were there before")?;
        fs::write(self.path, text).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The page with this between its marks.
fn filled(page: &str, part: &str, table: &str) -> Option<String> {
    let [begin, end] = marks(part);
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{}\n{end}{after}", table.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_of_the_part_changes() {
        let [begin, end] = marks("a");
        let other = "<!-- bench b: begin -->\nkept\n<!-- bench b: end -->\n";
        let page = format!("{other}# A\n{begin}\nold\n{end}\n# B\n");
        let new = filled(&page, "a", "| new |\n").unwrap();
        assert_eq!(new, format!("{other}# A\n{begin}\n| new |\n{end}\n# B\n"));
        assert_eq!(filled(&new, "a", "| new |"), Some(new.clone()));
        assert_eq!(filled(&format!("{end}{begin}"), "a", "x"), None);
        assert_eq!(filled(other, "a", "x"), None);
    }
}
