//! What a server that goes still does for its connections.

use super::*;

#[test]
fn draining_ends_a_connection_with_its_next_answer() {
    let mut world = World::knowing("a", "value");
    world.send(&get("miss"));
    world.draining = true;
    world.turn(Some(&World::found("read")));
    assert!(String::from_utf8_lossy(&world.io.written).contains("Connection: close"));
    assert!(world.io.shut);
    let mut idle = World::knowing("a", "value");
    idle.draining = true;
    idle.with(|connection, _, _, cx| connection.drain(cx));
    assert!(idle.connection.deadline_ms() <= idle.now_ms + DRAIN_IDLE_MS);
}

#[test]
fn an_answer_that_is_on_its_way_when_draining_begins_arrives_whole() {
    let mut world = World::knowing("a", "value");
    world.io.room = 10;
    world.send(&get("a"));
    world.draining = true;
    world.with(|connection, _, _, cx| connection.drain(cx));
    assert!(world.connection.deadline_ms() > world.now_ms + DRAIN_IDLE_MS);
    world.io.room = usize::MAX;
    world.turn_until_it_waits();
    assert!(String::from_utf8_lossy(&world.io.written).ends_with("value"));
    assert_eq!(world.connection.deadline_ms(), world.now_ms + DRAIN_IDLE_MS, "and then it is an idle one");
}

#[test]
fn a_content_that_comes_when_draining_has_begun_is_the_last() {
    for (target, content) in [("PUT /kv/a", b"\xff"), ("DELETE /kv/", b"x")] {
        let mut world = World::new();
        world.send(format!("{target} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n").as_bytes());
        world.draining = true;
        world.with(|connection, _, _, cx| connection.drain(cx));
        world.send(content);
        let answer = String::from_utf8_lossy(&world.io.written).into_owned();
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains("Connection: close"), "{answer}");
        assert!(world.io.shut);
    }
}

#[test]
fn draining_ends_a_silent_connection_without_a_reset() {
    let mut world = World::knowing("a", "value");
    world.draining = true;
    world.with(|connection, _, _, cx| connection.drain(cx));
    // Its next request has come since the socket was looked at last: it is answered.
    world.io.pieces.push_back(get("a"));
    world.expire();
    assert_eq!(world.statuses(), [200]);
    assert!(String::from_utf8_lossy(&world.io.written).contains("Connection: close") && world.io.shut);
    // Or it comes when the end was told: nothing is done, and it is read, so that closing sends no reset.
    let mut world = World::knowing("a", "value");
    world.draining = true;
    assert!(world.expire() == Turn::Again && world.io.shut);
    world.send(b"DELETE /kv/a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(world.io.pieces.is_empty() && world.io.written.is_empty() && world.writes.is_empty());
    assert!(world.connection.deadline_ms() > world.now_ms, "more may come");
    world.io.ends = true;
    world.connection.set_readable(true);
    assert_eq!(world.turn(None), Turn::Close);
}

#[test]
fn who_still_waits_when_the_server_must_go_is_told_what_is_known() {
    for (request, take, expected) in [("GET", false, 503), ("DELETE", false, 503), ("DELETE", true, 504)] {
        let mut world = World::new();
        world.send(format!("{request} /kv/a HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        if take {
            assert!(world.writes.recv().unwrap().claim().take());
        }
        world.with(|connection, io, ws, cx| connection.abandon(io, ws, cx));
        assert_eq!(world.statuses(), [expected]);
    }
}
