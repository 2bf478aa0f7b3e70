//! More connections than there is room for: idle ones, a flood, and more than the process has descriptors for.

use super::{Bystander, MIB, Memory, connections};
use crate::support::client::request;
use crate::support::database::Database;
use crate::support::process::connections_allowed;
use crate::support::{Client, Server, wait_until};
use std::time::Instant;

#[test]
fn ten_thousand_idle_connections_cost_next_to_nothing() {
    let Some(count) = connections_allowed("idle connections", 10_000) else { return };
    let server = Server::start(&["--idle-timeout", "10m"]);
    let mut bystander = Bystander::new(&server);
    bystander.is_served(50);
    let memory = Memory::of(&server);
    let mut idle: Vec<Client> = Vec::with_capacity(count);
    for n in 0..count {
        idle.push(server.connect());
        if n % 100 == 0 {
            bystander.is_served(1);
        }
    }
    // Each of them is served once: what it needed for that, it must not keep.
    for client in &mut idle {
        client.send(request("GET", "/kv/bystander", "", b""));
    }
    for client in &mut idle {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(connections(&server), count as u64 + 1);
    bystander.is_served(200);
    memory.has_grown_by_less_than(count * 1024);
    drop(idle);
    wait_until("they are gone", || connections(&server) == 1);
    bystander.is_served(10);
}

#[test]
fn a_flood_of_connections_is_turned_away_and_recovered_from() {
    let server = Server::start(&["--max-connections", "100", "--event-loops", "2"]);
    let mut bystander = Bystander::new(&server);
    let memory = Memory::of(&server);
    for _ in 0..3 {
        let mut held: Vec<Client> = Vec::new();
        wait_until("there is no room any more", || {
            let mut client = server.connect();
            match client.try_request("GET", "/kv/bystander", "", b"") {
                Ok(response) if response.status == 200 => {
                    held.push(client);
                    false
                }
                _ => true,
            }
        });
        assert_eq!(held.len(), 99);
        // Half of them speak first, half only listen; all at once.
        let mut flood: Vec<Client> = (0..400).map(|_| server.connect()).collect();
        for client in flood.iter_mut().step_by(2) {
            let _ = client.try_send(request("GET", "/kv/bystander", "", b""));
        }
        bystander.is_served(20);
        let mut told = 0;
        for client in &mut flood {
            // More than can be told are closed without a word.
            let Ok(response) = client.try_response_to("GET") else { continue };
            assert_eq!(response.outcome(), "503 too-many-connections");
            assert!(response.says_close());
            told += 1;
        }
        assert!(told > 0, "somebody was told why");
        drop(flood);
        // Those who were there are served as before.
        for client in &mut held {
            assert_eq!(client.get("bystander").text(), bystander.served.to_string());
        }
        drop(held);
        wait_until("there is room again", || connections(&server) == 1);
        assert_eq!(server.connect().get("bystander").status, 200);
        wait_until("the last is gone", || connections(&server) == 1);
    }
    assert!(server.metric("hotrow_connections_refused_total") >= 1200);
    memory.has_grown_by_less_than(8 * MIB);
}

/// More connections than the server has descriptors for, each with a request.
fn take_all_descriptors(server: &Server) -> Vec<Client> {
    // The admin connection is kept: it must be there before nobody is let in any more.
    assert_eq!(server.metric("hotrow_accept_pauses_total"), 0);
    let mut clients: Vec<Client> = (0..150).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(request("GET", "/kv/bystander", "", b""));
    }
    wait_until("accepting pauses", || server.metric("hotrow_accept_pauses_total") > 0);
    clients
}

#[test]
fn out_of_descriptors_accepting_pauses_and_goes_on() {
    let server = Server::start_with_descriptors(100, &["--event-loops", "1"]);
    let mut bystander = Bystander::new(&server);
    let clients = take_all_descriptors(&server);
    let pauses = || server.metric("hotrow_accept_pauses_total");
    bystander.is_served(20);
    // While it pauses it sleeps. A pause lasts 100 ms, so that ten more take 900 at least; a loop that did not sleep in
    // between would turn 100,000 times.
    let start = Instant::now();
    let (first_pauses, first_turns) = (pauses(), server.metric("hotrow_loop_turns_total"));
    let mut looks = 0;
    wait_until("it has paused some more", || {
        looks += 1;
        pauses() >= first_pauses + 10
    });
    assert!(start.elapsed().as_millis() > 850, "pauses end early: ten in {:?}", start.elapsed());
    let turns = server.metric("hotrow_loop_turns_total") - first_turns;
    assert!(turns < 10 * (10 + looks), "{turns} turns for 10 pauses and {looks} looks at the metrics");
    // Everybody is served, as soon as those before have gone.
    for mut client in clients {
        assert_eq!(client.response().status, 200);
    }
    bystander.is_served(20);
    let mut late = server.connect();
    assert_eq!(late.get("bystander").text(), bystander.served.to_string());
}

#[test]
fn a_server_that_is_exactly_full_pauses_only_once_somebody_waits() {
    let server = Server::start_with_descriptors(100, &["--event-loops", "1"]);
    let pauses = || server.metric("hotrow_accept_pauses_total");
    let accepted = || server.metric("hotrow_connections_accepted_total");
    // The admin connection first. Then one after the other, until one has to wait for a descriptor.
    assert_eq!(pauses(), 0);
    let mut clients: Vec<Client> = Vec::new();
    for round in 0..2 {
        let before = pauses();
        let mut waiting = loop {
            let mut client = server.connect();
            client.send(request("GET", "/kv/bystander", "", b""));
            let mut told = (0, 0);
            wait_until("it is accepted, or accepting pauses", || {
                told = (accepted(), pauses());
                told.0 == clients.len() as u64 + 2 + round || told.1 > before
            });
            if told.0 == clients.len() as u64 + 1 + round {
                break client;
            }
            // Whoever got in has cost no pause, the last one included: that was counted in the same turn.
            assert_eq!(told.1, before, "{} connections", clients.len() + 1);
            assert_eq!(client.response().status, 404);
            clients.push(client);
        };
        assert!(clients.len() > 20, "{} connections are all", clients.len());
        // It goes on being counted while somebody waits, and whoever waits comes in when another one leaves.
        wait_until("it goes on", || pauses() > before + 2);
        drop(clients.pop());
        assert_eq!(waiting.response().status, 404);
        clients.push(waiting);
        // Full again, with nobody in the queue: the second round begins with one more who has to wait.
    }
}

#[test]
fn out_of_descriptors_the_database_can_still_be_reached_again() {
    // The write that the outage interrupts is in doubt for as long as a request may take.
    let server = Server::start_with_descriptors(100, &["--event-loops", "1", "--request-timeout", "2s"]);
    let mut bystander = Bystander::new(&server);
    let clients = take_all_descriptors(&server);
    // The database goes away and stays away, while connections wait for every descriptor that gets free.
    let other = Database::new();
    let mut admin = other.connect();
    let name = server.database().text("SELECT current_database()::text", &[]).unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    admin.execute(end, &[&name]).unwrap();
    wait_until("the outage is noticed", || bystander.client.put("noticed", "").status == 503);
    let pauses = server.metric("hotrow_accept_pauses_total");
    wait_until("it has paused some more", || server.metric("hotrow_accept_pauses_total") >= pauses + 10);
    bystander.reads(10);
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).unwrap();
    wait_until("it is reached again", || bystander.client.put("noticed", "").status < 300);
    wait_until("by all", || server.metric("hotrow_database_up") == 1);
    for mut client in clients {
        assert_eq!(client.response().status, 200);
    }
    bystander.is_served_in_the_end(20);
}
