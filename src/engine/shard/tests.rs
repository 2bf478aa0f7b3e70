//! A shard by itself: every rule that it keeps.

use super::*;
use crate::engine::{NEVER, Record};
use crate::token::Id;

const HASH: u64 = 7;

fn ticket(job: u32) -> Ticket {
    Ticket { event_loop: 0, id: Id { slot: 0, generation: 0 }, job }
}

fn shard() -> Shard {
    Shard::new(10_000, RandomState::with_seeds(1, 2, 3, 4), Arc::default())
}

/// What a GET leads to, and the read it sent.
fn get(shard: &mut Shard, job: u32) -> (Get<Option<u32>>, Option<ReadId>) {
    let mut sent = None;
    let got = shard.get(HASH, "k", 0, ticket(job), version_of, |id| {
        sent = Some(id);
        true
    });
    (got, sent)
}

fn version_of(known: Known<'_>) -> Option<u32> {
    match known {
        Known::Value(held) => Some(held.version),
        Known::Absent { .. } => None,
    }
}

fn row(version: u32) -> Row {
    Some(Record { value: "v".into(), version, expires_s: NEVER })
}

const ONE: Writes = Writes::Own(1);

#[test]
fn a_miss_is_read_once_and_answers_all_who_asked() {
    let mut shard = shard();
    let (_, read) = get(&mut shard, 1);
    assert_eq!(get(&mut shard, 2), (Get::Joined, None));
    assert_eq!(shard.read_done(HASH, "k", read.unwrap(), Some(&row(5)), 0).waiters, [ticket(1), ticket(2)]);
    assert_eq!(get(&mut shard, 3).0, Get::Answered(Some(5)));
    assert_eq!(shard.stats().in_flight, 0);
}

#[test]
fn an_absent_key_is_remembered_until_it_is_written() {
    let mut shard = shard();
    let (_, read) = get(&mut shard, 1);
    shard.read_done(HASH, "k", read.unwrap(), Some(&None), 0);
    assert_eq!(get(&mut shard, 2).0, Get::Answered(None));
    shard.write_sent(HASH, "k", ONE);
    shard.committed(HASH, "k", (ONE, false), &row(1), 0);
    assert_eq!(get(&mut shard, 3).0, Get::Answered(Some(1)));
}

#[test]
fn a_read_that_a_write_overtook_fills_nothing_and_is_not_joined() {
    let mut shard = shard();
    let (_, old) = get(&mut shard, 1);
    shard.write_sent(HASH, "k", ONE);
    shard.replaced(HASH, "k", ONE);
    let (got, new) = get(&mut shard, 2);
    assert!(got == Get::Waiting && new.is_some());
    assert_eq!(shard.read_done(HASH, "k", old.unwrap(), Some(&row(1)), 0).waiters, [ticket(1)]);
    assert!(get(&mut shard, 3).1.is_none(), "the new read is joined");
    assert_eq!(shard.read_done(HASH, "k", new.unwrap(), Some(&row(2)), 0).waiters, [ticket(2), ticket(3)]);
    assert_eq!((get(&mut shard, 4).0, shard.stats().late_fills), (Get::Answered(Some(2)), 1));
}

/// Nothing has happened: what it brings is as good as before.
#[test]
fn a_read_goes_on_as_it_was_behind_a_write_that_was_refused_and_compares_what_one_has_found() {
    let mut shard = shard();
    let (_, read) = get(&mut shard, 1);
    shard.write_sent(HASH, "k", ONE);
    shard.refused(HASH, "k", ONE);
    assert_eq!(get(&mut shard, 2), (Get::Joined, None));
    shard.write_sent(HASH, "k", ONE);
    shard.unchanged(HASH, "k", ONE, Some(3));
    let (got, other) = get(&mut shard, 3);
    assert_eq!(got, Get::Waiting, "the first one may have looked before that row was written");
    shard.read_done(HASH, "k", read.unwrap(), Some(&row(2)), 0);
    assert_eq!(shard.peek(HASH, b"k", 0, version_of), None, "it has");
    // This one was sent behind that, and the other one has told an older row.
    shard.read_done(HASH, "k", other.unwrap(), Some(&row(3)), 0);
    let (got, last) = get(&mut shard, 4);
    assert_eq!(got, Get::Waiting);
    shard.write_sent(HASH, "k", ONE);
    shard.unchanged(HASH, "k", ONE, Some(3));
    shard.read_done(HASH, "k", last.unwrap(), Some(&row(3)), 0);
    assert_eq!((get(&mut shard, 5).0, shard.stats().late_fills), (Get::Answered(Some(3)), 0));
}

