//! Clients that mean harm, and clients that have bad luck: slow, silent, gone in the middle, too many, insatiable.
//! Every test looks at two things besides: that others are served meanwhile, and that the server's memory stays small.

use crate::support::client::request;
use crate::support::database::Database;
use crate::support::process::connections_allowed;
use crate::support::{Client, DEADLINE, Server, put_in_the_end, random_text, wait_until};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const HITS: &str = r#"hotrow_cache_requests_total{result="hit"}"#;
const MIB: usize = 1 << 20;

/// The other client, which means well and must be served whatever happens.
struct Bystander {
    client: Client,
    served: u64,
}

impl Bystander {
    fn new(server: &Server) -> Bystander {
        let mut client = server.connect();
        put_in_the_end(&mut client, "bystander", "0");
        Bystander { client, served: 0 }
    }

    /// Reads from memory, so many times.
    fn reads(&mut self, times: usize) {
        for _ in 0..times {
            assert_eq!(self.client.get("bystander").text(), self.served.to_string());
        }
    }

    /// Reads from memory and writes, so many times.
    fn is_served(&mut self, times: usize) {
        for _ in 0..times {
            self.reads(1);
            self.served += 1;
            assert_eq!(self.client.put("bystander", self.served.to_string()).status, 200);
        }
    }

    /// The same where a request may not take long: on a busy machine it may take longer.
    fn is_served_in_the_end(&mut self, times: usize) {
        for _ in 0..times {
            self.reads(1);
            self.served += 1;
            put_in_the_end(&mut self.client, "bystander", &self.served.to_string());
        }
    }
}

/// Memory before an attack; says how much more it has become.
struct Memory<'a> {
    server: &'a Server,
    before: usize,
}

impl<'a> Memory<'a> {
    fn of(server: &'a Server) -> Memory<'a> {
        Memory { server, before: server.rss_bytes() }
    }

    fn has_grown_by_less_than(&self, bytes: usize) {
        let grown = self.server.rss_bytes().saturating_sub(self.before);
        assert!(grown < bytes, "{grown} bytes more, where less than {bytes} is all right");
    }
}

/// Tells the threads of an attack to stop when a test ends, however it ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection whose receive buffer is as small as the kernel lets it be.
fn connect_with_small_buffer(address: SocketAddr) -> Client {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    Client::over(socket.into())
}

/// The data connections that are open: all but the one that asks.
fn connections(server: &Server) -> u64 {
    server.metric("hotrow_connections") - 1
}

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
fn a_client_that_has_finished_sending_still_gets_its_answers() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::new(&server);
    for round in 0..50 {
        server.database().insert(&format!("cold-{round}"), "cold");
        let cold = request("GET", &format!("/kv/cold-{round}"), "", b"");
        let put = request("PUT", &format!("/kv/put-{round}"), "", b"value");
        let absent = request("GET", &format!("/kv/absent-{round}"), "", b"");
        let hit = request("GET", "/kv/bystander", "", b"");
        for (sent, outcomes) in [
            (hit.clone(), &["200"][..]),
            (cold.clone(), &["200"]),
            (put.clone(), &["201"]),
            (absent.clone(), &["404 key-not-found"]),
            ([&put[..], &cold, &hit, b"\r\n"].concat(), &["200", "200", "200"]),
            (hit.repeat(300), &["200"; 300]),
            // The beginning of another one is not answered: its client will never finish it.
            ([&hit[..], &put[..put.len() - 1]].concat(), &["200"]),
            (hit[..hit.len() - 1].to_vec(), &[]),
            (Vec::new(), &[]),
        ] {
            let mut client = server.connect();
            client.send(&sent);
            client.finish_sending();
            for outcome in outcomes {
                assert_eq!(client.response().outcome(), *outcome);
            }
            client.expect_closed();
        }
        bystander.is_served(1);
    }
    // Larger than what the kernel takes at once: the answer goes on after the end of the requests.
    let value = random_text(MIB, 1);
    bystander.client.put("large", &value);
    let mut client = connect_with_small_buffer(server.address);
    client.send(request("GET", "/kv/large", "", b"").repeat(20));
    client.finish_sending();
    bystander.is_served(10);
    for _ in 0..20 {
        assert!(client.response().body == value.as_bytes());
    }
    client.expect_closed();
    assert_eq!(server.metric("hotrow_late_replies_total"), 0);
}

