//! Whose sessions are measured: three of each user, thirty of a crew, three hundred of a company.

use anyhow::{Result, ensure};
use coordinator_sessions::{NewSession, Sessions};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::ops::Range;

/// What each keeps, in bytes.
pub(crate) const PAYLOAD: usize = 300;
/// The field that it is kept in.
pub(crate) const FIELD: &str = "data";
/// How many are created at once.
const AT_ONCE: usize = 128;

pub(crate) fn payload() -> String {
    "coordinator ".chars().cycle().take(PAYLOAD).collect()
}

/// The session of this number.
pub(crate) fn person(number: usize) -> Result<NewSession> {
    let new = NewSession::user(&format!("user-{}", number / 3))
        .company(&format!("company-{}", number / 300))
        .crew(&format!("crew-{}", number / 30));
    Ok(new.set(FIELD, &payload())?)
}

/// Creates the sessions of these numbers.
pub(crate) async fn fill(sessions: &Sessions, numbers: Range<usize>) -> Result<()> {
    let count = numbers.len();
    let created: Vec<()> = stream::iter(numbers)
        .map(|number| async move {
            sessions.create(person(number)?).await?.session()?;
            anyhow::Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    ensure!(created.len() == count, "{} of {count} were created", created.len());
    Ok(())
}
