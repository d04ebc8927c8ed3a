//! What a server has written, command by command, from its append-only file.
//!
//! It is the server's own record of what its scripts did, complete and in order, whoever was told
//! of it. It knows nothing of what the commands mean.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::{RedisServer, Resp};

impl RedisServer {
    /// Every command that has changed something, in order: what an answered call did is in it.
    ///
    /// For a server [`with_aof`](crate::Builder::with_aof) that has not rewritten its file.
    ///
    /// # Errors
    /// If there is no such file, or it ends within a command.
    pub fn journal(&self) -> Result<Vec<Resp>> {
        // Redis 7 has a folder of them, older servers one file.
        let folder = self.dir().join("appendonlydir");
        let folder = if folder.is_dir() { folder.as_path() } else { self.dir() };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).context("look for the append-only file")? {
            let path = entry.context("look for the append-only file")?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if Path::new(name).extension().is_some_and(|kind| kind == "aof")
                && !name.contains(".base.")
            {
                files.push(path);
            }
        }
        ensure!(files.len() == 1, "one append-only file, not {files:?}");
        let bytes = std::fs::read(&files[0]).context("read the append-only file")?;
        let (mut at, mut all) = (0, Vec::new());
        while at < bytes.len() {
            let (command, length) = Resp::decode(&bytes[at..])
                .with_context(|| format!("the append-only file is not RESP at {at}"))?;
            at += length;
            all.push(command);
        }
        Ok(all)
    }
}