#[test]
fn resets_at_every_stage_leave_nothing_behind() {
    let server = Server::start(&[]);
    let mut bystander = Bystander::new(&server);
    bystander.client.put("large", random_text(MIB, 1));
    bystander.is_served(50);
    // With the bystander's and the admin connection, which the metrics are read over.
    assert_eq!(connections(&server), 1);
    server.is_settled();
    let (memory, descriptors) = (Memory::of(&server), server.descriptors());
    let large = request("GET", "/kv/large", "", b"").repeat(50);
    for round in 0..50 {
        let put = request("PUT", &format!("/kv/put-{round}"), "", &[b'x'; 1000]);
        let absent = request("GET", &format!("/kv/absent-{round}"), "", b"");
        for sent in [
            &b""[..],
            b"GET /kv",
            &put[..put.len() - 1],
            &put,
            &absent,
            &large,
            &[&put[..], &absent, &large, b"GET"].concat(),
            b"broken\r\n\r\n",
            b"PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\nxxxxx",
        ] {
            let mut client = server.connect();
            client.send(sent);
            if round % 2 == 1 {
                // Half of them wait until the server has certainly begun.
                bystander.reads(1);
            }
            client.reset();
        }
        bystander.is_served(1);
    }
    wait_until("all connections are gone", || connections(&server) == 1);
    wait_until("all their jobs have ended", || server.metric("hotrow_keys_in_flight") == 0);
    // Its own looks at itself need one for a moment.
    wait_until("all their descriptors are closed", || server.descriptors() <= descriptors);
    memory.has_grown_by_less_than(8 * MIB);
}

#[test]
fn a_write_goes_on_without_its_client_and_its_reply_reaches_no_stranger() {
    // One writer, so that whoever writes waits for whoever wrote before.
    let server = Server::start(&["--event-loops", "1", "--db-writers", "1"]);
    let mut bystander = Bystander::new(&server);
    for goes in ["with a reset", "with a farewell"] {
        let key = goes.replace(' ', "-");
        server.database().insert(&key, "old");
        assert_eq!(bystander.client.get(&key).text(), "old");
        // The write is sent, and waits.
        let mut writes = server.database().hold_writes();
        let before = connections(&server);
        let mut client = server.connect();
        client.send(request("PUT", &format!("/kv/{key}"), "", b"new"));
        wait_until("the write was sent", || writes.waiting() == 1);
        // The write is not acknowledged: the old value is the value.
        assert_eq!(bystander.client.get(&key).text(), "old");
        if goes == "with a reset" {
            client.reset();
            wait_until("its connection is gone", || connections(&server) == before);
        } else {
            drop(client);
        }
        // Others come, one of them into its slot, and wait for writes of their own.
        let mut strangers: Vec<Client> = (0..10).map(|_| server.connect()).collect();
        for (n, stranger) in strangers.iter_mut().enumerate() {
            stranger.send(request("PUT", &format!("/kv/{key}-{n}"), "", format!("mine {n}").as_bytes()));
        }
        wait_until("all of them wait", || server.metric("hotrow_keys_in_flight") == 11);
        writes.release();
        for (n, stranger) in strangers.iter_mut().enumerate() {
            let stored = stranger.response();
            assert_eq!((stored.status, stored.text()), (201, format!("mine {n}")));
        }
        assert_eq!(bystander.client.get(&key).text(), "new");
        assert_eq!(server.database().value(&key).as_deref(), Some("new"));
    }
    assert_eq!(server.metric("hotrow_late_replies_total"), 1, "the reply to the reset one has found nobody");
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
