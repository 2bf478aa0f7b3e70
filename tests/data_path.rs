//! The data path as users see it: every method on a key, what is in memory and what is in the table, on one
//! connection and on many. The bytes of messages are in `framing/`; clients that mean harm in `hostile/`.

use crate::support::client::{Response, request};
use crate::support::database::Database;
use crate::support::{Client, Server, random_text};

const HITS: &str = r#"hotrow_cache_requests_total{result="hit"}"#;
const MISSES: &str = r#"hotrow_cache_requests_total{result="miss"}"#;
const HIT: Option<&str> = Some("hotrow; hit");
const MISS: Option<&str> = Some("hotrow; fwd=miss");
const TEXT: Option<&str> = Some("text/plain; charset=utf-8");
const ALLOW: Option<&str> = Some("GET, HEAD, PUT, SET, DELETE, OPTIONS");

/// The row's version as SQL sees it.
fn xmin(database: &Database, key: &str) -> String {
    database.text("SELECT xmin::text FROM kv_store WHERE key = $1", &[&key]).unwrap()
}

#[test]
fn a_new_key_is_created_and_an_old_one_replaced() {
    let server = Server::start(&[]);
    for (method, key) in [("PUT", "put"), ("SET", "set")] {
        let mut client = server.connect();
        let path = format!("/kv/{key}");
        let created = client.request(method, &path, "", b"one");
        assert_eq!((created.status, created.text().as_str()), (201, "one"));
        assert_eq!((created.field("Location"), created.field("Content-Type")), (Some(path.as_str()), TEXT));
        assert_eq!(created.version(), xmin(server.database(), key));
        let created_at = "SELECT created_at::text FROM kv_store WHERE key = $1";
        let born = server.database().text(created_at, &[&key]).unwrap();

        let replaced = client.request(method, &path, "", b"two");
        assert_eq!(
            (replaced.status, replaced.text().as_str(), replaced.field("Location")),
            (200, "two", None)
        );
        assert_eq!(replaced.version(), xmin(server.database(), key));
        assert_ne!(replaced.version(), created.version());
        assert_eq!(server.database().value(key).as_deref(), Some("two"));
        assert_eq!(
            server.database().text(created_at, &[&key]).unwrap(),
            born,
            "created_at is when it was created"
        );

        // The same value again is a write like any other: a new version.
        let same = client.request(method, &path, "", b"two");
        assert_eq!((same.status, same.version()), (200, xmin(server.database(), key).as_str()));
        assert_ne!(same.version(), replaced.version());
    }
}

#[test]
fn a_value_is_read_from_memory_and_head_is_the_same_head() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let put = client.put("k", "value");
    let get = client.get("k");
    assert_eq!((get.status, get.text().as_str()), (200, "value"));
    assert_eq!((get.field("Content-Type"), get.field("Cache-Status")), (TEXT, HIT));
    assert_eq!(get.version(), put.version());
    let head = client.request("HEAD", "/kv/k", "", b"");
    let without_times = |response: &Response| {
        let mut fields = response.fields.clone();
        for (_, value) in fields.iter_mut().filter(|(name, _)| name == "Date" || name == "Age") {
            value.clear();
        }
        fields
    };
    assert_eq!((head.status, without_times(&head)), (200, without_times(&get)));
    assert_eq!(server.metric(HITS), 2);
    assert_eq!(server.metric(MISSES), 0);
}

#[test]
fn a_row_that_sql_has_written_is_read_once_and_then_remembered() {
    let server = Server::start(&[]);
    server.database().insert("k", "by SQL");
    let mut client = server.connect();
    let head = client.request("HEAD", "/kv/k", "", b"");
    assert_eq!(
        (head.status, head.field("Cache-Status"), head.field("Content-Length")),
        (200, MISS, Some("6"))
    );
    assert_eq!(head.version(), xmin(server.database(), "k"));
    for _ in 0..2 {
        let get = client.get("k");
        assert_eq!((get.status, get.text().as_str(), get.field("Cache-Status")), (200, "by SQL", HIT));
        assert_eq!(get.version(), head.version());
    }
    assert_eq!(server.metric(MISSES), 1);
}

