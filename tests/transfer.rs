//! `hotrow export` and `hotrow import`, as a shell runs them: against the real server, and where a server must fail in
//! the middle of a word, against one that does what it is told to.

use crate::support::certificates::Certificates;
use crate::support::database::Database;
use crate::support::postgresql::free_port;
use crate::support::stub::{Reply, Stub, answer};
use crate::support::{Server, ending, random_text, wait_until, write_secret};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Lines that are sent by one request.
const PIECE_LINES: u64 = 16 * 1024;

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

#[test]
fn an_export_has_every_row_exactly() {
    let server = Server::start(&[]);
    let (rows, dir) = (odd_rows(), tempfile::tempdir().unwrap());
    insert(server.database(), &rows);
    let (url, file) = (url(&server), path(&dir, "rows"));
    fs::write(&file, "what was there before").unwrap();
    let output = hotrow(&["export", "--url", &url, &file]);
    let text = fs::read_to_string(&file).unwrap();
    done(&output, &format!("exported {} rows, {} bytes", rows.len(), text.len()));
    assert!(output.stdout.is_empty() && !Path::new(&path(&dir, "rows.part")).exists());
    for (line, (key, value, expires_at)) in text.lines().zip(&rows) {
        let mut expected = json!({ "key": key, "value": value });
        if let Some(expires_at) = expires_at {
            expected["expires_at"] = json!(expires_at);
        }
        assert!(serde_json::from_str::<Value>(line).unwrap() == expected, "{key}");
    }
    assert_eq!(text.lines().count(), rows.len());
    // The address may come from where the server has it from.
    let mut stdout = command(&["export", "-"]);
    let stdout = ending::run(stdout.env("HOTROW_LISTEN", server.address.to_string()));
    assert!(stdout.stdout == text.as_bytes(), "stdout gets the same");
    done(&stdout, &format!("exported {} rows, {} bytes", rows.len(), text.len()));
    let part = hotrow(&["export", "--url", &url, "--prefix", "row/29", "-"]);
    let expected: String =
        text.lines().filter(|line| line.starts_with("{\"key\":\"row/29")).map(|l| format!("{l}\n")).collect();
    assert!(part.stdout == expected.as_bytes() && expected.lines().count() > 100);
    let none = hotrow(&["export", "--url", &url, "--prefix", "none", &file]);
    done(&none, "exported 0 rows, 0 bytes");
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
}

#[test]
fn what_an_export_replaces_keeps_its_place_and_its_readers() {
    let server = Server::start(&[]);
    server.database().insert("k", "v");
    let (url, dir) = (url(&server), tempfile::tempdir().unwrap());
    let (file, link) = (path(&dir, "rows"), path(&dir, "link"));
    write_secret(&file, "");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    done(&hotrow(&["export", "--url", &url, &link]), "exported 1 rows, 24 bytes");
    assert!(Path::new(&link).is_symlink());
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"key\":\"k\",\"value\":\"v\"}\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&file).unwrap();
    let (code, lines) = said(&hotrow(&["export", "--url", &url, &link]));
    assert!(code == 1 && lines.len() == 1 && lines[0].contains("cannot follow"), "{lines:?}");
}

#[test]
fn what_an_import_begins_with_is_looked_at() {
    let server = Server::start(&[]);
    let (url, dir) = (url(&server), tempfile::tempdir().unwrap());
    let file = path(&dir, "rows");
    fs::write(&file, "\u{feff}{\"key\":\"k\",\"value\":\"v\"}\r\n").unwrap();
    done(&hotrow(&["import", "--url", &url, &file]), "imported 1 rows, 0 refused");
    for (compressed, program) in [
        (&b"\x1f\x8b\x08"[..], "zcat"),
        (b"\x28\xb5\x2f\xfd\x04", "zstdcat"),
        (b"BZh9", "bzcat"),
        (b"\xfd7zXZ\0", "xzcat"),
    ] {
        fs::write(&file, compressed).unwrap();
        let (code, lines) = said(&hotrow(&["import", "--url", &url, &file]));
        let expected = format!("hotrow: {file} is compressed: {program} it, and import - from the pipe");
        assert_eq!((code, lines), (1, vec![expected]));
    }
    fs::write(&file, "\u{feff}{\"key\":\"k\",").unwrap();
    assert_eq!(said(&hotrow(&["import", "--url", &url, &file])).0, 1, "no line is whole");
    for short in ["", "\n", "{}"] {
        fs::write(&file, short).unwrap();
        let refused = usize::from(short == "{}");
        let (code, lines) = said(&hotrow(&["import", "--url", &url, &file]));
        let last = format!("imported 0 rows, {refused} refused");
        assert_eq!((code, lines.last()), (refused as i32, Some(&last)), "{lines:?}");
    }
}

