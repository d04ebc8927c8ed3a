//! A document that was read, and its former values.

use coordinator_core::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// A document: its value and what is known of it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Document<T> {
    /// The value.
    pub value: T,
    /// Which version it is: above all that were before it, and never given out again, not even
    /// after a delete. It is the time of the write in µs, or one more than the last version where
    /// that would not be above it; so it fits into a double, and its distances mean nothing.
    pub version: u64,
    /// When it was written, as time since the Unix epoch on the backend's clock.
    pub updated_at: Duration,
    /// For how long it lives on; `None` if somebody told the server by hand to keep it.
    pub expires_in: Option<Duration>,
    /// How many former values are kept of it.
    pub history: u64,
}

impl<T: Serialize> Document<T> {
    /// The value as one JSON object with `_metadata` in it, such as
    /// `{…, "_metadata": {"updated_at": "2030-01-01T00:00:00.000007Z", "version": …}}`.
    ///
    /// A field of that name in the value gives way; a value that is no object stands under `value`.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) if the value is nothing that JSON has, such
    /// as a map whose keys are no texts.
    pub fn to_json(&self) -> Result<Value> {
        let value = serde_json::to_value(&self.value).map_err(|error| {
            Error::misuse("documents.to_json", format!("a value is not for JSON: {error}"))
        })?;
        let mut object = match value {
            Value::Object(object) => object,
            other => Map::from_iter([("value".to_owned(), other)]),
        };
        let metadata = serde_json::json!({
            "updated_at": rfc3339(self.updated_at),
            "version": self.version,
        });
        object.insert("_metadata".to_owned(), metadata);
        Ok(Value::Object(object))
    }
}

/// A value that a document had before.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Former<T> {
    /// The value.
    pub value: T,
    /// Which version it was.
    pub version: u64,
    /// When it was written, as time since the Unix epoch on the backend's clock.
    pub updated_at: Duration,
}

/// A time since 1970 as `2030-01-01T00:00:00.000000Z`.
fn rfc3339(since: Duration) -> String {
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: years begin
    // in March, eras of 400 years in the year 0.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document<T>(value: T) -> Document<T> {
        let updated_at = Duration::from_micros(1_893_456_000_000_001);
        Document { value, version: 7, updated_at, expires_in: None, history: 0 }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (1_893_456_000, "2030-01-01T00:00:00.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn metadata_is_part_of_the_object() {
        let value = serde_json::json!({ "step": 1, "_metadata": "mine" });
        let metadata =
            serde_json::json!({ "updated_at": "2030-01-01T00:00:00.000001Z", "version": 7 });
        let json = document(value).to_json().expect("JSON");
        assert_eq!(json, serde_json::json!({ "step": 1, "_metadata": metadata }));
        let json = document(vec![1, 2]).to_json().expect("JSON");
        assert_eq!(json, serde_json::json!({ "value": [1, 2], "_metadata": metadata }));
        let keys = std::collections::BTreeMap::from([(vec![1], 2)]);
        let error = document(keys).to_json().expect_err("its keys are no texts");
        assert_eq!(error.kind(), coordinator_core::ErrorKind::Misuse);
    }
}
