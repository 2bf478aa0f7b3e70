//! Bytes in, answer out: RFC 9112 over the wire, row by row, each with what becomes of its connection. The parser's
//! own tables, in `src/http/`, are finer; these rows show that the whole server keeps them, however its bytes arrive. Here
//! is what a row is, and how it is checked.

mod contents;
mod heads;
mod pieces;

use crate::support::Server;

/// What becomes of the connection after the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The next request on it is served.
    Goes,
    /// The last answer says `Connection: close`, and then it is closed in good order.
    Closes,
}
use Then::{Closes, Goes};

/// Bytes, the answers to them by [`crate::support::Response::outcome`], and what becomes of the connection.
struct Row {
    bytes: Vec<u8>,
    outcomes: Vec<&'static str>,
    then: Then,
}

fn row(bytes: impl AsRef<[u8]>, outcome: &'static str, then: Then) -> Row {
    rows(bytes, &[outcome], then)
}

fn rows(bytes: impl AsRef<[u8]>, outcomes: &[&'static str], then: Then) -> Row {
    Row { bytes: bytes.as_ref().to_vec(), outcomes: outcomes.to_vec(), then }
}

/// Fields of a PUT, and what follows its head.
fn put(fields: &str, content: impl AsRef<[u8]>, outcome: &'static str, then: Then) -> Row {
    let head = format!("PUT /kv/k HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
    row([head.as_bytes(), content.as_ref()].concat(), outcome, then)
}

const MALFORMED: &str = "400 malformed-request";

/// A server with short bounds, that knows two keys.
fn server() -> Server {
    let server = Server::start(&["--max-value-bytes", "1000"]);
    let mut client = server.connect();
    assert_eq!(client.put("known", "known value").status, 201);
    assert_eq!(client.put("k", "").status, 201);
    server
}

/// Sends one row's bytes, `step` at a time, and checks everything about the answers.
fn check(server: &Server, row: &Row, step: usize) {
    let shown = String::from_utf8_lossy(&row.bytes[..row.bytes.len().min(300)]).into_owned();
    let mut client = server.connect();
    for piece in row.bytes.chunks(step) {
        // It may answer, and close, before it has everything.
        if client.try_send(piece).is_err() {
            break;
        }
    }
    let method = if row.bytes.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
    let answers: Vec<_> = row
        .outcomes
        .iter()
        .map(|_| {
            client.try_response_to(method).unwrap_or_else(|error| panic!("{shown:?} by {step}: {error}"))
        })
        .collect();
    let outcomes: Vec<String> = answers.iter().map(|answer| answer.outcome()).collect();
    assert_eq!(outcomes, row.outcomes, "{shown:?} by {step}: {answers:?}");
    let (last, before) = answers.split_last().unwrap();
    assert!(before.iter().all(|answer| !answer.says_close()), "{shown:?} by {step}");
    match row.then {
        Goes => {
            assert!(!last.says_close(), "{shown:?} by {step}");
            assert_eq!(client.get("known").text(), "known value", "{shown:?} by {step}");
        }
        Closes => {
            assert!(last.says_close(), "{shown:?} by {step}");
            client.expect_closed();
        }
    }
}

/// Every row whole, and every short one byte by byte.
fn check_all(rows: &[Row]) {
    let server = server();
    for row in rows {
        check(&server, row, row.bytes.len());
        if row.bytes.len() < 400 {
            check(&server, row, 1);
        }
    }
}