#[test]
fn a_key_that_is_not_there_is_a_404_that_is_remembered_until_it_is_written() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for cache_status in [MISS, HIT, HIT] {
        let get = client.get("k");
        assert_eq!((get.outcome().as_str(), get.field("Cache-Status")), ("404 key-not-found", cache_status));
        assert_eq!(get.field("ETag"), None);
        let head = client.request("HEAD", "/kv/k", "", b"");
        assert_eq!((head.status, head.field("Content-Type")), (404, Some("application/problem+json")));
        assert_eq!(head.field("Content-Length").unwrap(), get.body.len().to_string());
    }
    assert_eq!(client.put("k", "v").status, 201);
    assert_eq!(client.get("k").text(), "v");
    assert_eq!(client.delete("k").status, 204);
    let gone = client.get("k");
    assert_eq!((gone.outcome().as_str(), gone.field("Cache-Status")), ("404 key-not-found", HIT));
    assert_eq!(server.metric(MISSES), 1);
}

#[test]
fn delete_says_whether_there_was_a_key() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.put("k", "v");
    let deleted = client.delete("k");
    assert_eq!((deleted.status, deleted.body.len(), deleted.field("Content-Length")), (204, 0, None));
    assert_eq!(server.database().value("k"), None);
    assert_eq!(client.delete("k").outcome(), "404 key-not-found");
    server.database().insert("by-sql", "v");
    assert_eq!(client.delete("by-sql").status, 204);
    assert_eq!(client.put("k", "again").status, 201);
}

#[test]
fn options_tells_the_methods() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for target in ["*", "/kv/k", "/kv/not%20there", "http://hotrow.test/kv/k", "http://hotrow.test"] {
        let options = client.request("OPTIONS", target, "", b"");
        assert_eq!((options.status, options.field("Allow")), (204, ALLOW), "{target}");
    }
    assert_eq!(client.request("OPTIONS", "/elsewhere", "", b"").outcome(), "404 path-not-found");
    for method in ["POST", "PATCH", "TRACE"] {
        let refused = client.request(method, "/kv/k", "", b"");
        assert_eq!((refused.outcome().as_str(), refused.field("Allow")), ("405 method-not-allowed", ALLOW));
    }
}

#[test]
fn a_key_is_what_stands_behind_kv_decoded_once() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let umlauts = "%C3%A4".repeat(255);
    let flames = "%F0%9F%94%A5".repeat(255);
    let letters = "k".repeat(255);
    for (target, key) in [
        ("plain", "plain".to_owned()),
        ("a/b", "a/b".to_owned()),
        ("/", "/".to_owned()),
        ("a//b/../c/.", "a//b/../c/.".to_owned()),
        ("%252F", "%2F".to_owned()),
        ("a+b", "a+b".to_owned()),
        ("%20", " ".to_owned()),
        ("trailing%20", "trailing ".to_owned()),
        ("line%0D%0Aend", "line\r\nend".to_owned()),
        ("%3Fnot=a&query%23", "?not=a&query#".to_owned()),
        ("'%22%5C;--", "'\"\\;--".to_owned()),
        ("%7F%01", "\u{7f}\u{1}".to_owned()),
        (&letters, "k".repeat(255)),
        (&umlauts, "ä".repeat(255)),
        (&flames, "🔥".repeat(255)),
    ] {
        let path = format!("/kv/{target}");
        let created = client.request("PUT", &path, "", key.as_bytes());
        assert_eq!(created.status, 201, "{target}");
        // The Location leads back to the key, whatever is in it.
        let location = created.field("Location").unwrap();
        assert_eq!(client.request("GET", location, "", b"").text(), key);
        assert_eq!(client.request("GET", &path, "", b"").text(), key);
        assert_eq!(server.database().value(&key).as_deref(), Some(key.as_str()));
    }
    // One key, two spellings.
    for same in ["a%2Fb", "a%2fb", "%61/%62", "a/b"] {
        assert_eq!(client.get(same).text(), "a/b", "{same}");
    }
    let too_long = "k".repeat(256);
    let too_many_umlauts = "%C3%A4".repeat(256);
    for bad in ["", "%", "%4", "%zz", "a%00b", "%FF", "%C3", "%ED%A0%80", &too_long, &too_many_umlauts] {
        for method in ["GET", "HEAD", "PUT", "SET", "DELETE"] {
            let refused = client.request(method, &format!("/kv/{bad}"), "", b"");
            assert_eq!(refused.status, 400, "{method} {bad}");
            assert!(method == "HEAD" || refused.problem() == "bad-key", "{method} {bad}");
        }
    }
    assert_eq!(client.get("k?query=1").outcome(), "400 bad-query");
    assert_eq!(client.get("plain?").text(), "plain");
}