#[test]
fn an_export_that_was_cut_off_is_gone_on_with() {
    let server = Server::start(&[]);
    let (rows, dir) = (odd_rows(), tempfile::tempdir().unwrap());
    insert(server.database(), &rows);
    let (url, file, part) = (url(&server), path(&dir, "rows"), path(&dir, "rows.part"));
    // Where there is nothing to go on with it begins.
    let output = hotrow(&["export", "--url", &url, "--continue", &file]);
    let whole = fs::read(&file).unwrap();
    done(&output, &format!("exported {} rows, {} bytes", rows.len(), whole.len()));
    let torn = whole.iter().position(|b| *b == b'\n').unwrap() + 9;
    for cut in [0, 5, torn, whole.len() / 2, whole.len() - 1, whole.len()] {
        fs::remove_file(&file).unwrap();
        fs::write(&part, &whole[..cut]).unwrap();
        let (code, lines) = said(&hotrow(&["export", "--url", &url, &file]));
        assert!(code == 1 && lines.len() == 1 && lines[0].contains("--continue"), "{lines:?}");
        assert_eq!(fs::read(&part).unwrap().len(), cut, "it is left alone");
        let output = hotrow(&["export", "--url", &url, "--continue", &file]);
        done(&output, &format!("exported {} rows, {} bytes", rows.len(), whole.len()));
        assert!(fs::read(&file).unwrap() == whole && !Path::new(&part).exists(), "cut at {cut}");
    }
    // Somebody else's file, whatever it ends with, is left as it is.
    for other in ["PNG", "PNG\n", "{\"value\":1}\n", "{\"key\":\"a\",\"value\":\"v\"}\nPNG\n"] {
        write_secret(&part, other);
        let (code, lines) = said(&hotrow(&["export", "--url", &url, "--continue", &file]));
        assert!(
            code == 1 && lines.last().unwrap().contains("rows.part is no export"),
            "{other:?}: {lines:?}"
        );
        assert!(!lines.last().unwrap().contains("go on with"), "it would end in the same way: {lines:?}");
        assert_eq!(fs::read_to_string(&part).unwrap(), other);
        let mode = fs::metadata(&part).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "nobody else may read it, as before");
    }
    assert!(fs::read(&file).unwrap() == whole, "what was whole stays");
}

#[test]
fn an_export_goes_on_behind_a_key_that_is_too_long_for_a_request() {
    let (server, dir) = (Server::start(&[]), tempfile::tempdir().unwrap());
    server.database().execute("ALTER TABLE kv_store ALTER COLUMN key TYPE text", &[]);
    let line = |key: &str| format!("{{\"key\":\"{key}\",\"value\":\"v\"}}\n");
    let long = "x".repeat(300);
    for key in ["a", &long, "z"] {
        server.database().insert(key, "v");
    }
    let (url, file) = (url(&server), path(&dir, "rows"));
    fs::write(path(&dir, "rows.part"), line("a") + &line(&long)).unwrap();
    let output = hotrow(&["export", "--url", &url, "--continue", &file]);
    let whole = line("a") + &line(&long) + &line("z");
    done(&output, &format!("exported 3 rows, {} bytes", whole.len()));
    assert_eq!(fs::read_to_string(&file).unwrap(), whole);
    // It is not imported: nobody could get it.
    let (code, lines) = said(&hotrow(&["import", "--url", &url, &file]));
    assert!(code == 1 && lines[0].contains("rows:2: ") && lines[0].contains("255"), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "imported 2 rows, 1 refused");
}

