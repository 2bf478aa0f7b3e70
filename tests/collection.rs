//! Many keys at once, as users see it: several in one answer, lists, export and bulk load.

use crate::support::client::{Response, request};
use crate::support::database::{Database, server_version};
use crate::support::{Client, Server, left_out, random_text, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One member of every item.
fn of(response: &Response, name: &str) -> Vec<Value> {
    assert_eq!((response.status, response.field("Content-Type")), (200, Some("application/json")));
    let json: Value = serde_json::from_slice(&response.body).unwrap();
    json["items"].as_array().unwrap().iter().map(|item| item[name].clone()).collect()
}

fn get(client: &mut Client, target: &str) -> Response {
    client.request("GET", target, "", b"")
}

#[test]
fn several_keys_are_answered_in_the_order_of_the_request() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let put = client.put("cached", "in memory\n\"");
    server.database().insert("a b/ä", "by SQL");
    server.database().insert("c", "");
    let target = "/kv?key=none&key=cached&key=a%20b%2F%C3%A4&key=c&key=cached";
    for round in 0..2 {
        let answer = get(&mut client, target);
        assert_eq!(of(&answer, "key"), ["none", "cached", "a b/ä", "c", "cached"]);
        assert_eq!(of(&answer, "status"), [404, 200, 200, 200, 200]);
        let cached = json!("in memory\n\"");
        assert_eq!(of(&answer, "problem")[0], "urn:hotrow:problem:key-not-found");
        assert_eq!(of(&answer, "value"), [json!(null), cached.clone(), json!("by SQL"), json!(""), cached]);
        assert_eq!(of(&answer, "etag")[1], put.field("ETag").unwrap());
        let reads = server.metric(r#"hotrow_cache_requests_total{result="miss"}"#);
        assert_eq!(reads, 3, "round {round}");
        let head = client.request("HEAD", target, "", b"");
        assert_eq!(head.field("Content-Length").unwrap(), answer.body.len().to_string());
    }
    // What one request has read, another finds.
    assert_eq!(client.get("c").field("Cache-Status"), Some("hotrow; hit"));
}

#[test]
fn a_row_that_cannot_be_read_is_refused_alone_among_others() {
    let server = Server::start(&["--db-readers=1"]);
    server.database().execute("ALTER TABLE kv_store ALTER COLUMN value DROP NOT NULL", &[]);
    server.database().execute("INSERT INTO kv_store (key) VALUES ('null')", &[]);
    server.database().insert("a", "1");
    server.database().insert("z", "2");
    let answer = get(&mut server.connect(), "/kv?key=a&key=null&key=none&key=z");
    assert_eq!(of(&answer, "status"), [200, 503, 404, 200]);
    assert_eq!(of(&answer, "problem")[1], "urn:hotrow:problem:database-refused");
    let batch = br#"[{"op":"get","key":"a"},{"op":"get","key":"null"},{"op":"set","key":"z","value":"3"}]"#;
    let answer = server.connect().request("POST", "/batch", "Content-Type: application/json\r\n", batch);
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    let status: Vec<&Value> = told["items"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!(status, [200, 503, 200], "{told}");
}

#[test]
fn the_misses_of_one_request_are_read_by_one_statement() {
    let server = Server::start(&["--db-readers=2"]);
    let keys: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    for key in &keys {
        server.database().insert(key, &key.repeat(20));
    }
    let query: Vec<String> = keys.iter().rev().map(|key| format!("key={key}")).collect();
    let answer = get(&mut server.connect(), &format!("/kv?{}", query.join("&")));
    let values: Vec<String> = keys.iter().rev().map(|key| key.repeat(20)).collect();
    assert_eq!(of(&answer, "value"), values);
    let statements = server.metric(r#"hotrow_database_batch_jobs_count{worker="reader"}"#);
    assert_eq!(statements, 1);
}

#[test]
fn what_does_not_fit_into_one_answer_is_to_be_got_alone() {
    let server = Server::start(&["--max-value-bytes=256KiB"]);
    let mut client = server.connect();
    for key in ["a", "b", "c"] {
        client.put(key, random_text(200 * 1024, 7));
    }
    let answer = get(&mut client, "/kv?key=a&key=b&key=c&key=d");
    assert_eq!(of(&answer, "status"), [200, 200, 413, 404]);
    assert!(of(&answer, "detail")[2].as_str().unwrap().contains("alone"));
}

#[test]
fn a_request_for_several_keys_is_refused_where_it_makes_no_sense() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let many = format!("/kv?{}", vec!["key=k"; 101].join("&"));
    for (method, target, outcome) in [
        ("GET", many.as_str(), "400 too-many-keys"),
        ("GET", "/kv?key=", "400 bad-key"),
        ("GET", "/kv?key=%00", "400 bad-key"),
        ("GET", "/kv?keys=a", "400 bad-query"),
        ("GET", "/kv?limit=1001", "400 bad-query"),
        ("GET", "/kv?cursor=garbage", "400 bad-query"),
        ("DELETE", "/kv?key=a", "405 method-not-allowed"),
        ("OPTIONS", "/kv", "204"),
    ] {
        assert_eq!(client.request(method, target, "", b"").outcome(), outcome, "{method} {target}");
    }
}

const LINES: &str = "Accept: application/x-ndjson\r\n";

/// All pages of a list, and how many there were.
fn pages(client: &mut Client, target: &str) -> (Vec<Value>, usize) {
    let (mut items, mut count, mut next) = (Vec::new(), 0, target.to_owned());
    loop {
        let page = get(client, &next);
        assert_eq!((page.status, page.field("Cache-Status")), (200, Some("hotrow; fwd=bypass")), "{page:?}");
        let json: Value = serde_json::from_slice(&page.body).unwrap();
        items.extend(json["items"].as_array().unwrap().iter().cloned());
        count += 1;
        let Some(link) = page.field("Link") else {
            assert!(json["cursor"].is_null());
            return (items, count);
        };
        next = link.strip_prefix('<').unwrap().split('>').next().unwrap().to_owned();
        assert!(link.ends_with("; rel=\"next\"") && next.ends_with(json["cursor"].as_str().unwrap()));
    }
}

fn keys(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["key"].as_str().unwrap()).collect()
}

/// Keys that collations order in other ways than by their code points.
fn odd_keys() -> Vec<String> {
    let odd = [
        "a", "A", "b", "B", "ä", "Ä", "_", "-", " ", "a b", "a-b", "ab", "aB", "\u{1}", "\u{7f}", "\u{d7ff}",
    ];
    let odd = odd.iter().map(|key| (*key).to_owned());
    let mut keys: Vec<String> = odd.chain(["\u{e000}", "\u{10ffff}", "🔥"].map(str::to_owned)).collect();
    keys.extend((0..40).map(|i| format!("p/{i}")));
    keys.push("x".repeat(255));
    keys.push("\u{10ffff}".repeat(255));
    keys.sort_unstable();
    keys
}

/// A database that orders text as people do, by ICU.
fn icu() -> Option<&'static str> {
    if server_version() < 150_000 {
        left_out("lists under a collation of ICU's", "PostgreSQL makes such a database from version 15 on");
        return None;
    }
    Some("LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' LOCALE 'C'")
}