#[test]
fn a_content_that_stands_for_something_else_is_refused() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for (fields, outcome) in [
        ("Content-Encoding: gzip\r\n", "415 unsupported-media-type"),
        ("Content-Encoding: identity\r\nContent-Encoding: gzip\r\n", "415 unsupported-media-type"),
        ("Content-Range: bytes 0-0/5\r\n", "400 malformed-request"),
        ("Content-Encoding: identity\r\n", "201"),
    ] {
        let answer = client.request("PUT", "/kv/k", fields, b"x");
        assert!(answer.outcome().starts_with(outcome), "{fields}: {answer:?}");
        let lines = format!("{fields}Content-Type: application/x-ndjson\r\n");
        let answer = client.request("PUT", "/kv", &lines, b"{\"key\":\"l\",\"value\":\"\"}");
        assert_eq!(answer.status == 200, outcome == "201", "{fields}: {answer:?}");
    }
    assert_eq!(client.get("k").text(), "x", "and the connection goes on");
}

#[test]
fn a_value_is_any_text_without_a_null() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for (key, value) in [
        ("empty", ""),
        ("umlauts", "äöü ß €"),
        ("flame", "🔥\u{10ffff}"),
        ("controls", "\u{1}\r\n\t\u{7f}\u{feff}"),
        ("json", r#"{"a":["\\u0000",'x']}"#),
        ("sql", "'); DROP TABLE kv_store; --"),
        ("like-http", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let put = client.put(key, value);
        assert_eq!((put.status, put.text().as_str()), (201, value));
        assert_eq!(client.get(key).text(), value);
        assert_eq!(server.database().value(key).as_deref(), Some(value));
    }
    for bad in [&b"a\0b"[..], b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"] {
        assert_eq!(client.put("bad", bad).outcome(), "422 value-not-text", "{bad:?}");
    }
    assert_eq!(client.get("bad").status, 404);
    // An empty value that SQL has written is a value as well.
    server.database().insert("empty-by-sql", "");
    for cache_status in [MISS, HIT] {
        let get = client.get("empty-by-sql");
        assert_eq!((get.status, get.body.len(), get.field("Cache-Status")), (200, 0, cache_status));
    }
}

#[test]
fn a_value_may_have_max_value_bytes_and_not_one_more() {
    let server = Server::start(&["--max-value-bytes", "1000"]);
    let fits = "ä".repeat(500);
    let too_large = format!("{fits}x");
    let mut client = server.connect();
    assert_eq!(client.put("k", &fits).text(), fits);
    let chunked = |value: &str| {
        let head = "PUT /kv/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}1\r\nx\r\n{:x}\r\n{value}\r\n0\r\n\r\n", value.len())
    };
    client.send(chunked(&fits[2..]));
    assert_eq!(client.response().status, 200);
    client.send(chunked(&fits));
    let refused = client.response();
    assert_eq!(refused.outcome(), "413 value-too-large");
    assert!(refused.detail().contains("1000 bytes (--max-value-bytes)"), "{}", refused.detail());
    client.expect_closed();
    let mut client = server.connect();
    assert_eq!(client.put("k", &too_large).outcome(), "413 value-too-large");
    client.expect_closed();
    // A row that SQL has made larger is served all the same: it is there.
    server.database().insert("by-sql", &too_large);
    assert_eq!(server.connect().get("by-sql").text(), too_large);
    assert_eq!(server.connect().get("k").text().len(), 999);
}

