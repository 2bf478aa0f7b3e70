//! Requests for several keys: one job, one answer.

use super::*;

fn record(value: &str) -> Row {
    Some(Record { value: value.into(), version: 5, expires_s: NEVER })
}

fn some(status: u64, value: &str) -> (u64, Option<String>) {
    (status, Some(value.to_owned()))
}

#[test]
fn several_keys_are_one_job_and_one_answer_in_the_order_of_the_request() {
    let mut world = World::knowing("hit", "value");
    world.send(&[get_many(&["m1", "hit", "m2", "m1"]), get("hit")].concat());
    assert_eq!(world.reads.len(), 1, "one place in the queue");
    let jobs = world.take_reads();
    let keys: Vec<&str> = jobs.iter().map(|job| &*job.key).collect();
    assert_eq!(keys, ["m1", "m2"], "a key that is there twice is read once");
    world.read_done(&jobs[1], &None);
    assert!(world.statuses().is_empty());
    world.read_done(&jobs[0], &record("read"));
    world.turn_until_it_waits();
    assert_eq!(world.statuses(), [200, 200], "and the pipeline goes on behind it");
    world.send(&get_many(&["m1", "hit", "m2", "m1"]));
    assert_eq!(world.reads.len(), 0, "what was read is cached");
    assert_eq!(items(&world), [some(200, "read"), some(200, "value"), (404, None), some(200, "read")]);
    let counters = &world.counters;
    assert_eq!((counters.hits(), counters.absences(), counters.cache_misses.get()), (5, 1, 3));
}

#[test]
fn one_read_serves_a_request_for_several_keys_and_one_for_a_single_key() {
    let mut world = World::new();
    world.send(&get("a"));
    world.expire();
    world.send(&get_many(&["a", "b"]));
    let (first, second) = (world.take_reads(), world.take_reads());
    assert_eq!((&*first[0].key, first.len(), &*second[0].key, second.len()), ("a", 1, "b", 1));
    world.read_done(&second[0], &None);
    // The ticket of the request that was given up is among those of this read, and is not taken.
    let job = &first[0];
    let row = record("read");
    let waiters =
        world.backend.engine.shard(job.hash).read_done(job.hash, &job.key, job.id, Some(&row), 0).waiters;
    let taken: Vec<bool> = waiters.iter().map(|ticket| world.connection.waits_for(*ticket)).collect();
    assert_eq!(taken, [false, true]);
    let reply = Reply { ticket: waiters[1], answer: Answer::Found(row) };
    world.with(|connection, io, ws, cx| connection.turn_with(reply, io, ws, cx));
    assert_eq!(items(&world), [some(200, "read"), (404, None)]);
    assert!(!world.connection.waits_for(waiters[1]), "nothing is waited for any more");
}

#[test]
fn of_several_keys_those_that_cannot_be_read_say_so_each() {
    let mut world = World::knowing("hit", "value");
    while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
    world.send(&get_many(&["miss", "hit"]));
    assert_eq!(items(&world), [(503, None), some(200, "value")]);
    assert!(String::from_utf8_lossy(&world.io.written).contains("Retry-After: 1\r\n"));
    assert_eq!(world.backend.engine.stats().in_flight, 0, "nothing is left in flight");
    while world.reads.try_recv().is_ok() {}
    world.backend.health.set_reader(true);
    world.send(&get_many(&["miss", "hit"]));
    assert_eq!(items(&world), [(503, None), some(200, "value")]);
    world.backend.health.set_reader(false);
    world.send(&get_many(&["miss", "hit"]));
    world.expire();
    assert_eq!(items(&world), [(504, None), some(200, "value")]);
    assert_eq!(world.connection.deadline_ms() - world.now_ms, world.bounds.idle_timeout_ms);
}
