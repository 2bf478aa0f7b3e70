//! What is counted of requests, where that is not one for each.

use super::*;
use crate::http::problem::Kind;

fn of(world: &World) -> (u64, u64, u64, u64) {
    let counters = &world.counters;
    (counters.hits(), counters.absences(), counters.cache_misses.get(), counters.cache_answers())
}

/// While the database is down a ratio of hits that leaves them out would say that all is well.
#[test]
fn a_read_that_the_cache_cannot_answer_is_a_miss_even_where_nobody_can_be_asked() {
    let mut world = World::knowing("k", "value");
    while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
    world.send(&get("none"));
    assert_eq!((world.statuses(), of(&world)), (vec![503], (0, 0, 1, 0)));
    world.send(&get_many(&["k", "none", "nor-this"]));
    assert_eq!(of(&world), (1, 0, 3, 0));
    world.send(b"GET /kv/none HTTP/1.1\r\nHost: h\r\nCache-Control: only-if-cached\r\n\r\n");
    assert_eq!((world.statuses(), of(&world)), (vec![503, 200, 504], (1, 0, 4, 0)));
}

#[test]
fn what_is_known_to_be_absent_is_counted_as_that_whatever_is_asked_of_it() {
    for fields in [
        "",
        "If-None-Match: \"9\"\r\n",
        "If-Match: *\r\n",
        "If-Match: *\r\nCache-Control: only-if-cached\r\n",
        "If-Match: *\r\nIf-None-Match: \"9\"\r\nPrefer: wait=5\r\n",
    ] {
        let mut world = World::new();
        world.send(&get("none"));
        for job in world.take_reads() {
            world.read_done(&job, &None);
        }
        assert_eq!((world.statuses(), of(&world)), (vec![404], (0, 0, 1, 0)));
        world.send(format!("GET /kv/none HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes());
        let status = if fields.contains("If-Match") { 412 } else { 404 };
        assert_eq!((world.statuses(), of(&world)), (vec![404, status], (0, 1, 1, 1)), "{fields}");
    }
    // And a value is one.
    let mut world = World::knowing("k", "value");
    world.send(b"GET /kv/k HTTP/1.1\r\nHost: h\r\nIf-Match: \"1\"\r\n\r\n");
    assert_eq!((world.statuses(), of(&world)), (vec![412], (1, 0, 0, 1)));
}

#[test]
fn a_request_for_several_keys_that_the_cache_answers_is_one_that_it_has_answered() {
    let mut world = World::knowing("k", "value");
    world.send(&get_many(&["k", "k", "k"]));
    assert_eq!(of(&world), (3, 0, 0, 1));
    world.send(&get_many(&["k", "none", "k"]));
    assert_eq!(of(&world), (5, 0, 1, 1), "the database has");
}

#[test]
fn a_look_of_a_wait_that_finds_the_same_is_a_hit_and_no_answer() {
    let mut world = World::knowing("k", "value");
    world.send(b"GET /kv/k HTTP/1.1\r\nHost: h\r\nIf-None-Match: \"9\"\r\nPrefer: wait=60\r\n\r\n");
    assert_eq!((world.statuses(), of(&world)), (vec![], (1, 0, 0, 0)));
}

/// Whoever asks again and again whether a server is ready makes no problem of it.
#[test]
fn what_the_admin_socket_answers_is_no_problem_of_the_data() {
    let mut world = World::new();
    world.connection.role = Role::Admin;
    world.send(&get("k"));
    assert_eq!((world.statuses(), world.counters.problems(Kind::PathNotFound as usize)), (vec![404], 0));
    assert_eq!(world.counters.admin_requests.get(), 1);
}

#[test]
fn an_expectation_that_is_refused_is_a_request_like_any_other() {
    let mut world = World::knowing("k", "value");
    let expects =
        |method| format!("{method} /kv/k HTTP/1.1\r\nHost: h\r\nX-Request-Id: i\r\nExpect: a-miracle\r\n");
    world.send(&[expects("GET").as_bytes(), b"\r\n", &get("k")].concat());
    assert_eq!(world.statuses(), [417, 200], "nothing follows that could be taken for a request");
    world.send(format!("{}Content-Length: 1\r\n\r\n", expects("PUT")).as_bytes());
    assert_eq!((world.statuses(), world.connection.phase()), (vec![417, 200, 417], Phase::Closing));
    for (method, expected) in [(Method::Get, vec![(200, 1), (417, 1)]), (Method::Put, vec![(417, 1)])] {
        assert_eq!(world.counters.answers(method).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn every_request_that_a_problem_is_the_answer_to_counts_once() {
    let counted = |world: &World| -> Vec<(Kind, u64)> {
        let count = |kind: Kind| (kind, world.counters.problems(kind as usize));
        Kind::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
    };
    let put = b"PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nv";
    for (answer, expected) in [
        (Answer::PreconditionFailed, vec![(Kind::PreconditionFailed, 1)]),
        (Answer::NotANumber, vec![(Kind::NotANumber, 1)]),
        (Answer::Failed(Failure::Unknown), vec![(Kind::OutcomeUnknown, 1)]),
        (Answer::Deleted { existed: true }, vec![]),
    ] {
        let mut world = World::knowing("k", "value");
        world.send(put);
        world.turn(Some(&answer));
        world.send(&get("k"));
        assert_eq!(counted(&world), expected, "{answer:?}");
    }
    // Reads under conditions, by the cache and by the table.
    for (field, reads) in
        [("", false), ("Cache-Control: only-if-cached\r\n", false), ("Cache-Control: no-cache\r\n", true)]
    {
        let mut world = World::knowing("k", "value");
        world.send(format!("GET /kv/k HTTP/1.1\r\nHost: h\r\n{field}If-Match: \"1\"\r\n\r\n").as_bytes());
        if reads {
            world.turn(Some(&World::found("read")));
        }
        world.send(&get("k"));
        assert_eq!(world.statuses(), [412, 200], "{field}");
        assert_eq!(counted(&world), [(Kind::PreconditionFailed, 1)], "{field}");
    }
    // A refusal, and no request for what is only an item of an answer.
    let mut world = World::new();
    world.send(b"BREW /kv/k HTTP/1.1\r\nHost: h\r\n\r\n");
    while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
    world.send(&get_many(&["miss"]));
    assert_eq!(items(&world), [(503, None)]);
    assert_eq!(counted(&world), [(Kind::UnknownMethod, 1)]);
    // A list that is cut off.
    let mut world = World::new();
    world.send(&export());
    world.turn(Some(&page(&["a"], "v", true)));
    world.turn_until_it_waits();
    world.turn(Some(&Answer::Failed(Failure::Down { retry_after_seconds: 1 })));
    assert_eq!(counted(&world), [(Kind::DatabaseDown, 1)]);
}
