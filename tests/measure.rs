//! Measures the service under overload and during outages, and prints it. Judges nothing: figures depend on the machine.
//! Run by `tools/overload` and `tools/outage`.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::client::request;
use support::paced::{self, Measured, Plan};
use support::postgresql::Postgresql;
use support::{Server, process, wait_until};

/// A number from the environment, or this.
fn number(name: &str, default: f64) -> f64 {
    let text = std::env::var(format!("HOTROW_MEASURE_{name}"));
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn seconds(of: f64) -> Duration {
    Duration::from_secs_f64(of)
}

/// PUT of one of 100,000 keys.
fn put(count: u64) -> Vec<u8> {
    let key = count.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 100_000;
    request("PUT", &format!("/kv/key-{key:05}"), "", &[b'v'; 100])
}

fn get_hot(_: u64) -> Vec<u8> {
    request("GET", "/kv/hot", "", b"")
}

/// GET of a key that nobody has asked for before.
fn get_cold(count: u64) -> Vec<u8> {
    request("GET", &format!("/kv/cold-{count}"), "", b"")
}

/// Hits at a rate that a busy machine has room for, so that what they wait for can be compared.
fn hits(server: &Server, time: Duration) -> thread::JoinHandle<Measured> {
    paced::start(server.address, Plan { rate: Some(1_000.0), connections: 16, time, request: get_hot })
}

#[test]
#[ignore = "it measures: tools/overload"]
fn overload() {
    let time = seconds(number("SECONDS", 10.0));
    let connections = number("CONNECTIONS", 4_000.0) as usize;
    let row_ms = number("ROW_MS", 1.0);
    process::allow_many_descriptors();
    let postgresql = Postgresql::start_new();
    let flags = std::env::var("HOTROW_MEASURE_FLAGS").unwrap_or_default();
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let server = Server::start_as_it_is(&postgresql.database(), &flags);
    assert_eq!(server.connect().put("hot", "value").status, 201);
    assert_eq!(server.connect().get("hot").status, 200);
    if row_ms > 0.0 {
        let sql = format!(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_sleep({}); RETURN NEW; END $$; \
             CREATE TRIGGER slow BEFORE INSERT ON kv_store FOR EACH ROW EXECUTE FUNCTION slow()",
            row_ms / 1e3
        );
        postgresql.connect().batch_execute(&sql).unwrap();
    }
    println!("flags: {flags:?}, {connections} connections, a row takes {row_ms} ms more");
    println!("hits alone            {}", hits(&server, time).join().unwrap());

    // What it can take: as many clients as fill its batches, each waiting for its answer.
    let beside = hits(&server, time);
    let capacity = paced::run(server.address, &Plan { rate: None, connections: 256, time, request: put });
    println!("PUT, 256 in turn      {capacity}");
    println!("hits beside           {}", beside.join().unwrap());

    let rate = 2.0 * capacity.good_a_second();
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let (before, beside) = (server.rss_bytes(), hits(&server, time));
    let over = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(server.metric("hotrow_keys_in_flight"), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let plan = Plan { rate: Some(rate), connections, time, request: put };
        let over = paced::run(server.address, &plan);
        stop.store(true, Ordering::Relaxed);
        over
    });
    println!("PUT, {rate:.0}/s offered  {over}");
    println!("hits beside           {}", beside.join().unwrap());
    println!(
        "goodput               {:.2} of capacity; {} keys in flight at most; {} MiB more memory",
        over.good_a_second() / capacity.good_a_second(),
        most.load(Ordering::Relaxed),
        (process::peak_rss_bytes(server.pid()) - before) >> 20
    );
}

#[test]
#[ignore = "it measures: tools/outage"]
fn outage() {
    let time = seconds(number("SECONDS", 2.0));
    let mut postgresql = Postgresql::start_new();
    let server = Server::start_as_it_is(&postgresql.database(), &[]);
    let mut client = server.connect();
    assert_eq!(client.put("hot", "value").status, 201);
    let fast = |request| Plan { rate: None, connections: 16, time, request };
    let up = paced::run(server.address, &fast(get_hot));
    println!("hits, PostgreSQL up    {up}");

    for (round, down_for) in [0.2, 1.0, 3.0, 6.0].into_iter().enumerate() {
        // All workers have something under way when it happens, and afterwards.
        let under_load = paced::start(
            server.address,
            Plan { rate: Some(2_000.0), connections: 64, time: seconds(1.0), request: put },
        );
        thread::sleep(seconds(0.5));
        postgresql.stop_immediately();
        let began = Instant::now();
        wait_until("the outage is known", || server.metric("hotrow_database_up") == 0);
        let known = began.elapsed();
        let caught = under_load.join().unwrap();
        println!("outage {}: known after {known:.1?}; writes around it: {caught}", round + 1);
        if round == 0 {
            let down = paced::run(server.address, &fast(get_hot));
            println!("hits, PostgreSQL down  {down}");
            println!("hits down / up         {:.2}", down.answers_a_second() / up.answers_a_second());
            println!("misses, down           {}", paced::run(server.address, &fast(get_cold)));
            println!("writes, down           {}", paced::run(server.address, &fast(put)));
        }
        while began.elapsed() < seconds(down_for) {
            thread::sleep(Duration::from_millis(10));
        }
        postgresql.start();
        let back = Instant::now();
        // So many keys that every writer is asked.
        let mut last = 0;
        for key in 0..32 {
            while !matches!(client.put(&format!("again-{round}-{key}"), "v").status, 200 | 201) {
                last = key;
                thread::sleep(Duration::from_millis(1));
            }
        }
        println!(
            "  down for {down_for} s: every writer writes {:.1?} after it is back (key {last})",
            back.elapsed()
        );
        wait_until("readers are back, too", || server.metric("hotrow_database_up") == 1);
        println!("  every worker is back {:.1?} after it is back", back.elapsed());
    }
}
