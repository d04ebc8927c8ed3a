//! Leases on free loopback ports, so that a server can be started again on its own port.
//!
//! A port that was merely found free by `bind(0)` lies in the range from which the kernel serves
//! outgoing connections, and is easily gone when a killed server wants it back. So ports come from
//! below that range and are held, for as long as their server exists, by a locked file that other
//! processes of this harness respect. It does not protect from strangers:
//! starting retries on a clash.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result, bail};

/// Ports of clients; the cluster bus uses the port 10,000 above each, hence a range this narrow.
const RANGE: std::ops::Range<u16> = 10_000..20_000;

/// What Redis adds to a port for the cluster bus.
const BUS: u16 = 10_000;

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// Holds the lock.
    _lock: File,
}

impl Port {
    /// Finds a port that is free, together with its bus port.
    pub(crate) fn lease() -> Result<Self> {
        let folder = std::env::temp_dir().join("coordinator-harness-ports");
        std::fs::create_dir_all(&folder).context("make the folder of port locks")?;
        for _ in 0..1000 {
            let number = rand::random_range(RANGE);
            let path = folder.join(number.to_string());
            let lock = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("open {}", path.display()))?;
            let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if lock.try_lock().is_ok() && free(number) && free(number + BUS) {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("found no free port in {RANGE:?} after 1000 attempts")
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leased_port_is_locked_until_it_is_dropped() {
        let port = Port::lease().unwrap();
        let folder = std::env::temp_dir().join("coordinator-harness-ports");
        let file = File::open(folder.join(port.number().to_string())).unwrap();
        assert!(file.try_lock().is_err());
        drop(port);
        assert!(file.try_lock().is_ok());
    }

    #[test]
    fn leases_pass_over_what_others_hold() {
        let all: Vec<Port> = (0..300).map(|_| Port::lease().unwrap()).collect();
        let numbers: std::collections::HashSet<u16> = all.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), all.len());
    }
}