#[test]
fn a_key_in_doubt_is_read_every_time_and_not_cached() {
    let mut shard = shard();
    shard.write_sent(HASH, "k", ONE);
    shard.committed(HASH, "k", (ONE, false), &row(1), 0);
    shard.write_sent(HASH, "k", ONE);
    shard.doubt(HASH, "k");
    assert_eq!(shard.stats().in_doubt, 1);
    for job in 2..4 {
        let (_, read) = get(&mut shard, job);
        assert_eq!(
            shard.read_done(HASH, "k", read.expect("nobody joins"), Some(&row(1)), 0).waiters,
            [ticket(job)]
        );
    }
    let (_, last) = get(&mut shard, 4);
    shard.unknown(HASH, "k", ONE);
    shard.read_done(HASH, "k", last.unwrap(), Some(&row(1)), 0);
    assert!(get(&mut shard, 5).1.is_some(), "what was read in doubt is not cached");
    assert_eq!(shard.stats().in_doubt, 0);
}

#[test]
fn a_doubt_outlasts_a_write_that_is_refused_meanwhile() {
    let mut shard = shard();
    shard.write_sent(HASH, "k", ONE);
    shard.doubt(HASH, "k");
    shard.write_sent(HASH, "k", ONE);
    shard.refused(HASH, "k", ONE);
    assert_eq!(shard.stats().in_doubt, 1);
    let (_, read) = get(&mut shard, 1);
    shard.read_done(HASH, "k", read.unwrap(), Some(&row(1)), 0);
    assert!(get(&mut shard, 2).1.is_some(), "what was read in doubt is not cached");
    assert!(shard.may_try_again(HASH, "k"));
    shard.committed(HASH, "k", (ONE, true), &row(2), 0);
    assert_eq!((get(&mut shard, 3).0, shard.stats().in_doubt), (Get::Answered(Some(2)), 0));
}

#[test]
fn so_many_may_wait_and_no_more() {
    let mut shard = shard();
    let (_, read) = get(&mut shard, 0);
    for job in 1..WAITERS_A_SHARD as u32 {
        assert_eq!(get(&mut shard, job), (Get::Joined, None));
    }
    assert_eq!(get(&mut shard, 0).0, Get::TooManyWaiters);
    let other = shard.get(1, "other", 0, ticket(0), |_| (), |_| unreachable!("it is not sent"));
    assert_eq!(other, Get::TooManyWaiters);
    assert_eq!(shard.read_done(HASH, "k", read.unwrap(), None, 0).waiters.len(), WAITERS_A_SHARD);
    assert_eq!(get(&mut shard, 1).0, Get::Waiting);
}

#[test]
fn so_many_may_wait_over_all_shards() {
    let all = Arc::new(AtomicUsize::new(0));
    let shard = || Shard::new(10_000, RandomState::with_seeds(1, 2, 3, 4), Arc::clone(&all));
    let (mut one, mut two) = (shard(), shard());
    let (_, read) = get(&mut one, 0);
    assert_eq!(get(&mut one, 1), (Get::Joined, None));
    // The others have all places but these.
    all.fetch_add(WAITERS - 2, Ordering::Relaxed);
    assert_eq!(get(&mut two, 2).0, Get::TooManyWaiters);
    assert_eq!(one.read_done(HASH, "k", read.unwrap(), None, 0).waiters.len(), 2);
    let (_, read) = get(&mut two, 2);
    assert_eq!(two.read_done(HASH, "k", read.unwrap(), None, 0).waiters.len(), 1);
    assert_eq!(all.load(Ordering::Relaxed), WAITERS - 2);
}

#[test]
fn a_read_that_cannot_be_sent_changes_nothing() {
    let mut shard = shard();
    assert_eq!(shard.get(HASH, "k", 0, ticket(1), |_| (), |_| false), Get::NotSent);
    assert_eq!(shard.stats(), Stats::default());
}