#[test]
fn values_larger_than_any_socket_buffer_arrive_whole() {
    let server = Server::start(&["--max-value-bytes", "16MiB"]);
    let value = random_text(16 << 20, 1);
    let mut client = server.connect();
    // The answer has the value too: it must be taken while the value is still being sent back.
    let put = client.put("large", &value);
    assert_eq!((put.status, put.body == value.as_bytes()), (201, true));
    let get = client.get("large");
    assert_eq!((get.status, get.body == value.as_bytes(), get.field("Cache-Status")), (200, true, HIT));
    // Several at once, small ones between them, all asked for before anything is read.
    client.put("small", "s");
    client.send(
        [request("GET", "/kv/large", "", b""), request("GET", "/kv/small", "", b"")].concat().repeat(3),
    );
    for _ in 0..3 {
        assert!(client.response().body == value.as_bytes());
        assert_eq!(client.response().text(), "s");
    }
    assert_eq!(server.database().value("large").map(|v| v == value), Some(true));
}

#[test]
fn a_connection_lives_as_long_as_its_client_wants() {
    let server = Server::start(&[]);
    server.connect().put("k", "v");
    let mut client = server.connect();
    for _ in 0..3 {
        let get = client.get("k");
        assert_eq!(
            (get.status, get.field("Connection")),
            (200, None),
            "HTTP/1.1 goes on and need not say so"
        );
    }
    let last = client.request("GET", "/kv/k", "Connection: close\r\n", b"");
    assert!(last.says_close() && last.text() == "v");
    client.expect_closed();
    for (fields, connection) in
        [("", "close"), ("Connection: keep-alive\r\n", "keep-alive"), ("Connection: close\r\n", "close")]
    {
        // A hit, a miss, a write, a refusal: each says the same.
        for (request, status) in [
            (format!("GET /kv/k HTTP/1.0\r\n{fields}\r\n"), 200),
            (format!("GET /kv/absent-{connection}{} HTTP/1.0\r\n{fields}\r\n", fields.len()), 404),
            (format!("PUT /kv/k HTTP/1.0\r\n{fields}Content-Length: 1\r\n\r\nv"), 200),
            (format!("POST /kv/k HTTP/1.0\r\n{fields}\r\n"), 405),
        ] {
            let mut client = server.connect();
            client.send(&request);
            let response = client.response();
            assert_eq!(
                (response.status, response.field("Connection")),
                (status, Some(connection)),
                "{request}"
            );
            if connection == "close" {
                client.expect_closed();
            } else {
                assert_eq!(client.get("k").text(), "v");
            }
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order_and_see_each_other() {
    let server = Server::start(&[]);
    server.database().insert("cold", "from the table");
    let mut client = server.connect();
    client.send(
        [
            request("PUT", "/kv/k", "", b"one"),
            request("GET", "/kv/k", "", b""),
            request("GET", "/kv/cold", "", b""),
            request("SET", "/kv/k", "", b"two"),
            request("HEAD", "/kv/k", "", b""),
            request("GET", "/kv/k", "", b""),
            request("DELETE", "/kv/k", "", b""),
            request("GET", "/kv/k", "", b""),
            request("GET", "/kv/cold", "", b""),
            request("PUT", "/kv/k", "Connection: close\r\n", b"three"),
            request("GET", "/kv/k", "", b""),
        ]
        .concat(),
    );
    for (method, status, text, cache_status) in [
        ("PUT", 201, "one", None),
        ("GET", 200, "one", HIT),
        ("GET", 200, "from the table", MISS),
        ("SET", 200, "two", None),
        ("HEAD", 200, "", HIT),
        ("GET", 200, "two", HIT),
        ("DELETE", 204, "", None),
        ("GET", 404, "", HIT),
        ("GET", 200, "from the table", HIT),
        ("PUT", 201, "three", None),
    ] {
        let response = client.response_to(method);
        assert_eq!((response.status, response.field("Cache-Status")), (status, cache_status), "{method}");
        assert!(status == 404 || response.text() == text, "{method} {status} {:?}", response.text());
    }
    // What stands behind the last request that its client wanted is not answered.
    client.expect_closed();
}

#[test]
fn more_is_pipelined_than_one_turn_answers() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.put("k", "v");
    client.send(request("GET", "/kv/k", "", b"").repeat(5_000));
    for _ in 0..5_000 {
        assert_eq!(client.response().text(), "v");
    }
    // The same with misses, each of which waits for the database.
    let keys = || (0..300).map(|n| format!("/kv/absent-{n}"));
    client.send(keys().flat_map(|key| request("GET", &key, "", b"")).collect::<Vec<u8>>());
    for key in keys() {
        let response = client.response();
        assert_eq!((response.status, response.field("Cache-Status")), (404, MISS), "{key}");
    }
}

#[test]
fn an_acknowledged_write_is_seen_by_every_event_loop() {
    let server = Server::start(&["--event-loops", "3"]);
    // The kernel spreads connections over the loops by hash: of so many, each loop has some.
    let mut clients: Vec<Client> = (0..24).map(|_| server.connect()).collect();
    for round in 0..24 {
        let value = format!("round {round}");
        let writer = round % clients.len();
        let version = clients[writer].put("k", &value).version().to_owned();
        for client in &mut clients {
            let get = client.get("k");
            assert_eq!(
                (get.text(), get.version(), get.field("Cache-Status")),
                (value.clone(), version.as_str(), HIT)
            );
        }
    }
    assert_eq!(clients[5].delete("k").status, 204);
    for client in &mut clients {
        assert_eq!(client.get("k").status, 404);
    }
    assert_eq!(server.metric("hotrow_connections"), 25, "the admin connection counts too");
}

#[test]
fn many_connections_at_once_each_get_their_own_answer() {
    for flags in [&["--event-loops", "1"][..], &["--event-loops", "3"]] {
        let server = Server::start(flags);
        let mut clients: Vec<Client> = (0..300).map(|_| server.connect()).collect();
        // Everybody asks before anybody is listened to: writes, reads of rows that are not there yet, hits, refusals.
        let mine = |n: usize| format!("/kv/key-{n}");
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(request("PUT", &mine(n), "", format!("value {n}").as_bytes()));
        }
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response().text(), format!("value {n}"));
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let neighbour = (n + 1) % 300;
            client.send(
                [
                    request("GET", &mine(neighbour), "", b""),
                    request("GET", &format!("/kv/absent-{}", n / 2), "", b""),
                    request("POST", &mine(n), "", b""),
                    request("GET", &mine(n), "", b""),
                ]
                .concat(),
            );
        }
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response().text(), format!("value {}", (n + 1) % 300));
            assert_eq!(client.response().outcome(), "404 key-not-found");
            assert_eq!(client.response().outcome(), "405 method-not-allowed");
            assert_eq!(client.response().text(), format!("value {n}"));
        }
        assert_eq!(
            server.database().text("SELECT count(*)::text FROM kv_store", &[]).as_deref(),
            Some("300")
        );
        assert_eq!(server.metric("hotrow_late_replies_total"), 0);
    }
}

