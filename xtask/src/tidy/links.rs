//! The rule for links: what a page links to by path is there, and so is the heading it names.
//! Links that leave the repository are not followed: that needs the network.

use super::{Finding, Source};
use std::collections::{HashMap, HashSet};

/// Every link to a file, folder or heading that is not there.
pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let pages: Vec<_> = sources.iter().filter(|source| source.is("md")).collect();
    let anchors: HashMap<_, _> =
        pages.iter().map(|page| (page.path.as_str(), anchors(&page.text))).collect();
    let mut findings = Vec::new();
    for page in pages {
        for (line, target) in links(&page.text) {
            if let Some(what) = refusal(page, target, sources, &anchors) {
                findings.push(page.at(line, "link", what));
            }
        }
    }
    findings
}

fn refusal(
    page: &Source,
    target: &str,
    sources: &[Source],
    anchors: &HashMap<&str, HashSet<String>>,
) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = resolve(&page.path, path);
    let folder = format!("{path}/");
    if !sources.iter().any(|source| source.path == path || source.path.starts_with(&folder)) {
        return Some(format!("`{target}` leads nowhere: there is no {path}"));
    }
    if page.path.starts_with("docs/") && !path.starts_with("docs/") {
        return Some(format!("`{target}` leaves docs/, and the book holds nothing else"));
    }
    let headings = anchors.get(path.as_str());
    if !anchor.is_empty() && !headings.is_some_and(|headings| headings.contains(anchor)) {
        return Some(format!("`{target}`: {path} has no heading #{anchor}"));
    }
    None
}

/// The path from the root of what a page names from where it stands; what lies outside the
/// repository stays as it was named, and is found nowhere.
fn resolve(page: &str, target: &str) -> String {
    if target.is_empty() {
        return page.to_owned();
    }
    let mut at: Vec<_> = page.split('/').collect();
    at.pop();
    for step in target.trim_end_matches('/').split('/') {
        match step {
            "." => {}
            ".." if at.is_empty() => return target.to_owned(),
            ".." => drop(at.pop()),
            step => at.push(step),
        }
    }
    at.join("/")
}

/// The lines of a page outside code blocks, numbered from 1.
pub(crate) fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence).then_some((index + 1, line))
    })
}

/// The targets of `[text](target)` and where they stand; in backticks it is no link.
pub(crate) fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(start) = line[at..].find("](").map(|start| at + start + 2) {
            let quoted = line[..start].matches('`').count() % 2 == 1;
            let Some(end) = line[start..].find(')').map(|end| start + end) else { break };
            if !quoted {
                found.push((number, &line[start..end]));
            }
            at = end;
        }
        found
    })
}

/// The anchors of a page's headings, as both GitHub and mdBook make them.
fn anchors(text: &str) -> HashSet<String> {
    let mut met: HashMap<String, usize> = HashMap::new();
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchors = headings.map(|(_, line)| {
        let anchor: String = line
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            })
            .collect();
        let before = met.entry(anchor.clone()).or_default();
        *before += 1;
        if *before == 1 { anchor } else { format!("{anchor}-{}", *before - 1) }
    });
    anchors.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a page at docs/guide/a.md that holds this text.
    fn found(text: &str) -> Vec<Option<usize>> {
        let sources = [
            Source::planted("docs/guide/a.md", &format!("# A title\n{text}\n")),
            Source::planted("docs/b.md", "# B, `c` and d\n## Twice\n## Twice\n```sh\n# no\n```\n"),
            Source::planted("README.md", "# R\n"),
        ];
        check(&sources).iter().map(|found| found.line).collect()
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        for good in [
            "[b](../b.md), [d](../b.md#b-c-and-d), [second](../b.md#twice-1)",
            "[here](#a-title), [folder](../guide/), [net](https://example.org/x#y)",
            "`[code](nowhere.md)`",
            "```\n[code](nowhere.md)\n```",
        ] {
            assert_eq!(found(good), [], "{good}");
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        for bad in [
            "[x](b.md)",
            "[x](../b.md#no)",
            "[x](#twice)",
            "[x](../../../up.md)",
            "[x](../../README.md)",
            "[`x`](nowhere.md)",
        ] {
            assert_eq!(found(bad), [Some(2)], "{bad}");
        }
        assert_eq!(found("[b](../b.md) [x](x.md) [y](y.md)").len(), 2);
    }
}
