//! TLS to PostgreSQL, with libpq's words for it: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`. Knows no SQL. Used by
//! [`super::postgres`], which asks for a connector at every connection: certificates may be renewed meanwhile.

use crate::secrets;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// How much of TLS a session needs: libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// None.
    Disable,
    /// TLS if the server has it. Keeps out who only listens.
    #[default]
    Prefer,
    /// TLS or nothing. Keeps out who only listens; who stands in between is found only where there is a root certificate.
    Require,
    /// And the server's certificate must come from a root that is trusted.
    VerifyCa,
    /// And it must be for the name that was asked for.
    VerifyFull,
}

impl Mode {
    /// The mode with this name.
    pub fn named(name: &str) -> Option<Mode> {
        Some(match name {
            "disable" => Mode::Disable,
            "prefer" => Mode::Prefer,
            "require" => Mode::Require,
            "verify-ca" => Mode::VerifyCa,
            "verify-full" => Mode::VerifyFull,
            _ => return None,
        })
    }
}

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The certificates in this file.
    File(PathBuf),
    /// Those that the system trusts.
    System,
}

/// Everything that a connection string says of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How much of it.
    pub mode: Mode,
    /// Whom to trust; `None`: anyone, and then nothing may be verified.
    pub roots: Option<Roots>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Options {
    /// A connector; `None` where no TLS is to be spoken. An error is one line with the file and what is wrong with it.
    pub fn connector(&self) -> Result<Option<MakeRustlsConnect>, String> {
        if self.mode == Mode::Disable {
            return Ok(None);
        }
        let provider = Arc::new(ring::default_provider());
        let roots = match &self.roots {
            None => RootCertStore::empty(),
            Some(roots) => roots.load()?,
        };
        let verifier = Verifier {
            // As libpq does: with a root certificate at hand, `require` looks at it.
            trust: match (self.mode, &self.roots) {
                (Mode::VerifyFull, _) => Trust::Name,
                (Mode::VerifyCa, _) | (Mode::Require, Some(_)) => Trust::Root,
                (Mode::Disable | Mode::Prefer | Mode::Require, _) => Trust::Anyone,
            },
            roots,
            pinned: self.roots.as_ref().map_or_else(Vec::new, Roots::pinned),
            provider: Arc::clone(&provider),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS cannot be spoken: {e}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let (chain, key_der) = identity(cert, key)?;
                builder
                    .with_client_auth_cert(chain, key_der)
                    .map_err(|e| format!("sslcert {} and sslkey {}: {e}", cert.display(), key.display()))?
            }
        };
        // What PostgreSQL 17 asks for where TLS is spoken from the first byte; older servers do not look at it.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Some(MakeRustlsConnect::new(config)))
    }
}

fn identity(
    cert: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = certificates(cert).map_err(|e| format!("sslcert {}: {e}", cert.display()))?;
    let bad_key = |e: String| format!("sslkey {}: {e}", key.display());
    if secrets::is_exposed(key).map_err(|e| bad_key(e.to_string()))? {
        return Err(bad_key("other users can read it; chmod 600 it".into()));
    }
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| bad_key(e.to_string()))?;
    Ok((chain, key_der))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())?;
    let chain: Vec<_> = read.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    if chain.is_empty() { Err("there is no certificate in it".into()) } else { Ok(chain) }
}

/// Whom a client of ours trusts: who stands in this file, in PEM, or where none is given whom the system trusts.
pub fn trusted(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    match file {
        Some(path) => certificates(path),
        None => Ok(rustls_native_certs::load_native_certs().certs),
    }
}

impl Roots {
    fn load(&self) -> Result<RootCertStore, String> {
        let mut store = RootCertStore::empty();
        match self {
            Roots::File(path) => {
                let bad = |e: String| format!("sslrootcert {}: {e}", path.display());
                for certificate in certificates(path).map_err(bad)? {
                    store.add(certificate).map_err(|e| bad(e.to_string()))?;
                }
            }
            Roots::System => {
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if store.is_empty() {
                    return Err(
                        "sslrootcert=system: the system trusts no certificate; install ca-certificates"
                            .into(),
                    );
                }
            }
        }
        Ok(store)
    }

    /// Certificates that may be a server's own: self-signed ones are given as root, and are no authority.
    fn pinned(&self) -> Vec<CertificateDer<'static>> {
        match self {
            Roots::File(path) => certificates(path).unwrap_or_default(),
            Roots::System => Vec::new(),
        }
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Anyone,
    Root,
    Name,
}

/// Looks at a server's certificate as libpq does.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    roots: RootCertStore,
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.trust == Trust::Anyone {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !self.pinned.iter().any(|pinned| pinned == end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if self.trust == Trust::Name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // That the server has the key of its certificate is checked in every mode.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