#[test]
fn a_small_cache_forgets_and_the_table_does_not() {
    let server = Server::start(&["--cache-bytes", "64KiB", "--max-value-bytes", "4KiB"]);
    let mut client = server.connect();
    let value = |n: u64| random_text(2_000, n);
    for n in 0..100 {
        client.put(&format!("key-{n}"), value(n));
    }
    for n in 0..100 {
        assert_eq!(client.get(&format!("key-{n}")).text(), value(n));
    }
    assert!(server.metric("hotrow_cache_evictions_total") > 50);
    assert!(server.metric("hotrow_cache_bytes") <= 64 * 1024);
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let database = Database::new();
    let server = Server::start_on(&database, &[]);
    let version = server.connect().put("k", "v").version().to_owned();
    let (status, stderr) = server.stop();
    assert!(status.success() && stderr.contains("stopping"), "{status} {stderr}");
    let server = Server::start_on(&database, &[]);
    let get = server.connect().get("k");
    assert_eq!(
        (get.text().as_str(), get.version(), get.field("Cache-Status")),
        ("v", version.as_str(), MISS)
    );
}

#[test]
fn the_admin_socket_has_its_pages_and_no_data() {
    let server = Server::start(&[]);
    let mut admin = server.connect_admin();
    for (path, start) in [
        ("/livez", "alive\n"),
        ("/readyz", "ready\n"),
        ("/version", concat!("hotrow ", env!("CARGO_PKG_VERSION"), "\nPostgreSQL 1")),
        ("/metrics", "# HELP hotrow_requests_total "),
        ("/livez?probe=1", "alive\n"),
    ] {
        let page = admin.request("GET", path, "", b"");
        assert!(page.status == 200 && page.text().starts_with(start), "{path}: {}", page.text());
        assert_eq!(page.field("Cache-Control"), Some("no-store"));
        let head = admin.request("HEAD", path, "", b"");
        // Counters move, and with them the length of the page.
        assert!(head.status == 200 && head.field("Content-Length").is_some());
    }
    for (path, outcome) in [("/kv/k", "404 path-not-found"), ("/", "404 path-not-found")] {
        assert_eq!(admin.request("GET", path, "", b"").outcome(), outcome);
    }
    let refused = admin.request("DELETE", "/metrics", "", b"");
    assert_eq!(
        (refused.outcome().as_str(), refused.field("Allow")),
        ("405 method-not-allowed", Some("GET, HEAD, OPTIONS"))
    );
    assert_eq!(admin.request("OPTIONS", "*", "", b"").field("Allow"), Some("GET, HEAD, OPTIONS"));
    for path in ["/metrics", "/livez", "/readyz", "/version"] {
        assert_eq!(server.connect().request("GET", path, "", b"").outcome(), "404 path-not-found");
    }
}

