//! What `cargo metadata` says of the workspace, in the few fields the checks read.

use crate::process;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::PathBuf;

/// Every package of the resolved graph, and which of them are ours.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    workspace_members: Vec<String>,
    #[serde(default)]
    workspace_root: String,
    /// Where cargo builds to.
    #[serde(default)]
    pub(crate) target_directory: PathBuf,
}

/// One package: ours or another's.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    /// `None` for a path dependency.
    pub(crate) source: Option<String>,
    /// From the workspace's root, if it lies inside.
    pub(crate) manifest_path: String,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) features: std::collections::BTreeMap<String, Vec<String>>,
}

/// A line of a manifest's dependency tables.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) req: String,
    pub(crate) source: Option<String>,
    /// `None` = normal, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let json = process::output(&mut process::cargo(&["metadata", "--format-version", "1"]))?;
        let mut metadata: Self =
            serde_json::from_str(&json).context("cargo metadata is not what we know")?;
        let root = format!("{}/", metadata.workspace_root);
        for package in &mut metadata.packages {
            if let Some(path) = package.manifest_path.strip_prefix(&root) {
                package.manifest_path = path.to_owned();
            }
        }
        Ok(metadata)
    }

    /// The workspace's own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// Everybody else's packages.
    pub(crate) fn third_party(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| !self.workspace_members.contains(&package.id))
    }

    /// A workspace with these members, for tests.
    #[cfg(test)]
    pub(crate) fn planted(members: Vec<Package>, others: Vec<Package>) -> Self {
        let workspace_members = members.iter().map(|package| package.id.clone()).collect();
        let packages = members.into_iter().chain(others).collect();
        let workspace_root = String::new();
        Self { packages, workspace_members, workspace_root, target_directory: PathBuf::new() }
    }
}

impl Package {
    /// Whether it lives under `crates/`, where the layers hold.
    pub(crate) fn is_crate(&self) -> bool {
        self.manifest_path == format!("crates/{}/Cargo.toml", self.name)
    }
}
