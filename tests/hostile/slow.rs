//! Clients that send slowly, read slowly, or do neither.

use super::{Bystander, MIB, Memory, connect_with_small_buffer, connections};
use crate::support::client::request;
use crate::support::{Client, DEADLINE, Server, random_text, wait_until};
use std::time::{Duration, Instant};

const HITS: &str = r#"hotrow_cache_requests_total{result="hit"}"#;

#[test]
fn slow_heads_and_contents_end_in_408_while_others_are_served() {
    // So long that the bystander's requests are never late, so short that the test is not.
    let server = Server::start(&["--header-timeout", "1s", "--request-timeout", "2s"]);
    let mut bystander = Bystander::new(&server);
    let memory = Memory::of(&server);
    let endless_field = "GET /kv/k HTTP/1.1\r\nHost: h\r\nX: ";
    let endless_chunks = "PUT /kv/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let endless_value = "PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n";
    let mut slow: Vec<(Client, &str)> = (0..100)
        .flat_map(|_| {
            [(endless_field, "x"), (endless_chunks, "1\r\nx\r\n"), (endless_value, "x"), ("", "\r\n")]
        })
        .map(|(start, drop)| {
            let mut client = server.connect();
            client.send(start);
            (client, drop)
        })
        .collect();
    // A drop from everybody, then the bystander; until the server has had enough of all of them.
    wait_until("everybody has been told that it is too slow", || {
        for (client, drop) in slow.iter_mut().filter(|(client, _)| !client.has_something()) {
            let _ = client.try_send(*drop);
        }
        bystander.reads(10);
        server.metric(r#"hotrow_problems_total{problem="slow-request"}"#) == 400
    });
    memory.has_grown_by_less_than(8 * MIB);
    for (client, _) in &mut slow {
        assert_eq!(client.response().outcome(), "408 slow-request");
    }
    wait_until("their connections are gone", || connections(&server) == 1);
    bystander.reads(1);
}

#[test]
fn a_client_that_does_not_read_costs_little_and_gets_every_byte_in_the_end() {
    let server = Server::start(&["--event-loops", "1"]);
    let mut bystander = Bystander::new(&server);
    let values: Vec<String> = (0..4).map(|n| random_text(200 * 1024, n)).collect();
    for (n, value) in values.iter().enumerate() {
        assert_eq!(bystander.client.put(&format!("large-{n}"), value).status, 201);
    }
    let gets: Vec<u8> =
        (0..1000).flat_map(|n| request("GET", &format!("/kv/large-{}", n % 4), "", b"")).collect();
    let memory = Memory::of(&server);
    let hits = server.metric(HITS);
    let mut slow: Vec<Client> = (0..20).map(|_| connect_with_small_buffer(server.address)).collect();
    for client in &mut slow {
        client.send(&gets);
    }
    // One loop serves all in turn: whoever is served so often has let the others have their turns before.
    bystander.is_served(100);
    let answered = server.metric(HITS) - hits - 100;
    assert!(answered >= 20, "everybody has got something: {answered} answers");
    assert!(
        answered < 20 * 100,
        "4 GB are asked for, and {answered} answers were made though nobody reads them"
    );
    // 20 times 200 KiB of copied values would be 4 MiB, 20 times what is asked for 4 GB.
    memory.has_grown_by_less_than(16 * MIB);
    for _ in 0..18 {
        slow.pop().unwrap().reset();
    }
    // Now they read: everything is there, in order, and right.
    for mut client in slow {
        for n in 0..1000 {
            let response = client.response();
            assert!(response.status == 200 && response.body == values[n % 4].as_bytes(), "answer {n}");
        }
        assert_eq!(client.get("bystander").text(), "100");
    }
    memory.has_grown_by_less_than(16 * MIB);
    bystander.is_served(1);
}

#[test]
fn a_client_that_never_reads_is_closed_and_one_that_reads_a_little_is_not() {
    let server = Server::start(&["--idle-timeout", "2s"]);
    let value = random_text(200 * 1024, 1);
    assert_eq!(server.connect().put("large", &value).status, 201);
    let get = request("GET", "/kv/large", "", b"");
    let gets = get.repeat(2_500);
    let closed = || server.metric(r#"hotrow_connections_closed_total{reason="slow_reader"}"#);
    // Where this machine stands still for about as long as the time-out, the one that reads has not read either: then once more.
    wait_until("the one that never reads is closed, and the other one reads all the time", || {
        let before = closed();
        let mut never = connect_with_small_buffer(server.address);
        never.send(&gets);
        let mut little = connect_with_small_buffer(server.address);
        let deadline = Instant::now() + DEADLINE;
        little.send(get.repeat(500));
        let (mut is_over, mut last, mut longest) = (false, Instant::now(), Duration::ZERO);
        // Whatever comes, a piece at a time; the server sees room now and then. And one more when the other one is closed.
        loop {
            let piece = little.try_response_to("GET");
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if longest >= Duration::from_secs(1) {
                return false;
            }
            assert!(piece.expect("it is served").body == value.as_bytes());
            // As many are waited for as ever, however fast this machine is.
            let _ = little.try_send(&get);
            if is_over {
                break;
            }
            is_over = closed() > before;
            assert!(Instant::now() < deadline, "the one that never reads is not closed");
        }
        assert!(never.read_to_end().len() < gets.len() * 1024, "it is cut off in the middle");
        true
    });
}

#[test]
fn a_client_that_never_speaks_is_closed() {
    let server = Server::start(&["--idle-timeout", "1s"]);
    let mut silent: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    // Before it was silent for as long as that.
    let speaks_once = |_| {
        let mut client = server.connect();
        wait_until("it is answered", || {
            let answer = client.try_request("GET", "/kv/absent", "", b"");
            if answer.is_err() {
                client = server.connect();
            }
            answer.is_ok_and(|answer| answer.status == 404)
        });
        client
    };
    let mut once: Vec<Client> = (0..50).map(speaks_once).collect();
    for client in silent.iter_mut().chain(&mut once) {
        client.expect_closed();
    }
    wait_until("others are served", || {
        let written = server.connect().try_request("PUT", "/kv/k", "", b"v");
        written.is_ok_and(|written| written.status == 201)
    });
    assert!(server.metric(r#"hotrow_connections_closed_total{reason="idle"}"#) >= 100);
}
