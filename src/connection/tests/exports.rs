//! Lists of all rows: page by page, as fast as their clients read; and what is counted and logged of them.

use super::*;
use crate::config::AccessLogFormat;

#[test]
fn an_export_asks_for_its_next_page_when_the_last_one_is_sent() {
    let mut world = World::knowing("a", "value");
    world.send(&[export(), get("a")].concat());
    assert_eq!(&*world.take_page().range.from, "\u{1}");
    world.io.room = 300;
    world.turn(Some(&page(&["a", "b"], "v", true)));
    world.turn_until_it_waits();
    assert_eq!(&*world.take_page().range.from, "b\u{1}");
    world.turn(Some(&page(&["c"], &"w".repeat(1_000), true)));
    assert_eq!(world.turn_until_it_waits(), Turn::Wait);
    assert!(
        world.connection.backlog.is_some() && world.reads.is_empty(),
        "nothing is read for who does not read"
    );
    world.io.room = usize::MAX;
    world.turn_until_it_waits();
    assert_eq!(&*world.take_page().range.from, "c\u{1}");
    world.turn(Some(&page(&[], "", false)));
    world.turn_until_it_waits();
    let expected = format!(
        "30\r\n{{\"key\":\"a\",\"value\":\"v\"}}\n{{\"key\":\"b\",\"value\":\"v\"}}\n\r\n3ff\r\n{{\"key\":\"c\",\"value\":\"{}\"}}\n\r\n0\r\n\r\n",
        "w".repeat(1_000)
    );
    assert!(content(&world).starts_with(&expected), "{}", content(&world));
    assert_eq!(world.statuses(), [200, 200], "and the pipeline goes on behind it");
}

#[test]
fn an_export_of_large_values_is_encoded_piece_by_piece() {
    let mut world = World::new();
    world.send(&export());
    world.io.room = 1_000;
    world.turn(Some(&page(&["a", "b"], &"\u{1}".repeat(500_000), false)));
    let mut most = 0;
    while !content(&world).ends_with("0\r\n\r\n") {
        world.turn(None);
        most = most.max(world.connection.backlog.as_ref().map_or(0, |backlog| backlog.len()));
        world.io.room = 50_000;
    }
    assert!(most < 200_000, "{most} bytes wait to be sent");
    assert!(content(&world).len() > 6_000_000);
}

#[test]
fn an_export_that_cannot_go_on_ends_without_its_end() {
    for failure in [Some(Answer::Failed(Failure::Down { retry_after_seconds: 1 })), None] {
        let mut world = World::new();
        world.send(&export());
        world.turn(Some(&page(&["a"], "v", true)));
        world.turn_until_it_waits();
        match &failure {
            Some(failure) => world.turn(Some(failure)),
            None => world.expire(),
        };
        assert!(world.io.shut, "the connection is over");
        assert!(content(&world).ends_with("}\n\r\n"), "and its last chunk is missing: {}", content(&world));
        assert_eq!(world.statuses(), [200]);
    }
    // Before anything is sent it is a refusal like any other.
    let mut world = World::new();
    world.send(&export());
    world.expire();
    assert_eq!(world.statuses(), [504]);
}

#[test]
fn an_export_waits_for_its_turn_where_the_queue_is_full() {
    let mut world = World::new();
    world.send(&export());
    world.take_page();
    while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
    world.turn(Some(&page(&["a"], "v", true)));
    assert_eq!(world.turn_until_it_waits(), Turn::Wait);
    world.expire();
    assert!(!world.io.shut, "it asks again");
    while world.reads.try_recv().is_ok() {}
    world.expire();
    assert_eq!(&*world.take_page().range.from, "a\u{1}");
    world.turn(Some(&page(&[], "", false)));
    world.turn_until_it_waits();
    assert!(content(&world).ends_with("0\r\n\r\n"));
    // But not for ever.
    let mut world = World::new();
    world.send(&export());
    world.take_page();
    while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
    world.turn(Some(&page(&["a"], "v", true)));
    world.turn_until_it_waits();
    let began = world.now_ms;
    while !world.io.shut {
        world.expire();
    }
    assert!(world.now_ms - began <= world.bounds.request_timeout_ms + 1_000);
}

#[test]
fn without_chunks_the_end_of_the_connection_is_the_end_of_an_export() {
    let mut world = World::new();
    world.send(b"GET /kv HTTP/1.0\r\nConnection: keep-alive\r\nAccept: application/x-ndjson\r\n\r\n");
    world.turn(Some(&page(&["a"], "v", false)));
    world.turn_until_it_waits();
    assert_eq!(content(&world), "{\"key\":\"a\",\"value\":\"v\"}\n");
    assert!(world.io.shut && String::from_utf8_lossy(&world.io.written).contains("Connection: close\r\n"));
}

#[test]
fn an_export_has_its_own_status_whatever_is_answered_between_its_pieces() {
    let mut world = World::new();
    world.send(&export());
    world.turn(Some(&page(&["a"], "v", true)));
    world.turn_until_it_waits();
    let frame = Frame {
        head_only: false,
        reuse: crate::http::response::Reuse::Silent,
        audience: crate::http::cors::Audience::NONE,
    };
    world.ws.encoder.start(&mut Output::default(), 404, frame).no_content();
    world.turn(Some(&page(&[], "", false)));
    world.turn_until_it_waits();
    assert!(content(&world).ends_with("0\r\n\r\n"));
    assert_eq!(world.counters.answers(Method::Get).collect::<Vec<_>>(), [(200, 1)]);
}

/// Its client reads, or it does not; it waits for the kernel, or for the next page.
#[test]
fn an_export_that_the_end_cuts_off_is_logged_and_counted() {
    for (room, pages) in [(usize::MAX, 1), (300, 1), (300, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut world = World::new();
        world.access_log = Some(AccessLog::open(Some(&path), AccessLogFormat::Common).unwrap());
        world.send(&export());
        world.io.room = room;
        for at in 1..=pages {
            let value = "v".repeat(if at == pages { 1_000 } else { 1 });
            world.turn(Some(&page(&["a"], &value, true)));
            world.turn_until_it_waits();
        }
        assert_eq!(world.connection.backlog.is_some(), room < 1_000);
        world.draining = true;
        world.with(|connection, io, ws, cx| connection.abandon(io, ws, cx));
        assert_eq!(world.counters.answers(Method::Get).collect::<Vec<_>>(), [(200, 1)]);
        world.access_log.take().unwrap().flush();
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.matches("\"GET /kv HTTP/1.1\" 200 ").count(), 1, "{lines}");
    }
}
