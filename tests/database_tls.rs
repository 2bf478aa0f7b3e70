//! TLS to PostgreSQL, against a real one with certificates made here: every `sslmode`, right and wrong roots and names,
//! certificates as credentials; and where the password is not to be seen.

use crate::support::certificates::authority;
use crate::support::database::server_version;
use crate::support::postgresql::Postgresql;
use crate::support::{Server, ending, write_secret};
use rcgen::{CertificateParams, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A PostgreSQL that speaks TLS with a certificate for `localhost`, and files for clients.
struct World {
    postgresql: Postgresql,
    files: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let mut postgresql = Postgresql::start_new();
        let files = tempfile::tempdir().unwrap();
        let (root, other) = (authority("root"), authority("other"));
        let server_key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let server = server.signed_by(&server_key, &root).unwrap();
        postgresql.add_file("server.crt", &server.pem());
        postgresql.add_file("server.key", &server_key.serialize_pem());
        postgresql.add_file("root.crt", &root.pem());
        postgresql.add_file(
            "pg_hba.conf",
            "hostssl all tls all trust\nhostssl all guarded all scram-sha-256\n\
             hostssl all certified all cert\nhost all hotrow all trust\n",
        );
        let client_key = KeyPair::generate().unwrap();
        let mut client = CertificateParams::new(vec![]).unwrap();
        client.distinguished_name = rcgen::DistinguishedName::new();
        client.distinguished_name.push(rcgen::DnType::CommonName, "certified");
        let client = client.signed_by(&client_key, &root).unwrap();
        for (name, text) in [
            ("root.crt", root.pem()),
            ("other.crt", other.pem()),
            ("server.crt", server.pem()),
            ("client.crt", client.pem()),
            ("client.key", client_key.serialize_pem()),
            ("exposed.key", client_key.serialize_pem()),
        ] {
            fs::write(files.path().join(name), text).unwrap();
        }
        chmod(&files.path().join("client.key"), 0o600);
        chmod(&files.path().join("exposed.key"), 0o644);
        // Not what version 13 does by itself.
        let passwords = "password_encryption='scram-sha-256'";
        postgresql.configure(&["ssl=on", "ssl_ca_file='root.crt'", passwords]);
        postgresql.restart_immediately();
        let roles = "CREATE ROLE tls SUPERUSER LOGIN; CREATE ROLE certified SUPERUSER LOGIN; \
                     CREATE ROLE guarded SUPERUSER LOGIN PASSWORD 'not-to-be-seen'";
        postgresql.connect().batch_execute(roles).unwrap();
        World { postgresql, files }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A connection string; `{NAME}` stands for a file.
    fn url(&self, rest: &str) -> String {
        let rest = rest.replace('{', &format!("{}/", self.files.path().display())).replace('}', "");
        format!("port={} dbname=postgres {rest}", self.postgresql.port)
    }

    /// A server starts on this, serves, and all its sessions are encrypted.
    fn accepted(&self, rest: &str) {
        let server = start(&self.url(rest), &[]);
        let mut client = server.connect();
        assert!([200, 201].contains(&client.put("k", rest).status), "{rest}");
        assert_eq!(client.get("k").text(), rest);
        let sql = "SELECT count(*), count(*) FILTER (WHERE ssl AND version = 'TLSv1.3') FROM pg_stat_ssl \
                   JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'hotrow/%'";
        let row = self.postgresql.connect().query_one(sql, &[]).unwrap();
        let (all, encrypted): (i64, i64) = (row.get(0), row.get(1));
        assert!(all > 0 && all == encrypted, "{rest}: {encrypted} of {all} sessions are encrypted");
    }

    /// A server does not start on this, and says why.
    fn refused(&self, rest: &str, parts: &[&str]) {
        let line = refusal(&self.url(rest));
        for part in parts {
            assert!(line.contains(part), "{rest}: {part:?} is not in {line:?}");
        }
    }
}

fn start(url: &str, variables: &[(&str, &str)]) -> Server {
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["--database-url", url, "--event-loops", "1"]).envs(variables.iter().copied());
    Server::spawn(command)
}

