//! Patterns of keys: `*` for any text, `?` for one character. Servers never see them.

use coordinator_core::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Char(char),
}

/// A pattern, read.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Vec<Part>);

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self> {
        let misuse = |why: &str| Err(Error::misuse("cache.pattern", why));
        if text.is_empty() {
            return misuse("an empty pattern matches nothing");
        }
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '*' if parts.last() == Some(&Part::Any) => {}
                '*' => parts.push(Part::Any),
                '?' => parts.push(Part::One),
                '\\' => match chars.next() {
                    Some(char) => parts.push(Part::Char(char)),
                    None => return misuse("a pattern ends with a backslash"),
                },
                char => parts.push(Part::Char(char)),
            }
        }
        Ok(Self(parts))
    }

    /// In time of pattern times text, whatever they hold: it goes back to the last `*` alone.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut part) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        while at < text.len() {
            match self.0.get(part) {
                Some(Part::Any) => {
                    back = Some((part + 1, at));
                    part += 1;
                }
                Some(Part::One) => (at, part) = (at + 1, part + 1),
                Some(Part::Char(char)) if *char == text[at] => (at, part) = (at + 1, part + 1),
                _ => match &mut back {
                    Some((after, from)) => {
                        *from += 1;
                        (at, part) = (*from, *after);
                    }
                    None => return false,
                },
            }
        }
        self.0[part..].iter().all(|part| *part == Part::Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_keys() {
        for (pattern, text, matches) in [
            ("crew:42:*", "crew:42:plan", true),
            ("crew:42:*", "crew:42:", true),
            ("crew:42:*", "crew:421:plan", false),
            ("crew:4?:*", "crew:42:plan", true),
            ("*", "", true),
            ("*a*b*", "xaybz", true),
            ("*a*b*", "xbya", false),
            ("a*", "ba", false),
            ("?", "é", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[ab]{x}", "[ab]{x}", true),
            ("[ab]", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(text), matches, "{pattern} {text}");
        }
        assert!(Pattern::new("").is_err() && Pattern::new("a\\").is_err());
        // Nothing that takes for ever.
        let text = "a".repeat(500);
        assert!(!Pattern::new(&("*a".repeat(100) + "b")).unwrap().matches(&text));
    }
}
