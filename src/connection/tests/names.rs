//! The name of a request, which its answer has and no other answer.

use super::*;
use crate::config::AccessLogFormat;

#[test]
fn a_name_does_not_stick_to_the_connection_when_its_request_has_waited() {
    let named = |request: Vec<u8>| {
        let request = String::from_utf8(request).unwrap();
        request.replace("Host: h\r\n", "Host: h\r\nX-Request-Id: named\r\n").into_bytes()
    };
    for export_first in [false, true] {
        let mut world = World::new();
        if export_first {
            world.send(&named(export()));
            world.take_page();
            world.turn(Some(&page(&["a"], "v", false)));
            world.turn_until_it_waits();
        } else {
            world.send(&named(get_many(&["m1", "m2"])));
            for job in world.take_reads() {
                world.read_done(&job, &None);
            }
        }
        assert_eq!(world.statuses(), [200]);
        // Who has no name of its own is told one that was made.
        world.send(&get("k"));
        world.expire();
        assert_eq!(world.statuses(), [200, 504]);
        let text = String::from_utf8_lossy(&world.io.written).into_owned();
        assert!(text.contains("X-Request-Id: ") && !text.contains("named"), "{text}");
    }
}

#[test]
fn a_request_whose_head_is_refused_keeps_its_name() {
    for (id, kept) in [("named", true), ("two words", false)] {
        let mut world = World::new();
        let fields = format!("Host: h\r\nX-Request-Id: {id}\r\nTransfer-Encoding: gzip");
        world.send(format!("PUT /kv/k HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes());
        assert_eq!(world.statuses(), [501]);
        let text = String::from_utf8_lossy(&world.io.written).into_owned();
        assert_eq!(text.contains(&format!("X-Request-Id: {id}\r\n")), kept, "{text}");
        assert_eq!(text.contains(&format!("\"request_id\":\"{id}\"")), kept, "{text}");
        assert!(text.contains("X-Request-Id: ") && text.contains("\"request_id\":"), "{text}");
    }
    // So does one whose head cannot be read at all, as far as it has come.
    for (head, kept) in [
        ("X-Request-Id: named\r\n", true),
        ("x-request-ID:named\r\n\r\n", true),
        ("X-Request-Id: named", false),
        // A line with a bad end says nothing, but ends nothing either; an empty one does, however it ends.
        ("X: y\nX-Request-Id: named\r\n", true),
        ("X-Request-Id: named\n\r\n", false),
        ("\nX-Request-Id: named\r\n", false),
    ] {
        let mut world = World::new();
        world.send(format!("\r\nGET /kv/k HTTP/3.0\r\nHost: h\r\n{head}").as_bytes());
        let text = String::from_utf8_lossy(&world.io.written).into_owned();
        assert!(text.starts_with("HTTP/1.1 505 "), "{text}");
        assert_eq!(text.contains("X-Request-Id: named\r\n"), kept, "{head:?}: {text}");
    }
    // What stands behind the head is none of it. What is no failure has no name in its answer.
    let mut world = World::new();
    world.send(b"GET /kv/k HTTP/3.0\r\nHost: h\r\n\r\nX-Request-Id: named\r\n");
    assert!(!String::from_utf8_lossy(&world.io.written).contains("named"));
    let mut world = World::new();
    world.send(b"PUT /kv/k HTTP/1.1\r\nHost: h\r\nX-Request-Id: named\r\nTransfer-Encoding: chunked, chunked\r\n\r\n");
    assert_eq!(world.statuses(), [400]);
    assert!(!String::from_utf8_lossy(&world.io.written).contains("named"));
}

#[test]
fn a_request_whose_head_does_not_come_whole_is_logged_by_its_name() {
    for (head, kept) in [
        ("X-Request-Id: named\r\n", true),
        ("X-Request-Id: named\r\nX: y", true),
        ("X-Request-Id: named", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut world = World::new();
        world.access_log = Some(AccessLog::open(Some(&path), AccessLogFormat::Common).unwrap());
        world.send(format!("GET /kv/k HTTP/1.1\r\nHost: h\r\n{head}").as_bytes());
        world.expire();
        assert_eq!(world.statuses(), [408]);
        world.access_log.take().unwrap().flush();
        let line = std::fs::read_to_string(&path).unwrap();
        assert!(line.contains("\"-\" 408 "), "{line}");
        assert_eq!(line.contains("\"named\""), kept, "{head:?}: {line}");
    }
}
