//! Clients that we have not made: curl and OpenSSL, where they are installed.

use crate::support::certificates::Certificates;
use crate::support::{ending, left_out};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn curl_speaks_with_it() {
    if !is_there("curl") {
        return;
    }
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    let url = format!("https://localhost:{}/kv/k", server.address.port());
    let root = certificates.file("root.pem");
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let curl = |arguments: &[&str]| {
            let max = version.trim_start_matches("--tlsv");
            let output = Command::new("curl")
                .args([
                    "-q",
                    "-sS",
                    "--noproxy",
                    "*",
                    "--max-time",
                    "30",
                    version,
                    "--tls-max",
                    max,
                    "--cacert",
                ])
                .arg(&root)
                .args(arguments)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(curl(&["-X", "PUT", "--data-binary", version, &url]), version);
        assert_eq!(curl(&[&url, &url]), version.repeat(2));
    }
}

#[test]
fn openssl_speaks_with_it_and_takes_sessions_up_again() {
    if !is_there("openssl") {
        return;
    }
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    let address = server.address.to_string();
    let (root, saved) = (certificates.file("root.pem"), certificates.file("session"));
    for version in ["-tls1_2", "-tls1_3"] {
        let s_client = |how: &str| {
            let mut command = Command::new("openssl");
            command.args(["s_client", "-connect", &address, version, "-verify_return_error", "-ign_eof"]);
            command.args(["-alpn", "http/1.1", "-CAfile"]).arg(&root).arg(how).arg(&saved);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let request = b"GET /kv/none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
            child.stdin.take().unwrap().write_all(request).unwrap();
            let output = ending::of(child);
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        };
        let first = s_client("-sess_out");
        for part in ["New, TLSv1.", "Verify return code: 0 (ok)", "HTTP/1.1 404", "ALPN protocol: http/1.1"] {
            assert!(first.contains(part), "{version}: {part:?} is not in\n{first}");
        }
        let again = s_client("-sess_in");
        assert!(again.contains("Reused, TLSv1.") && again.contains("HTTP/1.1 404"), "{version}:\n{again}");
    }
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file());
    if !found {
        left_out(&format!("TLS with {program}"), "it is not installed");
    }
    found
}
