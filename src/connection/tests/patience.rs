//! How much patience there is with a client that is slow, and with one that only seems to be.

use super::*;
use crate::limits::LOADS;

#[test]
fn a_client_that_never_reads_is_closed() {
    let mut world = World::knowing("a", "value");
    world.io.room = 10;
    world.send(&get("a"));
    assert_eq!(world.expire(), Turn::Close);
    assert_eq!(world.counters.slow_readers.get(), 1);
}

#[test]
fn every_state_has_its_deadline() {
    let mut idle = World::new();
    assert_eq!((idle.expire(), idle.statuses()), (Turn::Again, vec![]));
    assert!(idle.io.shut && idle.counters.idle_closed.get() == 1, "the end, and no reset");
    assert_eq!((idle.expire(), idle.counters.idle_closed.get()), (Turn::Close, 1));

    let mut head = World::new();
    head.send(b"GET /kv/");
    assert_eq!(head.connection.deadline_ms() - head.now_ms, head.bounds.header_timeout_ms);
    head.expire();
    assert_eq!(head.statuses(), [408]);
    assert!(head.io.shut, "the client is told that this was all");

    let mut content = World::new();
    content.send(b"PUT /kv/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nva");
    content.expire();
    assert_eq!(content.statuses(), [408]);

    let mut queued = World::new();
    queued.send(b"DELETE /kv/a HTTP/1.1\r\nHost: h\r\n\r\n");
    queued.expire();
    assert_eq!(queued.statuses(), [503], "withdrawn: it certainly never happens");
    assert!(!queued.writes.recv().unwrap().claim().take());

    let mut taken = World::new();
    taken.send(b"DELETE /kv/a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(taken.writes.recv().unwrap().claim().take());
    taken.expire();
    assert_eq!(taken.statuses(), [504], "it was sent: nobody knows");
    assert_eq!(taken.send(&get("a")), Turn::Wait, "and the connection goes on");
    assert_eq!(taken.reads.len(), 1);
}

#[test]
fn trickled_bytes_do_not_move_the_deadline_of_a_head() {
    let mut world = World::new();
    world.send(b"GET /kv/a HTTP/1.1\r\n");
    let deadline = world.connection.deadline_ms();
    for _ in 0..5 {
        world.now_ms += 100;
        world.send(b"X: y\r\n");
        assert_eq!(world.connection.deadline_ms(), deadline);
    }
}

#[test]
fn a_client_that_reads_slowly_is_not_closed() {
    let mut world = World::knowing("a", "value");
    world.io.room = 10;
    world.send(&get("a"));
    // The kernel tells of room only when there is much of it: there was no event for this.
    for _ in 0..3 {
        world.io.room = 10;
        assert_eq!(world.expire(), Turn::Wait);
        assert_eq!(world.connection.deadline_ms(), world.now_ms + world.bounds.idle_timeout_ms);
    }
    assert_eq!((world.counters.slow_readers.get(), world.io.written.len()), (0, 40));
    world.io.room = usize::MAX;
    assert_eq!(world.expire(), Turn::Again);
    assert_eq!((world.turn_until_it_waits(), world.statuses()), (Turn::Wait, vec![200]));
    assert_eq!(world.counters.slow_readers.get(), 0);
}

#[test]
fn a_request_that_comes_with_the_end_of_an_idle_connection_is_answered() {
    let mut world = World::knowing("a", "value");
    world.io.pieces.push_back(get("a"));
    world.connection.readable = false;
    assert_eq!((world.expire(), world.statuses()), (Turn::Wait, vec![200]));
    assert!(!world.io.shut && world.counters.idle_closed.get() == 0);
    assert_eq!(world.connection.deadline_ms() - world.now_ms, world.bounds.idle_timeout_ms, "and it goes on");
}

#[test]
fn one_empty_line_behind_a_request_begins_no_other() {
    let put = "PUT /kv/b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nv";
    for line in [&["\r\n"][..], &["\r", "\n"]] {
        for comes_with_it in [true, false] {
            let mut world = World::knowing("a", "value");
            let (first, rest) = (line[0].as_bytes(), &line[1..]);
            if comes_with_it {
                world.send(&[put.as_bytes(), first].concat());
            } else {
                world.send(put.as_bytes());
            }
            world.turn(Some(&Answer::Failed(Failure::NotStarted)));
            world.turn_until_it_waits();
            if !comes_with_it {
                world.send(first);
            }
            for part in rest {
                world.send(part.as_bytes());
            }
            assert_eq!(world.connection.phase(), Phase::Idle);
            assert_eq!(world.connection.deadline_ms() - world.now_ms, world.bounds.idle_timeout_ms);
            // What follows it is one from its first byte.
            world.send(b"G");
            assert_eq!(world.connection.phase(), Phase::Head);
            assert_eq!(world.connection.deadline_ms() - world.now_ms, world.bounds.header_timeout_ms);
            world.send(&get("a")[1..]);
            assert_eq!((world.statuses(), world.connection.phase()), (vec![503, 200], Phase::Idle));
            // A second empty line is one, too.
            world.send(b"\r\n");
            world.send(b"\r\n");
            assert_eq!(world.connection.phase(), Phase::Head);
        }
    }
}

#[test]
fn an_empty_line_behind_a_request_holds_nothing_up() {
    let mut world = World::knowing("a", "value");
    world.send(&[&get("a")[..], b"\r\n"].concat());
    world.draining = true;
    world.with(|connection, _, _, cx| connection.drain(cx));
    assert_eq!(world.connection.deadline_ms() - world.now_ms, DRAIN_IDLE_MS);
    world.expire();
    assert!(world.io.shut && world.statuses() == [200], "there is nothing to refuse");
    // Before any request it is the beginning of one.
    let mut world = World::new();
    world.send(b"\r\n");
    assert_eq!(world.connection.phase(), Phase::Head);
    world.expire();
    assert_eq!(world.statuses(), [408]);
}

#[test]
fn a_load_does_not_begin_before_earlier_answers_are_out() {
    let load = "PUT /kv HTTP/1.1\r\nHost: h\r\nX-Request-Id: i\r\nContent-Type: application/x-ndjson\r\nContent-Length: 3\r\n\r\n{}\n";
    let mut world = World::knowing("a", "value");
    world.io.room = 10;
    world.send(&[&get("a"), load.as_bytes()].concat());
    assert_eq!(world.connection.phase(), Phase::Client);
    let mut others: Vec<_> = std::iter::from_fn(|| world.backend.loads.begin()).collect();
    assert_eq!(others.len(), LOADS, "it has no place");
    others.pop();
    world.io.room = usize::MAX;
    world.turn_until_it_waits();
    assert_eq!((world.statuses(), world.writes.len()), (vec![200], 1), "now it has");
    assert!(world.backend.loads.begin().is_none());
    world.turn(Some(&Answer::Failed(Failure::NotStarted)));
    world.turn_until_it_waits();
    assert_eq!(world.statuses(), [200, 503]);
    assert_eq!(String::from_utf8_lossy(&world.io.written).matches("X-Request-Id: i\r\n").count(), 1);
}
