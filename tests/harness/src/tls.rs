//! Certificates for tests of TLS: the good ones, and each kind of bad one.
//!
//! It makes files; it speaks no TLS.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// A certificate and its private key, both PEM.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CertFiles {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key (PKCS #8).
    pub key: PathBuf,
}

/// One authority, what it has signed, and an authority that nobody should trust.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TlsFiles {
    /// The authority behind all certificates here but `stranger_client`.
    pub ca: PathBuf,
    /// A server certificate for `localhost` and `127.0.0.1`.
    pub server: CertFiles,
    /// A client certificate.
    pub client: CertFiles,
    /// An authority that signed none of the above.
    pub other_ca: PathBuf,
    /// A client certificate from `other_ca`.
    pub stranger_client: CertFiles,
    /// A server certificate that was good until 2001.
    pub expired: CertFiles,
    /// A server certificate for `elsewhere.invalid` alone.
    pub wrong_name: CertFiles,
}

impl TlsFiles {
    /// Writes all files into `folder`, which must exist and outlive their use.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn generate(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let (ca, ca_path) = authority(folder, "ca", "harness authority")?;
        let (other, other_ca) = authority(folder, "other_ca", "unrelated authority")?;
        let here = || leaf(&["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        let client = || leaf(&["client"], ExtendedKeyUsagePurpose::ClientAuth);
        let mut expired = here()?;
        expired.not_before = date_time_ymd(2000, 1, 1);
        expired.not_after = date_time_ymd(2001, 1, 1);
        let wrong = leaf(&["elsewhere.invalid"], ExtendedKeyUsagePurpose::ServerAuth)?;
        Ok(Self {
            ca: ca_path,
            server: sign(folder, "server", &here()?, &ca)?,
            client: sign(folder, "client", &client()?, &ca)?,
            other_ca,
            stranger_client: sign(folder, "stranger_client", &client()?, &other)?,
            expired: sign(folder, "expired", &expired, &ca)?,
            wrong_name: sign(folder, "wrong_name", &wrong, &ca)?,
        })
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(folder: &Path, file: &str, name: &str) -> Result<(Authority, PathBuf)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let path = folder.join(format!("{file}.crt"));
    write(&path, &authority.pem())?;
    Ok((authority, path))
}

fn leaf(names: &[&str], usage: ExtendedKeyUsagePurpose) -> Result<CertificateParams> {
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("leaf"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn sign(
    folder: &Path,
    file: &str,
    params: &CertificateParams,
    by: &Authority,
) -> Result<CertFiles> {
    let pair = KeyPair::generate()?;
    let signed = params.signed_by(&pair, by)?;
    let files = CertFiles {
        cert: folder.join(format!("{file}.crt")),
        key: folder.join(format!("{file}.key")),
    };
    write(&files.cert, &signed.pem())?;
    write(&files.key, &pair.serialize_pem())?;
    Ok(files)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
