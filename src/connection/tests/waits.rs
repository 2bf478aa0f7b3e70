//! Connections that wait for a change, for rows, or for their client: what they take for an answer, and for how long they
//! wait.

use super::*;
use crate::limits::{LOOK_PAUSE_MS, WAITERS_A_SHARD, WATCHERS_A_SHARD};

#[test]
fn whoever_tells_of_a_change_too_late_is_not_taken_for_the_next_answer() {
    let put = "PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nv";
    let load =
        "PUT /kv HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1\r\n\r\nx";
    for next in [get("miss"), put.into(), load.into(), get_many(&["m1", "m2"]), export(), wait("8", 60)] {
        // A writer may have taken the ticket of a watch while the look-up of the key was answering it.
        let mut world = World::knowing("k", "value");
        world.send(&wait("8", 60));
        assert_eq!(world.statuses(), [200], "it is another row already");
        let late = Ticket { event_loop: 0, id: ID, job: 1 };
        let _ = world.backend.engine.forget_all();
        world.send(&next);
        assert_eq!(world.statuses(), [200], "{}", String::from_utf8_lossy(&next));
        assert!(!world.connection.waits_for(late), "{}", String::from_utf8_lossy(&next));
        // Or while the look-up was refused.
        let mut world = World::new();
        while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
        world.send(&wait("8", 60));
        assert_eq!(world.statuses(), [503]);
        while world.reads.try_recv().is_ok() {}
        world.send(&next);
        assert_eq!(world.statuses(), [503]);
        assert!(!world.connection.waits_for(late), "{}", String::from_utf8_lossy(&next));
    }
}

#[test]
fn a_wait_that_has_to_look_again_no_longer_trusts_what_it_knew() {
    for (written_meanwhile, expected) in [(false, 304), (true, 504)] {
        let mut world = World::knowing("k", "value");
        world.send(&wait("9", 60));
        assert!(world.statuses().is_empty() && world.reads.is_empty());
        if written_meanwhile {
            change(&mut world);
            assert_eq!(world.reads.len(), 1, "what there is has to be read");
        }
        world.expire();
        assert_eq!(world.statuses(), [expected]);
    }
}

#[test]
fn a_wait_does_not_end_with_an_older_row_than_others_are_given() {
    // Whoever looks past the cache is told what is in the table, which may be newer than what is cached.
    for (directive, before, after, expected) in [
        ("", None, Some(9), 304),
        ("", None, Some(10), 200),
        ("no-store", Some(9), None, 304),
        ("no-store", Some(8), None, 304),
        ("no-store", None, Some(10), 200),
    ] {
        let mut world = World::new();
        let other = |world: &mut World, version: u32| {
            let hash = world.backend.engine.hash("k");
            let ticket = Ticket { event_loop: 1, id: ID, job: 1 };
            let mut shard = world.backend.engine.shard(hash);
            let mut read = None;
            shard.get(hash, "k", 0, ticket, |_| (), |id| read.replace(id).is_none());
            let done = shard.read_done(hash, "k", read.unwrap(), Some(&row(version)), 0);
            assert_eq!(done.waiters.len(), 1);
            // Told too late.
            done.watching.len()
        };
        if let Some(version) = before {
            other(&mut world, version);
        }
        let request = String::from_utf8(wait("9", 60)).unwrap();
        world.send(request.replace("Prefer", &format!("Cache-Control: {directive}\r\nPrefer")).as_bytes());
        let reads = world.take_reads();
        world.read_done(&reads[0], &row(9));
        assert_eq!(world.statuses(), [] as [u16; 0]);
        if let Some(version) = after {
            // As if what is cached had been evicted.
            let hash = world.backend.engine.hash("k");
            world.backend.engine.shard(hash).doubt(hash, "k");
            assert_eq!(other(&mut world, version), usize::from(version != 9));
        }
        world.expire();
        if directive == "no-store" && before != Some(9) {
            let reads = world.take_reads();
            assert_eq!(world.statuses(), [] as [u16; 0], "it looks past the cache");
            world.read_done(&reads[0], &row(after.unwrap_or(9)));
        }
        assert_eq!(world.statuses(), [expected], "{directive} {before:?} {after:?}");
    }
}

#[test]
fn a_change_that_is_told_when_the_wait_is_over_is_looked_at_if_nothing_was_known() {
    for (version, expected) in [(9, 304), (10, 200)] {
        let mut world = World::new();
        world.send(&wait("9", 1));
        world.take_reads();
        world.now_ms += 1_500;
        change(&mut world);
        assert_eq!(world.statuses(), [] as [u16; 0], "nobody has looked yet");
        let reads = world.take_reads();
        assert_eq!(world.connection.deadline_ms() - world.now_ms, world.bounds.request_timeout_ms);
        world.read_done(&reads[0], &row(version));
        assert_eq!(world.statuses(), [expected]);
    }
    // What was known had not changed while it was waited for.
    let mut world = World::knowing("k", "value");
    world.send(&wait("9", 1));
    world.now_ms += 1_500;
    change(&mut world);
    assert_eq!(world.statuses(), [304]);
}

