//! `hotrow export`: every row exactly, into a file that is whole or not there, gone on with where it was cut off.

use super::{command, done, hotrow, insert, odd_rows, path, said, url};
use crate::support::postgresql::free_port;
use crate::support::stub::{Reply, Stub, answer};
use crate::support::{Server, ending, wait_until, write_secret};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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
