//! Clients that ask without end, or send more than anybody will read.

use super::{Bystander, MIB, Memory, connect_with_small_buffer};
use crate::support::client::request;
use crate::support::{Client, Server, random_text, wait_until};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Tells the threads of an attack to stop when a test ends, however it ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_client_that_pipelines_without_end_does_not_starve_the_others() {
    pipeline_without_end("hit");
}

/// The writer's outcome needs the lock that the hits of the same key take all the time.
#[test]
fn a_key_that_is_read_without_end_can_be_written() {
    pipeline_without_end("bystander");
}

/// Greedy clients read this key; the other client reads and writes its own.
fn pipeline_without_end(key: &str) {
    // The deadline is the client's and a failure; the server's own must not come first on a machine that is busy.
    let server = Server::start(&["--event-loops", "1", "--request-timeout", "5m"]);
    let mut bystander = Bystander::new(&server);
    bystander.client.put("hit", "value");
    bystander.is_served(50);
    let memory = Memory::of(&server);
    let done = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let greedy: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    thread::scope(|scope| {
        let _stop = Stop(&done);
        // Hits without end; the answers are read and thrown away.
        for client in &greedy {
            let (mut sending, mut reading) = (client.stream(), client.stream());
            let (done, answered) = (&done, &answered);
            scope.spawn(move || {
                let requests = request("GET", &format!("/kv/{key}"), "", b"").repeat(500);
                while !done.load(Ordering::Relaxed) && sending.write_all(&requests).is_ok() {}
                let _ = sending.shutdown(std::net::Shutdown::Write);
            });
            scope.spawn(move || {
                let mut buffer = [0; 64 * 1024];
                while let Ok(n @ 1..) = reading.read(&mut buffer) {
                    answered.fetch_add(n as u64, Ordering::Relaxed);
                }
            });
        }
        // And one refused content after the other.
        let mut upload = server.connect();
        let done_too = &done;
        scope.spawn(move || {
            upload.send("POST /kv/hit HTTP/1.1\r\nHost: h\r\nContent-Length: 65536\r\n\r\n");
            while !done_too.load(Ordering::Relaxed) {
                let _ = upload.try_send([b'x'; 65536]);
                assert_eq!(upload.response().status, 405);
                upload.send("POST /kv/hit HTTP/1.1\r\nHost: h\r\nContent-Length: 65536\r\n\r\n");
            }
        });
        wait_until("the greedy ones are at it", || answered.load(Ordering::Relaxed) > MIB as u64);
        let before = answered.load(Ordering::Relaxed);
        bystander.is_served(100);
        assert!(answered.load(Ordering::Relaxed) > before, "all this while the others went on");
    });
    memory.has_grown_by_less_than(16 * MIB);
}

#[test]
fn whoever_sends_too_much_can_still_read_why_it_was_refused() {
    let server = Server::start(&["--max-value-bytes", "1000"]);
    let mut bystander = Bystander::new(&server);
    let memory = Memory::of(&server);
    let piece = vec![b'x'; 64 * 1024];
    let length = 10 * MIB;
    let head = format!("PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
    let (mut polite_resets, mut blind_resets) = (0, 0);
    for _ in 0..10 {
        // One that looks for an answer while it sends, as RFC 9112 section 9.5 wants it, and stops at the first byte.
        let mut client = server.connect();
        client.send(&head);
        let mut pieces = 0..length / piece.len();
        while !client.has_something() && pieces.next().is_some() {
            if client.try_send(&piece).is_err() {
                polite_resets += 1;
                break;
            }
        }
        assert_eq!(client.response().outcome(), "413 value-too-large");
        // One that sends everything before it looks.
        let mut client = server.connect();
        client.send(&head);
        if (0..length / piece.len()).any(|_| client.try_send(&piece).is_err()) {
            blind_resets += 1;
        }
        assert_eq!(client.response().outcome(), "413 value-too-large");
        bystander.is_served(5);
    }
    // What the server throws away for their sake has an end in time, so that a stalled machine may cut one off.
    assert!(polite_resets < 10 && blind_resets < 10, "{polite_resets} and {blind_resets} resets in 10 times");
    memory.has_grown_by_less_than(8 * MIB);
}

#[test]
fn an_answer_arrives_whole_whatever_stands_behind_its_request() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::new(&server);
    let value = random_text(MIB, 1);
    bystander.client.put("large", &value);
    for _ in 0..20 {
        // The last request of its connection, much that nobody will read, and the end. Closing the socket over what
        // is unread would be a reset, and would take the rest of the answer with it.
        let mut client = connect_with_small_buffer(server.address);
        client.send(
            [&request("GET", "/kv/large", "Connection: close\r\n", b"")[..], &[b'x'; 200_000]].concat(),
        );
        client.finish_sending();
        bystander.is_served(1);
        assert!(client.response().body == value.as_bytes());
        client.expect_closed();
    }
}
