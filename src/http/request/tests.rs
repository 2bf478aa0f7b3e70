//! A row for everything a head may and may not be.

use super::*;
use crate::limits::FIELDS_REMEMBERED_BYTES;
use proptest::prelude::*;

fn status_of(bytes: &[u8]) -> Result<Option<usize>, u16> {
    match parse(bytes) {
        Ok(Parsed::Complete(head)) => Ok(Some(head.bytes)),
        Ok(Parsed::Partial) => Ok(None),
        Err(problem) => Err(problem.status()),
    }
}

/// Heads of one request line or one field, and the status they are refused with (200: not refused).
fn rows() -> Vec<(Vec<u8>, u16)> {
    let line = |line: &str| format!("{line}\r\nHost: h\r\n\r\n").into_bytes();
    let field = |field: &str| format!("PUT /kv/a HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n").into_bytes();
    let old = |field: &str| format!("PUT /kv/a HTTP/1.0\r\n{field}\r\n\r\n").into_bytes();
    let host = |fields: &str| format!("GET /kv/a HTTP/1.1\r\n{fields}\r\n").into_bytes();
    let many = |count: usize| "f: v\r\n".repeat(count);
    let mut rows = vec![
        // Request line.
        (line("GET /kv/a HTTP/1.1"), 200),
        (line("GET /kv/a HTTP/1.0"), 200),
        (line("GET http://h/kv/a HTTP/1.1"), 200),
        (line("GET http://h:80 HTTP/1.1"), 200),
        (line("GET HTTPS://[::1]:80/kv/a HTTP/1.1"), 200),
        (line("OPTIONS * HTTP/1.1"), 200),
        (line("OPTIONS http://h HTTP/1.1"), 200),
        (line("CONNECT h:80 HTTP/1.1"), 200),
        (line("BREW /kv/a HTTP/1.1"), 200),
        (line("\r\n\r\nGET /kv/a HTTP/1.1"), 200),
        (line("GET /kv/a HTTP/1.2"), 505),
        (line("GET /kv/a HTTP/2.0"), 505),
        (line("GET /kv/a HTTP/0.9"), 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        (line("GET /kv/a HTTP/11"), 400),
        (line("GET /kv/a http/1.1"), 400),
        (line("GET /kv/a HTTP/1.1 "), 400),
        (line("GET /kv/a"), 400),
        (line("GET  /kv/a HTTP/1.1"), 400),
        (line("GET /kv/a  HTTP/1.1"), 400),
        (line("GET\t/kv/a HTTP/1.1"), 400),
        (line(" GET /kv/a HTTP/1.1"), 400),
        (line("GET /kv/a b HTTP/1.1"), 400),
        (line("GET kv/a HTTP/1.1"), 400),
        (line("GET * HTTP/1.1"), 400),
        (line("GET ftp://h/kv/a HTTP/1.1"), 400),
        (line("GET http:///kv/a HTTP/1.1"), 400),
        (line("GET http://h?q HTTP/1.1"), 400),
        (line("GET http://us er/ HTTP/1.1"), 400),
        (line("GET http://user@h/ HTTP/1.1"), 400),
        (line("GET /kv/a#b HTTP/1.1"), 400),
        (line("GET /kv/\u{e4} HTTP/1.1"), 400),
        (line("GET /kv/\0 HTTP/1.1"), 400),
        (line("GET /kv/\x7f HTTP/1.1"), 400),
        (line("G(T /kv/a HTTP/1.1"), 400),
        (line("GET /kv/a\r HTTP/1.1"), 400),
        (b"GET /kv/a HTTP/1.1\nHost: h\r\n\r\n".to_vec(), 400),
        (b"GET /kv/a HTTP/1.1\r\nHost: h\n\r\n".to_vec(), 400),
        (b"GET /kv/a HTTP/1.1\r\nHost: h\r\n\n".to_vec(), 400),
        (b"\nGET /kv/a HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), 400),
        (b"GET /kv/a HTTP/1.1\r\rHost: h\r\n\r\n".to_vec(), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        // Host.
        (host("Host: h\r\n"), 200),
        (host("hOST:h:8080\r\n"), 200),
        (host("Host: [::1]:8080\r\n"), 200),
        (host("Host:\r\n"), 200),
        (host(""), 400),
        (host("Host: h\r\nHost: h\r\n"), 400),
        (host("Host: a b\r\n"), 400),
        (host("Host: h, h\r\n"), 400),
        (host("Host: h/x\r\n"), 400),
        (host("Host: user@h\r\n"), 400),
        (host("Host: h:port\r\n"), 400),
        (host("Host: h:123456\r\n"), 400),
        (host("Host: [::1\r\n"), 400),
        (host("Host: [x]\r\n"), 400),
        (host("Host: [::1]x\r\n"), 400),
        (old("X: y"), 200),
        (old("Host: h\r\nHost: h"), 400),
        // Fields.
        (field("X: \tvalue\t "), 200),
        (field("X: \u{e4}"), 200),
        (field("X:"), 200),
        (field("X : y"), 400),
        (field(" X: y"), 400),
        (field("X: y\r\n folded"), 400),
        (field("X: y\r\n\tfolded"), 400),
        (field(": no name"), 400),
        (field("X Y: z"), 400),
        (field("X\u{e4}: z"), 400),
        (field("X"), 400),
        (field("X: a\0b"), 400),
        (field("X: a\x01b"), 400),
        (field("X: a\x7fb"), 400),
        (field("X: a\rb"), 400),
        (field("Expect: 100-Continue"), 200),
        (field("Expect: a-miracle"), 200),
        (old("Expect: a-miracle"), 200),
        // Message length.
        (field("Content-Length: 0"), 200),
        (field("Content-Length: 0005"), 200),
        (field("Content-Length: 9223372036854775807"), 200),
        (field("Content-Length: 18446744073709551616"), 400),
        (field("Content-Length: +5"), 400),
        (field("Content-Length: -5"), 400),
        (field("Content-Length: 0x5"), 400),
        (field("Content-Length: 5 5"), 400),
        (field("Content-Length: 5, 5"), 400),
        (field("Content-Length: five"), 400),
        (field("Content-Length:"), 400),
        (field("Content-Length: 5\r\nContent-Length: 5"), 400),
        (field("Content-Length: 5\r\ncontent-length: 6"), 400),
        (field("Transfer-Encoding: chunked"), 200),
        (field("Transfer-Encoding: CHUNKED"), 200),
        (field("Transfer-Encoding: chunked, chunked"), 400),
        (field("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400),
        (field("Transfer-Encoding: ,chunked"), 400),
        (field("Transfer-Encoding:"), 400),
        (field("Transfer-Encoding: gzip, chunked"), 501),
        (field("Transfer-Encoding: chunked, gzip"), 501),
        (field("Transfer-Encoding: identity"), 501),
        (field("Transfer-Encoding: xchunked"), 501),
        (field("Transfer-Encoding: \"chunked\""), 501),
        (field("Transfer-Encoding: chunked\r\nContent-Length: 5"), 400),
        (field("Content-Length: 5\r\nTransfer-Encoding: chunked"), 400),
        (old("Transfer-Encoding: chunked"), 400),
        // Limits.
        (line(&format!("GET /{} HTTP/1.1", "x".repeat(REQUEST_LINE_BYTES - 14))), 200),
        (line(&format!("GET /{} HTTP/1.1", "x".repeat(REQUEST_LINE_BYTES - 13))), 414),
        (format!("GET /{}", "x".repeat(REQUEST_LINE_BYTES)).into_bytes(), 414),
        (host(&format!("Host: h\r\n{}", many(FIELDS - 1))), 200),
        (host(&format!("Host: h\r\n{}", many(FIELDS))), 431),
        (host(&format!("Host: h\r\nX: {}\r\n", "x".repeat(HEAD_BYTES - 36))), 200),
        (host(&format!("Host: h\r\nX: {}\r\n", "x".repeat(HEAD_BYTES))), 431),
        (host(&format!("Host: h\r\nX: {}", "x".repeat(HEAD_BYTES))), 431),
        ("\r\n".repeat(HEAD_BYTES / 2 + 1).into_bytes(), 431),
        // Of two errors the first: the other may not have arrived yet.
        (format!("GET /{} HTTP/1.1\r\nH\x03st\r\n\r\n", "x".repeat(REQUEST_LINE_BYTES)).into_bytes(), 414),
        (format!("GET /{} HTTP/1.1\nHost: h\r\n\r\n", "x".repeat(REQUEST_LINE_BYTES)).into_bytes(), 414),
        (format!("GET /{}\x01 HTTP/1.1\r\n", "x".repeat(REQUEST_LINE_BYTES)).into_bytes(), 414),
        (format!("GET /\x01{} HTTP/1.1\r\n", "x".repeat(REQUEST_LINE_BYTES)).into_bytes(), 400),
        (format!("\nGET /{} HTTP/1.1\r\n", "x".repeat(REQUEST_LINE_BYTES)).into_bytes(), 400),
        (host(&format!("Host: h\r\nX: {}\r\nX Y: z\r\n", "x".repeat(HEAD_BYTES))), 431),
        (host(&format!("Host: h\r\nX: {}\n", "x".repeat(HEAD_BYTES))), 431),
        (host(&format!("Host: h\n{}", many(FIELDS))), 400),
        (b"\nGET /kv/a HTTP/2.0\r\n\r\n".to_vec(), 400),
    ];
    // Every byte that no method, no target and no field value may have.
    for byte in (0u8..=31).chain([127]) {
        if byte != b'\r' && byte != b'\n' {
            rows.push(([b"GET /kv/", &[byte][..], b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat(), 400));
            rows.push(([b"G", &[byte][..], b"T /kv/a HTTP/1.1\r\nHost: h\r\n\r\n"].concat(), 400));
            if byte != b'\t' {
                rows.push((
                    [b"GET /kv/a HTTP/1.1\r\nHost: h\r\nX: a", &[byte][..], b"\r\n\r\n"].concat(),
                    400,
                ));
            }
        }
    }
    rows
}

#[test]
fn every_head_is_taken_or_refused_as_its_row_says() {
    for (bytes, expected) in rows() {
        let got = match status_of(&bytes) {
            Ok(Some(_)) => 200,
            Ok(None) => 0,
            Err(status) => status,
        };
        assert_eq!(got, expected, "{:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_head_cut_anywhere_is_partial_or_refused_as_the_whole_is() {
    for (bytes, expected) in rows() {
        let around = |limit: usize| limit - 20..limit + 20;
        let cuts = (0..400).chain(around(REQUEST_LINE_BYTES)).chain(around(HEAD_BYTES));
        for cut in cuts.filter(|cut| *cut < bytes.len()) {
            match status_of(&bytes[..cut]) {
                Ok(None) => {}
                Ok(Some(used)) => assert_eq!((expected, used <= cut), (200, true)),
                Err(status) => assert_eq!(status, expected, "{:?}", String::from_utf8_lossy(&bytes[..cut])),
            }
        }
    }
}

#[test]
fn the_head_says_what_was_sent() {
    let bytes = b"\r\nPUT http://h/kv/a?b HTTP/1.1\r\nhost: h\r\nCONTENT-LENGTH: 5\r\nExpect: 100-continue\r\n\r\nvalue";
    let expected = Head {
        method: "PUT",
        target: "/kv/a?b",
        version: Version::Http11,
        framing: Framing::Length(5),
        keep_alive: true,
        expects_continue: true,
        extras: Extras::default(),
        bytes: bytes.len() - 5,
    };
    assert_eq!(parse(bytes), Ok(Parsed::Complete(expected)));
}

#[test]
fn a_connection_lives_as_version_and_field_say() {
    for (version, field, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: Keep-Alive, CLOSE\r\n", false),
        ("1.1", "Connection: upgrade\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: h\r\n{field}\r\n");
        let Ok(Parsed::Complete(head)) = parse(bytes.as_bytes()) else { panic!("{bytes}") };
        assert_eq!(head.keep_alive, expected, "{bytes}");
    }
}

/// What the short way knows of a request, the long one says, too, whatever was remembered; and it remembers more.
fn assert_same(bytes: &[u8], repeat: &mut Repeat) {
    let path = literal_path(bytes);
    let known = path.and_then(|path| repeat.known(path, bytes));
    let (with, without) = (parse_next(bytes, repeat), parse(bytes));
    assert_eq!(with, without, "{:?}", String::from_utf8_lossy(bytes));
    if let (Some(path), Ok(Parsed::Complete(head))) = (path, &without) {
        assert!(head.method == "GET" && head.target.as_bytes().starts_with(path), "{head:?}");
    }
    if let (Some(path), Some(Known { keep_alive, bytes: used })) = (path, known) {
        let Ok(Parsed::Complete(head)) = without else { panic!("{:?}", String::from_utf8_lossy(bytes)) };
        let Head { method, target, version, framing, expects_continue, extras, .. } = &head;
        assert_eq!((*method, target.as_bytes(), *version), ("GET", path, Version::Http11));
        assert_eq!((*framing, head.keep_alive, head.bytes), (Framing::None, keep_alive, used));
        assert!(!expects_continue && extras.lists.is_empty() && extras.authorization.is_none());
        assert!(extras.origin.is_none() && extras.request_id.is_none());
    }
}

#[test]
fn fields_that_are_sent_again_mean_the_same_behind_every_request_line() {
    let rows = rows();
    for (first, status) in &rows {
        let mut repeat = Repeat::default();
        assert_same(first, &mut repeat);
        for (second, _) in &rows {
            assert_same(second, &mut repeat);
            // The same fields behind the other line, and only a part of them.
            let line = memchr(b'\n', second).map_or(&second[..], |end| &second[..=end]);
            let fields = memchr(b'\n', first).map_or(&b""[..], |end| &first[end + 1..]);
            for fields in [fields, &fields[..fields.len() / 2], &fields[..fields.len().saturating_sub(1)]] {
                assert_same(&[line, fields].concat(), &mut repeat);
                assert_same(&[line, fields, b"GET / HTTP/1.1\r\n"].concat(), &mut repeat);
            }
            // What was remembered may be another one by now.
            if *status == 200 {
                assert_same(first, &mut repeat);
            }
        }
    }
}

#[test]
fn fields_are_remembered_if_they_are_whole_small_and_no_secret() {
    let line = "GET / HTTP/1.1\r\n";
    let remembered = |fields: &str| {
        let mut repeat = Repeat::default();
        let bytes = format!("{line}{fields}\r\n");
        assert_same(bytes.as_bytes(), &mut repeat);
        assert_same(bytes.as_bytes(), &mut repeat);
        repeat.known(b"/", bytes.as_bytes()).is_some()
    };
    let filler = |bytes: usize| format!("Host: h\r\nF: {}\r\n", "x".repeat(bytes - 16));
    for (fields, expected) in [
        ("Host: h\r\n", true),
        ("Host: h\r\nAccept:\r\nUser-Agent: a \r\nConnection: close\r\n", true),
        ("Host: h\r\nCache-Control: b\r\n", false),
        ("Host: h\r\nIf-None-Match: \"1\"\r\n", false),
        ("Host: h\r\nOrigin: o\r\n", false),
        ("Host: h\r\nX-Request-Id: i\r\n", false),
        ("Host: h\r\nContent-Length: 0\r\n", false),
        ("Host: h\r\nExpect: 100-continue\r\n", false),
        ("Host: h\r\nExpect: a-miracle\r\n", false),
        ("Host: h\r\nauthorization: Bearer x\r\n", false),
        ("Host: h\r\nCOOKIE: x\r\n", false),
        ("Host: h\r\nHost: h\r\n", false),
        ("Host: h\r\n f\r\n", false),
        ("Host: h\n", false),
        (&filler(FIELDS_REMEMBERED_BYTES), true),
        (&filler(FIELDS_REMEMBERED_BYTES + 1), false),
    ] {
        assert_eq!(remembered(fields), expected, "{fields}");
    }
}

proptest! {
    #[test]
    fn a_parser_with_a_memory_says_what_one_without_says(
        heads in prop::collection::vec((0usize..200, 0usize..200, 0usize..120, any::<u8>(), 0usize..4), 1..30),
    ) {
        let rows = rows();
        let mut repeat = Repeat::default();
        let parts = |row: usize| {
            let bytes = &rows[row % rows.len()].0;
            let end = memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
            bytes.split_at(end)
        };
        for (line, fields, at, byte, change) in heads {
            let mut bytes = [parts(line).0, parts(fields).1].concat();
            let at = at % bytes.len();
            match change {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, byte),
                _ => {}
            }
            assert_same(&bytes, &mut repeat);
            // Whatever it was: again, as a client would.
            assert_same(&bytes, &mut repeat);
        }
    }

    #[test]
    fn a_finished_answer_never_changes_when_more_bytes_follow(
        row in 0usize..60, noise in prop::collection::vec(any::<u8>(), 0..60), at in 0usize..100,
        more in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let rows = rows();
        let mut bytes = rows[row % rows.len()].0.clone();
        bytes.truncate(2000);
        let at = at.min(bytes.len());
        bytes.splice(at..at + noise.len().min(bytes.len() - at) / 8, noise);
        let short = status_of(&bytes);
        if let Ok(Some(used)) = short {
            prop_assert!(used <= bytes.len());
        }
        if short != Ok(None) {
            bytes.extend_from_slice(&more);
            let long = status_of(&bytes);
            prop_assert_eq!(short, long);
        }
    }
}

#[test]
fn fields_of_some_requests_are_noted_as_they_were_sent() {
    let bytes =
        b"GET /kv/a HTTP/1.1\r\nHost: h\r\nIf-None-Match: \"1\"\r\nACCEPT: a\r\nif-match: *\r\nAccept: b\r\n\
        If-None-Match: \"2\"\r\nCache-Control: no-cache\r\nPrefer: wait=1\r\nContent-Type: t\r\nOrigin: o\r\n\
        X-Request-Id: i\r\nAuthorization: Bearer x\r\n\r\n";
    let Ok(Parsed::Complete(head)) = parse(bytes) else { panic!("it is a whole head") };
    let extras = head.extras;
    let lines = |list| extras.lines(list).collect::<Vec<_>>();
    assert_eq!(lines(List::IfNoneMatch), [b"\"1\"", b"\"2\""]);
    assert_eq!((lines(List::IfMatch), lines(List::Accept)), (vec![&b"*"[..]], vec![&b"b"[..]]));
    assert_eq!(
        (lines(List::CacheControl), lines(List::Prefer)),
        (vec![&b"no-cache"[..]], vec![&b"wait=1"[..]])
    );
    assert_eq!((extras.accept, extras.content_type), (Some(&b"a"[..]), Some(&b"t"[..])));
    assert_eq!((extras.origin, extras.request_id), (Some(&b"o"[..]), Some(&b"i"[..])));
    assert_eq!(extras.authorization, Some(&b"Bearer x"[..]));
    let twice = b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\nAuthorization: Bearer y\r\n\r\n";
    let Ok(Parsed::Complete(head)) = parse(twice) else { panic!("it is a whole head") };
    assert_eq!(head.extras.authorization, Some(&b""[..]));
    let twice = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n\r\n";
    let Ok(Parsed::Complete(head)) = parse(twice) else { panic!("it is a whole head") };
    assert_eq!(head.extras.content_encoding, Some(&b""[..]));
}
