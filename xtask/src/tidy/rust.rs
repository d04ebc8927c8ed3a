//! The rules for Rust files: opening, size, line length, and what must not stand in them.
//! What clippy and rustfmt already refuse is left to them.

use super::mask::{self, Masked, closing, find_word, line_at};
use super::{Finding, Source};

const FILE_LINES: usize = 600;
const LIB_LINES: usize = 100;
const LINE_CHARS: usize = 100;

/// Everything wrong with one Rust file.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let masked = mask::rust(&source.text);
    let tests = TestLines::of_masked(source, &masked.code);
    let mut findings = Vec::new();
    findings.extend(opening(source));
    findings.extend(size(source, &tests));
    findings.extend(forbidden(source, &masked, &tests));
    findings.extend(attributes(source, &masked));
    findings
}

fn opening(source: &Source) -> Option<Finding> {
    (!source.text.starts_with("//! "))
        .then(|| source.at(1, "opening", "a file opens with `//!`: what it is, and what it is not"))
}

fn size(source: &Source, tests: &TestLines) -> Vec<Finding> {
    let mut findings = Vec::new();
    let count = source.text.lines().count();
    let lines = (1..=count).filter(|&line| !tests.contain(line)).count();
    if lines > FILE_LINES {
        let what =
            format!("{lines} lines without tests, {FILE_LINES} is the end: is it two things?");
        findings.push(source.at(1, "size", what));
    }
    if source.path.ends_with("src/lib.rs") {
        let is_doc = |line: &&str| line.trim_start().starts_with("//");
        let lines = source.text.lines().filter(|line| !is_doc(line)).count();
        if lines >= LIB_LINES {
            let what =
                format!("lib.rs has {lines} lines beside its docs, it stays under {LIB_LINES}");
            findings.push(source.at(1, "size", what));
        }
    }
    findings
}

/// Lines over 100 characters, in any kind of source. Links and a table's rows cannot be broken.
pub(crate) fn long_lines(source: &Source) -> Vec<Finding> {
    let too_long = |line: &str| {
        let row = line.trim_start_matches(['/', '!', ' ']).starts_with('|');
        line.chars().count() > LINE_CHARS && !line.contains("://") && !row
    };
    let lines = source.text.lines().enumerate().filter(|(_, line)| too_long(line));
    lines
        .map(|(index, line)| {
            let what = format!("{} characters, a line has {LINE_CHARS}", line.chars().count());
            source.at(index + 1, "line", what)
        })
        .collect()
}

fn forbidden(source: &Source, masked: &Masked, tests: &TestLines) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut each = |word: &str, rule: &'static str, what: &str| {
        for at in find_word(&masked.code, word) {
            findings.push(source.at(line_at(&masked.code, at), rule, what));
        }
    };
    for word in ["todo!(", "unimplemented!(", "dbg!("] {
        let what = format!("`{word}…)` has no place in the repository");
        each(word, "unfinished", &what);
    }
    each("#[ignore", "ignored", "a test that is off: mend it or remove it");
    for at in find_word(&masked.code, "sleep(Duration::from_secs") {
        let line = line_at(&masked.code, at);
        // A clock's own `.sleep(…)` may pass: on a manual clock nobody waits.
        if tests.contain(line) && !masked.code[..at].ends_with('.') {
            let what = "waiting is no synchronisation: eventually(deadline, condition)";
            findings.push(source.at(line, "sleep", what));
        }
    }
    for at in masked.code.match_indices("fn test_").map(|(at, _)| at) {
        let line = line_at(&masked.code, at);
        if tests.contain(line) {
            findings.push(source.at(
                line,
                "test name",
                "a test's name is a claim, without `test_`",
            ));
        }
    }
    // A benchmark compares with the bare client.
    if !["crates/coordinator-core/", "bench/"].iter().any(|at| source.path.starts_with(at)) {
        for at in find_word(&masked.code, "fred") {
            let line = line_at(&masked.code, at);
            findings.push(source.at(line, "layering", "only coordinator-core names fred"));
        }
    }
    findings
}

fn attributes(source: &Source, masked: &Masked) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in masked.code.match_indices('#').map(|(at, _)| at) {
        let open = at + if masked.code[at + 1..].starts_with('!') { 2 } else { 1 };
        if !masked.code[open..].starts_with('[') {
            continue;
        }
        let Some(end) = closing(&masked.code, open) else {
            continue;
        };
        let attribute = &masked.code[open..end];
        let line = line_at(&masked.code, at);
        if find_word(attribute, "allow(").next().is_some() {
            let what = "`#[expect(…, reason = …)]` instead: it says why, and falls when it is over";
            findings.push(source.at(line, "allow", what));
        }
        if find_word(attribute, "expect(").next().is_some()
            && find_word(attribute, "reason").next().is_none()
        {
            findings.push(source.at(line, "allow", "`#[expect(…)]` gives its reason"));
        }
    }
    findings
}

/// Which lines of a file are tests.
#[derive(Debug)]
pub(crate) struct TestLines {
    whole_file: bool,
    ranges: Vec<std::ops::RangeInclusive<usize>>,
}

impl TestLines {
    pub(crate) fn of(source: &Source) -> Self {
        Self::of_masked(source, &mask::rust(&source.text).code)
    }

    fn of_masked(source: &Source, code: &str) -> Self {
        let path = &source.path;
        let whole_file = path.ends_with("/tests.rs")
            || path.contains("/src/tests/")
            || (path.starts_with("crates/") && path.contains("/tests/"))
            || ["tests/it/", "tests/chaos/"].iter().any(|folder| path.starts_with(folder));
        let ranges = code.match_indices("#[cfg(").filter_map(|(at, _)| {
            let end = closing(code, at + 1)?;
            let condition = &code[at..end];
            let positive = find_word(condition, "test").next()? > 0 && !condition.contains("not(");
            let body = end + code[end..].find(['{', ';'])?;
            let last = if code[body..].starts_with('{') { closing(code, body)? } else { body };
            positive.then(|| line_at(code, at)..=line_at(code, last))
        });
        Self { whole_file, ranges: ranges.collect() }
    }

