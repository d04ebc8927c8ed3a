//! Counts the lines of the crates that ran, and leaves those of tests out. It starts nothing.

use crate::tidy::{Source, TestLines};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// Lines that can run, and those that did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Count {
    ran: usize,
    all: usize,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.ran += other.ran;
        self.all += other.all;
    }

    #[expect(clippy::cast_precision_loss, reason = "lines of code are few")]
    fn percent(self) -> f64 {
        if self.all == 0 { 0.0 } else { 100.0 * self.ran as f64 / self.all as f64 }
    }
}

/// The count of each file under `crates/`.
#[derive(Debug, Default)]
pub(super) struct Lines {
    files: BTreeMap<String, Count>,
}

impl Lines {
    /// Reads what llvm-cov says in the format of lcov: `SF:` begins a file, `DA:line,times`.
    pub(super) fn read(lcov: &str, root: &Path, sources: &[Source]) -> Self {
        let mut lines = Self::default();
        let mut current = None;
        for line in lcov.lines() {
            if let Some(path) = line.strip_prefix("SF:") {
                current = counted(path, root, sources);
            } else if let Some(data) = line.strip_prefix("DA:")
                && let Some((path, tests)) = &current
                && let Some((number, times)) = data.split_once(',')
                && let Ok(number) = number.parse()
                && !tests.contain(number)
            {
                let count = Count { ran: usize::from(times != "0"), all: 1 };
                lines.files.entry(String::clone(path)).or_default().add(count);
            }
        }
        lines
    }

    /// The share of all lines that ran.
    pub(super) fn percent(&self) -> f64 {
        self.sum("crates/").percent()
    }

    fn sum(&self, prefix: &str) -> Count {
        let mut sum = Count::default();
        let files = self.files.iter().filter(|(path, _)| path.starts_with(prefix));
        files.for_each(|(_, count)| sum.add(*count));
        sum
    }
}

/// The path from the root and the tests of a file that counts: those of the crates' sources.
fn counted(path: &str, root: &Path, sources: &[Source]) -> Option<(String, TestLines)> {
    let path = Path::new(path).strip_prefix(root).ok()?.to_str()?;
    let source = sources.iter().find(|source| source.path == path)?;
    let (_, inside) = path.strip_prefix("crates/")?.split_once('/')?;
    inside.starts_with("src/").then(|| (path.to_owned(), TestLines::of(source)))
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, count: Count| {
            let (percent, Count { ran, all }) = (count.percent(), count);
            writeln!(f, "{name:<44} {ran:>6} of {all:>6} {percent:>6.1} %")
        };
        let mut worst: Vec<_> = self.files.iter().collect();
        worst.sort_by_key(|(_, count)| Reverse(count.all - count.ran));
        for (path, count) in worst.into_iter().take(10) {
            row(path.strip_prefix("crates/").unwrap_or(path), *count)?;
        }
        let crates: BTreeSet<_> =
            self.files.keys().filter_map(|path| path.split('/').nth(1)).collect();
        for name in crates {
            row(name, self.sum(&format!("crates/{name}/")))?;
        }
        row("all crates", self.sum("crates/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "//! A.\nfn a() {\n    b();\n}\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";

    #[test]
    fn lines_of_tests_and_of_other_folders_do_not_count() {
        let sources = ["crates/x/src/a.rs", "crates/x/src/tests.rs", "tests/it/main.rs"]
            .map(|path| Source::planted(path, FILE));
        let data = "DA:2,5\nDA:3,0\nDA:7,9\nend_of_record\n";
        let files = ["/w/crates/x/src/a.rs", "/w/crates/x/src/tests.rs", "/w/tests/it/main.rs"];
        let lcov = files.map(|path| format!("SF:{path}\n{data}")).join("");
        let lines = Lines::read(&lcov, Path::new("/w"), &sources);
        assert_eq!(lines.files.len(), 1);
        assert_eq!(lines.sum("crates/x/"), Count { ran: 1, all: 2 });
        assert!((lines.percent() - 50.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_counted_is_nothing_covered() {
        assert!(Lines::read("", Path::new("/w"), &[]).percent() < 1e-9);
    }
}
