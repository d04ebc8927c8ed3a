//! What workers ask of the parent and what it answers; over a socket, one JSON document per line.

use super::{
    herald::Place,
    ledger::{Stamp, Write},
    profiles::Reads,
    requests::Request,
    visits::Cookie,
};
use serde::{Deserialize, Serialize};

/// What a worker asks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// The first words of a worker in another process.
    Hello { id: u32, pid: u32 },
    /// A request to handle; answered when there is one, or when all is over.
    Next,
    /// The lock of a request was held by others, or a limit was full, for too long: somebody
    /// else, later.
    PutBack { number: u64 },
    /// A request was let in by the limits, after `from_us` by the parent's clock and so many
    /// denials.
    Admitted { number: u64, client: String, path: String, from_us: u64, denials: u64 },
    /// The value of a client's account, to write a new one for a request for this path, and what
    /// the client comes with. `waited_us` is how long the lock took.
    Read { client: String, path: String, stamp: Stamp, waited_us: u64 },
    /// A new value for a client's account, what the client is to come with from now on if that is
    /// something new, where the event of the request stands, and what the worker read of the cache.
    Write { write: Write, path: String, cookie: Option<Cookie>, event: Place, reads: Reads },
    /// The worker cannot go on, and nobody else could: the run has failed.
    GiveUp { exit: u8, message: String },
}

/// What the parent answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Handle this; handed out at `at_us` by the parent's clock.
    Handle { request: Request, at_us: u64 },
    /// There is nothing more to do.
    Over,
    /// The value of the account, and what the client comes with.
    Account { value: u64, cookie: Option<Cookie> },
    /// It is written.
    Accepted,
    /// That request was handled before; nothing was written.
    AlreadyDone,
    /// A newer holder of the lock was here; nothing was written.
    Stale,
    /// Heard, and there is nothing to say.
    Noted,
}

/// A question or an answer with the number that brings them together.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Frame<T> {
    pub(crate) id: u64,
    pub(crate) body: T,
}

/// One line.
pub(crate) fn encode<T: Serialize>(id: u64, body: &T) -> String {
    let mut line = serde_json::to_string(&Frame { id, body })
        .expect("numbers and strings always make a document");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_line_whatever_is_in_it() {
        let (client, path) = ("a\nb\"\u{0}".to_owned(), "/\u{2028}\r\n".to_owned());
        let handle = || Answer::Handle {
            request: Request { number: 1, client: client.clone(), path: path.clone() },
            at_us: 5,
        };
        let line = encode(7, &handle());
        assert_eq!(line.matches('\n').count(), 1);
        let frame: Frame<Answer> = serde_json::from_str(&line).unwrap();
        assert_eq!((frame.id, frame.body), (7, handle()));
    }
}
