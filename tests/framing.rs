//! Bytes in, answer out: RFC 9112 over the wire, row by row, each with what becomes of its connection. The parser's
//! own tables, in `src/http/`, are finer; these rows show that the whole server keeps them, however its bytes arrive.

use crate::support::client::request;
use crate::support::{Client, Server, random_text, wait_until};

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

/// A request line, with all that makes it a request.
fn line(line: &str, outcome: &'static str, then: Then) -> Row {
    row(format!("{line}\r\nHost: h\r\n\r\n"), outcome, then)
}

/// The fields of a GET, each line with its end.
fn fields(fields: impl AsRef<[u8]>, outcome: &'static str, then: Then) -> Row {
    row([b"GET /kv/known HTTP/1.1\r\n", fields.as_ref(), b"\r\n"].concat(), outcome, then)
}

/// Fields of a PUT, and what follows its head.
fn put(fields: &str, content: impl AsRef<[u8]>, outcome: &'static str, then: Then) -> Row {
    let head = format!("PUT /kv/k HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
    row([head.as_bytes(), content.as_ref()].concat(), outcome, then)
}

/// A chunked content.
fn chunked(content: impl AsRef<[u8]>, outcome: &'static str, then: Then) -> Row {
    put("Transfer-Encoding: chunked", content, outcome, then)
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

#[test]
fn request_lines() {
    let long_path = |bytes: usize| "x".repeat(bytes);
    let line_bytes = 8 * 1024;
    let mut rows = vec![
        line("GET /kv/known HTTP/1.1", "200", Goes),
        line("GET /kv/known HTTP/1.0", "200", Closes),
        line("HEAD /kv/known HTTP/1.1", "200", Goes),
        line("HEAD /kv/absent HTTP/1.1", "404", Goes),
        line("\r\n\r\nGET /kv/known HTTP/1.1", "200", Goes),
        // absolute-form: the authority is what it is.
        line("GET http://h/kv/known HTTP/1.1", "200", Goes),
        line("GET HTTPS://[::1]:80/kv/known HTTP/1.1", "200", Goes),
        line("GET http://elsewhere.test/kv/known HTTP/1.1", "200", Goes),
        line("GET http://h:80 HTTP/1.1", "404 path-not-found", Goes),
        line("GET http://h?q HTTP/1.1", MALFORMED, Closes),
        line("GET http:///kv/known HTTP/1.1", MALFORMED, Closes),
        line("GET http://user@h/kv/known HTTP/1.1", MALFORMED, Closes),
        line("GET ftp://h/kv/known HTTP/1.1", MALFORMED, Closes),
        // asterisk-form and authority-form.
        line("OPTIONS * HTTP/1.1", "204", Goes),
        line("OPTIONS http://h HTTP/1.1", "204", Goes),
        line("OPTIONS /kv/known HTTP/1.1", "204", Goes),
        line("GET * HTTP/1.1", MALFORMED, Closes),
        line("CONNECT h:80 HTTP/1.1", "501 unknown-method", Goes),
        line("GET h:80 HTTP/1.1", MALFORMED, Closes),
        // Methods.
        line("BREW /kv/known HTTP/1.1", "501 unknown-method", Goes),
        line("get /kv/known HTTP/1.1", "501 unknown-method", Goes),
        line("POST /kv/known HTTP/1.1", "405 method-not-allowed", Goes),
        line("PATCH /kv/known HTTP/1.1", "405 method-not-allowed", Goes),
        line("TRACE /kv/known HTTP/1.1", "405 method-not-allowed", Goes),
        line("PUT /kv/known HTTP/1.1", "411 length-required", Goes),
        line("SET /kv/known HTTP/1.1", "411 length-required", Goes),
        line("G(T /kv/known HTTP/1.1", MALFORMED, Closes),
        // Versions.
        line("GET /kv/known HTTP/1.2", "505 unsupported-version", Closes),
        line("GET /kv/known HTTP/0.9", "505 unsupported-version", Closes),
        line("GET /kv/known HTTP/3.0", "505 unsupported-version", Closes),
        row("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 unsupported-version", Closes),
        line("GET /kv/known HTTP/11", MALFORMED, Closes),
        line("GET /kv/known http/1.1", MALFORMED, Closes),
        line("GET /kv/known", MALFORMED, Closes),
        // Blanks.
        line("GET  /kv/known HTTP/1.1", MALFORMED, Closes),
        line("GET /kv/known  HTTP/1.1", MALFORMED, Closes),
        line("GET /kv/known HTTP/1.1 ", MALFORMED, Closes),
        line(" GET /kv/known HTTP/1.1", MALFORMED, Closes),
        line("GET\t/kv/known HTTP/1.1", MALFORMED, Closes),
        line("GET /kv/kno wn HTTP/1.1", MALFORMED, Closes),
        // Targets.
        line("GET kv/known HTTP/1.1", MALFORMED, Closes),
        line("GET /kv/known#part HTTP/1.1", MALFORMED, Closes),
        line("GET /kv/kn\u{f6}wn HTTP/1.1", MALFORMED, Closes),
        line("GET /kv/%zz HTTP/1.1", "400 bad-key", Goes),
        line("GET /kv/known?a=b HTTP/1.1", "400 bad-query", Goes),
        line("GET /elsewhere HTTP/1.1", "404 path-not-found", Goes),
        // Line ends.
        row("GET /kv/known HTTP/1.1\nHost: h\r\n\r\n", MALFORMED, Closes),
        row("GET /kv/known HTTP/1.1\r\nHost: h\n\r\n", MALFORMED, Closes),
        row("GET /kv/known HTTP/1.1\r\nHost: h\r\n\n", MALFORMED, Closes),
        row("\nGET /kv/known HTTP/1.1\r\nHost: h\r\n\r\n", MALFORMED, Closes),
        row("GET /kv/known HTTP/1.1\r\rHost: h\r\n\r\n", MALFORMED, Closes),
        row("GET /kv/known\r HTTP/1.1\r\nHost: h\r\n\r\n", MALFORMED, Closes),
        // Somebody speaks TLS.
        row(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", MALFORMED, Closes),
        // Limits: method, target, version and two blanks.
        line(&format!("GET /{} HTTP/1.1", long_path(line_bytes - 14)), "404 path-not-found", Goes),
        line(&format!("GET /{} HTTP/1.1", long_path(line_bytes - 13)), "414 target-too-long", Closes),
        row(format!("GET /{}", long_path(line_bytes)), "414 target-too-long", Closes),
        row("\r\n".repeat(line_bytes + 1), "431 head-too-large", Closes),
    ];
    for byte in (0u8..=31).chain([127]).filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        rows.push(row(
            [b"GET /kv/", &[byte][..], b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat(),
            MALFORMED,
            Closes,
        ));
        rows.push(row(
            [b"G", &[byte][..], b"T /kv/k HTTP/1.1\r\nHost: h\r\n\r\n"].concat(),
            MALFORMED,
            Closes,
        ));
    }
    check_all(&rows);
}

#[test]
fn request_fields() {
    let many = |count: usize| "f: v\r\n".repeat(count);
    let long = |bytes: usize| format!("Host: h\r\nX: {}\r\n", "x".repeat(bytes));
    // The request line, the Host field, `X: `, two line ends.
    let around = "GET /kv/known HTTP/1.1\r\nHost: h\r\nX: \r\n\r\n".len();
    let head_bytes = 16 * 1024;
    let mut rows = vec![
        // Host.
        fields("hOST:h:8080\r\n", "200", Goes),
        fields("Host: [::1]:8080\r\n", "200", Goes),
        fields("Host:\r\n", "200", Goes),
        fields("", MALFORMED, Closes),
        fields("Host: h\r\nHost: h\r\n", MALFORMED, Closes),
        fields("Host: h\r\nhost: other\r\n", MALFORMED, Closes),
        fields("Host: a b\r\n", MALFORMED, Closes),
        fields("Host: h, h\r\n", MALFORMED, Closes),
        fields("Host: h/x\r\n", MALFORMED, Closes),
        fields("Host: user@h\r\n", MALFORMED, Closes),
        fields("Host: h:port\r\n", MALFORMED, Closes),
        fields("Host: [::1\r\n", MALFORMED, Closes),
        row("GET /kv/known HTTP/1.0\r\n\r\n", "200", Closes),
        row("GET /kv/known HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n", MALFORMED, Closes),
        row("GET http://h/kv/known HTTP/1.1\r\n\r\n", MALFORMED, Closes),
        // What a field may be.
        fields("Host: h\r\nX: \t value\t \r\n", "200", Goes),
        fields("Host: h\r\nX:\r\n", "200", Goes),
        fields("Host: h\r\nX: \u{e4}\r\n", "200", Goes),
        fields("Host : h\r\n", MALFORMED, Closes),
        fields("Host: h\r\nX : y\r\n", MALFORMED, Closes),
        fields(" Host: h\r\n", MALFORMED, Closes),
        fields("Host: h\r\nX: y\r\n folded\r\n", MALFORMED, Closes),
        fields("Host: h\r\nX: y\r\n\tfolded\r\n", MALFORMED, Closes),
        fields("Host: h\r\n: no name\r\n", MALFORMED, Closes),
        fields("Host: h\r\nno colon\r\n", MALFORMED, Closes),
        fields("Host: h\r\nX\u{e4}: y\r\n", MALFORMED, Closes),
        fields("Host: h\r\nX: a\rb\r\n", MALFORMED, Closes),
        fields("Host: h\r\nX: a\nb\r\n", MALFORMED, Closes),
        // Connection.
        fields("Host: h\r\nConnection: close\r\n", "200", Closes),
        fields("Host: h\r\nConnection: x, CLOSE\r\n", "200", Closes),
        fields("Host: h\r\nConnection: closed\r\n", "200", Goes),
        fields("Host: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", "200", Goes),
        row("BREW /kv/k HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "501 unknown-method", Closes),
        // Expect.
        fields("Host: h\r\nExpect: a-miracle\r\n", "417 expectation-failed", Goes),
        fields("Host: h\r\nExpect: 100-continue\r\nExpect: a-miracle\r\n", "417 expectation-failed", Goes),
        put("Content-Length: 5\r\nExpect: a-miracle", "value", "417 expectation-failed", Closes),
        row("BREW /kv/k HTTP/1.1\r\nHost: h\r\nExpect: a-miracle\r\n\r\n", "501 unknown-method", Goes),
        fields("Host: h\r\nExpect: 100-continue\r\n", "200", Goes),
        row("GET /kv/known HTTP/1.0\r\nExpect: a-miracle\r\n\r\n", "200", Closes),
        // Limits.
        fields(format!("Host: h\r\n{}", many(63)), "200", Goes),
        fields(format!("Host: h\r\n{}", many(64)), "431 head-too-large", Closes),
        fields(long(head_bytes - around), "200", Goes),
        fields(long(head_bytes - around + 1), "431 head-too-large", Closes),
        row(format!("GET /kv/k HTTP/1.1\r\nX: {}", "x".repeat(head_bytes)), "431 head-too-large", Closes),
    ];
    for byte in (0u8..=31).chain([127]).filter(|byte| !matches!(byte, b'\r' | b'\n' | b'\t')) {
        rows.push(fields([b"Host: h\r\nX: a", &[byte][..], b"b\r\n"].concat(), MALFORMED, Closes));
        rows.push(fields([b"Host: h\r\nX", &[byte][..], b"Y: a\r\n"].concat(), MALFORMED, Closes));
    }
    check_all(&rows);
}

#[test]
fn the_length_of_a_content_is_known_in_one_way_or_refused() {
    let coding =
        |coding: &str, outcome, then| put(&format!("Transfer-Encoding: {coding}"), "", outcome, then);
    let unknown = "501 unknown-coding";
    check_all(&[
        put("Content-Length: 5", "value", "200", Goes),
        put("Content-Length: 0", "", "200", Goes),
        put("Content-Length: 0005", "value", "200", Goes),
        put("Content-Length: \t5 ", "value", "200", Goes),
        put("Content-Length: 1001", "", "413 value-too-large", Closes),
        put("Content-Length: 9223372036854775807", "", "413 value-too-large", Closes),
        put("Content-Length: 18446744073709551616", "", MALFORMED, Closes),
        put("Content-Length: +5", "value", MALFORMED, Closes),
        put("Content-Length: -5", "value", MALFORMED, Closes),
        put("Content-Length: 0x5", "value", MALFORMED, Closes),
        put("Content-Length: 5 5", "value", MALFORMED, Closes),
        put("Content-Length: 5, 5", "value", MALFORMED, Closes),
        put("Content-Length: five", "value", MALFORMED, Closes),
        put("Content-Length:", "value", MALFORMED, Closes),
        put("Content-Length: 5\r\nContent-Length: 5", "value", MALFORMED, Closes),
        put("Content-Length: 5\r\ncontent-length: 6", "value", MALFORMED, Closes),
        // Both ways: the oldest trick.
        put("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n", MALFORMED, Closes),
        put("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n", MALFORMED, Closes),
        put("Transfer-Encoding: identity\r\nContent-Length: 5", "value", MALFORMED, Closes),
        // Codings.
        put("Transfer-Encoding: CHUNKED", "5\r\nvalue\r\n0\r\n\r\n", "200", Goes),
        coding("chunked, chunked", MALFORMED, Closes),
        coding("chunked\r\nTransfer-Encoding: chunked", MALFORMED, Closes),
        coding("chunked\r\nTransfer-Encoding: identity", MALFORMED, Closes),
        coding(",chunked", MALFORMED, Closes),
        coding("", MALFORMED, Closes),
        coding("gzip, chunked", unknown, Closes),
        coding("chunked, gzip", unknown, Closes),
        coding("gzip", unknown, Closes),
        coding("identity", unknown, Closes),
        coding("xchunked", unknown, Closes),
        coding("chunked;q=1", unknown, Closes),
        coding("\"chunked\"", unknown, Closes),
        coding("\u{b}chunked", MALFORMED, Closes),
        row("PUT /kv/k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", MALFORMED, Closes),
        row("PUT /kv/k HTTP/1.0\r\nContent-Length: 5\r\n\r\nvalue", "200", Closes),
        row("PUT /kv/k HTTP/1.0\r\n\r\n", "411 length-required", Closes),
        // What is behind the content is the next request.
        rows(
            [request("PUT", "/kv/k", "", b"value"), request("GET", "/kv/absent", "", b"")].concat(),
            &["200", "404 key-not-found"],
            Goes,
        ),
        rows(
            [request("PUT", "/kv/k", "", b"value"), b"x".to_vec(), b"\r\n\r\n".to_vec()].concat(),
            &["200", MALFORMED],
            Closes,
        ),
    ]);
}

#[test]
fn chunked_contents() {
    let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(512));
    let long_trailer = format!("0\r\na: {}\r\n\r\n", "t".repeat(4 * 1024));
    let full = format!("3e8\r\n{}\r\n0\r\n\r\n", "x".repeat(1000));
    check_all(&[
        chunked("0\r\n\r\n", "200", Goes),
        chunked("3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", "200", Goes),
        chunked("000000000000003\r\nabc\r\n0\r\n\r\n", "200", Goes),
        chunked("3;name=value\r\nabc\r\n0;last\r\n\r\n", "200", Goes),
        chunked("3 ; name=\"quoted; text\"\r\nabc\r\n0\r\n\r\n", "200", Goes),
        chunked("3\r\n\r\n\n\r\n0\r\n\r\n", "200", Goes),
        chunked("0\r\nTrailer: dropped\r\nContent-Length: 7\r\n\r\n", "200", Goes),
        chunked(&full, "200", Goes),
        chunked("3e9\r\n".to_owned() + &"x".repeat(1001), "413 value-too-large", Closes),
        chunked(full.replacen("3e8", "1\r\nx\r\n3e8", 1), "413 value-too-large", Closes),
        chunked("\r\n\r\n", MALFORMED, Closes),
        chunked("-1\r\n", MALFORMED, Closes),
        chunked("+1\r\n", MALFORMED, Closes),
        chunked("0x1\r\n", MALFORMED, Closes),
        chunked("g\r\n", MALFORMED, Closes),
        chunked(" 1\r\na\r\n", MALFORMED, Closes),
        chunked("1 \r\na\r\n", MALFORMED, Closes),
        chunked("1\na\r\n", MALFORMED, Closes),
        chunked("1\r\r\n", MALFORMED, Closes),
        chunked("1;x\n", MALFORMED, Closes),
        chunked("1;x\0\r\n", MALFORMED, Closes),
        chunked("0000000000000003\r\nabc", MALFORMED, Closes),
        chunked("ffffffffffffffffff\r\n", MALFORMED, Closes),
        chunked("3\r\nabcd\r\n", MALFORMED, Closes),
        chunked("3\r\nabc\n0\r\n\r\n", MALFORMED, Closes),
        chunked("3\r\nabc\rX", MALFORMED, Closes),
        chunked("0\r\n folded: x\r\n\r\n", MALFORMED, Closes),
        chunked("0\r\n: no name\r\n\r\n", MALFORMED, Closes),
        chunked("0\r\nname : space\r\n\r\n", MALFORMED, Closes),
        chunked("0\r\nname\r\n\r\n", MALFORMED, Closes),
        chunked("0\r\na: \x01\r\n\r\n", MALFORMED, Closes),
        chunked("0\r\na: b\n\r\n", MALFORMED, Closes),
        chunked("0\r\n\n", MALFORMED, Closes),
        chunked("0\r\n\rX", MALFORMED, Closes),
        chunked(long_extension, MALFORMED, Closes),
        chunked(long_trailer, "431 head-too-large", Closes),
        chunked("2\r\n\u{e4}\r\n0\r\n\r\n", "200", Goes),
        chunked(b"1\r\n\xff\r\n0\r\n\r\n", "422 value-not-text", Goes),
        // A character cut in two by its chunks is whole again.
        chunked(b"1\r\n\xc3\r\n1\r\n\xa4\r\n0\r\n\r\n", "200", Goes),
    ]);
}

#[test]
fn a_content_that_nobody_wants_is_read_if_it_is_small_and_closes_else() {
    let content = |request_line: &str, length: usize, sent: usize| {
        format!("{request_line} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(sent))
    };
    let in_chunks = |request_line: &str| {
        format!(
            "{request_line} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
    };
    let small = 64 * 1024;
    check_all(&[
        row(content("GET /kv/known", 3, 3), "200", Goes),
        row(content("HEAD /kv/known", 3, 3), "200", Goes),
        row(content("GET /kv/absent", small, small), "404 key-not-found", Goes),
        row(content("DELETE /kv/absent", 3, 3), "404 key-not-found", Goes),
        row(content("OPTIONS *", 3, 3), "204", Goes),
        row(content("POST /kv/known", 3, 3), "405 method-not-allowed", Goes),
        row(content("BREW /kv/known", 3, 3), "501 unknown-method", Goes),
        row(content("PUT /kv/%zz", 3, 3), "400 bad-key", Goes),
        row(content("PUT /elsewhere", 3, 3), "404 path-not-found", Goes),
        // What changes something waits for the end of its request, or does not happen.
        row(in_chunks("DELETE /kv/absent"), "404 key-not-found", Goes),
        row(content("DELETE /kv/known", small + 1, 3), "413 value-too-large", Closes),
        row(content("POST /kv/known?op=incr", small + 1, 3), "413 value-too-large", Closes),
        // The answer does not wait for what is too much, or of unknown length.
        row(content("GET /kv/known", small + 1, 0), "200", Closes),
        row(content("HEAD /kv/known", small + 1, 0), "200", Closes),
        row(content("GET /kv/absent", small + 1, 0), "404 key-not-found", Closes),
        row(content("POST /kv/known", small + 1, 0), "405 method-not-allowed", Closes),
        row(content("PUT /kv/%zz", small + 1, 0), "400 bad-key", Closes),
        row(in_chunks("GET /kv/known"), "200", Closes),
        row(in_chunks("POST /kv/known"), "405 method-not-allowed", Closes),
    ]);
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on_or_not_to() {
    let server = server();
    let ask = |method: &str, target: &str, version: &str, fields: &str| {
        format!("{method} {target} HTTP/{version}\r\nHost: h\r\nExpect: 100-continue\r\n{fields}\r\n\r\n")
    };
    let mut client = server.connect();
    for (fields, content) in
        [("Content-Length: 5", "value"), ("Transfer-Encoding: chunked", "5\r\nvalue\r\n0\r\n\r\n")]
    {
        client.send(ask("PUT", "/kv/k", "1.1", fields));
        assert_eq!(client.response().status, 100);
        client.send(content);
        let stored = client.response();
        assert_eq!((stored.status, stored.text().as_str()), (200, "value"));
        // Nobody waits who has sent already.
        client.send(ask("PUT", "/kv/k", "1.1", fields) + content);
        assert_eq!(client.response().status, 200);
    }
    // Nothing to go on with.
    client.send(ask("PUT", "/kv/k", "1.1", "Content-Length: 0"));
    assert_eq!(client.response().status, 200);
    // HTTP/1.0 does not know the question.
    let mut client = server.connect();
    client.send(ask("PUT", "/kv/k", "1.0", "Content-Length: 5"));
    client.send("value");
    assert_eq!(client.response().status, 200);
    client.expect_closed();
    // Refused before a byte of the content was sent.
    for (method, target, fields, outcome) in [
        ("PUT", "/kv/k", "Content-Length: 1001", "413 value-too-large"),
        ("PUT", "/kv/%zz", "Content-Length: 5", "400 bad-key"),
        ("PUT", "/elsewhere", "Content-Length: 5", "404 path-not-found"),
        ("POST", "/kv/k", "Content-Length: 5", "405 method-not-allowed"),
        ("PUT", "/kv/k", "Content-Length: five", MALFORMED),
        ("PUT", "/kv/k", "Transfer-Encoding: gzip", "501 unknown-coding"),
        ("GET", "/kv/known", "Content-Length: 5", "200"),
    ] {
        let mut client = server.connect();
        client.send(ask(method, target, "1.1", fields));
        let refused = client.response();
        assert_eq!((refused.outcome().as_str(), refused.says_close()), (outcome, true));
        client.expect_closed();
    }
}

#[test]
fn a_content_is_refused_as_soon_as_it_is_too_large() {
    let server = server();
    // Whoever asks for 413 with a length gets it before a byte of the content.
    let mut client = server.connect();
    client.send("PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n");
    let refused = client.response();
    assert_eq!(refused.outcome(), "413 value-too-large");
    assert!(refused.detail().contains("1000 bytes (--max-value-bytes)"), "{}", refused.detail());
    client.expect_closed();
    // In chunks, while it is being read; the last chunk is never sent.
    let mut client = server.connect();
    client.send("PUT /kv/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..10 {
        client.send(format!("64\r\n{}\r\n", "x".repeat(100)));
    }
    client.send("1\r\nx");
    assert_eq!(client.response().outcome(), "413 value-too-large");
    client.expect_closed();
}

#[test]
fn a_request_that_comes_too_slowly_is_408() {
    let server = Server::start(&["--header-timeout", "700ms", "--request-timeout", "1s"]);
    let parts = [
        ("G", "--header-timeout"),
        ("\r\n", "--header-timeout"),
        ("GET /kv/k HTTP/1.1\r\nHost: h\r\nX: ", "--header-timeout"),
        ("GET /kv/k HTTP/1.1\r\nHost: h\r\n\r", "--header-timeout"),
        ("PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", "--request-timeout"),
        ("PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nvalu", "--request-timeout"),
        (
            "PUT /kv/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nvalue\r\n0\r\n",
            "--request-timeout",
        ),
        ("POST /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nvalu", "--request-timeout"),
    ];
    let begin = |part: &str| {
        let mut client = server.connect();
        client.send(part);
        client
    };
    let clients: Vec<Client> = parts.iter().map(|(part, _)| begin(part)).collect();
    let mut head = begin("HEAD /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nvalu");
    let mut second = begin("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\nGET /kv");
    for (mut client, (part, flag)) in clients.into_iter().zip(parts) {
        let refused = client.response();
        assert_eq!(
            (refused.outcome().as_str(), refused.says_close()),
            ("408 slow-request", true),
            "{part:?}"
        );
        assert!(refused.detail().contains(flag), "{part:?}: {}", refused.detail());
        client.expect_closed();
    }
    // No content in the answer to HEAD, here either.
    let refused = head.response_to("HEAD");
    assert!(refused.status == 408 && refused.says_close());
    head.expect_closed();
    // What came before the slow one has been answered.
    assert_eq!(second.response().status, 204);
    assert_eq!(second.response().outcome(), "408 slow-request");
    second.expect_closed();
    assert_eq!(server.metric(r#"hotrow_problems_total{problem="slow-request"}"#), 10);
    assert_eq!(server.database().value("k"), None, "nothing was stored of what came in part");
}

#[test]
fn answers_without_a_content_have_none() {
    let server = server();
    // The client takes what follows a head for the next answer: a content too many would be found out by it.
    let mut client = server.connect();
    for (method, target, status) in [
        ("HEAD", "/kv/known", 200),
        ("HEAD", "/kv/absent", 404),
        ("HEAD", "/kv/absent", 404),
        ("HEAD", "/kv/%zz", 400),
        ("HEAD", "/elsewhere", 404),
        ("OPTIONS", "*", 204),
        ("DELETE", "/kv/k", 204),
    ] {
        let response = client.request(method, target, "", b"");
        assert_eq!((response.status, response.body.len()), (status, 0), "{method} {target}");
        assert_eq!(client.get("known").text(), "known value", "{method} {target}");
    }
    // A value that would not be copied but lent is not sent either.
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.put("large", random_text(100_000, 1));
    let head = client.request("HEAD", "/kv/large", "", b"");
    assert_eq!(head.field("Content-Length"), Some("100000"));
    assert_eq!(client.get("absent").status, 404);
}

/// Requests of all kinds, errors between them, the last one malformed: their bytes, their methods, their outcomes.
fn pipeline() -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let chunked = b"SET /kv/new HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\ntwo\r\n0\r\nT: t\r\n\r\n";
    vec![
        (request("GET", "/kv/known", "", b""), "GET", "200 known value"),
        (request("PUT", "/kv/new", "", b"one"), "PUT", "201 one"),
        (request("GET", "/kv/new", "", b""), "GET", "200 one"),
        (request("GET", "/kv/absent", "", b""), "GET", "404 key-not-found"),
        (chunked.to_vec(), "SET", "200 two"),
        (request("POST", "/kv/new", "", b"dropped"), "POST", "405 method-not-allowed"),
        (request("HEAD", "/kv/new", "", b""), "HEAD", "200 "),
        (request("PUT", "/kv/%zz", "", b"dropped"), "PUT", "400 bad-key"),
        (b"\r\nGET /kv/new HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_vec(), "GET", "200 two"),
        (request("OPTIONS", "*", "", b""), "OPTIONS", "204 "),
        (request("PUT", "/kv/new", "", b"\xff"), "PUT", "422 value-not-text"),
        (request("DELETE", "/kv/new", "", b""), "DELETE", "204 "),
        (request("GET", "/kv/new", "", b""), "GET", "404 key-not-found"),
        (b"GET /kv/known HTTP/1.1\r\nHost : h\r\n\r\n".to_vec(), "GET", MALFORMED),
    ]
}

/// Takes the answers from `from` to `to`, not counting.
fn take_answers(client: &mut Client, pipeline: &[(Vec<u8>, &'static str, &'static str)], how: &str) {
    for (_, method, expected) in pipeline {
        let answer = client.response_to(method);
        let outcome = match answer.outcome() {
            outcome if outcome.contains(' ') => outcome,
            status => format!("{status} {}", answer.text()),
        };
        assert_eq!(outcome, *expected, "{how}");
    }
}

#[test]
fn a_pipeline_is_answered_alike_however_it_is_cut() {
    let server = server();
    let pipeline = pipeline();
    let bytes: Vec<u8> = pipeline.iter().flat_map(|(bytes, _, _)| bytes.iter().copied()).collect();
    let mut client = server.connect();
    client.send(&bytes);
    take_answers(&mut client, &pipeline, "in one segment");
    client.expect_closed();
    // In two. The answers to what is whole in the first part are taken before the second is sent: so the server has
    // certainly seen the cut.
    let ends: Vec<usize> = pipeline
        .iter()
        .scan(0, |end, (bytes, _, _)| Some(std::mem::replace(end, *end + bytes.len())))
        .skip(1)
        .collect();
    for cut in 1..bytes.len() {
        let whole = ends.iter().take_while(|end| **end <= cut).count();
        let how = format!("cut at byte {cut}");
        let mut client = server.connect();
        client.send(&bytes[..cut]);
        take_answers(&mut client, &pipeline[..whole], &how);
        // The malformed one may be refused before it is whole.
        let _ = client.try_send(&bytes[cut..]);
        take_answers(&mut client, &pipeline[whole..], &how);
        client.expect_closed();
    }
    let mut client = server.connect();
    for byte in &bytes {
        if client.try_send([*byte]).is_err() {
            break;
        }
    }
    take_answers(&mut client, &pipeline, "byte by byte");
    client.expect_closed();
    wait_until("nothing is in flight", || server.metric("hotrow_keys_in_flight") == 0);
}
