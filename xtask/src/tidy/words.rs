//! The rule for prose: the repository speaks of the project, not of how or where it came about.

use super::mask::{find_word, line_at};
use super::{Finding, Source};

/// Words that speak of a writer's tools. They are put together here, or this file would be found.
const TOOLS: [&str; 9] = [
    concat!("cla", "ude"),
    concat!("anthr", "opic"),
    concat!("chat", "gpt"),
    concat!("open", "ai"),
    concat!("co", "pilot"),
    concat!("ll", "m"),
    concat!("ll", "ms"),
    concat!("a", "i assistant"),
    concat!("language", " model"),
];

/// Abbreviations that are words of their own only in capitals.
const CAPITALS: [&str; 1] = [concat!("A", "I")];

/// Paths of one machine. What lies beside the checkout may be named, if the data is optional.
const PATHS: [&str; 5] = [
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/main"),
    concat!("/wo", "rk/shared"),
    concat!("shared/", "design"),
    concat!("shared/", "hooks"),
];

/// Every mention of either.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let lower = source.text.to_ascii_lowercase();
    let mut findings = Vec::new();
    for word in TOOLS {
        let lines = find_word(&lower, word).map(|at| line_at(&lower, at));
        findings.extend(lines.map(|line| {
            source.at(line, "words", format!("`{word}`: the text speaks of the project alone"))
        }));
    }
    for word in CAPITALS {
        let lines = find_word(&source.text, word).map(|at| line_at(&source.text, at));
        findings.extend(lines.map(|line| {
            source.at(line, "words", format!("`{word}`: the text speaks of the project alone"))
        }));
    }
    for path in PATHS {
        let lines = source.text.match_indices(path).map(|(at, _)| line_at(&source.text, at));
        findings
            .extend(lines.map(|line| {
                source.at(line, "words", format!("`{path}` is a path of one machine"))
            }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Option<usize>> {
        check(&Source::planted("docs/a.md", text)).into_iter().map(|found| found.line).collect()
    }

    #[test]
    fn each_word_is_found_in_any_case() {
        for word in TOOLS {
            assert_eq!(lines(&format!("a\nby {word}.\n")), [Some(2)], "{word}");
            assert_eq!(
                lines(&word.to_uppercase()).len(),
                1 + usize::from(word.starts_with('a') && word.contains(' ')),
                "{word}"
            );
        }
        for word in CAPITALS.iter().chain(&PATHS) {
            assert_eq!(lines(&format!("a {word} b")), [Some(1)], "{word}");
        }
    }

    #[test]
    fn other_words_that_hold_them_are_not() {
        assert_eq!(lines("fulfilment, ollmer, MAIL, ai, ../shared/data/access.log"), []);
    }
}