#[test]
fn an_export_outlives_its_server() {
    let server = Server::start(&["--listen", &format!("127.0.0.1:{}", free_port())]);
    let rows = "INSERT INTO kv_store (key, value) SELECT 'k' || i, repeat(md5(i::text), 3000) FROM generate_series(1, 400) i";
    server.database().execute(rows, &[]);
    let (address, database) = (server.address.to_string(), server.database().clone());
    let url = url(&server);
    let whole = hotrow(&["export", "--url", &url, "-"]).stdout;
    let mut export = command(&["export", "--url", &url, "-"]).spawn().unwrap();
    let (mut stdout, mut stderr) = (export.stdout.take().unwrap(), export.stderr.take().unwrap());
    let mut got = vec![0; 1024 * 1024];
    stdout.read_exact(&mut got).unwrap();
    // It waits for us, and the server for it: neither can be done.
    server.kill();
    let _server = Server::start_on(&database, &["--listen", &address]);
    stdout.read_to_end(&mut got).unwrap();
    let (mut text, status) = (String::new(), export.wait().unwrap());
    stderr.read_to_string(&mut text).unwrap();
    assert!(status.success() && text.contains("; trying again behind "), "{text}");
    assert!(text.ends_with(&format!("exported 400 rows, {} bytes\n", whole.len())), "{text}");
    assert!(got == whole, "nothing is missing, and nothing is there twice");
}

const LINES: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[test]
fn an_answer_that_breaks_off_is_gone_on_with_behind_its_last_whole_line() {
    let row = |key: &str| format!("{{\"key\":\"{key}\",\"value\":\"v\"}}\n");
    let unavailable =
        answer("503 Service Unavailable", "Retry-After: 0\r\n", r#"{"title":"Busy","detail":"later"}"#);
    let mut replies = vec![
        Reply::Cut(LINES.to_owned() + &chunk(&(row("a") + &row("b") + "{\"key\":\"c\",\"va"))),
        Reply::Cut(String::new()),
        Reply::Answer(unavailable.clone()),
        Reply::Cut(LINES.to_owned()),
        // Its last chunk is there, and its last line is not.
        Reply::Answer(LINES.to_owned() + &chunk(&(row("c") + "{\"key\"")) + &chunk("")[..5]),
        Reply::Answer(LINES.to_owned() + &chunk(&row("d")) + "0\r\n\r\n"),
    ]
    .into_iter();
    let stub = Stub::start(move |_| replies.next().unwrap());
    let output = hotrow(&["export", "--url", &stub.url(), "--prefix", "ä", "-"]);
    let expected = [row("a"), row("b"), row("c"), row("d")].concat();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    done(&output, &format!("exported 4 rows, {} bytes", expected.len()));
    assert!(said(&output).1.iter().any(|line| line.contains("503 Busy: later; trying again behind 2 rows")));
    let lines: Vec<String> = stub.requests().into_iter().map(|request| request.line).collect();
    let behind = |key: &str| format!("GET /kv?prefix=%C3%A4&cursor={}", URL_SAFE_NO_PAD.encode(key));
    let first = "GET /kv?prefix=%C3%A4".to_owned();
    assert_eq!(lines, [first, behind("b"), behind("b"), behind("b"), behind("b"), behind("c")]);
    // A file that has something in it is kept, and said how to go on with; and patience has an end.
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir, "rows");
    let stub = Stub::start(move |request| match request.line.contains("cursor") {
        false => Reply::Cut(LINES.to_owned() + &chunk(&row("a"))),
        true => Reply::Answer(unavailable.clone()),
    });
    let output = hotrow(&["export", "--url", &stub.url(), "--retry-for", "1ms", &file]);
    let (code, lines) = said(&output);
    let again = format!("; go on with: hotrow export --url {} --continue {file}", stub.url());
    assert!(code == 1 && lines.last().unwrap().ends_with(&again), "{lines:?}");
    assert_eq!(fs::read_to_string(path(&dir, "rows.part")).unwrap(), "{\"key\":\"a\",\"value\":\"v\"}\n");
}

#[test]
fn two_exports_do_not_write_one_file() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let other = File::create(path(&dir, "rows.part")).unwrap();
    other.lock().unwrap();
    let arguments = ["export", "--url", &url(&server), "--continue", &path(&dir, "rows")];
    let (code, lines) = said(&hotrow(&arguments));
    assert!(code == 1 && lines.last().unwrap().contains("another export is writing"), "{lines:?}");
    // Not by closing it: a child that another test makes at this moment may have it, too.
    other.unlock().unwrap();
    assert_eq!(said(&hotrow(&arguments)).0, 0);
}

