//! The two programs that read the compiler's profiles. Their version must be that of the
//! compiler's LLVM, or they cannot.

use super::said;
use crate::{process, setup};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where they are.
#[derive(Debug)]
pub(super) struct Tools {
    profdata: PathBuf,
    cov: PathBuf,
}

impl Tools {
    /// Those of the toolchain, else those of the system, else the package of Debian that brings
    /// them.
    pub(super) fn find() -> Result<Self> {
        let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let about = process::output(Command::new("rustc").arg("-vV"))?;
        let field = |name: &str| {
            let value = about.lines().find_map(|line| line.strip_prefix(name));
            value.map(str::trim).with_context(|| format!("rustc -vV says no {name}"))
        };
        let own = Path::new(sysroot.trim()).join("lib/rustlib").join(field("host:")?).join("bin");
        let tools = Self { profdata: own.join("llvm-profdata"), cov: own.join("llvm-cov") };
        if tools.profdata.is_file() && tools.cov.is_file() {
            return Ok(tools);
        }
        let version = field("LLVM version:")?;
        let major = version.split('.').next().unwrap_or(version);
        let names = [format!("llvm-profdata-{major}"), format!("llvm-cov-{major}")];
        let system = || {
            let [profdata, cov] = names.each_ref().map(|name| setup::find(name));
            Some(Self { profdata: profdata?, cov: cov? })
        };
        if let Some(tools) = system() {
            return Ok(tools);
        }
        let package = format!("llvm-{major}");
        let advice = format!(
            "coverage needs llvm-profdata and llvm-cov of LLVM {major}: rustup component add \
             llvm-tools, or on Debian apt-get install --no-install-recommends {package}"
        );
        if !setup::install_packages(&[&package]).with_context(|| advice.clone())? {
            bail!("{advice}");
        }
        system().context(advice)
    }

    /// One profile of those in a folder. Unreadable ones, of processes that were killed, are left
    /// out; it fails if none can be read.
    pub(super) fn merge(&self, profiles: &Path) -> Result<PathBuf> {
        let merged = profiles.join("all.profdata");
        let list = profiles.join("list");
        let mut files = Vec::new();
        for entry in fs::read_dir(profiles)? {
            files.push(entry?.path().display().to_string());
        }
        println!("{} processes left a profile", files.len());
        fs::write(&list, files.join("\n")).context("cannot write the list of profiles")?;
        said(&self.profdata, |command| {
            command.args(["merge", "--sparse", "--failure-mode=all", "--input-files"]);
            command.arg(&list).arg("--output").arg(&merged);
        })?;
        Ok(merged)
    }

    /// How often each line ran, in the format of lcov.
    pub(super) fn report(&self, merged: &Path, programs: &[String]) -> Result<String> {
        said(&self.cov, |command| {
            command.args(["export", "--format=lcov", "--instr-profile"]).arg(merged);
            for program in programs {
                command.arg("--object").arg(program);
            }
        })
    }
}
