//! An authority, what it issues, and how its clients speak TLS. Made here, good for this machine, believed by nobody else.

use super::{Server, write_secret};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::ring};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// An authority of this name.
pub fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).expect("no names are good names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key can be made");
    CertifiedIssuer::self_signed(params, key).expect("it signs itself")
}

/// An authority, and a certificate of it for this machine, in files: `root.pem`, `cert.pem`, `key.pem`.
pub struct Certificates {
    dir: TempDir,
    root: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    /// A new authority that has issued one.
    pub fn new() -> Certificates {
        let dir = tempfile::tempdir().expect("there is room for files");
        let certificates = Certificates { dir, root: authority("root of a test") };
        fs::write(certificates.file("root.pem"), certificates.root.pem()).expect("it is our folder");
        certificates.issue();
        certificates
    }

    /// Another certificate for the same names in the same files; returns it as it is shown.
    pub fn issue(&self) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key can be made");
        let names = vec!["localhost".into(), "127.0.0.1".into()];
        let params = CertificateParams::new(names).expect("these are names");
        let certificate = params.signed_by(&key, &self.root).expect("the authority signs");
        fs::write(self.file("cert.pem"), certificate.pem()).expect("it is our folder");
        write_secret(self.file("key.pem"), &key.serialize_pem());
        certificate.der().to_vec()
    }

    /// The path of a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as a flag takes it.
    pub fn path(&self, name: &str) -> String {
        self.file(name).to_str().expect("our folders have names of text").to_owned()
    }

    /// What has a server show the certificate.
    pub fn flags(&self) -> [String; 4] {
        ["--tls-cert".into(), self.path("cert.pem"), "--tls-key".into(), self.path("key.pem")]
    }

    /// A server that does, with these flags besides and a fresh database.
    pub fn server(&self, flags: &[&str]) -> Server {
        let own = self.flags();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        Server::start(&[&own[..], flags].concat())
    }

    /// How a client of this authority speaks; it takes sessions up again.
    pub fn config(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).expect("it is a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[version]).expect("the provider knows the version");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    }
}
