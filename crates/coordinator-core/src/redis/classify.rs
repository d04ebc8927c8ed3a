//! Turns the client's errors into ours, by the server's own words: the client calls most of them
//! unknown.

use crate::{Error, ErrorKind};
use fred::error::{Error as FredError, ErrorKind as FredKind};

/// What the server says, and what the caller may do about it. Scanned in order.
///
/// The client closes the link at LOADING, MASTERDOWN and CLUSTERDOWN and answers every command in
/// flight with them: such a command was perhaps applied, whatever its own answer would have been.
const SAYINGS: &[(&str, ErrorKind)] = &[
    ("NOAUTH", ErrorKind::Rejected),
    ("WRONGPASS", ErrorKind::Rejected),
    ("NOPERM", ErrorKind::Rejected),
    ("OOM ", ErrorKind::Rejected),
    ("READONLY", ErrorKind::Rejected),
    ("MISCONF", ErrorKind::Rejected),
    ("NOREPLICAS", ErrorKind::Rejected),
    ("DENIED", ErrorKind::Rejected),
    ("LOADING", ErrorKind::Indeterminate),
    ("BUSY ", ErrorKind::Unavailable),
    ("MASTERDOWN", ErrorKind::Indeterminate),
    ("CLUSTERDOWN", ErrorKind::Indeterminate),
    ("TRYAGAIN", ErrorKind::Unavailable),
    ("WRONGTYPE", ErrorKind::Corrupt),
    ("CROSSSLOT", ErrorKind::Misuse),
    ("ERR max number of clients", ErrorKind::Unavailable),
    ("ERR ", ErrorKind::Rejected),
];

/// What the client itself says of a command that no server executed.
const NEVER_SENT: &[&str] = &[
    "Client is not initialized",
    "Failed to send command to router",
    "Failed to route command",
    "Missing server for hash slot",
    REDIRECTED,
];

/// What the client says of a command that a node redirected, once it has learned where to: no node
/// executed it.
const REDIRECTED: &str = "Too many redirections";

/// The server's own words: 6.2 wraps what a script met as
/// `ERR Error running script (call to f_…): @user_script:4: @user_script: 4: -OOM command not
/// allowed …`, or `…: @user_script:4: WRONGTYPE …`. What has no code of its own stays wrapped.
fn words(details: &str) -> &str {
    if details.starts_with("ERR Error running script")
        && let Some((_, inner)) = details.rsplit_once("@user_script:")
        && let Some((_, inner)) = inner.split_once(": ")
        && let inner = inner.strip_prefix('-').unwrap_or(inner)
        && let Some((code, _)) = inner.split_once(' ')
        && code.bytes().all(|byte| byte.is_ascii_uppercase())
    {
        return inner;
    }
    details
}

/// What to show of an error: the client prints errors of the system as Rust prints their fields.
fn readable(details: &str) -> String {
    for field in ["message: \"", "error: \""] {
        if let Some((_, rest)) = details.split_once(field)
            && let Some((text, _)) = rest.split_once('"')
        {
            return text.to_owned();
        }
    }
    details.to_owned()
}

/// Whether nobody answered, as against an answer that is an error.
pub(super) fn is_silence(error: &FredError) -> bool {
    matches!(error.kind(), FredKind::Timeout | FredKind::IO | FredKind::Canceled)
}

/// Whether these are words of a server that is ready to serve, refusals included.
pub(super) fn is_answer(error: &FredError) -> bool {
    let code = error.details().split(' ').next().unwrap_or_default();
    let not_ready = matches!(code, "LOADING" | "MASTERDOWN" | "CLUSTERDOWN");
    // The client's own texts are sentences.
    code.len() > 1 && code.bytes().all(|byte| byte.is_ascii_uppercase()) && !not_ready
}

pub(super) fn is_noscript(error: &FredError) -> bool {
    error.details().starts_with("NOSCRIPT")
}

/// Whether another node of the cluster is to be asked. After a MOVED the client knows which; an ASK
/// holds until the slot has moved.
pub(super) fn is_redirected(error: &FredError) -> bool {
    error.details().starts_with(REDIRECTED)
}

/// Whether this node was demoted, which the client sees only outside scripts.
pub(super) fn is_readonly(error: &FredError) -> bool {
    words(error.details()).starts_with("READONLY")
}

/// An error of a command that was handed to the client.
pub(super) fn command(step: &'static str, error: &FredError) -> Error {
    Error::new(kind(error), step).with_source(readable(error.details()))
}

/// An error of a read: whether it was executed does not matter, so not knowing is no worry.
pub(super) fn read(step: &'static str, error: &FredError) -> Error {
    let kind = match kind(error) {
        ErrorKind::Indeterminate => ErrorKind::Unavailable,
        other => other,
    };
    Error::new(kind, step).with_source(readable(error.details()))
}

/// Whether a node said, while it was connected to, that the cluster is down.
pub(super) fn is_cluster_down(error: &FredError) -> bool {
    error.details().contains("missing cluster state") || error.details().contains("CLUSTERDOWN")
}