#[test]
fn an_export_that_is_told_to_stop_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (file, part) = (path(&dir, "rows"), path(&dir, "rows.part"));
    let row = "{\"key\":\"a\",\"value\":\"v\"}\n";
    let stub = Stub::start(move |_| Reply::Hold(LINES.to_owned() + &chunk(row) + "17\r\n{\"ke"));
    let mut export = command(&["export", "--url", &stub.url(), &file]);
    let export = export.spawn().unwrap();
    wait_until("it has a row", || fs::read_to_string(&part).is_ok_and(|text| text == row));
    kill_process(Pid::from_raw(export.id() as i32).unwrap(), Signal::TERM).unwrap();
    let (code, lines) = said(&ending::of(export));
    let expected =
        format!("hotrow: stopped; go on with: hotrow export --url {} --continue {file}", stub.url());
    assert_eq!((code, lines), (1, vec![expected]));
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

fn report(lines: u64, refused: &[u64]) -> String {
    let errors: Vec<Value> = refused
        .iter()
        .take(100)
        .map(|line| json!({ "line": line, "status": 400, "problem": "urn:p", "detail": format!("bad {line}") }))
        .collect();
    let failed = refused.len() as u64;
    json!({ "lines": lines, "written": lines - failed, "failed": failed, "errors": errors }).to_string()
}

fn stored(lines: u64, refused: &[u64]) -> Reply {
    Reply::Answer(answer("200 OK", "Content-Type: application/json\r\n", &report(lines, refused)))
}

fn count(body: &str) -> u64 {
    body.lines().count() as u64
}

fn lines(numbers: std::ops::RangeInclusive<u64>) -> String {
    numbers.map(|i| format!("{{\"key\":\"k{i}\",\"value\":\"{i}\"}}\n")).collect()
}

#[test]
fn an_import_sends_every_line_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (file, token) = (path(&dir, "rows"), secret(&dir, "token", "secret\n"));
    // The last line may lack its end.
    let text = lines(1..=2 * PIECE_LINES + 5);
    let text = text.trim_end();
    fs::write(&file, text).unwrap();
    let stub = Stub::start(|request| stored(count(&request.body), &[]));
    let output = hotrow(&["import", "--url", &stub.url(), "--token-file", &token, &file]);
    done(&output, &format!("imported {} rows, 0 refused", 2 * PIECE_LINES + 5));
    assert!(output.stdout.is_empty());
    let requests = stub.requests();
    let sent: String = requests.iter().map(|request| request.body.as_str()).collect();
    assert!(sent == text && requests.len() == 3);
    for request in &requests {
        assert_eq!(request.line, "PUT /kv");
        assert_eq!(request.field("content-type"), Some("application/x-ndjson"));
        assert_eq!(request.field("authorization"), Some("Bearer secret"));
    }
    // From a line on, and from a pipe.
    for from_line in [1, 2, PIECE_LINES + 1, 2 * PIECE_LINES + 5, 2 * PIECE_LINES + 6] {
        let stub = Stub::start(|request| stored(count(&request.body), &[]));
        let mut import =
            command(&["import", "--url", &stub.url(), "--from-line", &from_line.to_string(), "-"]);
        let mut import = import.stdin(Stdio::piped()).spawn().unwrap();
        import.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let left = 2 * PIECE_LINES + 6 - from_line;
        done(&ending::of(import), &format!("imported {left} rows, 0 refused"));
        let sent: String = stub.requests().iter().map(|request| request.body.as_str()).collect();
        assert!(text.ends_with(&sent) && count(&sent) == left, "from line {from_line}");
    }
}

#[test]
fn refused_lines_are_told_by_their_number_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir, "rows");
    fs::write(&file, lines(1..=2 * PIECE_LINES)).unwrap();
    let mut first = true;
    let stub = Stub::start(move |request| {
        let refused: &[u64] = if std::mem::take(&mut first) { &[1, 17] } else { &[3] };
        stored(count(&request.body), refused)
    });
    let (code, lines_said) = said(&hotrow(&["import", "--url", &stub.url(), "--from-line", "11", &file]));
    let told = [
        format!("{file}:11: bad 1"),
        format!("{file}:27: bad 17"),
        format!("{file}:{}: bad 3", PIECE_LINES + 13),
    ];
    assert_eq!((code, &lines_said[..3]), (1, &told[..]));
    assert_eq!(lines_said[3..], [format!("imported {} rows, 3 refused", 2 * PIECE_LINES - 10 - 3)]);
    // The first hundred, and how many more.
    fs::write(&file, lines(1..=150)).unwrap();
    let all: Vec<u64> = (1..=150).collect();
    let stub = Stub::start(move |_| stored(150, &all));
    let (code, lines_said) = said(&hotrow(&["import", "--url", &stub.url(), &file]));
    assert_eq!((code, lines_said.len()), (1, 102));
    let end = ["hotrow: 50 more lines were refused", "imported 0 rows, 150 refused"];
    assert_eq!(
        (lines_said[99].as_str(), &lines_said[100..]),
        (format!("{file}:100: bad 100").as_str(), &end.map(str::to_owned)[..])
    );
}

