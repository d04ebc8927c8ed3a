//! Stored values that become a GiB when they are decompressed: misses, which take no more memory
//! than the cap. Alone in its process, of which it asks the memory.

use coordinator_cache::{Cache, Caches, Compression};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::{RedisServer, Resp, fresh_prefix};
use std::{fs, io::Write as _};

const MIB: usize = 1024 * 1024;
/// The longest value that is read.
const CAP: usize = 8 * MIB;
const GIB: u32 = 1024 * 1024 * 1024;

/// Where the length and the checksum stand in the head, and where that ends.
const RAW_AT: usize = 44;
const SUM_AT: usize = 48;
const HEAD: usize = 52;

/// A frame of zstd of a GiB of zeros, in 32 KiB: what it says of its length is as given.
fn frame(declared: Option<u32>) -> Vec<u8> {
    const BLOCK: u32 = 128 * 1024;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    match declared {
        // A length of four bytes; a window of 128 KiB.
        Some(length) => {
            frame.extend([0x80, 7 << 3]);
            frame.extend(length.to_le_bytes());
        }
        None => frame.extend([0, 7 << 3]),
    }
    let blocks = GIB / BLOCK;
    for block in 1..=blocks {
        // One byte, so often; the last one says that it is.
        let head = (BLOCK << 3) | (1 << 1) | u32::from(block == blocks);
        frame.extend(&head.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// A good value with another payload, of which its head says how long it becomes.
fn forged(good: &[u8], raw_len: u32, payload: &[u8]) -> Vec<u8> {
    let mut stored = good[..HEAD].to_vec();
    // Compressed, whatever it was.
    stored[2] = (stored[2] & 0xf) | 0x10;
    stored[RAW_AT..RAW_AT + 4].copy_from_slice(&raw_len.to_le_bytes());
    stored.extend(payload);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&stored[..16]);
    hasher.update(&stored[24..SUM_AT]);
    hasher.update(&stored[HEAD..]);
    let sum = hasher.finalize().to_le_bytes();
    stored[SUM_AT..HEAD].copy_from_slice(&sum);
    stored
}

/// The most memory that this process had since the last call, and what it has now, in bytes.
fn memory() -> (usize, usize) {
    let status = fs::read_to_string("/proc/self/status").expect("a Linux");
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    };
    let sizes = (of("VmHWM:"), of("VmRSS:"));
    fs::write("/proc/self/clear_refs", "5").expect("the peak is forgotten");
    sizes
}

async fn read(cache: &Cache<Vec<u8>>) -> Option<usize> {
    cache.get("a").await.expect("an answer").map(|hit| hit.len())
}

#[tokio::test]
async fn a_value_that_becomes_a_gib_is_a_miss_within_the_cap() {
    let server = RedisServer::start().await.expect("a server");
    let config = Config::from_url(&server.url()).expect("a URL");
    let config = config.with_prefix(&fresh_prefix()).expect("a prefix");
    let connection = Connection::connect(config).await.expect("a connection");
    let cache = Caches::redis(&connection).cache::<Vec<u8>>("n");
    let cache = cache.with_compression(Compression::zstd().with_max_value(CAP));
    let cache = cache.build().expect("a cache");
    // What is needed for any value is there from now on.
    cache.set("a", &vec![0; 100_000]).await.expect("stored");
    assert_eq!(read(&cache).await, Some(100_000));
    let keys = server.command(&["KEYS", "*:val:n:a"]).await.expect("an answer");
    let key = keys.as_array().expect("keys")[0].as_str().expect("a text").to_owned();
    let good = server.command(&["GET", &key]).await.expect("an answer");
    let Resp::Bulk(Some(good)) = good else { panic!("it is there") };
    // What is forged so is opened: no bomb is refused for its head.
    let length = good[RAW_AT..RAW_AT + 4].try_into().expect("four bytes");
    let same = forged(&good, u32::from_le_bytes(length), &good[HEAD..]);
    server
        .command(&[b"SET", key.as_bytes(), &same])
        .await
        .expect("an answer")
        .ok()
        .expect("stored");
    assert_eq!((same == good, read(&cache).await), (true, Some(100_000)));
    let cap = u32::try_from(CAP).expect("a few MiB");
    let bombs = [
        ("both say a GiB", GIB, Some(GIB)),
        ("the head says the cap, the frame a GiB", cap, Some(GIB)),
        ("the head says the cap, the frame nothing", cap, None),
        ("the head says a KiB, the frame nothing", 1024, None),
        ("both say the cap, and it becomes a GiB", cap, Some(cap)),
        ("both say a KiB, and it becomes a GiB", 1024, Some(1024)),
    ];
    for (number, (what, raw_len, declared)) in bombs.into_iter().enumerate() {
        let bomb = forged(&good, raw_len, &frame(declared));
        assert!(bomb.len() < 40_000);
        let stored = server.command(&[b"SET", key.as_bytes(), &bomb]).await;
        stored.expect("an answer").ok().expect("stored");
        drop(bomb);
        let (_, before) = memory();
        let found = read(&cache).await;
        let (peak, _) = memory();
        let grown = peak.saturating_sub(before);
        let _ = writeln!(std::io::stderr(), "{what}: {} KiB more at its peak", grown / 1024);
        assert_eq!(found, None, "{what}");
        assert_eq!(cache.stats().unreadable, number as u64 + 1, "{what}");
        assert!(grown < CAP + MIB, "{what}: {grown}");
    }
    // What becomes as long as it says, and may, is read.
    let whole = cache.set("a", &vec![0; CAP - 100]).await;
    whole.expect("stored");
    assert_eq!(read(&cache).await, Some(CAP - 100));
}
