//! What browsers ask of a server before they let a script of another origin read its answers (CORS).

use crate::support::client::Response;
use crate::support::{Client, Server, write_secret};

const APP: &str = "https://app.example.com";
const OTHER: &str = "http://localhost:3000";
const ALLOW: &str = "Access-Control-Allow-Origin";
const PREFLIGHT: &str =
    "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: content-type,if-match\r\n";

fn origin(origin: &str) -> String {
    format!("Origin: {origin}\r\n")
}

/// The answer names nobody, and no browser.
fn expect_silence(response: &Response) {
    let named = |name: &str| name.to_ascii_lowercase().starts_with("access-control-");
    assert!(!response.fields.iter().any(|(name, _)| named(name)), "{:?}", response.fields);
}

/// Everything that can be answered: the request's method, target, fields and content, and the status.
const REQUESTS: &[(&str, &str, &str, &str, u16)] = &[
    ("PUT", "/kv/k", "", "v", 201),
    ("PUT", "/kv/k", "", "v", 200),
    ("PUT", "/kv/k", "Prefer: return=minimal\r\n", "v", 204),
    ("PUT", "/kv/t?ttl=1000", "", "v", 201),
    // From the cache, and from the table.
    ("GET", "/kv/k", "", "", 200),
    ("HEAD", "/kv/k", "", "", 200),
    ("GET", "/kv/t", "", "", 200),
    ("GET", "/kv/k", "Connection: close\r\n", "", 200),
    ("GET", "/kv/k", "If-None-Match: *\r\n", "", 304),
    ("GET", "/kv/k", "Cache-Control: no-cache\r\n", "", 200),
    ("GET", "/kv/nobody", "", "", 404),
    ("GET", "/kv/nobody", "", "", 404),
    ("GET", "/kv/nobody-else", "Cache-Control: only-if-cached\r\n", "", 504),
    ("GET", "/kv?key=k&key=x", "", "", 200),
    ("GET", "/kv?prefix=k", "", "", 200),
    ("GET", "/kv?prefix=k", "Accept: application/x-ndjson\r\n", "", 200),
    ("PUT", "/kv", "Content-Type: application/x-ndjson\r\n", "{\"key\":\"l\",\"value\":\"v\"}", 200),
    ("POST", "/batch", "", "[{\"op\":\"get\",\"key\":\"k\"}]", 200),
    ("POST", "/kv/n?op=incr", "", "", 201),
    ("POST", "/kv/k?op=incr", "", "", 409),
    ("PUT", "/kv/k", "If-Match: \"1\"\r\n", "v", 412),
    ("PUT", "/kv/k?x=y", "", "v", 400),
    ("PUT", "/kv/k", "", "\0", 422),
    ("PATCH", "/kv/k", "", "", 405),
    ("BREW", "/kv/k", "", "", 501),
    ("GET", "/elsewhere", "", "", 404),
    ("OPTIONS", "/kv/k", "", "", 204),
    ("DELETE", "/kv/k", "", "", 204),
];

fn answer(server: &Server, row: &(&str, &str, &str, &str, u16), more: &str) -> Response {
    let (method, target, fields, content, status) = row;
    let fields = format!("{fields}{more}");
    let response = server.connect().request(method, target, &fields, content.as_bytes());
    assert_eq!(response.status, *status, "{method} {target} {fields:?}");
    response
}

#[test]
fn without_the_flag_no_answer_says_anything_about_origins() {
    let server = Server::start(&[]);
    for row in REQUESTS {
        let response = answer(&server, row, &origin(APP));
        expect_silence(&response);
        let by_accept = row.1 == "/kv?prefix=k";
        assert_eq!(response.field("Vary"), by_accept.then_some("Accept"), "{row:?}");
    }
    expect_silence(&server.connect().request("OPTIONS", "/kv/k", &(origin(APP) + PREFLIGHT), b""));
}

#[test]
fn every_answer_names_the_origin_that_asks_if_it_is_let_in() {
    for origins in [APP, OTHER] {
        // Several in one flag or in several, and each of them is let in.
        let both = format!("{APP},{OTHER}");
        let flags = match origins {
            APP => vec!["--cors-allow-origin", &both],
            _ => vec!["--cors-allow-origin", APP, "--cors-allow-origin", OTHER],
        };
        let server = Server::start(&flags);
        for row in REQUESTS {
            let response = answer(&server, row, &origin(origins));
            assert_eq!(response.field(ALLOW), Some(origins), "{row:?}");
            let exposed = response.field("Access-Control-Expose-Headers").unwrap();
            // A script may see every field that there is.
            for (name, _) in &response.fields {
                let always = ["Date", "Content-Type", "Connection", "Vary", "Transfer-Encoding"]
                    .contains(&name.as_str());
                let found = exposed.split(", ").any(|field| field == name);
                assert!(always || found || name.starts_with("Access-Control-"), "{name} of {row:?}");
            }
            let vary = if row.1 == "/kv?prefix=k" { "Accept, Origin" } else { "Origin" };
            assert_eq!(response.field("Vary"), Some(vary), "{row:?}");
            assert_eq!(response.field("Access-Control-Allow-Credentials"), None);
        }
    }
}