#[test]
fn a_list_goes_through_all_keys_in_code_point_order_under_any_collation() {
    for options in ["LOCALE 'C'", "LOCALE 'C.UTF-8'"].into_iter().chain(icu()) {
        let server = Server::start_on(&Database::new_with(options), &[]);
        let odd = odd_keys();
        for key in &odd {
            server.database().insert(key, &format!("value of {key}"));
        }
        let mut client = server.connect();
        for limit in [1, 7, 61, 1_000] {
            let (items, count) = pages(&mut client, &format!("/kv?limit={limit}"));
            assert_eq!(keys(&items), odd, "{options}");
            assert_eq!(count, odd.len().div_ceil(limit), "{options}, {limit} a page");
        }
        for prefix in ["p/", "p/1", "a", "A", "ä", "\u{10ffff}", "\u{d7ff}", "none", "x"] {
            let encoded: String = prefix.bytes().map(|b| format!("%{b:02X}")).collect();
            let (items, _) = pages(&mut client, &format!("/kv?prefix={encoded}&limit=3&values=true"));
            let expected: Vec<&String> = odd.iter().filter(|key| key.starts_with(prefix)).collect();
            assert_eq!(keys(&items), expected, "{options}, {prefix:?}");
            assert!(
                items
                    .iter()
                    .all(|item| item["value"] == format!("value of {}", item["key"].as_str().unwrap()))
            );
        }
        // And nothing of it was read into the cache.
        assert_eq!(server.metric("hotrow_cache_entries"), 0);
        let etag = pages(&mut client, "/kv?prefix=ab").0[0]["etag"].clone();
        assert_eq!(etag, client.get("ab").field("ETag").unwrap());
    }
}