/// What a GET that wants it this fresh leads to, and the read it sent.
fn get_fresh(
    shard: &mut Shard,
    now_s: u32,
    freshness: Freshness,
    job: u32,
) -> (Get<Option<u32>>, Option<ReadId>) {
    let mut sent = None;
    let got = shard.get_fresh((HASH, "k"), (now_s, freshness), ticket(job), version_of, |id| {
        sent = Some(id);
        true
    });
    (got, sent)
}

#[test]
fn a_read_that_is_on_its_way_may_be_older_than_what_is_asked_for() {
    let mut shard = shard();
    let (_, first) = get(&mut shard, 1);
    for (job, freshness) in [(2, Freshness::AtMost(5)), (3, Freshness::Now)] {
        let (got, read) = get_fresh(&mut shard, 10, freshness, job);
        assert_eq!(got, Get::Waiting);
        assert!(read.is_some_and(|read| Some(read) != first));
    }
    assert_eq!(get(&mut shard, 4).0, Get::Joined, "whoever takes anything joins the last of them");
}

#[test]
fn a_request_is_answered_by_what_is_as_fresh_as_it_asks_for() {
    let mut shard = shard();
    let (_, first) = get_fresh(&mut shard, 10, Freshness::Any, 1);
    shard.read_done(HASH, "k", first.unwrap(), Some(&row(1)), 10);
    assert_eq!(get_fresh(&mut shard, 15, Freshness::Any, 2).0, Get::Answered(Some(1)));
    assert_eq!(get_fresh(&mut shard, 15, Freshness::AtMost(5), 3).0, Get::Answered(Some(1)));
    // Older than it may be: read again, and cached.
    let (got, second) = get_fresh(&mut shard, 15, Freshness::AtMost(4), 4);
    assert_eq!(got, Get::Waiting);
    assert_eq!(shard.read_done(HASH, "k", second.unwrap(), Some(&row(2)), 15).waiters, [ticket(4)]);
    assert_eq!(get_fresh(&mut shard, 15, Freshness::AtMost(0), 5).0, Get::Answered(Some(2)));
    // Read now, and the cache is left alone.
    let (_, third) = get_fresh(&mut shard, 15, Freshness::Uncached, 6);
    assert_eq!(shard.read_done(HASH, "k", third.unwrap(), Some(&row(3)), 15).waiters, [ticket(6)]);
    assert_eq!(get_fresh(&mut shard, 15, Freshness::Any, 7).0, Get::Answered(Some(2)));
    assert_eq!((shard.stats().late_fills, shard.stats().in_flight), (0, 0));
}

#[test]
fn a_read_of_now_is_not_an_earlier_one_and_fills_instead_of_it() {
    let mut shard = shard();
    let (_, early) = get(&mut shard, 1);
    let (got, now) = get_fresh(&mut shard, 0, Freshness::Now, 2);
    assert_eq!(got, Get::Waiting);
    assert_eq!(get(&mut shard, 3), (Get::Joined, None));
    assert_eq!(shard.read_done(HASH, "k", now.unwrap(), Some(&row(2)), 0).waiters, [ticket(2), ticket(3)]);
    // Which of the two looked later, nobody knows: if they differ, neither is cached.
    assert_eq!(shard.read_done(HASH, "k", early.unwrap(), Some(&row(2)), 0).waiters, [ticket(1)]);
    assert_eq!(get(&mut shard, 4).0, Get::Answered(Some(2)));
}

/// What another program has written, and a read of now has told.
#[test]
fn what_a_read_of_now_has_told_is_not_followed_by_the_row_from_before() {
    for (others, left) in [(None, Some(2)), (Some(2), Some(2)), (Some(1), None), (Some(3), None)] {
        let mut shard = shard();
        let (_, read) = get(&mut shard, 1);
        shard.read_done(HASH, "k", read.unwrap(), Some(&row(1)), 0);
        let (_, one) = get_fresh(&mut shard, 0, Freshness::Now, 2);
        let (_, other) = get_fresh(&mut shard, 0, Freshness::Now, 3);
        shard.read_done(HASH, "k", one.unwrap(), Some(&row(2)), 0);
        assert_eq!(get(&mut shard, 4).0, Get::Answered(Some(2)));
        shard.read_done(HASH, "k", other.unwrap(), others.map(row).as_ref(), 0);
        let expected = left.map_or(Get::Waiting, |version| Get::Answered(Some(version)));
        assert_eq!(get(&mut shard, 5).0, expected, "{others:?}");
        assert_eq!(shard.stats().late_fills, 0, "no write has overtaken it");
    }
}

