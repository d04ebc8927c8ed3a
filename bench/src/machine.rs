//! Where a run took place, and how busy the machine was before it began: figures from a busy
//! machine are worth little.

use anyhow::{Context as _, Result};
use coordinator_harness::RedisServer;
use serde_json::{Value, json};
use std::{fmt, fs, time::SystemTime};

#[derive(Debug)]
pub(crate) struct Machine {
    date: String,
    processor: String,
    cores: usize,
    kernel: String,
    /// Over the last minute before the run.
    load: String,
    server: String,
}

impl Machine {
    pub(crate) async fn look(server: &RedisServer) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = server.command(&["INFO", "server"]).await?;
        let version = info
            .as_str()
            .and_then(|info| info.lines().find_map(|line| line.strip_prefix("redis_version:")));
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find(|line| line.starts_with("model name"));
        let model =
            model.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, name)| name);
        let load = read("/proc/loadavg");
        Ok(Self {
            date: date.split('T').next().context("a date")?.to_owned(),
            processor: model.to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            server: version.unwrap_or("unknown").to_owned(),
        })
    }

    pub(crate) fn json(&self) -> Value {
        let Self { date, processor, cores, kernel, load, server } = self;
        json!({
            "date": date, "processor": processor, "cores": cores, "kernel": kernel,
            "load_before": load, "redis": server,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, processor, cores, kernel, load, server } = self;
        write!(
            f,
            "{date}, {cores} cores of {processor}, Linux {kernel}, load {load} before the run, \
             Redis {server} on the same machine, over loopback."
        )
    }
}
