//! Rules as people write them, and the limits they come to.

use super::LimitsArgs;
use crate::{cli::duration, failure::Failure};
use clap::ValueEnum;
use coordinator::{key::Name, ratelimit::Quota};
use std::time::Duration;

/// How a limit is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Algorithm {
    /// In every window, at every alignment, at most the limit
    #[default]
    Sliding,
    /// The limit per window on average, and up to the limit at once
    Gcra,
    /// A counter that begins anew at every multiple of the window
    Fixed,
}

/// `[SUBJECT=]LIMIT/WINDOW`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Whose it is, if it says so.
    pub(super) subject: Option<String>,
    limit: u64,
    window: Duration,
}

impl Rule {
    pub(super) fn quota(&self, algorithm: Algorithm) -> Quota {
        let Self { limit, window, .. } = *self;
        match algorithm {
            Algorithm::Sliding => Quota::sliding_window(limit, window),
            Algorithm::Gcra => Quota::gcra(limit, window, limit),
            Algorithm::Fixed => Quota::fixed_window(limit, window),
        }
    }
}

/// Reads a rule. A subject may have anything in it, so the last `=` ends it.
pub(super) fn parse(text: &str) -> Result<Rule, String> {
    let (subject, rule) = match text.rsplit_once('=') {
        Some((subject, rule)) => (Some(subject.to_owned()), rule),
        None => (None, text),
    };
    let (limit, window) =
        rule.split_once('/').ok_or("a rule is LIMIT/WINDOW; write 100/60s or company=500/1h")?;
    let plain = !limit.is_empty() && limit.bytes().all(|byte| byte.is_ascii_digit());
    let limit = limit.parse().ok().filter(|_| plain);
    let limit = limit.ok_or("the limit is no whole number; write 100/60s")?;
    Ok(Rule { subject, limit, window: duration(window)? })
}

/// The limits that a verb is about, each with its subject.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<(String, Quota)>);

impl Asked {
    /// # Errors
    /// What can be found wrong without a server.
    pub(super) fn read(args: &LimitsArgs) -> Result<Self, Failure> {
        Name::new(&args.subject)?;
        if args.rules.len() > 1 && args.all_of.is_none() {
            return Err(Failure::usage(
                "several rules are limits of one tenant: name it with --all-of (see --help)",
            ));
        }
        if args.rules.iter().all(|rule| rule.subject.is_some()) {
            return Err(Failure::usage("no rule is the subject's own (see --help)"));
        }
        let asked = args.rules.iter().map(|rule| {
            let subject = rule.subject.as_ref().unwrap_or(&args.subject);
            Name::new(subject)?;
            let quota = rule.quota(args.algorithm);
            quota.validate()?;
            Ok((subject.clone(), quota))
        });
        Ok(Self(asked.collect::<Result<_, Failure>>()?))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Quota)> {
        self.0.iter().map(|(subject, quota)| (subject.as_str(), quota))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_what_people_write() {
        let minute = Duration::from_mins(1);
        let rule = |subject: Option<&str>, limit, window| {
            Ok(Rule { subject: subject.map(ToOwned::to_owned), limit, window })
        };
        assert_eq!(parse("100/60s"), rule(None, 100, minute));
        assert_eq!(parse("1/1h 30m"), rule(None, 1, Duration::from_mins(90)));
        assert_eq!(parse("0/1m"), rule(None, 0, minute));
        assert_eq!(parse("company=5/1m"), rule(Some("company"), 5, minute));
        assert_eq!(parse("/v1?a=b=5/1m"), rule(Some("/v1?a=b"), 5, minute));
        assert_eq!(parse("=5/1m"), rule(Some(""), 5, minute));
        for bad in ["", "100", "/60s", "x/60s", "100/", "100/60", "-1/60s", "+1/60s", "1.5/1s"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse("18446744073709551616/1s").is_err());
    }
}
