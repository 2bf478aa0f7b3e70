//! The files of `--tls-cert` and `--tls-key`: refused where they are of no use, and renewed.

use super::Session;
use crate::support::certificates::Certificates;
use crate::support::{Server, ending, wait_until};
use rcgen::KeyPair;
use rustix::process::Signal;
use rustls::version::TLS13;
use std::fs;

#[test]
fn the_certificate_is_renewed_without_a_lost_connection() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "2"]);
    let config = certificates.config(&TLS13);
    let mut old = Session::open(&config, server.address);
    assert_eq!(old.request("GET", "/kv/k", b"").0, 404);
    let first = old.certificate();
    // The chain of one and the key of another.
    let good_key = fs::read(certificates.file("key.pem")).unwrap();
    fs::write(certificates.file("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    server.signal(Signal::HUP);
    wait_until("the bad pair is logged", || {
        server.stderr().contains("the certificate from before stays in force")
    });
    let fresh = || {
        let mut session = Session::open(&certificates.config(&TLS13), server.address);
        assert_eq!(session.request("GET", "/kv/k", b"").0, 404);
        session.certificate()
    };
    assert!(fresh() == first);
    fs::write(certificates.file("key.pem"), good_key).unwrap();
    certificates.issue();
    server.signal(Signal::HUP);
    wait_until("the new certificate is shown", || fresh() != first);
    assert_eq!(old.request("GET", "/kv/k", b"").0, 404, "an old connection goes on");
}

#[test]
fn files_that_cannot_be_used_are_refused() {
    let certificates = Certificates::new();
    let [_, cert, _, key] = certificates.flags();
    let other = certificates.file("other.pem");
    fs::write(&other, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let other = other.to_str().unwrap();
    for (flags, code, parts) in [
        (&["--tls-cert", &cert][..], 2, &["--tls-key"][..]),
        (&["--tls-key", &key], 2, &["--tls-cert"]),
        (&["--tls-cert", "/none", "--tls-key", &key], 1, &["--tls-cert /none", "No such file"]),
        (&["--tls-cert", &cert, "--tls-key", "/none"], 1, &["--tls-key /none", "No such file"]),
        (&["--tls-cert", &key, "--tls-key", &key], 1, &["--tls-cert", "no certificate"]),
        (&["--tls-cert", &cert, "--tls-key", &cert], 1, &["--tls-key", "no "]),
        (&["--tls-cert", &cert, "--tls-key", other], 1, &["--tls-cert", "--tls-key"]),
    ] {
        let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "off"]).args(flags);
        ending::refused(&mut command, code, parts);
    }
}