/// Whoever asks stands in the head: where that could not be read, nobody is known.
#[test]
fn what_is_refused_before_its_head_was_read_names_no_origin_but_everyone() {
    let long = "k".repeat(9 * 1024);
    for (origins, named) in [(APP, None), ("*", Some("*"))] {
        let server = Server::start(&["--cors-allow-origin", origins]);
        for (line, fields, status) in [
            (format!("GET /kv/{long} HTTP/1.1"), "", 414),
            ("GET /kv/k HTTP/1.1".into(), "Bad Name: x\r\n", 400),
            ("GET /kv/k HTTP/1.1".into(), "Transfer-Encoding: gzip\r\n", 501),
            ("GET /kv/k HTTP/2.0".into(), "", 505),
        ] {
            let mut client = server.connect();
            client.send(format!("{line}\r\nHost: h\r\n{}{fields}\r\n", origin(APP)));
            let refused = client.response();
            assert_eq!((refused.status, refused.field(ALLOW)), (status, named));
            // Nobody's cache may give it to the one who is let in.
            assert_eq!(refused.field("Vary"), named.is_none().then_some("Origin"), "{status}");
        }
        // Whoever names a resource that is none, with a head that is one, is told so.
        let known = server.connect().request("GET", "/elsewhere", &origin(APP), b"");
        assert_eq!((known.status, known.field(ALLOW)), (404, named.or(Some(APP))));
    }
}

#[test]
fn other_origins_and_none_are_served_and_not_named() {
    let server = Server::start(&["--cors-allow-origin", APP]);
    for fields in ["", "Origin: null\r\n", "Origin: https://app.example.com.evil.example\r\n"] {
        for row in REQUESTS {
            let response = answer(&server, row, fields);
            expect_silence(&response);
            // Nobody's cache may give this answer to the one who is let in.
            assert!(response.field("Vary").unwrap().ends_with("Origin"), "{row:?}");
        }
        // The next round finds the same rows.
        for key in ["t", "n"] {
            assert_eq!(server.connect().delete(key).status, 204);
        }
        let preflight = server.connect().request("OPTIONS", "/kv/k", &format!("{fields}{PREFLIGHT}"), b"");
        assert_eq!(preflight.status, 204);
        expect_silence(&preflight);
    }
}

#[test]
fn everyone_is_named_by_a_star() {
    let server = Server::start(&["--cors-allow-origin", "*"]);
    for row in REQUESTS {
        let response = answer(&server, row, &origin(OTHER));
        assert_eq!(response.field(ALLOW), Some("*"), "{row:?}");
        assert!(response.field("Vary").is_none_or(|vary| vary == "Accept"), "{row:?}");
    }
    // Answers to what was no request, or came too slowly to be one, as well.
    for bytes in ["GET\r\n\r\n", "PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n"] {
        let mut client = server.connect();
        client.send(bytes);
        let response = client.response();
        assert!(response.status >= 400);
        assert_eq!(response.field(ALLOW), Some("*"));
    }
    // Operations are for nobody's script.
    let mut admin = server.connect_admin();
    for path in ["/livez", "/config", "/nothing"] {
        expect_silence(&admin.request("GET", path, &origin(OTHER), b""));
    }
    expect_silence(&admin.request("OPTIONS", "/config", &(origin(OTHER) + PREFLIGHT), b""));
}

#[test]
fn a_preflight_is_answered_without_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    write_secret(&tokens, "rw secret\n");
    let flags = ["--cors-allow-origin", APP, "--auth-tokens-file", tokens.to_str().unwrap()];
    let server = Server::start(&flags);
    let mut client: Client = server.connect();
    for target in ["/kv/k", "/kv/k?op=incr", "/kv", "/kv?prefix=k", "/batch"] {
        let preflight = client.request("OPTIONS", target, &(origin(APP) + PREFLIGHT), b"");
        assert_eq!((preflight.status, preflight.field(ALLOW)), (204, Some(APP)), "{target}");
        let listed = |field: &str| -> Vec<String> {
            preflight.field(field).unwrap().split(", ").map(str::to_ascii_lowercase).collect()
        };
        let methods = listed("Access-Control-Allow-Methods");
        for method in ["get", "head", "put", "post", "delete"] {
            assert!(methods.contains(&method.to_owned()), "{methods:?}");
        }
        let fields = listed("Access-Control-Allow-Headers");
        for field in [
            "authorization",
            "cache-control",
            "content-type",
            "if-match",
            "if-none-match",
            "prefer",
            "x-request-id",
        ] {
            assert!(fields.contains(&field.to_owned()), "{fields:?}");
        }
        assert!(preflight.field("Access-Control-Max-Age").unwrap().parse::<u32>().unwrap() > 0);
        assert_eq!(preflight.field("Vary"), Some("Origin"));
    }
    // A script learns why it is not let in, and what to do.
    let refused = client.request("GET", "/kv/k", &origin(APP), b"");
    assert_eq!((refused.outcome().as_str(), refused.field(ALLOW)), ("401 unauthorized", Some(APP)));
    let token = "Authorization: Bearer secret\r\n";
    assert_eq!(client.request("PUT", "/kv/k", &(origin(APP) + token), b"v").field(ALLOW), Some(APP));
}

#[test]
fn requests_behind_each_other_are_answered_each_for_its_own_origin() {
    let server = Server::start(&["--cors-allow-origin", APP, "--cors-allow-origin", OTHER]);
    let mut client = server.connect();
    assert_eq!(client.put("k", "v").status, 201);
    let asked = [Some(APP), None, Some(OTHER), Some("https://nobody.example"), Some(APP), Some(APP)];
    let request = |asked: &Option<&str>| {
        let fields = asked.map(origin).unwrap_or_default();
        crate::support::client::request("GET", "/kv/k", &fields, b"")
    };
    client.send(asked.iter().map(request).collect::<Vec<_>>().concat());
    for asked in asked {
        let named = client.response().field(ALLOW).map(str::to_owned);
        assert_eq!(named.as_deref(), asked.filter(|asked| [APP, OTHER].contains(asked)));
    }
}
