//! How long a content is, and what becomes of one that is chunked, unwanted, asked for, too large or not there.

use super::{Closes, Goes, MALFORMED, Row, Then, check_all, put, row, rows, server};
use crate::support::client::request;
use crate::support::{Server, random_text};

/// A chunked content.
fn chunked(content: impl AsRef<[u8]>, outcome: &'static str, then: Then) -> Row {
    put("Transfer-Encoding: chunked", content, outcome, then)
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
