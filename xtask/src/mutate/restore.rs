//! Putting a broken script back: at the end, on a panic, on Ctrl-C, and at the next start after
//! a kill −9, from a copy that is written first.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Two files: the path of the broken script, and its text before.
const COPY: &str = "target/mutate";

/// A script that is broken for as long as this lives.
pub(super) struct Mutated {
    path: PathBuf,
    original: String,
    restored: bool,
}

impl Mutated {
    /// Breaks a script.
    pub(super) fn write(path: &str, text: &str) -> Result<Self> {
        let original = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        fs::create_dir_all(COPY)?;
        fs::write(copy("text"), &original)?;
        fs::write(copy("path"), path)?;
        let mutated = Self { path: path.into(), original, restored: false };
        fs::write(&mutated.path, text).with_context(|| format!("cannot write {path}"))?;
        Ok(mutated)
    }

    /// Puts it back, and says if that failed, which `Drop` can only print.
    pub(super) fn restore(mut self) -> Result<()> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<()> {
        fs::write(&self.path, &self.original)
            .with_context(|| format!("{} IS BROKEN: git checkout it", self.path.display()))?;
        self.restored = true;
        fs::remove_dir_all(COPY).context("cannot remove the copy")
    }
}

impl Drop for Mutated {
    fn drop(&mut self) {
        if !self.restored
            && let Err(error) = self.put_back()
        {
            eprintln!("{error:#}");
        }
    }
}

fn copy(name: &str) -> PathBuf {
    Path::new(COPY).join(name)
}

/// Puts back what an earlier run left broken because it was killed.
pub(super) fn after_a_kill() -> Result<()> {
    let (Ok(path), Ok(text)) = (fs::read_to_string(copy("path")), fs::read_to_string(copy("text")))
    else {
        return Ok(());
    };
    println!("an earlier run was killed: putting {path} back");
    fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
    fs::remove_dir_all(COPY).context("cannot remove the copy")
}

/// Whether somebody asked us to stop. We look between steps, so that a script is put back first.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on Ctrl-C and TERM only raise the flag.
    pub(super) fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("no signal handler")?;
        }
        Ok(Self(flag))
    }

    /// Whether one came.
    pub(super) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