/// A row does not come back, but that there is none does.
#[test]
fn a_row_that_was_made_and_deleted_again_is_not_cached_once_somebody_was_told_that_it_is_gone() {
    let mut shard = shard();
    let (_, read) = get(&mut shard, 1);
    shard.read_done(HASH, "k", read.unwrap(), Some(&None), 0);
    let (_, one) = get_fresh(&mut shard, 0, Freshness::Now, 2);
    let (_, other) = get_fresh(&mut shard, 0, Freshness::Now, 3);
    // The second looks when it is gone again, and is heard of first.
    shard.read_done(HASH, "k", other.unwrap(), Some(&None), 0);
    shard.read_done(HASH, "k", one.unwrap(), Some(&row(3)), 0);
    assert_eq!(get(&mut shard, 4).0, Get::Waiting);
}

#[test]
fn reads_of_an_absent_key_that_overlap_agree() {
    let mut shard = shard();
    let (_, mut last) = get(&mut shard, 1);
    for job in 2..20 {
        let (_, next) = get_fresh(&mut shard, 0, Freshness::Now, job);
        shard.read_done(HASH, "k", last.unwrap(), Some(&None), 0);
        assert_eq!(get(&mut shard, 1).0, Get::Answered(None), "{job}");
        last = next;
    }
}

/// What was told while a write was under way, and is not what that has left, may be from behind it.
#[test]
fn the_end_of_a_write_takes_out_what_was_told_meanwhile_and_does_not_take_its_place() {
    for (told, left) in [(2, Some(2)), (3, None)] {
        let mut shard = shard();
        shard.write_sent(HASH, "k", ONE);
        // One more, which is sent to the database when this one has ended.
        shard.write_sent(HASH, "k", ONE);
        let (_, read) = get_fresh(&mut shard, 0, Freshness::Now, 1);
        shard.read_done(HASH, "k", read.unwrap(), Some(&row(told)), 0);
        // It was turned away at the queue, and says nothing of the others.
        shard.write_sent(HASH, "k", ONE);
        shard.refused(HASH, "k", ONE);
        assert_eq!(get(&mut shard, 2).0, Get::Answered(Some(told)));
        shard.committed(HASH, "k", (ONE, false), &row(2), 0);
        let known = shard.peek(HASH, b"k", 0, version_of);
        assert_eq!(known, left.map(Some), "{told} was told");
        shard.committed(HASH, "k", (ONE, false), &row(4), 0);
        assert_eq!(get(&mut shard, 3).0, Get::Answered(Some(4)), "it came behind all that");
    }
}

