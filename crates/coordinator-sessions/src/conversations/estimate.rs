//! How many tokens a text is thought to have. It is an estimate: only a model's own tokenizer
//! counts.

/// Says how many tokens a text has, as far as one can tell.
///
/// A closure will do. Give a tokenizer of the model's family for budgets that must be exact.
///
/// ```
/// use coordinator_sessions::conversations::Conversations;
///
/// let words = |text: &str| u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX);
/// let talks = Conversations::embedded().with_token_budget(500).with_estimator(words);
/// ```
pub trait Estimator: Send + Sync {
    /// The tokens of a text. A longer text should never have fewer than its beginning.
    fn tokens(&self, text: &str) -> u32;
}

impl<F: Fn(&str) -> u32 + Send + Sync> Estimator for F {
    fn tokens(&self, text: &str) -> u32 {
        self(text)
    }
}

/// The default: one token for each four bytes of UTF-8, rounded up.
///
/// For English prose that is what models' tokenizers come to, within a fifth; scripts of two and
/// three bytes a character count more for each, as they do there.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Bytes;

impl Estimator for Bytes {
    fn tokens(&self, text: &str) -> u32 {
        u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_text_never_has_fewer_tokens() {
        let text = "Grüß Gott, 你好, 🦀! ".repeat(20);
        let ends = text.char_indices().map(|(at, _)| at);
        let counts: Vec<_> = ends.map(|at| Bytes.tokens(&text[..at])).collect();
        assert!(counts.is_sorted() && counts[0] == 0 && counts[1] == 1, "{counts:?}");
    }
}
