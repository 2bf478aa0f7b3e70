//! Requests that come in pieces: cut anywhere, byte by byte, or too slowly.

use super::{MALFORMED, server};
use crate::support::client::request;
use crate::support::{Client, Server, wait_until};

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