/// Whoever asks is told no older row than anybody was before, whatever other programs write, delete and make again, and
/// whichever way the reads of a key and hotrow's own writes overlap. But for this: what another program has written behind one
/// of those is not looked for in a read that began before its end; a key that is written all the time would never be cached.
#[test]
fn nobody_is_told_an_older_row_than_somebody_was_before() {
    enum Writing {
        Sent,
        /// It has found this state, and leaves it.
        Found(usize),
        /// It has left this state.
        Committed(usize),
    }
    struct Asked {
        read: ReadId,
        /// The state that it has seen.
        snapshot: Option<usize>,
        /// A write has ended since it was sent.
        is_late: bool,
        /// What had been told when each of its waiters asked, by their tickets.
        floors: Vec<(u32, usize)>,
    }
    let mut random = fastrand::Rng::with_seed(4711);
    let (mut hits, mut told_later, mut cached) = (0, 0, 0);
    for _ in 0..4_000 {
        let mut shard = shard();
        // Every state of the key, by the versions of its rows: no row comes back, and none does.
        let mut states = vec![Some(1)];
        let (mut own, mut told, mut job) = (0, 0, 0);
        let mut asked: Vec<Asked> = Vec::new();
        let mut writing: Option<Writing> = None;
        for _ in 0..40 {
            let next = Some(states.len() as u32 + 1);
            match random.u8(0..10) {
                // Another program writes, or deletes.
                0 => states.push(if random.bool() { next } else { None }),
                1..=4 => {
                    job += 1;
                    let freshness = [Freshness::Any, Freshness::Now, Freshness::Now][random.usize(0..3)];
                    match get_fresh(&mut shard, 0, freshness, job) {
                        (Get::Answered(version), _) => {
                            hits += 1;
                            let at = states[told..].iter().position(|state| *state == version);
                            told += at.unwrap_or_else(|| {
                                panic!("a hit has {version:?} after {told} of {states:?}")
                            });
                        }
                        (Get::Waiting, Some(read)) => {
                            asked.push(Asked {
                                read,
                                snapshot: None,
                                is_late: false,
                                floors: vec![(job, told)],
                            });
                        }
                        // Which of them, its end tells.
                        (Get::Joined, _) => {
                            for asked in &mut asked {
                                asked.floors.push((job, told));
                            }
                        }
                        other => panic!("{other:?}"),
                    }
                }
                5..=6 => {
                    if let Some(asked) = random.choice(&mut asked) {
                        asked.snapshot = asked.snapshot.or(Some(states.len() - 1));
                    }
                }
                7..=8 => {
                    let ready: Vec<usize> =
                        (0..asked.len()).filter(|at| asked[*at].snapshot.is_some()).collect();
                    let Some(at) = random.choice(ready) else { continue };
                    let Asked { read, snapshot, is_late, floors } = asked.swap_remove(at);
                    let seen = snapshot.unwrap();
                    let done = shard.read_done(HASH, "k", read, Some(&states[seen].and_then(row)), 0);
                    for waiter in &done.waiters {
                        let floor = floors.iter().find(|(job, _)| *job == waiter.job).unwrap().1;
                        let is_new = states[floor..].contains(&states[seen]);
                        assert!(is_new, "a read has {seen} after {floor} of {states:?}");
                    }
                    told_later += u32::from(seen < told);
                    told = told.max(if is_late { seen.min(own) } else { seen });
                }
                _ => match writing {
                    None => {
                        shard.write_sent(HASH, "k", ONE);
                        writing = Some(Writing::Sent);
                    }
                    Some(Writing::Sent) if random.u8(0..5) == 0 => {
                        shard.refused(HASH, "k", ONE);
                        writing = None;
                    }
                    Some(Writing::Sent) if random.u8(0..5) == 0 => {
                        writing = Some(Writing::Found(states.len() - 1));
                    }
                    Some(Writing::Sent) => {
                        states.push(if random.u8(0..4) > 0 { next } else { None });
                        own = states.len() - 1;
                        writing = Some(Writing::Committed(own));
                    }
                    Some(Writing::Found(found)) => {
                        shard.unchanged(HASH, "k", ONE, states[found]);
                        told = told.max(found);
                        writing = None;
                    }
                    Some(Writing::Committed(left)) => {
                        shard.committed(HASH, "k", (ONE, false), &states[left].and_then(row), 0);
                        told = told.max(left);
                        for asked in &mut asked {
                            asked.is_late = true;
                        }
                        writing = None;
                    }
                },
            }
        }
        cached += shard.stats().entries;
    }
    assert!(hits > 4_000 && told_later > 1_000 && cached > 1_000, "{hits} {told_later} {cached}");
}

/// As long as reads overlap: those that agree are cached, whatever was told before them.
#[test]
fn a_key_that_is_read_all_the_time_is_cached_again_once_reads_agree() {
    let mut shard = shard();
    let (_, one) = get_fresh(&mut shard, 0, Freshness::Now, 1);
    let (_, other) = get_fresh(&mut shard, 0, Freshness::Now, 2);
    shard.read_done(HASH, "k", one.unwrap(), Some(&row(2)), 0);
    let (_, mut last) = get_fresh(&mut shard, 0, Freshness::Now, 3);
    // It has looked before the row was written, and is heard of last.
    shard.read_done(HASH, "k", other.unwrap(), Some(&row(1)), 0);
    for job in 4.. {
        assert!(job < 7, "every look is at the same row, and none is cached");
        let (got, read) = get(&mut shard, job);
        if got == Get::Answered(Some(2)) {
            break;
        }
        shard.read_done(HASH, "k", last.unwrap(), Some(&row(2)), 0);
        last = read;
    }
}