    pub(crate) fn contain(&self, line: usize) -> bool {
        self.whole_file || self.ranges.iter().any(|range| range.contains(&line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let source = Source::planted(path, text);
        check(&source).into_iter().chain(long_lines(&source)).map(|finding| finding.rule).collect()
    }

    const LIB: &str = "crates/coordinator-locks/src/locks.rs";

    #[test]
    fn a_clean_file_passes_although_its_words_and_strings_speak_of_what_is_forbidden() {
        let text = "//! Fine: todo!( and fred:: in words.\n\
                    /// `#[allow(x)]`, dbg!(\n\
                    #[expect(unused, reason = \"planted\")]\n\
                    fn alfred() { let a = \"unimplemented!( fred::x #[ignore]\"; }\n";
        assert_eq!(rules(LIB, text), [""; 0]);
    }

    #[test]
    fn a_file_without_an_opening_is_found() {
        assert_eq!(rules(LIB, "use std::fmt;\n"), ["opening"]);
        assert_eq!(rules(LIB, "\n//! Late.\n"), ["opening"]);
    }

    #[test]
    fn unfinished_code_is_found() {
        for planted in ["todo!()", "unimplemented!(\"x\")", "dbg!(1)"] {
            assert_eq!(rules(LIB, &format!("//! A.\nfn a() {{ {planted} }}\n")), ["unfinished"]);
        }
    }

    #[test]
    fn a_file_of_601_lines_is_found_unless_the_tests_make_it_so() {
        let body = |lines: usize| format!("//! A.\n{}", "fn a() {}\n".repeat(lines - 1));
        assert_eq!(rules(LIB, &body(600)), [""; 0]);
        assert_eq!(rules(LIB, &body(601)), ["size"]);
        assert_eq!(rules("crates/coordinator-locks/src/tests.rs", &body(601)), [""; 0]);
        let module = format!("{}#[cfg(test)]\nmod tests {{\n fn b() {{}}\n}}\n", body(600));
        assert_eq!(rules(LIB, &module), [""; 0]);
        let module = module.replace("cfg(test)", "cfg(not(test))");
        assert_eq!(rules(LIB, &module), ["size"]);
    }

    #[test]
    fn a_long_lib_rs_is_found_and_its_docs_do_not_count() {
        let lib = |docs: usize, code: usize| {
            format!("{}{}", "//! A.\n".repeat(docs), "mod a;\n".repeat(code))
        };
        assert_eq!(rules("crates/x/src/lib.rs", &lib(300, 99)), [""; 0]);
        assert_eq!(rules("crates/x/src/lib.rs", &lib(1, 100)), ["size"]);
    }

    #[test]
    fn a_long_line_is_found_and_a_link_is_not() {
        assert_eq!(rules(LIB, &format!("//! {}\n", "é".repeat(96))), [""; 0]);
        assert_eq!(rules(LIB, &format!("//! {}\n", "é".repeat(97))), ["line"]);
        assert_eq!(rules(LIB, &format!("//! https://{}\n", "a".repeat(97))), [""; 0]);
        assert_eq!(rules(LIB, &format!("//! | {}\n", "a".repeat(97))), [""; 0]);
    }

    #[test]
    fn tests_that_wait_or_are_off_or_are_named_test_are_found() {
        let module = |body: &str| format!("//! A.\n#[cfg(test)]\nmod tests {{\n{body}\n}}\n");
        assert_eq!(rules(LIB, &module("#[test]\n#[ignore = \"slow\"]\nfn a() {}")), ["ignored"]);
        assert_eq!(rules(LIB, &module("fn a() { sleep(Duration::from_secs(1)) }")), ["sleep"]);
        let manual = module("fn a() { clock.sleep(Duration::from_secs(1)) }");
        assert_eq!(rules(LIB, &manual), [""; 0]);
        assert_eq!(rules(LIB, &module("#[test]\nfn test_a() {}")), ["test name"]);
        let file =
            "//! A.\nasync fn test_a() { tokio::time::sleep(Duration::from_secs(1)).await }\n";
        assert_eq!(rules("tests/it/locks.rs", file), ["sleep", "test name"]);
        assert_eq!(rules(LIB, file), [""; 0], "code of the crate may wait");
    }

    #[test]
    fn allow_and_a_reasonless_expect_are_found() {
        assert_eq!(rules(LIB, "//! A.\n#[allow(unused)]\nfn a() {}\n"), ["allow"]);
        assert_eq!(rules(LIB, "//! A.\n#![allow(unused)]\n"), ["allow"]);
        assert_eq!(rules(LIB, "//! A.\n#[cfg_attr(test, allow(unused))]\nfn a() {}\n"), ["allow"]);
        assert_eq!(rules(LIB, "//! A.\n#[expect(unused)]\nfn a() {}\n"), ["allow"]);
    }

    #[test]
    fn fred_outside_core_is_found() {
        for planted in ["use fred::prelude::*;", "fn a(b: fred::Error) {}", "use fred as client;"] {
            let text = format!("//! A.\n{planted}\n");
            assert_eq!(rules(LIB, &text), ["layering"]);
            assert_eq!(rules("tests/harness/src/lib.rs", &text), ["layering"]);
            assert_eq!(rules("crates/coordinator-core/src/connection.rs", &text), [""; 0]);
            assert_eq!(rules("bench/src/peers.rs", &text), [""; 0]);
        }
    }
}
