//! Those who have no keys of their own: some wait for the counter that all clients add to, some only disturb.

use super::load::{Target, problem};
use super::record::Event;
use super::support::client::Client;
use std::thread;
use std::time::{Duration, Instant};

/// Waits again and again for the shared counter to change.
pub fn watch(target: &Target, number: usize) {
    let path = format!("/kv/{}-shared", target.name);
    let (mut connection, mut etag) = (None, "\"1\"".to_owned());
    while !target.stopped() {
        let sent = Instant::now();
        let result = match connection.take() {
            Some(connection) => Ok(connection),
            None => target.open(number),
        };
        let result = result.and_then(|mut connection| {
            let fields = format!("If-None-Match: {etag}\r\nPrefer: wait=2\r\n");
            connection.request("GET", &path, &fields, b"").map(|answer| (connection, answer))
        });
        match result {
            Ok((open, answer)) => {
                target.record.watched(answer.status);
                connection = (!answer.close).then_some(open);
                if !matches!(answer.status, 200 | 304 | 404) {
                    let what = format!("watch {}", problem(&answer));
                    let (status, server) = (answer.status, target.name);
                    target.record.event(Event { sent, answered: Instant::now(), status, what, server });
                }
                if answer.status != 200 {
                    // Not to ask a server that refuses as fast as it can.
                    thread::sleep(Duration::from_millis(20));
                }
                etag = answer.etag.unwrap_or(etag);
            }
            Err(error) => {
                let what = format!("watch: {error}");
                target.record.event(Event {
                    sent,
                    answered: Instant::now(),
                    status: 0,
                    what,
                    server: target.name,
                });
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Strangers: every second some that are silent, that break off, that talk nonsense. Nothing of them may stay.
pub fn visit(target: &Target) {
    let mut silent: Vec<Client> = Vec::new();
    while !target.stopped() {
        for what in [
            &b""[..],
            b"GET /kv/x HTTP/1.1\r\nHo",
            b"PUT /kv/x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n1",
            b"\x16\x03\x01nonsense\r\n\r\n",
        ] {
            let Ok(stream) = std::net::TcpStream::connect(target.address) else { continue };
            let mut client = Client::over(stream);
            let _ = client.try_send(what);
            if what.is_empty() {
                silent.push(client);
            } else if what.len() % 2 == 0 {
                client.reset();
            }
        }
        // Longer than the server waits for a head.
        if silent.len() > 30 {
            silent.remove(0);
        }
        thread::sleep(Duration::from_secs(1));
    }
}
