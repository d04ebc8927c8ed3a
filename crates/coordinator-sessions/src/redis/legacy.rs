//! Reads what another program keeps on a server: the one place that looks for keys instead of
//! knowing them, for a migration alone (`docs/decisions/0009-scan-for-a-migration.md`).

use coordinator_core::{
    Error, Result,
    redis::{Arg, Connection, Script},
};

static LEGACY: Script = Script::new("sessions.legacy", include_str!("legacy.lua"));

/// The script of a migration: nobody needs it warmed up.
#[doc(hidden)]
pub static SCRIPTS: &[&Script] = &[&LEGACY];

/// About how many keys of the server are looked at in one step.
const LOOK_AT: i64 = 250;

/// What a key of another program holds.
pub(crate) struct Found {
    pub(crate) key: String,
    /// `None`: it does not expire.
    pub(crate) left_ms: Option<i64>,
    /// `None`: it is no text.
    pub(crate) value: Option<Vec<u8>>,
}

/// The keys behind a prefix, part by part.
pub(crate) struct Keys<'a> {
    connection: &'a Connection,
    pattern: String,
    cursor: Option<String>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(connection: &'a Connection, prefix: &str) -> Result<Self> {
        if !connection.is_one_keyspace() {
            let why = "keys are looked for on one server, not in a cluster";
            return Err(Error::misuse("sessions.migrate_legacy", why));
        }
        let pattern = format!("{}*", escaped(prefix));
        Ok(Self { connection, pattern, cursor: Some("0".to_owned()) })
    }

    /// The next part, which may be empty; `None`: that was all. After an error it is asked again.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Found>>> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let args = vec![cursor.as_str().into(), self.pattern.as_str().into(), Arg::from(LOOK_AT)];
        let answer = self.connection.run(&LEGACY, Vec::new(), args).await?;
        let mut fields = answer.fields(LEGACY.name());
        let count = fields.unsigned()?;
        let cursor = fields.text()?;
        let found = (0..count).map(|_| {
            let mut one = fields.array()?;
            let (left, is_text) = (one.int()?, one.unsigned()? == 1);
            Ok(Found {
                // A key that is no text is told of as it looks: it is nobody's session.
                key: String::from_utf8_lossy(&one.bytes()?).into_owned(),
                left_ms: (left != -1).then_some(left),
                value: is_text.then_some(one.bytes()?.to_vec()),
            })
        });
        let found = found.collect::<Result<_>>()?;
        self.cursor = (cursor != "0").then_some(cursor);
        Ok(Some(found))
    }
}

/// As a pattern that matches this text alone.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if "*?[]^-\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}