/// Only SQL makes them, and only in a column that was made for longer keys than ours.
#[test]
fn keys_that_are_too_long_for_a_request_are_listed_and_gone_on_behind() {
    let server = Server::start(&[]);
    server.database().execute("ALTER TABLE kv_store ALTER COLUMN key TYPE text", &[]);
    let (long, last) = ("x".repeat(300), "\u{10ffff}".repeat(300));
    let all = ["a", &long, "z", &last];
    for key in all {
        server.database().insert(key, "v");
    }
    let mut client = server.connect();
    for limit in [1, 2, 4] {
        let (items, count) = pages(&mut client, &format!("/kv?limit={limit}"));
        assert_eq!((keys(&items), count), (all.to_vec(), 4usize.div_ceil(limit)), "{limit} a page");
    }
    for (prefix, of) in [("x", &long), ("%F4%8F%BF%BF", &last)] {
        let (items, _) = pages(&mut client, &format!("/kv?prefix={prefix}&limit=1"));
        assert_eq!(keys(&items), [of.as_str()]);
    }
    for (cursor, behind) in [("a", &all[1..]), (&long, &all[2..]), (&last, &[])] {
        let target = format!("/kv?cursor={}", hotrow::api::list::cursor(cursor));
        let lines = client.request("GET", &target, LINES, b"").text();
        let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(keys(&rows), behind);
    }
    let alone = client.get(&long);
    assert_eq!((alone.status, alone.problem()), (400, "bad-key".to_owned()));
}

/// What the planner does with the page's statement, however the table is filled and whatever it knows of it.
#[test]
fn a_page_is_a_walk_along_the_index_under_any_collation() {
    for options in ["LOCALE 'C'"].into_iter().chain(icu()) {
        let server = Server::start_on(&Database::new_with(options), &[]);
        let mut sql = server.database().connect();
        let rows = "INSERT INTO kv_store (key, value) SELECT 'key ' || i, repeat('v', 300) FROM generate_series(1, 20000) i";
        sql.batch_execute(rows).unwrap();
        for analyzed in [false, true] {
            if analyzed {
                sql.batch_execute("ANALYZE kv_store").unwrap();
            }
            for (from, to) in [("key 1", "key 2"), ("", "\u{10ffff}"), ("key 5", "key 5a")] {
                let page = include_str!("../sql/page.sql");
                let page = page.replace("$1", &format!("'{from}'")).replace("$2", &format!("'{to}'"));
                let page = page.replace("$3", "100").replace("$4", "1000000").replace("$5", "true");
                let explained = sql.query(&format!("EXPLAIN {page}"), &[]).unwrap();
                let plan: Vec<String> = explained.iter().map(|row| row.get(0)).collect();
                let plan = plan.join("\n");
                assert!(plan.contains("Index Scan using kv_store_key_order"), "{options}, {from:?}:\n{plan}");
                assert!(
                    !plan.contains("Seq Scan") && !plan.contains("Bitmap"),
                    "{options}, {from:?}:\n{plan}"
                );
            }
        }
    }
}

#[test]
fn a_page_ends_early_when_its_values_are_large() {
    let server = Server::start(&[]);
    for i in 0..10 {
        server.database().insert(&format!("k{i}"), &random_text(100 * 1024, i));
    }
    let mut client = server.connect();
    let (items, count) = pages(&mut client, "/kv?values=true");
    assert_eq!((items.len(), count), (10, 4), "three values reach 256 KiB");
    for (i, item) in items.iter().enumerate() {
        assert_eq!(item["value"], random_text(100 * 1024, i as u64));
    }
    assert_eq!(pages(&mut client, "/kv").1, 1, "keys alone fit");
    // What is bounded is the answer: in JSON each of these takes six times its bytes.
    let keys: Vec<String> = (100..400).map(|i| format!("{}{i}", "\u{1}".repeat(252))).collect();
    for key in &keys {
        server.database().insert(key, "");
    }
    let (items, count) = pages(&mut client, "/kv?prefix=%01&limit=1000");
    assert_eq!(count, 2);
    assert!(self::keys(&items) == keys, "every key, in its order");
    // And what is read for it: keys count, and values where they are asked for.
    let mut sql = server.database().connect();
    for (from, values, expected) in [("", "false", 4), ("k0", "false", 10), ("k0", "true", 1)] {
        let page = include_str!("../sql/page.sql").replace("$1", &format!("'{from}'"));
        let page =
            page.replace("$2", "'l'").replace("$3", "1000").replace("$4", "1000").replace("$5", values);
        assert_eq!(sql.query(&page, &[]).unwrap().len(), expected, "{from:?}, {values}");
    }
    let head = client.request("HEAD", "/kv?limit=2", "", b"");
    assert_eq!((head.status, head.field("Link").is_some()), (200, true));
}