#[test]
fn the_admin_socket_may_be_off() {
    let server = Server::start(&["--admin-listen", "off"]);
    assert_eq!(server.admin_address, None);
    assert!(server.stderr().contains("(admin off, PostgreSQL "));
    assert_eq!(server.connect().put("k", "v").status, 201);
}

#[test]
fn the_api_describes_itself() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let response = client.request("GET", "/openapi.json", "", b"");
    assert_eq!((response.status, response.field("Content-Type")), (200, Some("application/json")));
    assert_eq!(response.field("Cache-Control"), Some("max-age=300"));
    let description: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    for (method, status) in [("HEAD", 200), ("OPTIONS", 204), ("PUT", 405), ("QUERY", 405), ("BREW", 501)] {
        assert_eq!(client.request(method, "/openapi.json", "", b"").status, status, "{method}");
    }
    // More than one turn sends at once, and in the order of the requests.
    client.send(request("GET", "/openapi.json", "", b"").repeat(40));
    for _ in 0..40 {
        assert_eq!(client.response().body, response.body);
    }
}

#[test]
fn what_a_trigger_of_the_table_keeps_out_is_not_acknowledged() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    server.database().insert("kept", "old");
    let triggers = "CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF NEW.value = 'unwanted' THEN RETURN NULL; END IF; RETURN NEW; END $$;
        CREATE TRIGGER keep_out BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION keep_out();
        CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER keep BEFORE DELETE ON kv_store FOR EACH ROW EXECUTE FUNCTION keep();";
    server.database().connect().batch_execute(triggers).unwrap();
    assert_eq!(client.get("kept").text(), "old");
    for key in ["kept", "new"] {
        let refused = client.put(key, "unwanted");
        assert_eq!(refused.outcome(), "503 database-refused");
        assert!(refused.detail().contains("trigger"), "{}", refused.detail());
    }
    assert_eq!((client.get("kept").text().as_str(), client.get("new").status), ("old", 404));
    // It finds nothing that it could delete, and what is there is still read.
    assert_eq!(client.delete("kept").status, 404);
    assert_eq!(client.get("kept").text(), "old");
    // Of many rows the one that is kept out is told from the others.
    let lines = b"{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":\"unwanted\"}\n{\"key\":\"c\",\"value\":\"3\"}\n";
    let answer = client.request("PUT", "/kv", "Content-Type: application/x-ndjson\r\n", lines);
    let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((told["written"].as_u64(), told["failed"].as_u64()), (Some(2), Some(1)), "{told}");
    assert_eq!(told["errors"][0]["line"], 2);
    assert_eq!((client.get("a").text().as_str(), client.get("b").status), ("1", 404));
}
