//! Request lines and fields.

use super::{Closes, Goes, MALFORMED, Row, Then, check_all, put, row};

/// A request line, with all that makes it a request.
fn line(line: &str, outcome: &'static str, then: Then) -> Row {
    row(format!("{line}\r\nHost: h\r\n\r\n"), outcome, then)
}

/// The fields of a GET, each line with its end.
fn fields(fields: impl AsRef<[u8]>, outcome: &'static str, then: Then) -> Row {
    row([b"GET /kv/known HTTP/1.1\r\n", fields.as_ref(), b"\r\n"].concat(), outcome, then)
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
