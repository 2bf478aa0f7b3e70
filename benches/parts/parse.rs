//! Request heads: the whole parser, and the short way of fields that were seen before.

use divan::Bencher;
use divan::counter::BytesCount;
use hotrow::http::request::{self, Parsed, Repeat};
use std::hint::black_box;

/// As wrk sends it, as curl does, and as a browser does.
const HEADS: [(&str, &str); 3] = [
    ("wrk", "GET /kv/key:000123 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"),
    (
        "curl",
        "GET /kv/key:000123 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
    ),
    (
        "browser",
        "GET /kv/key:000123 HTTP/1.1\r\nHost: cache.example.com\r\nConnection: keep-alive\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
        Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
        Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nSec-Fetch-Dest: document\r\n\
        Sec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n\r\n",
    ),
];

fn head(client: &str) -> &'static str {
    HEADS.iter().find(|(name, _)| *name == client).expect("the arguments are their names").1
}

#[divan::bench(args = HEADS.map(|(name, _)| name))]
fn whole(bencher: Bencher, client: &str) {
    let head = head(client);
    bencher.counter(BytesCount::of_str(head)).bench(|| {
        let parsed = request::parse(black_box(head.as_bytes()));
        assert!(matches!(black_box(parsed), Ok(Parsed::Complete(_))));
    });
}

#[divan::bench(args = HEADS.map(|(name, _)| name))]
fn repeated(bencher: Bencher, client: &str) {
    let (head, mut repeat) = (head(client), Repeat::default());
    assert!(matches!(request::parse_next(head.as_bytes(), &mut repeat), Ok(Parsed::Complete(_))));
    bencher.counter(BytesCount::of_str(head)).bench_local(|| {
        let bytes = black_box(head.as_bytes());
        assert!(request::literal_path(bytes).and_then(|path| repeat.known(path, bytes)).is_some());
    });
}
