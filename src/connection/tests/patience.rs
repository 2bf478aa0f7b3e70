//! How much patience there is with a client that is slow.

use super::*;

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