/// An error of connecting.
pub(super) fn connect(error: &FredError) -> Error {
    let details = error.details();
    let tls = ["ertificate", "TLS", "tls", "handshake"].iter().any(|word| details.contains(word));
    let kind = match error.kind() {
        FredKind::Tls => ErrorKind::Rejected,
        FredKind::Config | FredKind::Url => ErrorKind::Misuse,
        _ if tls => ErrorKind::Rejected,
        _ => match kind(error) {
            ErrorKind::Rejected => ErrorKind::Rejected,
            _ => ErrorKind::Unavailable,
        },
    };
    Error::new(kind, "connect").with_source(readable(details))
}

fn kind(error: &FredError) -> ErrorKind {
    let details = words(error.details());
    if let Some((_, kind)) = SAYINGS.iter().find(|(saying, _)| details.starts_with(saying)) {
        return *kind;
    }
    // Up to 7.0 a command that access rules deny inside a script has no code of its own.
    if details.contains("The user executing the script can't") {
        return ErrorKind::Rejected;
    }
    if NEVER_SENT.iter().any(|saying| details.contains(saying)) {
        return ErrorKind::Unavailable;
    }
    match error.kind() {
        FredKind::Auth => ErrorKind::Rejected,
        FredKind::Config | FredKind::Url | FredKind::InvalidArgument => ErrorKind::Misuse,
        _ => ErrorKind::Indeterminate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: FredKind, details: &str) -> ErrorKind {
        command("test", &FredError::new(kind, details.to_owned())).kind()
    }

    #[test]
    fn the_servers_words_decide() {
        use ErrorKind::{Corrupt, Indeterminate, Misuse, Rejected, Unavailable};
        for (details, expected) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", Rejected),
            (
                "ERR Error running script (call to f_5a): @user_script:4: @user_script: 4: -OOM \
                 command not allowed when used memory > 'maxmemory'.",
                Rejected,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: 5a, on \
                 @user_script:4.",
                Rejected,
            ),
            ("READONLY You can't write against a read only replica.", Rejected),
            ("ERR The user executing the script can't run this command or subcommand", Rejected),
            ("NOPERM this user has no permissions to access one of the keys", Rejected),
            ("MISCONF Redis is configured to save RDB snapshots", Rejected),
            ("LOADING Redis is loading the dataset in memory", Indeterminate),
            ("BUSY Redis is busy running a script.", Unavailable),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable),
            (
                "ERR Error running script (call to f_5a): @user_script:1: TRYAGAIN Multiple keys",
                Unavailable,
            ),
            ("ERR max number of clients reached", Unavailable),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Corrupt),
            (
                "ERR Error running script (call to f_5a): @user_script:22: WRONGTYPE Operation \
                 against a key holding the wrong kind of value",
                Corrupt,
            ),
            (
                "ERR Error running script (call to f_5a): @user_script:3: user_script:3: attempt \
                 to index a nil value",
                Rejected,
            ),
            ("CROSSSLOT Keys in request don't hash to the same slot", Misuse),
        ] {
            assert_eq!(of(FredKind::Unknown, details), expected, "{details}");
        }
    }

    #[test]
    fn errors_of_the_system_read_as_text() {
        let details = r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#;
        assert_eq!(readable(details), "Connection refused");
        let details = r#"Custom { kind: Uncategorized, error: "failed to lookup address" }"#;
        assert_eq!(readable(details), "failed to lookup address");
        assert_eq!(readable("OOM command not allowed"), "OOM command not allowed");
    }

    #[test]
    fn silence_is_indeterminate_and_never_sent_is_unavailable() {
        assert_eq!(of(FredKind::Timeout, "Request timed out."), ErrorKind::Indeterminate);
        assert_eq!(of(FredKind::IO, "Connection closed."), ErrorKind::Indeterminate);
        assert_eq!(of(FredKind::Unknown, "Client is not initialized."), ErrorKind::Unavailable);
        let error = FredError::new(FredKind::Timeout, "Request timed out.");
        assert_eq!(read("test", &error).kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_refusal_is_an_answer_and_silence_is_none() {
        for (details, answer) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", true),
            ("NOPERM this user has no permissions to run the 'get' command", true),
            ("READONLY You can't write against a read only replica.", true),
            ("ERR wrong number of arguments", true),
            ("BUSY Redis is busy running a script.", true),
            ("WRONGTYPE Operation against a key", true),
            ("LOADING Redis is loading the dataset in memory", false),
            ("CLUSTERDOWN The cluster is down", false),
            ("Connection closed.", false),
            ("Request timed out.", false),
            ("Client is not initialized.", false),
            ("", false),
        ] {
            let error = FredError::new(FredKind::Unknown, details);
            assert_eq!(is_answer(&error), answer, "{details}");
        }
    }

    #[test]
    fn readonly_is_seen_inside_scripts_too() {
        for details in [
            "READONLY You can't write against a read only replica. script: 5a",
            "ERR Error running script (call to f_5a): @user_script:4: @user_script: 4: -READONLY \
             You can't write",
        ] {
            assert!(is_readonly(&FredError::new(FredKind::Unknown, details)), "{details}");
        }
    }
}
