//! `hotrow export` and `hotrow import`, as a shell runs them: against the real server, and where a server must fail in
//! the middle of a word, against one that does what it is told to. Here is what both need, and what is shown of both.

mod export;
mod import;

use crate::support::certificates::Certificates;
use crate::support::database::Database;
use crate::support::stub::{Reply, Stub, answer};
use crate::support::{Server, ending, random_text, write_secret};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn command(arguments: &[&str]) -> Command {
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn hotrow(arguments: &[&str]) -> Output {
    ending::run(&mut command(arguments))
}

/// Exit code and the lines on stderr.
fn said(output: &Output) -> (i32, Vec<String>) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    (output.status.code().unwrap(), text.lines().map(str::to_owned).collect())
}

/// It has ended well, with this last line.
fn done(output: &Output, expected: &str) {
    let (code, lines) = said(output);
    assert_eq!((code, lines.last().map(String::as_str)), (0, Some(expected)), "{lines:?}");
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

fn url(server: &Server) -> String {
    format!("http://{}", server.address)
}

/// Rows of every kind that there is: key, value, and when they end.
fn odd_rows() -> Vec<(String, String, Option<&'static str>)> {
    let odd = [
        "a",
        "A",
        "ä",
        "_",
        " ",
        "a b",
        "a/b?c#d%41",
        "\u{1}\t\n\r\"\\",
        "\u{7f}",
        "\u{d7ff}",
        "\u{e000}",
        "🔥",
        "\u{10ffff}",
        "'; DROP TABLE kv_store; --",
    ];
    let mut rows: Vec<(String, String, Option<&'static str>)> =
        odd.iter().map(|odd| ((*odd).to_owned(), format!("value\n\"of\" \\{odd}\u{2028}"), None)).collect();
    rows.push(("empty".into(), String::new(), None));
    rows.push(("x".repeat(255), "long key".into(), None));
    rows.push(("\u{10ffff}".repeat(255), "longest key".into(), None));
    rows.push(("long".into(), random_text(1024 * 1024, 1), None));
    rows.push(("long and odd".into(), "\u{1}\"ä🔥".repeat(30_000), None));
    rows.push(("all".into(), (1..0x3000).filter_map(char::from_u32).collect(), None));
    rows.push(("mortal".into(), "for a while".into(), Some("2040-02-29T12:34:56.789012Z")));
    rows.push(("long-lived".into(), "for long".into(), Some("2120-01-01T00:00:00.000000Z")));
    rows.extend((0..3_000).map(|i| (format!("row/{i}"), random_text(i % 300, i as u64), None)));
    rows.sort_unstable();
    rows
}

fn insert(database: &Database, rows: &[(String, String, Option<&'static str>)]) {
    let mut sql = database.connect();
    let mut transaction = sql.transaction().unwrap();
    let insert = "INSERT INTO kv_store (key, value, expires_at) VALUES ($1, $2, $3::text::timestamptz)";
    let insert = transaction.prepare(insert).unwrap();
    for (key, value, expires_at) in rows {
        transaction.execute(&insert, &[key, value, expires_at]).unwrap();
    }
    transaction.commit().unwrap();
}

/// Everyone here is told in one line what is wrong, and nothing is left behind.
#[test]
fn what_cannot_be_done_is_one_line() {
    let server = Server::start(&[]);
    let (dir, url) = (tempfile::tempdir().unwrap(), url(&server));
    let admin = format!("http://{}", server.admin_address.unwrap());
    let nobody = Stub::start(|_| Reply::Answer(answer("301 Moved Permanently", "Location: /kv\r\n", "")));
    let moved = nobody.url();
    let html =
        Stub::start(|_| Reply::Answer(answer("200 OK", "Content-Type: text/html\r\n", "<html>"))).url();
    let endless =
        Stub::start(|_| Reply::Cut("HTTP/1.0 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n".into()));
    let endless = endless.url();
    let file = |name: &str| path(&dir, name);
    let (rows, out, folder, none) = (file("rows"), file("out"), file(""), file("none"));
    let (nowhere, two) = (file("no/such"), file("two"));
    fs::write(&rows, "{\"key\":\"a\",\"value\":\"v\"}\n").unwrap();
    fs::write(&two, "rw secret\n").unwrap();
    let tls = url.replace("http:", "https:");
    for (arguments, expected, parts) in [
        (&["export", "--url", "http://127.0.0.1:1", &out][..], 1, &["http://127.0.0.1:1/kv"][..]),
        (&["export", "--url", &admin, &out], 1, &[&admin, "404"]),
        (&["export", "--url", &moved, &out], 1, &["301"]),
        (&["export", "--url", &html, &out], 1, &["none that hotrow gives"]),
        (&["export", "--url", &endless, &out], 1, &["does not say where it ends"]),
        (&["export", "--url", &tls, &out], 1, &[&tls]),
        (&["export", "--url", &url, &nowhere], 1, &["cannot write", "no/such.part", "No such file"]),
        (&["export", "--url", &url, &folder], 1, &["is no file"]),
        (&["export", "--url", &url, "/dev/null"], 1, &["/dev/null", "stdout"]),
        (&["export", "--url", &url, "--continue", "-"], 1, &["--continue"]),
        (
            &["export", "--url", &url, "--token-file", &none, &out],
            1,
            &["--token-file", "none", "No such file"],
        ),
        (&["export", "--url", &url, "--token-file", &two, &out], 1, &["--token-file", "one token"]),
        (&["export", "--url", &tls, "--cacert", &rows, &out], 1, &["--cacert", "no certificate"]),
        (&["export", "--url", &url, "--prefix", &"p".repeat(256), &out], 1, &["400", "255"]),
        (&["export", "--url", &url], 2, &["FILE"]),
        (&["export", "--url", "127.0.0.1:8080", &out], 2, &["--url", "http://HOST:PORT"]),
        (&["export", "--url", "http://me:word@h", &out], 2, &["--url", "--token-file"]),
        (&["import", "--url", "http://127.0.0.1:1", &rows], 1, &["http://127.0.0.1:1/kv"]),
        (&["import", "--url", &moved, &rows], 1, &["301"]),
        (&["import", "--url", &html, &rows], 1, &["none that hotrow gives"]),
        (&["import", "--url", &url, &none], 1, &["cannot read", "No such file"]),
        (&["import", "--url", &url, &folder], 1, &["cannot read", "folder"]),
        (&["import", "--url", &url, "--from-line", "3", &rows], 1, &["--from-line 3", "1 lines"]),
        (&["import", "--url", &url, "--from-line", "0", &rows], 2, &["--from-line"]),
        (&["import", "--url", &url, "--retry-for", "5", &rows], 2, &["--retry-for", "ms, s or m"]),
    ] {
        let output = hotrow(arguments);
        let (code, lines) = said(&output);
        let fits = parts.iter().all(|part| lines.len() == 1 && lines[0].contains(part));
        assert!(code == expected && fits, "{arguments:?}: {code} {lines:?}");
        assert!(lines[0].starts_with("hotrow: ") && output.stdout.is_empty() && !lines[0].contains("secret"));
    }
    let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    server.database().insert("a", "v");
    let mut full = command(&["export", "--url", &url, "-"]);
    let full = full.stdout(File::create("/dev/full").unwrap()).spawn().unwrap();
    let (code, lines) = said(&ending::of(full));
    assert!(code == 1 && lines[0].contains("cannot write to stdout: No space left"), "{lines:?}");
    let listen = ending::run(command(&["export", "-"]).env("HOTROW_LISTEN", "here"));
    assert!(said(&listen).0 == 2 && said(&listen).1[0].contains("here"));
}

fn secret(dir: &TempDir, name: &str, text: &str) -> String {
    let path = path(dir, name);
    write_secret(&path, text);
    path
}

#[test]
fn a_server_with_tokens_and_tls_is_spoken_to_with_both() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let [ca, cert] = ["root.pem", "cert.pem"].map(|name| certificates.path(name));
    let tokens = secret(&dir, "tokens", "ro reader\nrw writer\n");
    let server = certificates.server(&["--auth-tokens-file", &tokens]);
    server.database().insert("a", "v");
    let url = format!("https://{}", server.address);
    let (reader, wrong) = (secret(&dir, "reader", " reader\n"), secret(&dir, "wrong", "wrong"));
    let export = |flags: &[&str]| hotrow(&[&["export", "--url", &url], flags, &["-"]].concat());
    let output = export(&["--cacert", &ca, "--token-file", &reader]);
    done(&output, "exported 1 rows, 24 bytes");
    assert_eq!(output.stdout, b"{\"key\":\"a\",\"value\":\"v\"}\n");
    for (flags, part) in [
        (&["--cacert", &ca][..], "401"),
        (&["--cacert", &ca, "--token-file", &wrong], "401"),
        // Nobody that this system trusts.
        (&["--token-file", &reader], &url),
        (&["--cacert", &cert, "--token-file", &reader], &url),
    ] {
        let (code, lines) = said(&export(flags));
        assert!(code == 1 && lines.len() == 1 && lines[0].contains(part), "{flags:?} {lines:?}");
        assert!(!lines[0].contains("reader\"") && !lines[0].contains("wrong\""), "{lines:?}");
    }
    fs::set_permissions(&reader, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, lines) = said(&export(&["--cacert", &ca, "--token-file", &reader]));
    assert!(code == 0 && lines[0].contains("chmod 600"), "{lines:?}");
}

/// What is exported is what is imported.
#[test]
fn a_round_trip_changes_nothing() {
    let (rows, dir) = (odd_rows(), tempfile::tempdir().unwrap());
    let file = |name: &str| PathBuf::from(path(&dir, name));
    let export = |server: &Server, name: &str| {
        let output = hotrow(&["export", "--url", &url(server), file(name).to_str().unwrap()]);
        let bytes = fs::read(file(name)).unwrap();
        done(&output, &format!("exported {} rows, {} bytes", rows.len(), bytes.len()));
        bytes
    };
    let from = Server::start(&[]);
    insert(from.database(), &rows);
    let first = export(&from, "first");
    let to = Server::start(&[]);
    let import = || hotrow(&["import", "--url", &url(&to), file("first").to_str().unwrap()]);
    done(&import(), &format!("imported {} rows, 0 refused", rows.len()));
    assert!(export(&to, "second") == first, "the same bytes");
    // Once more changes nothing, and what was cached meanwhile is no older than the table.
    assert_eq!(to.connect().put("empty", "changed").status, 200);
    done(&import(), &format!("imported {} rows, 0 refused", rows.len()));
    assert_eq!(to.connect().get("empty").body, b"");
    assert!(export(&to, "third") == first, "the same bytes");
}
