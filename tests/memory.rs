//! Memory under the worst that clients and database can do at once: the real server stays below the bound that is
//! computed from its flags, and comes near enough to it to show that the bound is worth something.

use crate::support::client::{Client, request};
use crate::support::database::waiting_for_locks;
use crate::support::{Server, process, wait_until};
use hotrow::config;
use hotrow::limits::{BATCH_STEPS, LOADS, OUTPUT_BYTES};
use hotrow::memory::Bound;
use socket2::{Domain, Socket, Type};
use std::ffi::OsString;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const HITS: &str = r#"hotrow_cache_requests_total{result="hit"}"#;
/// `--max-value-bytes`.
const VALUE: usize = 256 * KIB;
/// Values that are copied into the answers, and so many of them that one more answer may just follow.
const SMALL: usize = 4_000;
const SMALL_EACH: usize = OUTPUT_BYTES / (SMALL + 300);

const FLAGS: &[&str] = &[
    "--event-loops=2",
    "--db-readers=1",
    "--db-writers=1",
    "--queue-depth=32",
    "--cache-bytes=8MiB",
    "--max-value-bytes=256KiB",
    "--max-connections=310",
    "--request-timeout=5m",
    "--idle-timeout=5m",
];
/// `--queue-depth`.
const DEPTH: usize = 32;
const SLOW: usize = 240;
const BUSY: usize = 40;
const HALF: usize = 16;

/// A connection for which the kernels hold as little as they can: answers stay where they are.
fn connect_with_small_buffer(server: &Server) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(600).unwrap();
    socket.connect(&server.address.into()).unwrap();
    Client::over(socket.into())
}

fn bound() -> Bound {
    let arguments = std::iter::once("hotrow").chain(FLAGS.iter().copied()).map(OsString::from);
    let Ok(config::Invocation::Serve(config)) = config::read(arguments) else {
        panic!("the flags are right")
    };
    Bound::of(&config, 2)
}

#[test]
fn memory_stays_below_the_computed_bound() {
    let server = Server::start(FLAGS);
    let mut sql = server.database().connect();
    let rows = "INSERT INTO kv_store (key, value) SELECT $1 || i, repeat(md5(i::text), $2) FROM generate_series(0, $3) i";
    let insert = |sql: &mut postgres::Client, name: &str, bytes: usize, count: usize| {
        sql.execute(rows, &[&name, &((bytes / 32) as i32), &(count as i32 - 1)]).unwrap();
    };
    insert(&mut sql, "large-", VALUE, BATCH_STEPS);
    insert(&mut sql, "small-", SMALL, 1);

    // Slow readers, each with a value of its own: nobody reads, and the cache has forgotten what they were lent.
    let mut other = server.connect();
    let mut slow = Vec::new();
    for i in 0..SLOW {
        let large = format!("large-{i}");
        let mut keys = vec!["small-0"; SMALL_EACH];
        keys.push(&large);
        for key in ["small-0", &large] {
            assert_eq!(other.get(key).status, 200);
        }
        let hits = server.metric(HITS) as usize;
        // More behind them than will be looked at before the answers are gone.
        keys.resize(1_200, "small-0");
        let mut client = connect_with_small_buffer(&server);
        client.send(
            keys.iter().flat_map(|k| request("GET", &format!("/kv/{k}"), "", b"")).collect::<Vec<u8>>(),
        );
        slow.push(client);
        wait_until("it is answered as far as it may", || server.metric(HITS) as usize > hits + SMALL_EACH);
    }
    let held = SLOW * (OUTPUT_BYTES + VALUE) * 3 / 4;
    assert!(server.rss_bytes() > held, "the slow readers' answers are held: {}", server.rss_bytes());

    // Contents that are all there but their last byte.
    let value = vec![b'v'; VALUE];
    let half: Vec<Client> = (0..HALF)
        .map(|i| {
            let mut client = server.connect();
            let whole = request("PUT", &format!("/kv/half-{i}"), "", &value);
            client.send(&whole[..whole.len() - 1]);
            client
        })
        .collect();

    // Loads whose lines are as long as they may be, and not at their end.
    let line = format!(r#"{{"key":"k","value":"{}"#, r"\u0001".repeat(VALUE));
    let loads: Vec<Client> = (0..LOADS)
        .map(|_| {
            let mut client = server.connect();
            let whole = request("PUT", "/kv", "Content-Type: application/x-ndjson\r\n", line.as_bytes());
            client.send(&whole[..whole.len() - 1]);
            client
        })
        .collect();
    let held = held + LOADS * line.len();
    wait_until("the lines are held", || server.rss_bytes() > held);

    // Writes are held, then the table is locked: a queue full of writes, then a queue full of misses.
    let mut busy: Vec<Client> = (0..BUSY).map(|_| server.connect()).collect();
    let mut holder = server.database().connect();
    for (method, key) in [("PUT", "written-"), ("GET", "large-")] {
        let mut writes = (method == "PUT").then(|| server.database().hold_writes());
        if method == "GET" {
            holder.batch_execute("BEGIN; LOCK TABLE kv_store IN ACCESS EXCLUSIVE MODE").unwrap();
        }
        let ask = |i: usize, client: &mut Client| {
            let body = if method == "PUT" { &value[..] } else { b"" };
            client.send(request(method, &format!("/kv/{key}{}", SLOW + i), "", body));
        };
        // One is in the worker's hands; then so many as may wait, and some more.
        ask(0, &mut busy[0]);
        wait_until("the worker waits", || {
            if let Some(writes) = &mut writes {
                return writes.waiting() == 1;
            }
            waiting_for_locks(&mut sql).unwrap() == 1
        });
        for (i, client) in busy.iter_mut().enumerate().skip(1) {
            ask(i, client);
        }
        wait_until("the queue is full", || {
            busy.iter().filter(|client| client.has_something()).count() == BUSY - DEPTH - 1
        });
        match writes {
            Some(writes) => writes.release(),
            None => holder.batch_execute("ROLLBACK").unwrap(),
        }
        let outcomes: Vec<String> = busy.iter_mut().map(|client| client.response().outcome()).collect();
        let refused = outcomes.iter().filter(|outcome| *outcome == "503 queue-full").count();
        let done = outcomes.iter().filter(|outcome| ["200", "201"].contains(&outcome.as_str())).count();
        assert_eq!((done, refused), (DEPTH + 1, BUSY - DEPTH - 1), "{outcomes:?}");
    }

    // A batch that reads as many of the largest values as it may, and is told as many of them as there is room for.
    let gets: Vec<String> =
        (0..BATCH_STEPS).map(|i| format!(r#"{{"op":"get","key":"large-{i}"}}"#)).collect();
    let batch = format!("[{}]", gets.join(","));
    let told = other.request("POST", "/batch", "Content-Type: application/json\r\n", batch.as_bytes());
    assert!(told.status == 200 && told.body.len() < 4 * VALUE, "{} bytes", told.body.len());

    let (peak, bound) = (process::peak_rss_bytes(server.pid()), bound());
    println!("{} MiB at most, bound {bound}: {:.2} of it", peak / MIB, peak as f64 / bound.bytes() as f64);
    assert!(peak <= bound.bytes(), "{peak} bytes, bound {bound}");
    drop((slow, half, loads));
}
