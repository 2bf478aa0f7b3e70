//! Bulk loads that end before the piece at the database does: nobody waits for it any more, and who sends the same lines again,
//! through another writer, is not to be overtaken by it.

use super::*;
use crate::limits::LOAD_LINES;

const HEAD: &str =
    "PUT /kv HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";

/// A world with a load that has a piece at the database, and the piece.
fn with_a_piece() -> (World, Job) {
    let mut world = World::new();
    world.send(format!("{HEAD}\r\n").as_bytes());
    let lines = "\n".repeat(LOAD_LINES);
    world.send(format!("{LOAD_LINES:x}\r\n{lines}\r\n").as_bytes());
    let piece = world.writes.try_recv().expect("a piece");
    (world, piece)
}

#[test]
fn a_piece_whose_client_is_gone_is_not_sent() {
    let (mut world, piece) = with_a_piece();
    world.with(|connection, _, ws, cx| connection.leave(ws, cx));
    drop(world.connection);
    assert!(!piece.claim().take(), "gone");

    let (mut world, piece) = with_a_piece();
    world.with(|connection, _, ws, cx| connection.linger(ws, cx));
    assert!(!piece.claim().take(), "not to be understood any more");

    // The end of the stream, behind something that is still to be said.
    let (mut world, piece) = with_a_piece();
    world.io.ends = true;
    world.connection.set_readable(true);
    world.ws.output.bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    world.with(|connection, io, ws, cx| connection.advance(io, ws, cx));
    assert_eq!(world.connection.phase(), Phase::Closing);
    assert!(!piece.claim().take(), "no more comes");

    let (mut world, piece) = with_a_piece();
    world.send(b"no chunk\r\n");
    assert_eq!(world.statuses(), [400]);
    assert!(!piece.claim().take(), "malformed");
}

/// What was being tried, and could not be done for a lock, is not tried again.
#[test]
fn a_piece_whose_client_is_gone_is_not_tried_again() {
    let (mut world, piece) = with_a_piece();
    assert!(piece.claim().take());
    world.with(|connection, _, ws, cx| connection.leave(ws, cx));
    drop(world.connection);
    piece.claim().give_back();
    assert!(!piece.claim().take());
}

#[test]
fn a_piece_that_is_answered_is_done_with() {
    let (mut world, piece) = with_a_piece();
    assert!(piece.claim().take());
    world.turn(Some(&Answer::Loaded(Default::default())));
    world.send(b"0\r\n\r\n");
    assert_eq!(world.statuses(), [200]);
}

/// The end of the stream is no end of the wait where the content is whole: who has sent all that there is to send may still read.
#[test]
fn a_piece_of_a_client_that_says_no_more_behind_its_last_line_is_sent() {
    for (content, is_whole) in [("2\r\n{}\r\n0\r\n\r\n", true), ("2\r\n{}\r\n", false)] {
        let (mut world, piece) = with_a_piece();
        world.io.ends = true;
        world.io.pieces.push_back(content.into());
        world.connection.set_readable(true);
        assert_eq!(world.turn_until_it_waits() == Turn::Wait, is_whole);
        if is_whole {
            assert!(piece.claim().take(), "it is waited for");
        } else {
            drop(world.connection);
            assert!(!piece.claim().take(), "the content was cut");
        }
    }
}
