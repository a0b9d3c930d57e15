//! Certificates and keys: read once, checked before the daemon starts. No system roots: who is trusted is configured.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::EtcdSetupError;

/// Longest PEM file that is read.
const PEM_MAX: u64 = 1 << 20;

/// The files of an encrypted connection; all `None` for `http://`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsFiles {
    /// Who may vouch for etcd.
    pub ca: Option<PathBuf>,
    /// This node's own certificate and its key, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    pub(super) fn load(&self) -> Result<Option<TlsConfig>, EtcdSetupError> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let identity = match &self.identity {
            Some((cert, key)) => Some(ClientCert::new_with_certs(&certificates(cert)?, private_key(key)?)),
            None => None,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::new_with_certs(&certificates(ca)?))
            .client_cert(identity)
            .build();
        Ok(Some(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EtcdSetupError> {
    let open = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(PEM_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    open().map_err(|error| EtcdSetupError::File { path: path.to_owned(), why: error.to_string() })
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, EtcdSetupError> {
    let wrong = |why: String| EtcdSetupError::File { path: path.to_owned(), why };
    let mut all = Vec::new();
    for item in parse_pem(&read(path)?) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(error.to_string()))? {
            all.push(certificate);
        }
    }
    if all.is_empty() { Err(wrong("it holds no certificate in PEM form".to_owned())) } else { Ok(all) }
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, EtcdSetupError> {
    let bytes = zeroize::Zeroizing::new(read(path)?);
    PrivateKey::from_pem(&bytes).map_err(|_| EtcdSetupError::File {
        path: path.to_owned(),
        why: "it holds no private key in PEM form".to_owned(),
    })
}