/// The line with which a server refuses to start.
fn refusal(url: &str) -> String {
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "off", "--database-url", url]);
    let (code, line) = ending::refusal(&mut command);
    // What is wrong with the flag by itself is told before anything else.
    let expected = if line.starts_with("hotrow: --database-url: ") { 2 } else { 1 };
    assert_eq!(code, Some(expected), "{line}");
    line
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn every_mode_does_what_libpq_does() {
    let world = World::new();
    world.accepted("host=127.0.0.1 user=tls");
    world.accepted("host=127.0.0.1 user=tls sslmode=require");
    let plain = if server_version() < 140_000 { "SSL off" } else { "no encryption" };
    world.refused("host=127.0.0.1 user=tls sslmode=disable", &[plain]);
    // The certificate is for localhost, and not for 127.0.0.1.
    world.accepted("host=127.0.0.1 user=tls sslmode=verify-ca sslrootcert={root.crt}");
    world.accepted("host=localhost user=tls sslmode=verify-full sslrootcert={root.crt}");
    world.accepted("host=localhost user=tls sslmode=verify-full sslrootcert={server.crt}");
    let no_name = ["certificate not valid for name", "sslmode"];
    world.refused("host=127.0.0.1 user=tls sslmode=verify-full sslrootcert={root.crt}", &no_name);
    world.refused("host=127.0.0.1 user=tls sslmode=verify-full sslrootcert={server.crt}", &no_name);
    for mode in ["require", "verify-ca", "verify-full"] {
        let rest = format!("host=localhost user=tls sslmode={mode} sslrootcert={{other.crt}}");
        world.refused(&rest, &["UnknownIssuer", "sslrootcert"]);
    }
    world.refused("host=localhost user=tls sslmode=verify-full", &["need sslrootcert"]);
    world.refused(
        "host=localhost user=tls sslmode=verify-ca sslrootcert={none.crt}",
        &["sslrootcert", "none.crt", "No such file"],
    );
}

#[test]
fn a_certificate_is_a_credential_and_its_key_is_a_secret() {
    let world = World::new();
    let who = "host=localhost user=certified sslmode=verify-full sslrootcert={root.crt}";
    world.accepted(&format!("{who} sslcert={{client.crt}} sslkey={{client.key}}"));
    world.refused(who, &["28000", "certificate"]);
    let exposed = format!("{who} sslcert={{client.crt}} sslkey={{exposed.key}}");
    world.refused(&exposed, &["exposed.key", "other users can read it"]);
    world.refused(&format!("{who} sslcert={{client.crt}}"), &["go together"]);
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_required() {
    let postgresql = Postgresql::start_new();
    let line = refusal(&format!("{} sslmode=require", postgresql.url()));
    assert!(line.contains("the server does not speak TLS"), "{line}");
    assert!(start(&format!("{} sslmode=prefer", postgresql.url()), &[]).connect().get("k").status == 404);
}

#[test]
fn the_password_is_seen_nowhere() {
    const PASSWORD: &str = "not-to-be-seen";
    let world = World::new();
    let bare = world.url("host=localhost user=guarded channel_binding=require");
    let pgpass = world.file("pgpass");
    write_secret(&pgpass, &format!("localhost:*:postgres:guarded:{PASSWORD}\n"));
    let url_file = world.file("url");
    fs::write(&url_file, format!("{bare} password={PASSWORD}\n")).unwrap();
    let mut from_file = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    from_file.args(["--database-url-file", url_file.to_str().unwrap()]);
    let port = world.postgresql.port;
    let as_url = format!("postgresql://guarded:{PASSWORD}@localhost:{port}/postgres?sslmode=require");
    let servers = [
        start(&as_url, &[]),
        start(&format!("{bare} password={PASSWORD}"), &[("HOTROW_LOG_LEVEL", "trace")]),
        start(&bare, &[("PGPASSWORD", PASSWORD)]),
        start(&bare, &[("PGPASSFILE", pgpass.to_str().unwrap())]),
        Server::spawn(from_file),
    ];
    for server in servers {
        assert_eq!(server.connect().get("k").status, 404);
        // What `ps` shows to everybody.
        let arguments = fs::read_to_string(format!("/proc/{}/cmdline", server.pid())).unwrap();
        assert!(arguments.contains("hotrow") && !arguments.contains(PASSWORD), "{arguments:?}");
        let config = server.admin_page("/config");
        assert!(!config.contains(PASSWORD), "{config}");
        let stderr = server.stderr();
        assert!(!stderr.contains(PASSWORD), "{stderr}");
    }
    let wrong = refusal(&format!("{bare} password=wrong-{PASSWORD}"));
    assert!(wrong.contains("28P01") && !wrong.contains(PASSWORD), "{wrong}");
}