#[test]
fn whoever_watches_a_key_is_told_of_what_another_program_has_written_once_it_is_read() {
    for (found, is_told) in [(1, false), (2, true)] {
        for is_evicted in [false, true] {
            let mut shard = shard();
            let (_, read) = get(&mut shard, 1);
            // It waits for the same read.
            assert!(shard.watch(HASH, "k", ticket(2)));
            assert_eq!(get(&mut shard, 2).0, Get::Joined);
            assert_eq!(shard.read_done(HASH, "k", read.unwrap(), Some(&row(1)), 0).watching, []);
            // One that begins by a look of its own hears of it by that.
            assert!(shard.watch(HASH, "k", ticket(3)));
            let (_, now) = get_fresh(&mut shard, 0, Freshness::Now, 3);
            if is_evicted {
                shard.cache.forget(HASH, "k");
            }
            let done = shard.read_done(HASH, "k", now.unwrap(), Some(&row(found)), 0);
            let told = if is_told { vec![ticket(2)] } else { vec![] };
            assert_eq!((done.waiters, done.watching), (vec![ticket(3)], told));
            // By a write that changes nothing, because the row is another one, whether or not there is another write besides.
            shard.write_sent(HASH, "k", Writes::Own(2));
            assert_eq!(shard.unchanged(HASH, "k", ONE, Some(found)), []);
            assert!(shard.watch(HASH, "k", ticket(4)));
            let told = shard.unchanged(HASH, "k", ONE, None);
            assert!(told.contains(&ticket(3)) && told.contains(&ticket(4)), "{told:?}");
            assert_eq!(shard.stats().watchers, 0);
        }
    }
}

/// Not every watcher knows what the others know.
#[test]
fn a_watcher_that_was_told_another_row_than_is_cached_later_hears_of_that() {
    for how in ["no-store", "refused", "unchanged", "contradicted", "made and deleted"] {
        let mut shard = shard();
        if how == "contradicted" {
            // Others know the second row.
            assert!(shard.watch(HASH, "k", ticket(9)));
            let (_, read) = get(&mut shard, 9);
            shard.read_done(HASH, "k", read.unwrap(), Some(&row(2)), 0);
        }
        if how == "made and deleted" {
            let (_, read) = get(&mut shard, 9);
            shard.read_done(HASH, "k", read.unwrap(), Some(&None), 0);
        }
        assert!(shard.watch(HASH, "k", ticket(1)));
        let is_cached = !["no-store", "made and deleted"].contains(&how);
        let freshness = if is_cached { Freshness::Now } else { Freshness::Uncached };
        let (_, read) = get_fresh(&mut shard, 0, freshness, 1);
        match how {
            "refused" => {
                shard.write_sent(HASH, "k", ONE);
                shard.refused(HASH, "k", ONE);
            }
            "unchanged" => {
                // It was judged by the second row, which the read has not seen.
                shard.write_sent(HASH, "k", ONE);
                let told = shard.unchanged(HASH, "k", ONE, Some(2));
                if !told.is_empty() {
                    assert_eq!(told, [ticket(1)]);
                    assert!(shard.watch(HASH, "k", ticket(1)), "it looks again");
                }
            }
            "contradicted" => {
                let (_, other) = get_fresh(&mut shard, 0, Freshness::Now, 2);
                assert_eq!(shard.read_done(HASH, "k", other.unwrap(), Some(&row(2)), 0).watching, []);
            }
            _ => {}
        }
        let first = shard.read_done(HASH, "k", read.unwrap(), Some(&row(1)), 0);
        assert_eq!(first.waiters, [ticket(1)], "{how}");
        if how == "made and deleted" {
            // Whoever comes now finds what is cached, which is what there is again.
            assert!(shard.watch(HASH, "k", ticket(2)));
        }
        let (_, read) = get_fresh(&mut shard, 0, Freshness::Now, 3);
        let left = if how == "made and deleted" { None } else { Some(2) };
        let second = shard.read_done(HASH, "k", read.unwrap(), Some(&left.and_then(row)), 0);
        let told = first.watching.contains(&ticket(1)) || second.watching.contains(&ticket(1));
        assert!(told, "{how}: {first:?} {second:?}");
        assert_eq!(get(&mut shard, 4).0, Get::Answered(left), "{how}");
    }
}