#[test]
fn rows_past_their_time_are_not_listed() {
    let server = Server::start(&[]);
    server.database().insert("a", "1");
    let later = "INSERT INTO kv_store (key, value, expires_at) VALUES ('b', '2', now() - interval '1 s'), \
        ('c', '3', '2100-01-02 03:04:05.678901+00'), ('d', '4', 'infinity')";
    server.database().execute(later, &[]);
    let mut client = server.connect();
    assert_eq!(keys(&pages(&mut client, "/kv?limit=1").0), ["a", "c", "d"]);
    let lines = client.request("GET", "/kv?limit=2", LINES, b"").text();
    let expected = "{\"key\":\"a\",\"value\":\"1\"}\n\
        {\"key\":\"c\",\"value\":\"3\",\"expires_at\":\"2100-01-02T03:04:05.678901Z\"}\n";
    assert_eq!(lines, expected);
}

#[test]
fn an_export_has_everything_and_goes_on_with_the_connection() {
    let server = Server::start(&["--max-value-bytes=2MiB"]);
    let mut rows = BTreeMap::new();
    for (i, key) in odd_keys().into_iter().enumerate() {
        let value = match i % 20 {
            0 => "\u{1}\u{7f}\"\\ä🔥".repeat(30_000),
            1 => String::new(),
            _ => random_text(i * 100, i as u64),
        };
        server.database().insert(&key, &value);
        rows.insert(key, value);
    }
    let many = "INSERT INTO kv_store (key, value) SELECT 'p/many/' || i, md5(i::text) FROM generate_series(1, 5000) i";
    server.database().execute(many, &[]);
    let mut client = server.connect();
    client.send([request("GET", "/kv", LINES, b""), request("GET", "/kv/a", "", b"")].concat());
    let export = client.response();
    assert_eq!((export.status, export.field("Content-Type")), (200, Some("application/x-ndjson")));
    let lines: Vec<Value> = export.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), rows.len() + 5_000);
    assert!(keys(&lines).is_sorted(), "in code point order");
    for line in &lines {
        let key = line["key"].as_str().unwrap();
        match rows.get(key) {
            Some(value) => assert_eq!(line["value"], *value, "{key}"),
            None => assert!(key.starts_with("p/many/")),
        }
    }
    assert_eq!(client.response().text(), rows["a"]);
    assert_eq!(server.metric("hotrow_cache_entries"), 1, "an export leaves the cache alone");
    let some = client.request("GET", "/kv?prefix=p/many/1", LINES, b"").text();
    assert_eq!(some.lines().count(), 1_111);
    let head = client.request("HEAD", "/kv", LINES, b"");
    assert_eq!((head.status, head.field("Transfer-Encoding")), (200, Some("chunked")));
}

#[test]
fn an_export_that_nobody_reads_takes_no_memory_and_no_reader() {
    let server = Server::start(&["--db-readers=1", "--max-value-bytes=256KiB"]);
    let rows = "INSERT INTO kv_store (key, value) SELECT 'k' || i, repeat(md5(i::text), 3000) FROM generate_series(1, 1000) i";
    server.database().execute(rows, &[]);
    let before = server.rss_bytes();
    let mut slow: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send(request("GET", "/kv", LINES, b""));
    }
    let mut other = server.connect();
    wait_until("all of them wait for their clients", || {
        server.metric(r#"hotrow_connections{state="client"}"#) == 20
    });
    // 96 MB each, and 20 of them; the only reader is free.
    assert!(server.rss_bytes() < before + 20 * 2 * 1024 * 1024, "{} bytes", server.rss_bytes() - before);
    assert_eq!(other.get("k1").status, 200);
    let export = slow[0].response();
    assert_eq!((export.status, export.text().lines().count()), (200, 1_000));
}

#[test]
fn an_export_that_loses_its_database_is_not_taken_for_whole() {
    let server = Server::start(&["--db-readers=1"]);
    let rows = "INSERT INTO kv_store (key, value) SELECT 'k' || i, repeat(md5(i::text), 3000) FROM generate_series(1, 1000) i";
    server.database().execute(rows, &[]);
    let mut client = server.connect();
    client.send(request("GET", "/kv", LINES, b""));
    wait_until("it waits for its client", || server.metric(r#"hotrow_connections{state="client"}"#) == 1);
    // Nobody gets in any more, and who is in is thrown out.
    let (cluster, name) = server.database().url.split_once("dbname=").unwrap();
    let mut sql = postgres::Client::connect(&format!("{cluster}dbname=postgres"), postgres::NoTls).unwrap();
    sql.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).unwrap();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
    sql.execute(end, &[&name]).unwrap();
    let error = client.try_response_to("GET").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    sql.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).unwrap();
}
