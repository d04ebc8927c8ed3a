//! The rules for the book: no page is forgotten, no example is left uncompiled, and nothing that
//! a user can meet is left unexplained. Whether the explanation is right is for review.

use super::mask::{self, closing};
use super::{Finding, Source, links};

const SUMMARY: &str = "docs/SUMMARY.md";
const TROUBLE: &str = "docs/guide/troubleshooting.md";
const CONFIGURATION: &str = "docs/guide/configuration.md";

/// Everything that the book leaves out.
pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = pages(sources);
    findings.extend(examples(sources));
    findings.extend(unexplained(sources));
    findings
}

fn text<'a>(sources: &'a [Source], path: &str) -> &'a str {
    sources.iter().find(|source| source.path == path).map_or("", |source| &source.text)
}

/// Pages under `docs/` that the summary does not list.
fn pages(sources: &[Source]) -> Vec<Finding> {
    let listed: Vec<_> =
        links::links(text(sources, SUMMARY)).map(|(_, path)| format!("docs/{path}")).collect();
    let pages = sources.iter().filter(|page| page.path.starts_with("docs/") && page.is("md"));
    let missing = pages.filter(|page| page.path != SUMMARY && !listed.contains(&page.path));
    missing.map(|page| page.at(1, "book", format!("{SUMMARY} does not list this page"))).collect()
}

/// Pages with Rust in them that no crate takes in as a doc test.
fn examples(sources: &[Source]) -> Vec<Finding> {
    let tested = |page: &Source| {
        let include = format!("/{}\")]", page.path);
        sources.iter().any(|source| {
            let mut lines = source.text.lines().filter(|line| line.contains("include_str!"));
            source.is("rs") && lines.any(|line| line.trim_end().ends_with(&include))
        })
    };
    let pages = sources.iter().filter(|page| page.is("md") && page.text.contains("```rust"));
    let untested = pages.filter(|page| !tested(page));
    let what = "its Rust is never compiled: include it in the lib.rs of the crate it uses, \
                coordinator's where that is enough";
    untested.map(|page| page.at(1, "book", what)).collect()
}

/// Kinds of errors, reasons of a loss, findings and variables that have no place in the book.
fn unexplained(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("crates/")) {
        let masked = mask::rust(&source.text);
        let tests = masked.code.find("#[cfg(test)]").unwrap_or(source.text.len());
        let mut words: Vec<(&str, &str, String)> = Vec::new();
        for name in ["ErrorKind", "LossReason"] {
            let variants = variants(&masked.code, name);
            words.extend(variants.map(|variant| (TROUBLE, variant, format!("\n### {variant}\n"))));
        }
        let uncommented = &masked.uncommented[..tests.min(masked.uncommented.len())];
        words.extend(codes(uncommented).map(|code| (TROUBLE, code, format!("\n### {code}\n"))));
        if source.path.ends_with("src/config/env.rs") {
            let variables = texts(uncommented).filter(|text| is_variable(text));
            words.extend(variables.map(|name| (CONFIGURATION, name, format!("`{name}`"))));
        }
        for (page, word, place) in words {
            if !text(sources, page).contains(&place) {
                findings.push(source.at(1, "book", format!("{page} does not explain `{word}`")));
            }
        }
    }
    findings
}

/// The variants of a public enum, of those that hold nothing.
fn variants<'a>(code: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let opening = format!("pub enum {name} {{");
    let body = code.find(&opening).map_or("", |at| {
        let open = at + opening.len() - 1;
        closing(code, open).map_or("", |close| &code[open + 1..close])
    });
    let lines = body.lines().filter_map(|line| line.trim().strip_suffix(','));
    lines.filter(|word| word.chars().all(char::is_alphanumeric) && !word.is_empty())
}

/// The codes of findings: the text that stands behind a severity.
fn codes(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("Severity::").filter_map(|(at, _)| {
        let (_, rest) = code[at..].split_once(',')?;
        rest.trim_start().strip_prefix('"')?.split_once('"').map(|(code, _)| code)
    })
}

fn texts(code: &str) -> impl Iterator<Item = &str> {
    code.split('"').skip(1).step_by(2)
}

fn is_variable(text: &str) -> bool {
    text.contains('_') && text.chars().all(|c| c == '_' || c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Vec<(&'static str, &'static str)> {
        vec![
            (SUMMARY, "- [T](guide/troubleshooting.md)\n- [C](guide/configuration.md)\n"),
            (TROUBLE, "# T\n### Lost\n### eviction-policy\n```rust\nfn a() {}\n```\n"),
            (CONFIGURATION, "# C\n`REDIS_URL`\n"),
            (
                "crates/coordinator/src/lib.rs",
                "#[doc = include_str!(\"../../../docs/guide/troubleshooting.md\")]\nstruct T;\n",
            ),
            (
                "crates/coordinator-core/src/error.rs",
                "pub enum ErrorKind {\n    /// Gone.\n    Lost,\n}\n",
            ),
            (
                "crates/coordinator-core/src/health.rs",
                "fn a() { add(Severity::Warning,\n    \"eviction-policy\", x) }\n\
                 #[cfg(test)]\nfn b() { add(Severity::Note, \"planted\", x) }\n",
            ),
            (
                "crates/coordinator-core/src/config/env.rs",
                "fn a() { set(lookup, \"REDIS_URL\") }\n",
            ),
        ]
    }

    /// What is found when `new` stands in the place of `old` in the file at `path`.
    fn found(path: &str, old: &str, new: &str) -> usize {
        let planted = whole().into_iter().map(|(at, text)| {
            let text = if at == path { text.replace(old, new) } else { text.to_owned() };
            Source::planted(at, &text)
        });
        check(&planted.collect::<Vec<_>>()).len()
    }

    #[test]
    fn a_whole_book_passes() {
        assert_eq!(found("", "", ""), 0);
    }

    #[test]
    fn what_is_left_out_is_found() {
        assert_eq!(found(SUMMARY, "- [C]", "- C"), 1, "a page");
        assert_eq!(found("crates/coordinator/src/lib.rs", "include_str", "skip"), 1, "examples");
        assert_eq!(found(TROUBLE, "### Lost", "### Found"), 1, "a kind of error");
        assert_eq!(found(TROUBLE, "### eviction", "### other"), 1, "a finding");
        assert_eq!(found(CONFIGURATION, "REDIS_URL", "URL"), 1, "a variable");
    }
}
