//! Compiles the clock shim and owns the file through which the clock of a process is moved.
//!
//! The arithmetic is in `clock_shim.c`. libfaketime would do more, and hangs Debian's redis-server.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, ensure};

const SOURCE: &str = include_str!("clock_shim.c");

/// The wall clock of processes that run with [`env`](Self::env) in their environment: a server's,
/// or a program's under test. Monotonic clocks stay true.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

impl Clock {
    /// Puts the shim and an offset of 0 into a folder, which must outlive the processes.
    ///
    /// # Errors
    /// If there is no C compiler, or the folder cannot be written to.
    pub fn new(folder: &Path) -> Result<Self> {
        let library = folder.join("clock_shim.so");
        std::fs::write(&library, compiled()?).context("write the clock shim")?;
        let path = folder.join("clock_offset_us");
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .context("make the file of the clock's offset")?;
        let clock = Self { library, path, file };
        file_of_zeros(&clock.file)?;
        Ok(clock)
    }

    /// What the environment must hold; children inherit it, and the clock with it.
    ///
    /// # Errors
    /// If the folder's name is not UTF-8.
    pub fn env(&self) -> Result<[(&'static str, &str); 2]> {
        let library = self.library.to_str().context("the folder's name is not UTF-8")?;
        let path = self.path.to_str().context("the folder's name is not UTF-8")?;
        Ok([("LD_PRELOAD", library), ("COORDINATOR_CLOCK_SHIM", path)])
    }

    /// Sets how far the clock is ahead of the true one, at once.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set_offset_us(&self, offset: i64) -> Result<()> {
        self.file.write_all_at(&offset.to_ne_bytes(), 0).context("write the clock's offset")
    }

    /// Stops the clock at this moment of the true time, before the offset.
    pub(crate) fn stop_at_us(&self, moment: i64) -> Result<()> {
        self.file.write_all_at(&moment.to_ne_bytes(), 8).context("write the clock's moment")
    }

    pub(crate) fn offset_us(&self) -> Result<i64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 0).context("read the clock's offset")?;
        Ok(i64::from_ne_bytes(bytes))
    }
}

fn file_of_zeros(file: &File) -> Result<()> {
    file.write_all_at(&[0; 16], 0).context("write the clock's file")
}

/// The shared library, compiled once per process.
fn compiled() -> Result<&'static [u8]> {
    static LIBRARY: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();
    match LIBRARY.get_or_init(|| compile().map_err(|error| format!("{error:#}"))) {
        Ok(bytes) => Ok(bytes),
        Err(text) => Err(anyhow!("{text}")),
    }
}

fn compile() -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("make a folder for the clock shim")?;
    let source = folder.path().join("clock_shim.c");
    let library = folder.path().join("clock_shim.so");
    std::fs::write(&source, SOURCE)?;
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-o"])
        .args([&library, &source])
        .output()
        .context("the clock shim needs a C compiler, `cc`; try `cargo xtask setup`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cc could not compile the clock shim: {said}");
    std::fs::read(&library).context("read the clock shim")
}
