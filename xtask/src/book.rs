//! `cargo xtask book`: builds the book with mdBook, which it installs below the target folder
//! where it is not there. Links and examples are checked without it, by `check` and `test`.

use crate::metadata::Metadata;
use crate::process::{cargo, output, succeeds};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that the book is written for.
const VERSION: &str = "0.5.4";

/// Builds the book and says where it is.
pub(crate) fn run() -> Result<bool> {
    let target = Metadata::load()?.target_directory;
    let program = installed(&target.join("tools"))?;
    let book = target.join("book");
    let built = succeeds(Command::new(program).args(["build", "docs", "--dest-dir"]).arg(&book))?;
    println!("{}", book.join("index.html").display());
    Ok(built)
}

fn installed(tools: &Path) -> Result<PathBuf> {
    let program = tools.join("bin/mdbook");
    if program.is_file() && output(Command::new(&program).arg("--version"))?.contains(VERSION) {
        return Ok(program);
    }
    println!("installing mdBook {VERSION}, once: that takes some minutes");
    let mut install = cargo(&["install", "--locked", "--quiet", "mdbook", "--version", VERSION]);
    if !succeeds(install.arg("--root").arg(tools)).context("cannot install mdBook")? {
        bail!("mdBook was not installed: it comes from crates.io, which must be in reach");
    }
    Ok(program)
}
