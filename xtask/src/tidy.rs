//! The house rules that no other tool knows: pure functions from text and metadata to findings,
//! each with tests that plant what it must find.

mod book;
pub(crate) mod budget;
pub(crate) mod layering;
pub(crate) mod licences;
mod links;
mod lua;
pub(crate) mod mask;
mod rust;
mod words;

pub(crate) use rust::TestLines;

use crate::{metadata::Metadata, process};
use anyhow::Result;
use std::process::Command;
use std::{fmt, fs};

/// A text file of the repository.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Something that breaks a rule.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: Option<usize>,
    pub(crate) rule: &'static str,
    pub(crate) what: String,
}

impl Source {
    /// Whether it is a script of ours.
    pub(crate) fn is_script(&self) -> bool {
        self.path.starts_with("crates/") && self.is("lua")
    }

    /// Whether its name ends in a dot and this.
    fn is(&self, extension: &str) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, end)| end == extension)
    }

    fn at(&self, line: usize, rule: &'static str, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line: Some(line), rule, what: what.into() }
    }

    #[cfg(test)]
    pub(crate) fn planted(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}: {}", self.rule, self.what)
    }
}

/// Every text file that git tracks or would, so that a new file is checked before its commit.
/// Standard texts and what tools write are not ours to check.
pub(crate) fn load() -> Result<Vec<Source>> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"]);
    let paths = process::output(git.arg("--exclude-standard"))?;
    let mut sources = Vec::new();
    for path in paths.split('\0').filter(|path| !path.is_empty()) {
        let foreign = path.ends_with("Cargo.lock") || path.starts_with("LICENSE-");
        // A file that is deleted and not yet committed is listed too, and a binary is no text.
        if !foreign && let Ok(text) = fs::read_to_string(path) {
            sources.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(sources)
}

/// Every finding in text and manifests.
pub(crate) fn check(sources: &[Source], metadata: &Metadata) -> Vec<Finding> {
    let mut findings = layering::check(metadata);
    for source in sources {
        findings.extend(words::check(source));
        if source.is("rs") {
            findings.extend(rust::check(source));
        }
        if source.path == ".ci/run" || ["rs", "lua", "conf"].iter().any(|end| source.is(end)) {
            findings.extend(rust::long_lines(source));
        }
    }
    findings.extend(lua::check(sources));
    findings.extend(links::check(sources));
    findings.extend(book::check(sources));
    findings
}
