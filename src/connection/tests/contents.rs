//! What comes with a request, and what becomes of it: the end of the stream, a content that is refused, unwanted or asked for.

use super::*;

#[test]
fn a_half_closed_client_gets_its_answer() {
    let mut world = World::new();
    world.io.ends = true;
    world.io.pieces.push_back(get("miss"));
    world.connection.set_readable(true);
    assert_eq!(world.turn_until_it_waits(), Turn::Wait);
    world.turn(Some(&World::found("read")));
    assert_eq!(world.turn_until_it_waits(), Turn::Close);
    assert_eq!(world.statuses(), [200]);
}

#[test]
fn a_refusal_of_a_head_request_has_no_content() {
    for (method, has_content) in [("GET", true), ("HEAD", false), ("\r\nHEAD", false)] {
        for refused in ["Host: h\r\nExpect: a-miracle\r\n", "Host: h\r\nTransfer-Encoding: gzip\r\n", ""] {
            let mut world = World::new();
            world.send(format!("{method} /kv/k HTTP/1.1\r\n{refused}\r\n").as_bytes());
            let answer = String::from_utf8_lossy(&world.io.written).into_owned();
            let content = answer.split_once("\r\n\r\n").unwrap().1;
            assert_eq!(!content.is_empty(), has_content, "{answer}");
        }
    }
}

#[test]
fn what_is_no_head_is_refused_at_the_end_of_the_stream_if_no_line_end_came_before() {
    let statuses = |pieces: &[&[u8]]| {
        let mut world = World::new();
        world.io.pieces.extend(pieces.iter().map(|piece| piece.to_vec()));
        world.io.ends = true;
        world.connection.set_readable(true);
        assert_eq!(world.turn_until_it_waits(), Turn::Close);
        world.statuses()
    };
    assert_eq!(statuses(&[b"GE\x01"]), [400]);
    assert_eq!(statuses(&[b"GE", b"\x01"]), [400]);
    assert_eq!(statuses(&[b"GE", b"T"]), [] as [u16; 0], "cut off, and not wrong so far");
}

#[test]
fn a_refused_content_is_read_if_small_and_cut_off_if_not() {
    let refused = |length: usize, body: usize| {
        let head = format!("POST /kv/a HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), &vec![b'x'; body]].concat()
    };
    let mut small = World::knowing("a", "value");
    small.send(&[refused(100, 100), get("a")].concat());
    assert_eq!(small.statuses(), [405, 200]);
    let mut large = World::knowing("a", "value");
    assert_eq!(large.send(&refused(1 << 30, 1_000)), Turn::Wait);
    assert_eq!(large.statuses(), [405]);
    assert!(large.io.shut);
    large.io.ends = true;
    assert_eq!(large.send(&[]), Turn::Close);
}

#[test]
fn what_changes_something_waits_for_the_content_that_it_has_no_use_for() {
    for line in ["DELETE /kv/a", "POST /kv/a?op=incr"] {
        let head = |fields: &str| format!("{line} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        let mut world = World::new();
        world.send((head("Transfer-Encoding: chunked") + "5\r\nab").as_bytes());
        assert!(world.writes.is_empty() && world.io.written.is_empty(), "it may never be whole");
        world.send(b"cde\r\n0\r\n\r\n");
        assert_eq!(world.writes.len(), 1);
        let mut world = World::new();
        world.send((head("Content-Length: 2\r\nExpect: 100-continue")).as_bytes());
        assert!(world.writes.is_empty() && world.io.written.starts_with(b"HTTP/1.1 100 "));
        world.send(b"ab");
        assert_eq!(world.writes.len(), 1);
        for (fields, content, expected) in [
            ("Transfer-Encoding: chunked", "ZZ\r\n", 400),
            ("Transfer-Encoding: chunked", "FFFFFFF\r\n", 413),
            ("Content-Length: 200000", "ab", 413),
        ] {
            let mut world = World::new();
            world.send((head(fields) + content).as_bytes());
            assert_eq!((world.statuses(), world.writes.len()), (vec![expected], 0), "{line} {fields}");
        }
    }
}

#[test]
fn a_chunk_that_says_that_it_is_too_large_is_not_waited_for() {
    let mut world = World::new();
    world.send(b"PUT /kv/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\nab");
    assert_eq!(world.statuses(), [413]);
    assert!(
        String::from_utf8_lossy(&world.io.written)
            .contains("at most 1000 bytes (--max-value-bytes); this one has 1001")
    );
}

#[test]
fn a_client_that_waits_for_100_is_told_to_go_on_or_refused() {
    let put = |length: usize| {
        format!("PUT /kv/a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
            .into_bytes()
    };
    let mut world = World::new();
    world.send(&put(5));
    assert_eq!(world.statuses(), [100]);
    world.send(b"value");
    assert_eq!(world.writes.len(), 1);
    let mut eager = World::new();
    eager.send(&[put(5), b"value".to_vec()].concat());
    assert_eq!((eager.statuses(), eager.writes.len()), (vec![], 1));
    let mut large = World::new();
    large.send(&put(5_000));
    assert_eq!(large.statuses(), [413]);
}
