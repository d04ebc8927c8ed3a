//! Which values are compressed and how. It knows nothing of envelopes and keys.

use crate::{
    envelope::{Opened, Unreadable},
    tasks,
};
use bytes::Bytes;
use coordinator_core::{Error, ErrorKind, Result};
use std::cell::RefCell;
use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe,
};

/// From which length on work is done off the caller's thread, in bytes: below it takes less time
/// than handing it over.
const OFF_THREAD: usize = 64 * 1024;

/// Which values are compressed before they are stored, and how long a value may be.
///
/// Values are read back whatever this says: each tells whether it is compressed. What one instance
/// stores with zstd, another without compression reads.
///
/// ```
/// use coordinator_cache::Compression;
///
/// let compression = Compression::zstd().with_threshold(512).with_level(1);
/// assert_ne!(compression, Compression::none());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Compression {
    zstd: bool,
    threshold: usize,
    min_saving: f64,
    level: i32,
    max_value: usize,
}

impl Compression {
    /// Values are stored as they are.
    pub fn none() -> Self {
        Self { zstd: false, ..Self::zstd() }
    }

    /// Values of 1 KiB or more are compressed with zstd at level 3, where that saves a tenth.
    ///
    /// Above 64 KiB that is done on tokio's threads for blocking work.
    pub fn zstd() -> Self {
        Self {
            zstd: true,
            threshold: 1024,
            min_saving: 0.1,
            level: zstd::DEFAULT_COMPRESSION_LEVEL,
            max_value: coordinator_core::codec::PAYLOAD_MAX_BYTES,
        }
    }

    /// From which length on values are compressed, in bytes. Default 1 KiB.
    pub fn with_threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// Which share of its length a value must lose to be stored compressed, from 0 to 1. Default
    /// 0.1.
    pub fn with_min_saving(mut self, share: f64) -> Self {
        self.min_saving = share;
        self
    }

    /// The level of zstd, 1 to 22. Default 3.
    pub fn with_level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// The longest value that is stored or read, uncompressed, in bytes; also that of values that
    /// are not compressed. Default 16 MiB. A stored value that would become longer is a miss, and
    /// takes no more memory than this.
    pub fn with_max_value(mut self, bytes: usize) -> Self {
        self.max_value = bytes;
        self
    }

    pub(crate) fn max_value(&self) -> usize {
        self.max_value
    }

    /// # Errors
    /// [`Misuse`](ErrorKind::Misuse) for what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        let misuse = |why| Err(Error::misuse("cache.compression", why));
        if !(0.0..=1.0).contains(&self.min_saving) {
            return misuse("the least saving is a share from 0 to 1");
        }
        if !(1..=22).contains(&self.level) {
            return misuse("a level of zstd is 1 to 22");
        }
        if self.max_value == 0 || u32::try_from(self.max_value).is_err() {
            return misuse("the longest value has 1 byte to 4 GiB");
        }
        Ok(())
    }

    /// What to store for a payload, and whether that is compressed.
    ///
    /// # Errors
    /// [`Misuse`](ErrorKind::Misuse) if it is longer than values may be.
    pub(crate) async fn pack(&self, raw: Bytes) -> Result<(Bytes, bool)> {
        if raw.len() > self.max_value {
            let (length, most) = (raw.len(), self.max_value);
            let why = format!("a value of {length} bytes is longer than {most}");
            return Err(Error::misuse("cache.pack", why));
        }
        if !self.zstd || raw.len() < self.threshold {
            return Ok((raw, false));
        }
        let (most, level, payload) = (self.most(raw.len()), self.level, raw.clone());
        let work = move || compressed(&payload, level, most);
        let smaller = if raw.len() > OFF_THREAD {
            let stopped = || Error::new(ErrorKind::Unavailable, "cache.pack");
            tasks::blocking(work).await.ok_or_else(stopped)?
        } else {
            work()
        };
        Ok(smaller.map_or((raw, false), |smaller| (smaller, true)))
    }

    /// How long a payload may be, compressed, to be worth it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share of a length below 2^32"
    )]
    fn most(&self, length: usize) -> usize {
        (length as f64 * (1.0 - self.min_saving)) as usize
    }
}

impl Default for Compression {
    /// None.
    fn default() -> Self {
        Self::none()
    }
}

thread_local! {
    // Making these takes longer than most values do.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// None if it would be longer than `most`.
fn compressed(raw: &[u8], level: i32, most: usize) -> Option<Bytes> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let mut compressor = match kept.take() {
            Some(compressor) => compressor,
            None => Compressor::new(level).ok()?,
        };
        compressor.set_compression_level(level).ok()?;
        let mut smaller = vec![0; most];
        // Too little room is the same as too little saved.
        let length = compressor.compress_to_buffer(raw, &mut smaller[..]).ok();
        *kept = Some(compressor);
        smaller.truncate(length?);
        // Most values are far shorter than the room that they were given.
        smaller.shrink_to_fit();
        Some(smaller.into())
    })
}

/// The payload of a value as it was before it was compressed; never longer than it says, which was
/// held against the cap when it was opened.
///
/// # Errors
/// Why it is to be taken for a miss.
pub(crate) async fn unpack(opened: &Opened) -> Result<Bytes, Unreadable> {
    let meta = &opened.meta;
    if !meta.compressed {
        return Ok(opened.payload.clone());
    }
    if meta.dictionary.is_some() {
        return Err(Unreadable::Dictionary);
    }
    let (payload, length) = (opened.payload.clone(), meta.raw_len as usize);
    if length > OFF_THREAD {
        let work = move || decompressed(&payload, length);
        tasks::blocking(work).await.unwrap_or(Err(Unreadable::Decompress))
    } else {
        decompressed(&payload, length)
    }
}

fn decompressed(payload: &[u8], length: usize) -> Result<Bytes, Unreadable> {
    let declared = zstd_safe::get_frame_content_size(payload);
    let declared = declared.map_err(|_| Unreadable::Decompress)?;
    if declared.is_some_and(|declared| declared != length as u64) {
        return Err(Unreadable::Decompress);
    }
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let mut decompressor = match kept.take() {
            Some(decompressor) => decompressor,
            None => Decompressor::new().map_err(|_| Unreadable::Decompress)?,
        };
        let raw = decompressor.decompress(payload, length);
        *kept = Some(decompressor);
        let raw = raw.map_err(|_| Unreadable::Decompress)?;
        if raw.len() == length { Ok(raw.into()) } else { Err(Unreadable::Decompress) }
    })
}
