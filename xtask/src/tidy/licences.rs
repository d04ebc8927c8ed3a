//! What cargo-deny would say of licences, from the metadata alone, for machines without it: each
//! package's expression against the allow list in deny.toml. It reads no licence text, and knows
//! nothing of advisories.

use super::Finding;
use crate::metadata::Metadata;

/// The packages whose licence the allow list does not permit.
pub(crate) fn check(metadata: &Metadata, deny_toml: &str) -> Vec<Finding> {
    let allowed = allow_list(deny_toml);
    let refused = metadata.third_party().filter(|package| {
        let expression = package.license.as_deref().unwrap_or_default();
        !permits(expression, &allowed)
    });
    refused
        .map(|package| Finding {
            path: package.manifest_path.clone(),
            line: None,
            rule: "licence",
            what: format!(
                "{} {} is under `{}`, which deny.toml does not allow",
                package.name,
                package.version,
                package.license.as_deref().unwrap_or("a licence it does not name")
            ),
        })
        .collect()
}

/// The strings of `allow = […]` in the section `[licenses]`.
fn allow_list(deny_toml: &str) -> Vec<&str> {
    let section = deny_toml.split_once("[licenses]").map_or("", |(_, section)| section);
    let list = section.split_once("allow = [").map_or("", |(_, list)| list);
    let list = list.split(']').next().unwrap_or_default();
    list.split('"').skip(1).step_by(2).collect()
}

/// Whether an SPDX expression can be satisfied with the allowed licences alone. The slash of old
/// (`MIT/Apache-2.0`) means OR. An exception (`WITH …`) only adds permissions.
fn permits(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let permitted = any(&mut words, allowed);
    permitted == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &[&str]) -> Option<bool> {
    let mut permitted = all(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        permitted |= all(words, allowed)?;
    }
    Some(permitted)
}

fn all(words: &mut Words<'_>, allowed: &[&str]) -> Option<bool> {
    let mut permitted = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        permitted &= one(words, allowed)?;
    }
    Some(permitted)
}

fn one(words: &mut Words<'_>, allowed: &[&str]) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let permitted = any(words, allowed)?;
        return (words.next()? == ")").then_some(permitted);
    }
    if words.next_if_eq(&"WITH").is_some() {
        words.next()?;
    }
    Some(allowed.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Package;

    #[test]
    fn expressions_are_read_as_spdx_does() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
        for yes in [
            "MIT",
            "GPL-3.0 OR MIT",
            "GPL-3.0/MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(permits(yes, &allowed), "{yes}");
        }
        for no in
            ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR", "MIT MIT", "GPL-3.0 OR (MIT AND ISC)"]
        {
            assert!(!permits(no, &allowed), "{no}");
        }
    }

    #[test]
    fn a_package_with_another_licence_or_none_is_found() {
        let deny =
            "[bans]\nallow = [\"GPL-3.0\"]\n[licenses]\nallow = [\n \"MIT\",\n \"ISC\",\n]\n";
        let package = |license: Option<&str>| Package {
            license: license.map(ToOwned::to_owned),
            ..Package::default()
        };
        let found =
            |license| check(&Metadata::planted(Vec::new(), vec![package(license)]), deny).len();
        assert_eq!([found(Some("MIT AND ISC")), found(Some("GPL-3.0")), found(None)], [0, 1, 1]);
    }
}