#[test]
fn what_overlapping_writes_of_two_writers_leave_is_not_cached() {
    let mut shard = shard();
    shard.write_sent(HASH, "k", ONE);
    shard.write_sent(HASH, "k", Writes::Foreign);
    shard.committed(HASH, "k", (Writes::Foreign, false), &row(2), 0);
    shard.committed(HASH, "k", (ONE, false), &row(1), 0);
    let (got, read) = get(&mut shard, 1);
    assert_eq!(got, Get::Waiting, "nothing was cached");
    shard.read_done(HASH, "k", read.unwrap(), Some(&row(2)), 0);
    // Alone, a foreign write is as good as any.
    let mut shard = self::shard();
    shard.write_sent(HASH, "k", Writes::Foreign);
    shard.committed(HASH, "k", (Writes::Foreign, false), &row(4), 0);
    assert_eq!(get(&mut shard, 3).0, Get::Answered(Some(4)));
}

/// Another program may have written the row.
#[test]
fn a_write_that_finds_another_row_than_the_cached_one_takes_that_out() {
    for (cached, found, kept) in [
        (Some(1), Some(1), true),
        (Some(1), Some(2), false),
        (Some(1), None, false),
        (None, None, true),
        (None, Some(1), false),
    ] {
        let mut shard = shard();
        let (_, read) = get(&mut shard, 1);
        shard.read_done(HASH, "k", read.unwrap(), Some(&cached.and_then(row)), 0);
        shard.write_sent(HASH, "k", ONE);
        shard.unchanged(HASH, "k", ONE, found);
        let expected = if kept { Get::Answered(cached) } else { Get::Waiting };
        assert_eq!(get(&mut shard, 2).0, expected, "{cached:?} {found:?}");
    }
}

#[test]
fn when_everything_is_forgotten_nothing_that_is_on_its_way_is_cached() {
    let mut shard = shard();
    // Cached.
    let (_, read) = get(&mut shard, 1);
    shard.read_done(HASH, "k", read.unwrap(), Some(&row(1)), 0);
    assert_eq!(shard.forget_all().0.len(), 1);
    // Being read: its waiters are answered, nobody joins it, and it fills nothing.
    let (_, before) = get(&mut shard, 2);
    let _ = shard.forget_all();
    let (got, after) = get(&mut shard, 3);
    assert_eq!(got, Get::Waiting);
    assert_eq!(shard.read_done(HASH, "k", before.unwrap(), Some(&row(1)), 0).waiters, [ticket(2)]);
    assert_eq!(shard.read_done(HASH, "k", after.unwrap(), Some(&row(2)), 0).waiters, [ticket(3)]);
    assert_eq!(get(&mut shard, 4).0, Get::Answered(Some(2)));
    // Being written: not cached; what is sent after that is, though the key was never without a write.
    for sent in [ONE, Writes::Foreign] {
        shard.write_sent(HASH, "k", sent);
        let _ = shard.forget_all();
        shard.write_sent(HASH, "k", ONE);
        shard.committed(HASH, "k", (sent, false), &row(3), 0);
        let (got, read) = get(&mut shard, 5);
        assert_eq!(got, Get::Waiting, "{sent:?}");
        shard.read_done(HASH, "k", read.unwrap(), None, 0);
        if sent == Writes::Foreign {
            // It may have come before that.
            shard.committed(HASH, "k", (ONE, false), &row(4), 0);
            let (_, read) = get(&mut shard, 5);
            shard.read_done(HASH, "k", read.unwrap(), None, 0);
            shard.write_sent(HASH, "k", ONE);
        }
        shard.committed(HASH, "k", (ONE, false), &row(5), 0);
        assert_eq!((get(&mut shard, 6).0, shard.stats().in_flight), (Get::Answered(Some(5)), 0), "{sent:?}");
    }
    // In doubt: it may be tried again, as before.
    shard.write_sent(HASH, "k", ONE);
    shard.doubt(HASH, "k");
    let _ = shard.forget_all();
    assert!(shard.may_try_again(HASH, "k"));
}

