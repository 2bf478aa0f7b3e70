//! What a connection does in a turn: with how many calls, what it keeps, what it leaves for the next turn, and which reply it
//! takes.

use super::*;
use crate::limits::OUTPUT_BYTES;

/// Whichever shards' indexes are half way when nothing more is put in.
#[test]
fn a_hit_is_a_hit_while_the_index_grows() {
    let mut world = World::new();
    let keys = 0..7_000;
    for key in keys.clone() {
        world.learn(&format!("k{key}"), "v", NEVER);
    }
    for key in keys.clone() {
        world.send(&get(&format!("k{key}")));
    }
    let (hits, misses) = (world.counters.cache_hits.get(), world.counters.cache_misses.get());
    assert_eq!((hits, misses), (keys.len() as u64, 0));
    assert!(world.reads.is_empty());
}

#[test]
fn a_hit_costs_one_read_and_one_write_and_so_do_sixteen() {
    for count in [1, 16] {
        let mut world = World::knowing("a", "value");
        assert_eq!(world.send(&get("a").repeat(count)), Turn::Wait);
        assert_eq!((world.io.reads, world.io.writes), (1, 1));
        assert_eq!(world.statuses(), vec![200; count]);
    }
}

/// A page of `/metrics`, or values that are escaped and then not told, cost far more than the bytes that are sent for them.
#[test]
fn what_may_cost_more_than_it_sends_has_a_turn_of_its_own() {
    let mut world = World::knowing("a", "value");
    world.io.pieces.push_back(b"HEAD /kv?key=a HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3));
    world.connection.set_readable(false);
    let turns = [Turn::Again, Turn::Again, Turn::Wait];
    for (at, expected) in turns.into_iter().enumerate() {
        assert_eq!((world.turn(None), world.statuses()), (expected, vec![200; at + 1]));
    }
}

#[test]
fn an_idle_connection_owns_no_buffer() {
    assert!(size_of::<Connection>() <= 128, "{}", size_of::<Connection>());
    let mut world = World::knowing("a", "value");
    world.send(&get("a")[..10]);
    assert!(world.connection.input.capacity() > 0);
    world.send(&get("a")[10..]);
    assert_eq!(world.statuses(), [200]);
    assert_eq!(world.connection.input.capacity(), 0);
    assert!(world.connection.backlog.is_none());
}

#[test]
fn while_a_job_is_out_nothing_more_is_parsed_or_read() {
    let mut world = World::knowing("hit", "value");
    world.send(&[get("miss"), get("hit")].concat());
    assert_eq!((world.reads.len(), world.statuses()), (1, vec![]));
    let reads = world.io.reads;
    world.send(&get("hit"));
    assert_eq!(world.io.reads, reads, "bytes stay in the kernel");
    world.turn(Some(&World::found("read")));
    world.turn_until_it_waits();
    assert_eq!(world.statuses(), [200, 200, 200]);
    let text = String::from_utf8(world.io.written).unwrap();
    assert!(text.find("read").unwrap() < text.find("value").unwrap());
}

#[test]
fn a_reply_that_is_late_or_for_another_is_not_taken() {
    let mut world = World::new();
    let ticket = |id, job| Ticket { event_loop: 0, id, job };
    assert!(!world.connection.waits_for(ticket(ID, 0)));
    world.send(&get("a"));
    assert!(world.connection.waits_for(ticket(ID, 1)));
    assert!(!world.connection.waits_for(ticket(Id { generation: 8, ..ID }, 1)));
    world.expire();
    world.send(&get("b"));
    assert!(!world.connection.waits_for(ticket(ID, 1)), "the first job's time was over");
    assert!(world.connection.waits_for(ticket(ID, 2)));
    assert_eq!(world.statuses(), [504]);
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let mut world = World::knowing("a", &"v".repeat(900));
    world.io.room = 100;
    assert_eq!(world.send(&get("a").repeat(600)), Turn::Wait);
    let backlog = world.connection.backlog.as_ref().unwrap().len();
    assert!(backlog <= OUTPUT_BYTES + 2_000, "{backlog}");
    let reads = world.io.reads;
    assert_eq!(world.turn(None), Turn::Wait);
    assert_eq!(world.io.reads, reads);
    world.io.room = usize::MAX;
    assert_eq!(world.turn_until_it_waits(), Turn::Wait);
    assert_eq!(world.statuses(), vec![200; 600]);
    assert!(world.connection.backlog.is_none());
}

#[test]
fn a_client_that_reads_everything_gets_a_turns_share_of_it_a_turn() {
    let mut world = World::knowing("a", "value");
    world.send(&[get("large"), get("a")].concat());
    let large = World::found(&"v".repeat(3 * FLUSH_BYTES));
    assert_eq!(world.turn(Some(&large)), Turn::Again);
    for shares in 1..4 {
        assert_eq!(world.io.written.len(), shares * FLUSH_BYTES);
        let turn = world.turn(None);
        assert_eq!(turn, if shares == 3 { Turn::Wait } else { Turn::Again });
    }
    assert_eq!(world.statuses(), [200, 200]);
    assert!(world.connection.backlog.is_none());
}

#[test]
fn a_reply_leaves_behind_what_waits_to_be_sent() {
    let mut world = World::knowing("a", "value");
    world.io.room = 10;
    world.send(&[get("a"), get("miss")].concat());
    assert_eq!(world.reads.len(), 1);
    assert_eq!(world.turn(Some(&World::found("read"))), Turn::Wait);
    world.io.room = usize::MAX;
    world.turn_until_it_waits();
    let text = String::from_utf8(world.io.written.clone()).unwrap();
    assert_eq!(world.statuses(), [200, 200]);
    assert!(text.find("value").unwrap() < text.find("read").unwrap());
}
