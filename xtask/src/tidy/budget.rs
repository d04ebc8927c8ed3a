//! How many crates a user of locks alone, without Redis, takes in. Bigger sets have no budget yet.

use crate::{metadata::Metadata, process};
use anyhow::Result;
use std::collections::BTreeSet;

/// The crate whose tree is counted, without its default features.
pub(crate) const CRATE: &str = "coordinator-locks";
const LIMIT: usize = 36;

/// Prints the figure, and says whether it is within the budget.
pub(crate) fn check(metadata: &Metadata) -> Result<bool> {
    let mut tree = process::cargo(&["tree", "--edges", "normal", "--prefix", "none"]);
    tree.args(["--package", CRATE, "--no-default-features"]);
    let ours: Vec<_> = metadata.members().map(|package| package.name.as_str()).collect();
    let tree = process::output(&mut tree)?;
    let crates = third_party(&tree, &ours);
    println!("{CRATE} --no-default-features: {} of {LIMIT} third-party crates", crates.len());
    let refused = refusals(&crates);
    for refusal in &refused {
        println!("{refusal}");
    }
    Ok(refused.is_empty())
}

/// The different crates of a `cargo tree --prefix none`, as `name version`.
fn third_party<'a>(tree: &'a str, ours: &[&str]) -> BTreeSet<(&'a str, &'a str)> {
    let lines = tree.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?))
    });
    lines.filter(|(name, _)| !ours.contains(name)).collect()
}

fn refusals(crates: &BTreeSet<(&str, &str)>) -> Vec<String> {
    let mut refused = Vec::new();
    if crates.len() > LIMIT {
        let names: Vec<_> = crates.iter().map(|(name, _)| *name).collect();
        refused.push(format!("over the budget of {LIMIT}: {}", names.join(", ")));
    }
    if crates.iter().any(|(name, _)| *name == "url") {
        refused.push("`url` brings 20 crates for what a page of parsing does".to_owned());
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_counted_once_and_ours_not_at_all() {
        let tree =
            "coordinator-locks v0.1.0 (/repo)\na v1.0.0\na v1.0.0 (*)\na v2.0.0\n\nb v1.0.0\n";
        assert_eq!(third_party(tree, &["coordinator-locks"]).len(), 3);
    }

    #[test]
    fn the_37th_crate_and_url_are_refused() {
        let names: Vec<_> = (0..37).map(|n| format!("c{n}")).collect();
        let crates = |n: usize| names[..n].iter().map(|name| (name.as_str(), "v1")).collect();
        assert!(refusals(&crates(36)).is_empty());
        assert_eq!(refusals(&crates(37)).len(), 1);
        assert_eq!(refusals(&[("url", "v2")].into()).len(), 1);
    }
}