/// A counter that many clients add to is never without a write.
#[test]
fn a_foreign_write_is_forgotten_though_the_key_is_never_without_a_write() {
    let mut shard = shard();
    let is_cached = |shard: &mut Shard| shard.peek(HASH, b"k", 0, |_| ()).is_some();
    shard.write_sent(HASH, "k", ONE);
    shard.write_sent(HASH, "k", Writes::Foreign);
    shard.write_sent(HASH, "k", ONE);
    shard.committed(HASH, "k", (Writes::Foreign, false), &row(2), 0);
    assert!(!is_cached(&mut shard) && !shard.may_try_again(HASH, "k"));
    // Either of these two may have come before it. That one is refused says nothing of the other.
    shard.write_sent(HASH, "k", ONE);
    shard.refused(HASH, "k", ONE);
    shard.committed(HASH, "k", (ONE, false), &row(1), 0);
    assert!(!is_cached(&mut shard) && !shard.may_try_again(HASH, "k"));
    shard.write_sent(HASH, "k", ONE);
    shard.committed(HASH, "k", (ONE, false), &row(3), 0);
    assert!(!is_cached(&mut shard) && shard.may_try_again(HASH, "k"));
    // What was sent after its end came behind it.
    shard.write_sent(HASH, "k", ONE);
    shard.committed(HASH, "k", (ONE, false), &row(4), 0);
    assert!(is_cached(&mut shard));
}

#[test]
fn a_write_in_doubt_and_a_foreign_one_keep_out_of_each_others_way() {
    let mut shard = shard();
    shard.write_sent(HASH, "k", ONE);
    shard.doubt(HASH, "k");
    assert!(shard.may_try_again(HASH, "k") && !shard.may_send_foreign(HASH, "k"));
    shard.unknown(HASH, "k", ONE);
    assert!(shard.may_send_foreign(HASH, "k"));
    shard.write_sent(HASH, "k", ONE);
    shard.doubt(HASH, "k");
    assert!(!shard.may_try_again(HASH, "k"), "the foreign one may have come between");
}

#[test]
fn whoever_watches_a_key_is_told_of_its_next_write_once() {
    let mut shard = shard();
    assert!(shard.watch(HASH, "k", ticket(1)) && shard.watch(HASH, "k", ticket(2)));
    shard.unwatch(HASH, "k", ticket(1));
    for expected in [&[ticket(2)][..], &[]] {
        shard.write_sent(HASH, "k", ONE);
        assert_eq!(shard.committed(HASH, "k", (ONE, false), &row(1), 0), expected);
    }
}

/// A write of it is on its way at any moment. What a read tells of the end before is no other program's row: the next end is newer.
#[test]
fn a_key_that_is_written_all_the_time_is_cached_once_it_was_read() {
    let mut shard = shard();
    shard.write_sent(HASH, "k", Writes::Own(2));
    shard.committed(HASH, "k", (ONE, false), &row(1), 0);
    shard.cache.forget(HASH, "k");
    for version in 1..4 {
        if let (_, Some(read)) = get(&mut shard, version) {
            shard.read_done(HASH, "k", read, Some(&row(version)), 0);
        }
        // So does one that fills nothing.
        let (_, read) = get_fresh(&mut shard, 0, Freshness::Uncached, 9);
        shard.read_done(HASH, "k", read.unwrap(), Some(&row(version)), 0);
        assert_eq!(get(&mut shard, 8).0, Get::Answered(Some(version)));
        shard.write_sent(HASH, "k", ONE);
        shard.committed(HASH, "k", (ONE, false), &row(version + 1), 0);
        assert_eq!(shard.peek(HASH, b"k", 0, version_of), Some(Some(version + 1)));
    }
    // Where commits were lost, these numbers may be another program's by now, whose row may be newer than the next end.
    for told in [4, 5] {
        let mut shard = self::shard();
        shard.write_sent(HASH, "k", Writes::Own(2));
        shard.committed(HASH, "k", (ONE, false), &row(4), 0);
        let _ = shard.forget_all();
        shard.write_sent(HASH, "k", ONE);
        shard.committed(HASH, "k", (ONE, false), &row(5), 0);
        let (_, read) = get(&mut shard, 1);
        shard.read_done(HASH, "k", read.unwrap(), Some(&row(told)), 0);
        shard.committed(HASH, "k", (ONE, false), &row(6), 0);
        assert_eq!(shard.peek(HASH, b"k", 0, version_of), None, "{told} was told");
    }
}
