//! Who may import whom: `cli, web → coordinator → parts → coordinator-core → fred`, read from the
//! manifests. What the text names is the Rust rules' business.

use super::Finding;
use crate::metadata::{Dependency, Metadata, Package};

/// The height of a crate under `crates/`: a crate imports only lower ones. A part is whatever is
/// neither above nor below the parts, so that a new part needs no line here.
fn layer(name: &str) -> u8 {
    match name {
        "coordinator-core" => 0,
        "coordinator" => 2,
        "coordinator-web" => 3,
        "coordinator-cli" => 4,
        _ => 1,
    }
}

/// Everything wrong with the members' dependencies, and with where packages come from.
pub(crate) fn check(metadata: &Metadata) -> Vec<Finding> {
    let members: Vec<_> = metadata.members().collect();
    let mut findings = Vec::new();
    for package in &members {
        for dependency in &package.dependencies {
            let known = members.iter().find(|member| member.name == dependency.name);
            if let Some(what) = refusal(package, dependency, known.copied()) {
                findings.push(finding(package, "layering", what));
            }
            if dependency.req == "*" && dependency.source.is_some() {
                let what = format!("`{}` is taken at any version", dependency.name);
                findings.push(finding(package, "wildcard", what));
            }
        }
    }
    let from_git = |source: &Option<String>| source.as_ref().is_some_and(|s| s.starts_with("git+"));
    for package in metadata.packages.iter().filter(|package| from_git(&package.source)) {
        let what =
            format!("{} {} comes from git, not from a registry", package.name, package.version);
        findings.push(finding(package, "source", what));
    }
    findings
}

fn refusal(package: &Package, dependency: &Dependency, known: Option<&Package>) -> Option<String> {
    let (from, to) = (package.name.as_str(), dependency.name.as_str());
    let normal = dependency.kind.as_deref() != Some("dev");
    if to == "fred" && from != "coordinator-core" {
        return Some(format!("only coordinator-core depends on fred, and {from} does"));
    }
    if from == "coordinator-checkers" && normal {
        return Some(format!("{from} is pure: std alone, without {to}"));
    }
    let known = known?;
    if ["coordinator-harness", "xtask"].contains(&from) {
        return Some(format!("{from} depends on none of ours, and it does on {to}"));
    }
    if package.is_crate() && known.is_crate() && layer(to) >= layer(from) {
        return Some(format!("{from} must not depend on {to}: a crate imports only lower layers"));
    }
    if package.is_crate() && !known.is_crate() && normal {
        return Some(format!("{to} is for tests: {from} takes it in [dev-dependencies] alone"));
    }
    None
}

fn finding(package: &Package, rule: &'static str, what: String) -> Finding {
    Finding { path: package.manifest_path.clone(), line: None, rule, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(path: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let name = path.rsplit('/').next().unwrap();
        let on = |(name, kind): &(&str, Option<&str>)| Dependency {
            name: (*name).to_owned(),
            kind: kind.map(ToOwned::to_owned),
            req: "^1".to_owned(),
            source: None,
        };
        Package {
            id: path.to_owned(),
            name: name.to_owned(),
            manifest_path: format!("{path}/Cargo.toml"),
            dependencies: dependencies.iter().map(on).collect(),
            ..Package::default()
        }
    }

    /// The findings in the workspace as it should be, with `changed` in place of its namesake.
    fn rules(changed: Package) -> Vec<&'static str> {
        let mut members = vec![
            package("crates/coordinator-core", &[("fred", None), ("tokio", None)]),
            package(
                "crates/coordinator-locks",
                &[("coordinator-core", None), ("coordinator-harness", Some("dev"))],
            ),
            package("crates/coordinator-cache", &[("coordinator-core", None)]),
            package(
                "crates/coordinator",
                &[("coordinator-core", None), ("coordinator-locks", None)],
            ),
            package("crates/coordinator-web", &[("coordinator", None)]),
            package("crates/coordinator-cli", &[("coordinator", None), ("coordinator-web", None)]),
            package("tests/coordinator-tests", &[("coordinator", None), ("coordinator-cli", None)]),
            package("tests/coordinator-harness", &[("tokio", None)]),
            package("tests/coordinator-checkers", &[]),
            package("xtask", &[("clap", None)]),
        ];
        members.retain(|member| member.name != changed.name);
        members.push(changed);
        check(&Metadata::planted(members, Vec::new())).iter().map(|found| found.rule).collect()
    }

    #[test]
    fn the_layers_as_drawn_pass() {
        assert_eq!(rules(package("xtask", &[])), [""; 0]);
    }

    #[test]
    fn each_upward_or_sideward_import_is_found() {
        for (from, to) in [
            ("crates/coordinator-core", "coordinator-locks"),
            ("crates/coordinator-locks", "coordinator-cache"),
            ("crates/coordinator-locks", "coordinator"),
            ("crates/coordinator", "coordinator-cli"),
            ("crates/coordinator-web", "coordinator-cli"),
            ("tests/coordinator-harness", "coordinator-core"),
            ("xtask", "coordinator-core"),
        ] {
            for kind in [None, Some("dev"), Some("build")] {
                assert_eq!(rules(package(from, &[(to, kind)])), ["layering"], "{from} → {to}");
            }
        }
    }

    #[test]
    fn fred_anywhere_but_in_core_is_found() {
        for from in
            ["crates/coordinator-locks", "crates/coordinator-cli", "tests/coordinator-tests"]
        {
            assert_eq!(rules(package(from, &[("fred", Some("dev"))])), ["layering"], "{from}");
        }
    }

    #[test]
    fn shipped_code_on_the_harness_and_impure_checkers_are_found() {
        let locks = package("crates/coordinator-locks", &[("coordinator-harness", None)]);
        assert_eq!(rules(locks), ["layering"]);
        let checkers = package("tests/coordinator-checkers", &[("serde", None)]);
        assert_eq!(rules(checkers), ["layering"]);
    }

    #[test]
    fn git_sources_and_wildcards_are_found() {
        let mut wild = package("xtask", &[("clap", None)]);
        wild.dependencies[0].req = "*".to_owned();
        wild.dependencies[0].source = Some("registry+https://example.org".to_owned());
        assert_eq!(rules(wild), ["wildcard"]);
        let mut stray = package("elsewhere/stray", &[]);
        stray.source = Some("git+https://example.org/stray".to_owned());
        let found = check(&Metadata::planted(Vec::new(), vec![stray]));
        assert_eq!(found.iter().map(|finding| finding.rule).collect::<Vec<_>>(), ["source"]);
    }
}