#[test]
fn an_import_goes_on_behind_what_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir, "rows");
    fs::write(&file, lines(1..=10)).unwrap();
    let problem = |status: &str, report: &str| {
        let content = format!("{{\"title\":\"Away\",\"detail\":\"d\",{}", &report[1..]);
        Reply::Answer(answer(status, "Retry-After: 0\r\n", &content))
    };
    let mut replies = vec![
        problem("503 Service Unavailable", &report(4, &[2])),
        Reply::Cut(String::new()),
        Reply::Cut("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".into()),
        Reply::Answer(answer("502 Bad Gateway", "", "<html>")),
        problem("504 Gateway Timeout", &report(1, &[1])),
        stored(5, &[5]),
    ]
    .into_iter();
    let stub = Stub::start(move |_| replies.next().unwrap());
    let (code, said_lines) = said(&hotrow(&["import", "--url", &stub.url(), &file]));
    assert_eq!(code, 1);
    let refused: Vec<&String> = said_lines.iter().filter(|line| line.starts_with(&file)).collect();
    assert_eq!(
        refused,
        [&format!("{file}:2: bad 2"), &format!("{file}:5: bad 1"), &format!("{file}:10: bad 5")]
    );
    assert_eq!(said_lines.last().unwrap(), "imported 7 rows, 3 refused");
    assert!(
        said_lines.iter().any(|line| line.ends_with("503 Away: d; trying again behind line 4")),
        "{said_lines:?}"
    );
    let sent: Vec<String> = stub.requests().into_iter().map(|request| request.body).collect();
    let rest = lines(5..=10);
    assert_eq!(sent, [&lines(1..=10), &rest, &rest, &rest, &rest, &lines(6..=10)].map(String::clone));
}

/// As where the last line is stored, and the server's time for its answer over.
#[test]
fn an_import_that_is_done_when_its_server_fails_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir, "rows");
    fs::write(&file, lines(1..=10)).unwrap();
    let stub = Stub::start(move |_| {
        let content = format!("{{\"title\":\"Late\",{}", &report(10, &[])[1..]);
        Reply::Answer(answer("504 Gateway Timeout", "", &content))
    });
    let output = hotrow(&["import", "--url", &stub.url(), &file]);
    assert_eq!(said(&output), (0, vec!["imported 10 rows, 0 refused".to_owned()]));
    assert_eq!(stub.requests().len(), 1);
}

