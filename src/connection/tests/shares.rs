//! What a connection may have in one turn, and of one that ends altogether.

use super::*;
use crate::limits::{LINGER_BYTES, READ_BYTES, REQUESTS_A_TURN};

#[test]
fn a_pipeline_of_hits_has_so_many_answers_a_turn() {
    let mut world = World::knowing("a", "value");
    world.io.pieces.push_back(get("a").repeat(2 * REQUESTS_A_TURN + 1));
    world.connection.set_readable(false);
    for (answers, expected) in [
        (REQUESTS_A_TURN, Turn::Again),
        (2 * REQUESTS_A_TURN, Turn::Again),
        (2 * REQUESTS_A_TURN + 1, Turn::Wait),
    ] {
        assert_eq!(world.turn(None), expected);
        assert_eq!(world.statuses(), vec![200; answers]);
    }
}

#[test]
fn whoever_sends_on_after_the_last_answer_is_read_up_to_a_bound() {
    let mut world = World::new();
    assert_eq!(world.send(b"nonsense\r\n\r\n"), Turn::Wait);
    assert!(world.io.shut);
    let piece = vec![0; READ_BYTES];
    for _ in 1..LINGER_BYTES / READ_BYTES {
        assert_eq!(world.send(&piece), Turn::Wait);
    }
    assert_eq!(world.send(&piece[1..]), Turn::Wait, "there is a byte left");
    assert_eq!(world.send(b"x"), Turn::Close);
    assert_eq!(world.statuses(), [400]);
}
