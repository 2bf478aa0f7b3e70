//! `hotrow import`: every line once and in order, those that are refused told by their numbers, gone on with behind what is done.

use super::{command, done, hotrow, path, said, secret, url};
use crate::support::postgresql::free_port;
use crate::support::stub::{Reply, Stub, answer};
use crate::support::{Server, ending, random_text, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

/// Lines that are sent by one request.
const PIECE_LINES: u64 = 16 * 1024;

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