#[test]
fn a_wait_behind_an_answer_that_is_not_taken_ends_when_it_was_to() {
    let mut world = World::knowing("k", "value");
    world.io.room = 10;
    let wait = b"GET /kv/k HTTP/1.1\r\nHost: h\r\nIf-None-Match: \"9\"\r\nPrefer: wait=1\r\n\r\n";
    world.send(&[get("k"), wait.to_vec()].concat());
    world.io.room = usize::MAX;
    world.turn_until_it_waits();
    assert_eq!(world.statuses(), [200]);
    assert!(world.connection.deadline_ms() <= world.now_ms + 1_000);
    world.expire();
    assert_eq!(world.statuses(), [200, 304]);
}

#[test]
fn draining_ends_a_wait_when_what_there_is_was_read() {
    for (version, expected) in [(9, 304), (10, 200)] {
        let mut world = World::new();
        world.send(&wait("9", 60));
        world.draining = true;
        world.with(|connection, _, _, cx| connection.drain(cx));
        assert!(world.connection.deadline_ms() > world.now_ms, "a read is under way");
        let reads = world.take_reads();
        world.read_done(&reads[0], &row(version));
        if expected == 304 {
            assert_eq!(world.connection.deadline_ms(), world.now_ms, "no news, and no time to wait for some");
            world.expire();
        }
        assert_eq!(world.statuses(), [expected]);
        assert!(String::from_utf8_lossy(&world.io.written).contains("Connection: close"));
    }
    // As one that nobody answers ends by its own time.
    let mut world = World::new();
    world.send(&wait("9", 60));
    world.draining = true;
    world.with(|connection, _, _, cx| connection.drain(cx));
    world.expire();
    assert_eq!(world.statuses(), [504]);
}

#[test]
fn whoever_reads_slowly_is_closed_by_the_idle_timeout_whatever_comes_meanwhile() {
    // The client does not take the first answer; then the second one's reply comes.
    let replied = |request: &[u8], answer: &Answer| {
        let mut world = World::knowing("k", "value");
        world.io.room = 20;
        world.send(&[get("k"), request.to_vec()].concat());
        let deadline_ms = world.connection.deadline_ms();
        assert_eq!(deadline_ms, world.now_ms + world.bounds.idle_timeout_ms);
        world.now_ms += 1_000;
        world.turn(Some(answer));
        assert_eq!(world.statuses(), [200], "{}", String::from_utf8_lossy(request));
        assert_eq!(world.connection.deadline_ms(), deadline_ms, "{}", String::from_utf8_lossy(request));
        // What it takes later moves it.
        world.io.room = 10;
        world.turn(None);
        assert_eq!(world.connection.deadline_ms(), deadline_ms + 1_000);
        world
    };
    replied(&get("miss"), &World::found("read"));
    replied(&export(), &page(&["a"], "v", true));
    let load =
        "PUT /kv HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1\r\n\r\nx";
    replied(load.as_bytes(), &Answer::Loaded(Default::default()));
    let mut world = World::knowing("k", "value");
    world.io.room = 10;
    world.send(&[get("k"), wait("9", 60)].concat());
    let deadline_ms = world.connection.deadline_ms();
    world.now_ms += 1_000;
    change(&mut world);
    assert_eq!((world.reads.len(), world.connection.deadline_ms()), (1, deadline_ms));
    // When it has taken everything, it is the read that is waited for.
    world.io.room = usize::MAX;
    world.turn(None);
    assert_eq!(world.connection.deadline_ms(), world.now_ms + world.bounds.request_timeout_ms);
}

#[test]
fn who_has_gone_home_is_not_waited_for_whatever_he_has_asked_behind() {
    let more = get("k");
    for behind in [&b""[..], &more] {
        let mut world = World::knowing("k", "value");
        world.io.ends = true;
        world.io.pieces.push_back([&wait("9", 60), behind].concat());
        world.connection.set_readable(true);
        assert_eq!(world.turn_until_it_waits(), Turn::Close, "{} bytes behind", behind.len());
    }
}