#[test]
fn an_import_that_cannot_go_on_says_how_to() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir, "rows");
    fs::write(&file, lines(1..=PIECE_LINES + 10)).unwrap();
    let busy = || {
        let content = format!("{{\"title\":\"Away\",{}", &report(3, &[])[1..]);
        Reply::Answer(answer("503 Service Unavailable", "Retry-After: 0\r\n", &content))
    };
    let too_large =
        || Reply::Answer(answer("413 Content Too Large", "", r#"{"title":"Too large","detail":"d"}"#));
    let away = || Reply::Answer(answer("503 Service Unavailable", "", r#"{"title":"Away"}"#));
    let all = || stored(PIECE_LINES, &[]);
    for (replies, patience, line, part) in [
        (vec![all(), too_large()], "5m", PIECE_LINES, "413 Too large: d"),
        (vec![all(), busy(), too_large()], "5m", PIECE_LINES + 3, "413 Too large: d"),
        (vec![all(), away(), away()], "1ms", PIECE_LINES, "503 Away"),
        (vec![all(), stored(9, &[])], "5m", PIECE_LINES, "9 lines, and 10 were sent"),
    ] {
        let last = replies.last().unwrap().clone();
        let mut replies = replies.into_iter();
        let stub = Stub::start(move |_| replies.next().unwrap_or_else(|| last.clone()));
        let (code, lines) = said(&hotrow(&["import", "--url", &stub.url(), "--retry-for", patience, &file]));
        let hint = format!(
            "; line {line} is done; go on with: hotrow import --url {} --from-line {} {file}",
            stub.url(),
            line + 1
        );
        let said = lines.last().unwrap();
        assert!(code == 1 && said.contains(part) && said.ends_with(&hint), "{lines:?}");
    }
    // And so does one that is told to stop.
    let mut first = true;
    let stub = Stub::start(move |request| match std::mem::take(&mut first) {
        true => stored(count(&request.body), &[]),
        false => Reply::Hold(String::new()),
    });
    let import = command(&["import", "--url", &stub.url(), &file]).spawn().unwrap();
    wait_until("the second piece has come", || stub.requests().len() == 2);
    kill_process(Pid::from_raw(import.id() as i32).unwrap(), Signal::INT).unwrap();
    let (code, lines) = said(&ending::of(import));
    let expected = format!(
        "hotrow: stopped; line {PIECE_LINES} is done; go on with: hotrow import --url {} --from-line {} {file}",
        stub.url(),
        PIECE_LINES + 1
    );
    assert_eq!((code, lines), (1, vec![expected]));
}

#[test]
fn an_import_outlives_its_server() {
    let server = Server::start(&["--listen", &format!("127.0.0.1:{}", free_port())]);
    let (address, database) = (server.address.to_string(), server.database().clone());
    let mut import = command(&["import", "--url", &url(&server), "-"]);
    let mut import = import.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = import.stdin.take().unwrap();
    stdin.write_all(lines(1..=PIECE_LINES).as_bytes()).unwrap();
    let rows = || database.text("SELECT count(*)::text FROM kv_store", &[]);
    wait_until("the first piece is stored", || rows() == Some(PIECE_LINES.to_string()));
    // Whether it has heard of that, nobody knows; and that nobody is there any more, only when it asks again.
    server.kill();
    stdin.write_all(lines(PIECE_LINES + 1..=2 * PIECE_LINES + 3).as_bytes()).unwrap();
    drop(stdin);
    let mut stderr = import.stderr.take().unwrap();
    let mut first = [0; 8];
    stderr.read_exact(&mut first).unwrap();
    let _server = Server::start_on(&database, &["--listen", &address]);
    let mut text = String::from_utf8(first.to_vec()).unwrap();
    stderr.read_to_string(&mut text).unwrap();
    assert!(import.wait().unwrap().success() && text.contains("; trying again behind line "), "{text}");
    assert!(text.ends_with(&format!("imported {} rows, 0 refused\n", 2 * PIECE_LINES + 3)), "{text}");
    assert_eq!(rows(), Some((2 * PIECE_LINES + 3).to_string()));
}

#[test]
fn a_server_refuses_lines_and_takes_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = secret(&dir, "tokens", "ro reader\nrw writer\n");
    let server = Server::start(&["--auth-tokens-file", &tokens, "--max-value-bytes", "1KiB"]);
    let file = path(&dir, "rows");
    let row = |key: &str, value: &str| format!("{}\n", json!({ "key": key, "value": value }));
    let long = random_text(1025, 1);
    let text = [&row("a", "1"), "\n", &row("b", &long), &row("", "no key"), "no JSON\n", &row("a", "2")];
    fs::write(&file, text.concat()).unwrap();
    let import = |token: &str| {
        let token = secret(&dir, token, token);
        said(&hotrow(&["import", "--url", &url(&server), "--token-file", &token, &file]))
    };
    for (token, status) in [("reader", "403"), ("stranger", "401")] {
        let (code, lines) = import(token);
        assert!(code == 1 && lines.len() == 1 && lines[0].contains(status), "{lines:?}");
    }
    let (code, lines) = import("writer");
    let numbers: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix(&file)?.strip_prefix(':')?.split(':').next())
        .collect();
    assert_eq!((code, numbers), (1, vec!["3", "4", "5"]), "{lines:?}");
    assert_eq!(lines[3..], ["imported 2 rows, 3 refused".to_owned()]);
    assert_eq!(
        server.database().value("a").as_deref(),
        Some("2"),
        "of two lines with one key the later one wins"
    );
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