#[test]
fn only_if_cached_is_no_wait_for_the_table() {
    let only = |tag| {
        String::from_utf8(wait(tag, 60))
            .unwrap()
            .replace("Host: h", "Host: h\r\nCache-Control: only-if-cached")
    };
    for (mut world, tag, expected) in
        [(World::new(), "9", 504), (World::knowing("k", "v"), "9", 304), (World::knowing("k", "v"), "8", 200)]
    {
        world.send(only(tag).as_bytes());
        assert_eq!((world.statuses(), world.reads.len()), (vec![expected], 0));
    }
}

#[test]
fn a_wait_without_news_ends_with_what_any_other_304_says() {
    let head = |world: &World| String::from_utf8(world.io.written.clone()).unwrap();
    let always = ["HTTP/1.1 304 ", "\r\nETag: \"9\"\r\n", "\r\nExpires: ", "\r\nCache-Control: no-cache\r\n"];
    // By the cache: its age is that of the moment when it is told.
    let mut world = World::knowing_until("k", "value", 1_000_000);
    world.now_s = 3;
    world.send(&wait("9", 4));
    world.now_s += 4;
    world.expire();
    for part in always.iter().chain(&["\r\nCache-Status: hotrow; hit\r\n", "\r\nAge: 7\r\n"]) {
        assert!(head(&world).contains(part), "{part}: {}", head(&world));
    }
    // By the table: why it was asked is told, and what comes from there has no age.
    for (field, status) in [("", "miss"), ("Cache-Control: no-cache\r\n", "request")] {
        let mut world = World::new();
        let request =
            String::from_utf8(wait("9", 4)).unwrap().replace("Host: h\r\n", &format!("Host: h\r\n{field}"));
        world.send(request.as_bytes());
        let reads = world.take_reads();
        world.read_done(&reads[0], &row(9));
        world.expire();
        for part in always.iter().chain(&[&*format!("\r\nCache-Status: hotrow; fwd={status}\r\n")]) {
            assert!(head(&world).contains(part), "{part}: {}", head(&world));
        }
        assert!(!head(&world).contains("Age: "));
    }
}

#[test]
fn who_waits_already_is_not_told_that_the_database_cannot_be_asked_now() {
    for version in [9, 10] {
        let mut world = World::knowing("k", "value");
        world.send(&wait("9", 60));
        // It may have changed, and the queue is full.
        while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
        change(&mut world);
        assert_eq!(world.statuses(), [] as [u16; 0]);
        // A moment later it is looked at, and that fails.
        while world.reads.try_recv().is_ok() {}
        world.expire();
        let reads = world.take_reads();
        world.backend.engine.shard(reads[0].hash).read_done(reads[0].hash, "k", reads[0].id, None, 0);
        world.turn(Some(&Answer::Failed(Failure::NotStarted)));
        assert_eq!((world.statuses().len(), world.reads.len()), (0, 0));
        assert_eq!(world.connection.deadline_ms(), world.now_ms + LOOK_PAUSE_MS);
        // In the end it is told what there is, if that is news.
        world.expire();
        let reads = world.take_reads();
        world.read_done(&reads[0], &row(version));
        assert_eq!(world.statuses(), if version == 10 { vec![200] } else { vec![] });
    }
    // When the wait is over meanwhile, it is a read like any other.
    let mut world = World::knowing("k", "value");
    world.send(&wait("9", 1));
    while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
    change(&mut world);
    while world.reads.try_recv().is_ok() {}
    world.now_ms += 2_000;
    world.expire();
    let reads = world.take_reads();
    world.read_done(&reads[0], &row(10));
    assert_eq!(world.statuses(), [200]);
    // And who has not waited yet is told.
    let mut world = World::new();
    world.send(&wait("9", 60));
    world.turn(Some(&Answer::Failed(Failure::NotStarted)));
    assert_eq!(world.statuses(), [503]);
}

#[test]
fn a_bound_on_those_who_wait_is_named_as_what_it_is() {
    let told = |world: &World| {
        assert_eq!(world.statuses(), [503]);
        let text = String::from_utf8_lossy(&world.io.written).into_owned();
        assert!(text.contains("queue-full") && !text.contains("--queue-depth"), "{text}");
        assert!(text.contains("\r\nRetry-After: 1\r\n"), "{text}");
        text
    };
    let others = |count: usize| (0..count as u32).map(|job| Ticket { event_loop: 1, id: ID, job });
    let mut world = World::knowing("k", "value");
    let hash = world.backend.engine.hash("k");
    for ticket in others(WATCHERS_A_SHARD) {
        assert!(world.backend.engine.shard(hash).watch(hash, "k", ticket));
    }
    world.send(&wait("9", 60));
    assert!(told(&world).contains("wait for changes"));

    let mut world = World::new();
    for ticket in others(WAITERS_A_SHARD) {
        world.backend.get("k", 0, ticket, |_| ());
    }
    world.send(&get("k"));
    assert!(told(&world).contains("wait for rows to be read"));
}
