//! The judge of the histories can fail, and does not fail without a reason: histories made by hand, each line one
//! operation, its beginning and its end. The bugs that a server like this can have are among them.

use crate::support::history::{History, Operation, What, text_of, value_of};
use crate::support::linearizable::{Prior, check};

fn get(begin: u64, end: u64, value: u64) -> Operation {
    operation(begin, end, What::Get(Some(value)))
}

fn get_none(begin: u64, end: u64) -> Operation {
    operation(begin, end, What::Get(None))
}

fn create(begin: u64, end: u64, value: u64) -> Operation {
    operation(begin, end, What::Put { value, existed: false })
}

fn replace(begin: u64, end: u64, value: u64) -> Operation {
    operation(begin, end, What::Put { value, existed: true })
}

fn load(begin: u64, end: u64, value: u64) -> Operation {
    operation(begin, end, What::Loaded(value))
}

fn delete(begin: u64, end: u64) -> Operation {
    operation(begin, end, What::Delete { existed: true })
}

fn delete_none(begin: u64, end: u64) -> Operation {
    operation(begin, end, What::Delete { existed: false })
}

fn maybe_put(begin: u64, end: u64, value: u64) -> Operation {
    operation(begin, end, What::MaybePut(value))
}

fn maybe_delete(begin: u64, end: u64) -> Operation {
    operation(begin, end, What::MaybeDelete)
}

fn operation(begin_ns: u64, end_ns: u64, what: What) -> Operation {
    Operation { client: 1, begin_ns, end_ns, what }
}

fn accepted(operations: &[Operation]) {
    if let Err(violation) = check(operations, Prior::Exact) {
        panic!("{violation}");
    }
}

/// Refused, with the blame on this operation.
fn refused(operations: &[Operation], at: Operation) {
    match check(operations, Prior::Exact) {
        Ok(()) => panic!("accepted: {operations:#?}"),
        Err(violation) => {
            assert_eq!(violation.at, at, "{violation}");
            assert!(violation.operations.contains(&at), "{violation}");
        }
    }
}

#[test]
fn what_a_register_does_is_accepted() {
    accepted(&[]);
    accepted(&[
        get_none(0, 1),
        create(2, 3, 1),
        get(4, 5, 1),
        replace(6, 7, 2),
        get(8, 9, 2),
        delete(10, 11),
    ]);
    accepted(&[
        delete_none(0, 1),
        create(2, 3, 1),
        delete(4, 5),
        delete_none(6, 7),
        create(8, 9, 2),
        get(10, 11, 2),
    ]);
    // While a write is under way either value is right, and the new one may be seen before it is acknowledged.
    accepted(&[create(0, 1, 1), replace(2, 10, 2), get(3, 4, 1), get(5, 6, 2), get(7, 8, 2)]);
    // Two writes at once, in either order.
    accepted(&[create(0, 10, 1), replace(0, 10, 2), get(11, 12, 2)]);
    accepted(&[replace(0, 10, 1), create(0, 10, 2), get(11, 12, 1)]);
    // Many at once, of which only one order is possible.
    accepted(&[
        create(0, 20, 5),
        replace(0, 20, 4),
        delete(0, 20),
        create(0, 20, 3),
        get_none(1, 19),
        get(21, 22, 3),
    ]);
}

#[test]
fn a_write_of_unknown_outcome_happens_once_at_any_time_or_never() {
    let begin = [create(0, 1, 1), maybe_put(2, 3, 2)];
    let with = |rest: &[Operation]| [&begin[..], rest].concat();
    accepted(&with(&[get(4, 5, 1), get(600, 700, 1)]));
    accepted(&with(&[get(4, 5, 1), get(6, 7, 2), get(8, 9, 2)]));
    accepted(&with(&[replace(4, 5, 3), get(6, 7, 3), get(8, 9, 2)]));
    refused(&with(&[get(4, 5, 2), get(6, 7, 1)]), get(6, 7, 1));
    refused(&with(&[get(4, 5, 2), replace(6, 7, 3), get(8, 9, 2)]), get(8, 9, 2));
    // Not before it was asked for.
    refused(&[create(0, 1, 1), get(2, 3, 2), maybe_put(4, 5, 2)], get(2, 3, 2));
    // It may have made the row that a DELETE or a PUT found, but only one.
    accepted(&[maybe_put(0, 1, 1), delete(2, 3)]);
    accepted(&[maybe_put(0, 1, 1), replace(2, 3, 2), get(4, 5, 2)]);
    accepted(&[maybe_put(0, 1, 1), delete(2, 3), maybe_put(4, 5, 2), delete(6, 7)]);
    refused(&[maybe_put(0, 1, 1), delete(2, 3), delete(4, 5)], delete(4, 5));
    // One that was read has done what it could.
    refused(&[maybe_put(0, 1, 1), get(2, 3, 1), delete(4, 5), delete(6, 7)], delete(6, 7));
    // The same for deletes.
    accepted(&[create(0, 1, 1), maybe_delete(2, 3), get(4, 5, 1), get_none(6, 7), create(8, 9, 2)]);
    refused(
        &[create(0, 1, 1), maybe_delete(2, 3), get_none(4, 5), create(6, 7, 2), create(8, 9, 3)],
        create(8, 9, 3),
    );
}

#[test]
fn what_a_write_says_of_the_row_before_it_is_believed() {
    refused(&[replace(0, 1, 1)], replace(0, 1, 1));
    refused(&[create(0, 1, 1), create(2, 3, 2)], create(2, 3, 2));
    refused(&[delete(0, 1)], delete(0, 1));
    refused(&[create(0, 1, 1), delete_none(2, 3)], delete_none(2, 3));
    refused(&[create(0, 10, 1), delete(0, 10), delete(0, 10)], delete(0, 10));
}

#[test]
fn a_commit_that_was_repeated_may_have_found_its_own_row() {
    assert!(check(&[replace(0, 1, 1), get(2, 3, 1)], Prior::Repeated).is_ok());
    // But a 201 is not mistaken, and neither is a DELETE.
    assert!(check(&[create(0, 1, 1), create(2, 3, 2)], Prior::Repeated).is_err());
    assert!(check(&[delete(0, 1)], Prior::Repeated).is_err());
}

fn swap(begin: u64, end: u64, from: u64, value: u64) -> Operation {
    operation(begin, end, What::Swap { from, value })
}

fn not_swapped(begin: u64, end: u64, from: u64) -> Operation {
    operation(begin, end, What::NotSwapped(from))
}

fn exists(begin: u64, end: u64) -> Operation {
    operation(begin, end, What::Exists)
}

#[test]
fn conditions_are_explained_by_the_row_that_was_there() {
    accepted(&[create(0, 1, 1), swap(2, 3, 1, 2), get(4, 5, 2), not_swapped(6, 7, 1), exists(8, 9)]);
    // Of two swaps at once one comes first.
    accepted(&[create(0, 1, 1), swap(2, 9, 1, 2), not_swapped(3, 8, 1), swap(10, 11, 2, 3)]);
    accepted(&[create(0, 1, 1), delete(2, 9), not_swapped(3, 8, 1), exists(2, 7)]);
    // A write of unknown outcome explains them, once.
    accepted(&[maybe_put(0, 1, 1), swap(2, 3, 1, 2), get(4, 5, 2)]);
    accepted(&[maybe_put(0, 1, 1), exists(2, 3), get(4, 5, 1)]);
    accepted(&[maybe_put(0, 1, 1), exists(2, 3), delete(4, 5)]);
    accepted(&[create(0, 1, 1), maybe_put(2, 3, 2), not_swapped(4, 5, 1), get(6, 7, 2)]);
    accepted(&[create(0, 1, 1), maybe_delete(2, 3), not_swapped(4, 5, 1), get_none(6, 7)]);
    accepted(&[create(0, 1, 1), maybe_put(2, 3, 2), not_swapped(4, 5, 1), delete(6, 7)]);
}

#[test]
fn two_swaps_of_one_row_are_caught() {
    refused(&[create(0, 1, 1), swap(2, 9, 1, 2), swap(3, 10, 1, 3)], swap(3, 10, 1, 3));
}

#[test]
fn a_condition_that_was_judged_on_another_row_is_caught() {
    refused(&[create(0, 1, 1), replace(2, 3, 2), swap(4, 5, 1, 3)], swap(4, 5, 1, 3));
    refused(&[create(0, 1, 1), not_swapped(2, 3, 1)], not_swapped(2, 3, 1));
    refused(&[create(0, 1, 1), delete(2, 3), exists(4, 5)], exists(4, 5));
    // The write of unknown outcome that explains it is used up.
    refused(&[maybe_put(0, 1, 1), exists(2, 3), delete(4, 5), exists(6, 7)], exists(6, 7));
}

/// A read began before a write, came back after it, and its old row was cached over the new one.
#[test]
fn a_late_refill_is_caught() {
    let stale = get(8, 9, 1);
    refused(&[create(0, 1, 1), get(2, 7, 1), replace(3, 4, 2), get(5, 6, 2), stale], stale);
    // The late read itself is right: it was asked before the write.
    accepted(&[create(0, 1, 1), get(2, 7, 1), replace(3, 4, 2), get(5, 6, 2), get(8, 9, 2)]);
    // The same with an absent key.
    refused(&[get_none(0, 5), create(1, 2, 1), get_none(6, 7)], get_none(6, 7));
}

/// A write was answered before its commit, and the database died.
#[test]
fn an_acknowledged_write_that_is_lost_is_caught() {
    refused(&[create(0, 1, 1), replace(2, 3, 2), get(4, 5, 1)], get(4, 5, 1));
    refused(&[create(0, 1, 1), get_none(2, 3)], get_none(2, 3));
    refused(&[create(0, 1, 1), delete(2, 3), get(4, 5, 1)], get(4, 5, 1));
    // Even if nobody looks for a long while: a PUT that finds no row tells it as well.
    refused(&[create(0, 1, 1), create(100, 101, 2)], create(100, 101, 2));
}

/// A commit was lost, happened all the same, and the cache kept the value from before.
#[test]
fn an_old_value_that_is_kept_after_an_unknown_outcome_is_caught() {
    let table = get(8, 9, 2);
    accepted(&[create(0, 1, 1), maybe_put(2, 3, 2), get(4, 5, 1), table]);
    // Somebody has read the new value from the table already.
    let stale = get(10, 11, 1);
    refused(&[create(0, 1, 1), maybe_put(2, 3, 2), get(4, 5, 1), table, stale], stale);
}

/// An old backend commits after the doubt was declared over and another write was acknowledged, and then once more.
#[test]
fn a_commit_that_was_not_fenced_is_caught_where_its_write_was_answered() {
    // The write was repeated and acknowledged; its first attempt then overwrites a later one.
    let old = get(8, 9, 1);
    refused(&[create(0, 1, 1), replace(4, 5, 2), get(6, 7, 2), old], old);
}

/// Two writes were committed in one order and put into the cache in the other.
#[test]
fn two_writes_in_the_other_order_are_caught() {
    let writes = [create(0, 1, 1), replace(2, 9, 2), replace(3, 8, 3)];
    let with = |rest: &[Operation]| [&writes[..], rest].concat();
    accepted(&with(&[get(10, 11, 2), get(12, 13, 2)]));
    accepted(&with(&[get(10, 11, 3), get(12, 13, 3)]));
    // The cache says one thing, the table at the end the other.
    refused(&with(&[get(10, 11, 2), get(12, 13, 3)]), get(12, 13, 3));
    refused(&with(&[get(10, 11, 3), get(12, 13, 2)]), get(12, 13, 2));
    // One client saw both in an order that another contradicts.
    refused(&with(&[get(4, 5, 3), get(6, 7, 2), get(10, 11, 3)]), get(10, 11, 3));
}

#[test]
fn a_delete_that_forgets_to_forget_is_caught() {
    refused(&[create(0, 1, 1), delete(2, 3), get(4, 5, 1)], get(4, 5, 1));
    accepted(&[create(0, 1, 1), delete(2, 5), get(3, 4, 1), get_none(6, 7)]);
}

#[test]
fn a_value_that_nobody_wrote_is_caught() {
    refused(&[create(0, 1, 1), get(2, 3, 7)], get(2, 3, 7));
    // A write that was refused is not in the history at all.
    refused(&[create(0, 1, 1), get(2, 3, 2), get(4, 5, 1)], get(2, 3, 2));
}

#[test]
fn a_violation_tells_what_is_needed_and_no_more() {
    let mut operations = vec![create(0, 1, 1)];
    operations.extend((1..100).map(|i| get(10 * i, 10 * i + 5, 1)));
    operations.extend([
        replace(2_000, 2_009, 2),
        get(2_001, 2_002, 1),
        get(2_003, 2_004, 2),
        get(2_005, 2_006, 1),
    ]);
    operations.extend((300..400).map(|i| get(10 * i, 10 * i + 5, 2)));
    let violation = check(&operations, Prior::Exact).unwrap_err();
    assert_eq!(violation.at, get(2_005, 2_006, 1));
    assert_eq!(violation.before, ["1"]);
    assert_eq!(violation.operations, [replace(2_000, 2_009, 2), get(2_003, 2_004, 2), get(2_005, 2_006, 1)]);
    assert!(violation.to_string().contains("GET    200 1"), "{violation}");
}

/// A register that works, driven by chance, with outcomes withheld; and the same with one answer changed.
#[test]
fn long_histories_by_chance_are_judged_quickly_and_rightly() {
    let mut caught = 0;
    for seed in 0..12 {
        let mut operations = by_chance(seed, 5_000);
        if let Err(violation) = check(&operations, Prior::Exact) {
            panic!("seed {seed}: {violation}");
        }
        // An old value at some place: nearly always impossible.
        let mut rng = fastrand::Rng::with_seed(seed);
        let reads: Vec<usize> = (3_000..operations.len())
            .filter(|at| matches!(operations[*at].what, What::Get(Some(_))))
            .collect();
        let at = reads[rng.usize(..reads.len())];
        let old = operations[..1_000].iter().find_map(|operation| match operation.what {
            What::Put { value, .. } => Some(value),
            _ => None,
        });
        operations[at].what = What::Get(old);
        caught += usize::from(check(&operations, Prior::Exact).is_err());
    }
    assert_eq!(caught, 12);
}

fn count(begin: u64, end: u64, number: u64) -> Operation {
    operation(begin, end, What::Count(number))
}

fn maybe_count(begin: u64, end: u64) -> Operation {
    operation(begin, end, What::MaybeCount)
}

#[test]
fn a_bulk_load_stores_whatever_was_there() {
    accepted(&[load(0, 1, 1), get(2, 3, 1), load(4, 5, 2), get(6, 7, 2), delete(8, 9)]);
    accepted(&[create(0, 1, 1), load(2, 9, 2), get(3, 4, 1), get(5, 6, 2)]);
    refused(&[create(0, 1, 1), load(2, 3, 2), get(4, 5, 1)], get(4, 5, 1));
    refused(&[load(0, 1, 1), delete_none(2, 3)], delete_none(2, 3));
    refused(&[load(0, 1, 1), create(2, 3, 2)], create(2, 3, 2));
}

#[test]
fn a_counter_goes_up_by_one_from_what_was_there() {
    accepted(&[count(0, 1, 1), count(2, 3, 2), get(4, 5, 2), delete(6, 7), count(8, 9, 1)]);
    accepted(&[get_none(0, 1), count(2, 9, 2), count(3, 8, 1), get(4, 7, 1), get(10, 11, 2)]);
    accepted(&[count(0, 9, 1), count(1, 9, 3), count(2, 9, 2), delete(10, 11), delete_none(12, 13)]);
    refused(&[count(0, 1, 2)], count(0, 1, 2));
    refused(&[count(0, 1, 1), delete(2, 3), count(4, 5, 2)], count(4, 5, 2));
    refused(&[count(0, 1, 1), get(2, 3, 2)], get(2, 3, 2));
}

#[test]
fn a_count_of_unknown_outcome_happens_once_or_never() {
    let begin = [count(0, 1, 1), maybe_count(2, 3)];
    let with = |rest: &[Operation]| [&begin[..], rest].concat();
    accepted(&with(&[get(4, 5, 1), count(6, 7, 2)]));
    accepted(&with(&[count(4, 5, 3), get(6, 7, 3)]));
    // Any time later.
    accepted(&with(&[get(4, 5, 1), count(6, 7, 2), get(8, 9, 2), get(10, 11, 3)]));
    refused(&with(&[get(4, 5, 2), get(6, 7, 1)]), get(6, 7, 1));
    refused(&with(&[count(4, 5, 3), count(6, 7, 5)]), count(6, 7, 5));
    refused(&with(&[count(4, 5, 4)]), count(4, 5, 4));
    // Two of them, and each once.
    accepted(&with(&[maybe_count(4, 5), count(6, 7, 4), delete(8, 9), count(10, 11, 1)]));
    refused(&with(&[maybe_count(4, 5), count(6, 7, 4), delete(8, 9), count(10, 11, 2)]), count(10, 11, 2));
    accepted(&with(&[maybe_count(4, 5), count(6, 7, 3), delete(8, 9), count(10, 11, 2)]));
    // Not before it was asked for.
    refused(&[get(0, 1, 1), maybe_count(2, 3)], get(0, 1, 1));
    // It may have made the row that a DELETE found, and come behind a DELETE that nobody knows of.
    accepted(&[maybe_count(0, 1), delete(2, 3), get_none(4, 5)]);
    refused(&[maybe_count(0, 1), delete(2, 3), delete(4, 5)], delete(4, 5));
    accepted(&[
        count(0, 1, 1),
        count(2, 3, 2),
        maybe_delete(4, 5),
        maybe_count(6, 7),
        get(8, 9, 1),
        count(10, 11, 2),
    ]);
    refused(&[count(0, 1, 1), count(2, 3, 2), maybe_delete(4, 5), get(6, 7, 1)], get(6, 7, 1));
}

/// Two clients have read the same number and stored the same sum; or one statement was sent again after it was done.
#[test]
fn a_count_that_is_lost_or_done_twice_is_caught() {
    refused(&[count(0, 1, 1), count(2, 9, 2), count(3, 8, 2)], count(2, 9, 2));
    refused(&[count(0, 1, 1), count(2, 3, 2), get(4, 5, 3)], get(4, 5, 3));
    refused(&[count(0, 1, 1), count(2, 3, 3)], count(2, 3, 3));
    refused(&[count(0, 1, 1), count(2, 3, 2), get(4, 5, 1)], get(4, 5, 1));
}

/// Twelve clients at a register: each operation has its instant between its beginning and its end.
fn by_chance(seed: u64, count: usize) -> Vec<Operation> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut free_at = [0; 12];
    // (instant, client, begin, end)
    let mut plan = Vec::new();
    for _ in 0..count {
        let client = rng.usize(..free_at.len());
        let begin = free_at[client] + rng.u64(1..100);
        let end = begin + rng.u64(1..60);
        free_at[client] = end;
        plan.push((rng.u64(begin..=end), client, begin, end));
    }
    plan.sort_unstable();
    let mut state = None;
    let mut operations = Vec::new();
    for (value, (_, client, begin_ns, end_ns)) in plan.into_iter().enumerate() {
        let value = value as u64;
        let existed = state.is_some();
        let (lost, happens) = (rng.u8(..20) == 0, rng.bool());
        let what = match rng.u8(..10) {
            0..=4 => What::Get(state),
            5..=7 if lost => {
                state = if happens { Some(value) } else { state };
                What::MaybePut(value)
            }
            5..=7 => {
                state = Some(value);
                What::Put { value, existed }
            }
            _ if lost => {
                state = if happens { None } else { state };
                What::MaybeDelete
            }
            _ => {
                state = None;
                What::Delete { existed }
            }
        };
        operations.push(Operation { client: client as u32, begin_ns, end_ns, what });
    }
    operations
}

#[test]
fn keys_are_judged_apart_and_the_guilty_one_is_named() {
    let mut history = History::default();
    history.push("a", create(0, 1, 1));
    history.push("b", get_none(2, 3));
    assert!(history.check(Prior::Exact).is_ok());
    let mut more = History::default();
    more.push("b", get(4, 5, 1));
    history.extend(more);
    assert_eq!((history.len(), history.count(|what| matches!(what, What::Get(_)))), (3, 2));
    let (key, violation) = history.check(Prior::Exact).unwrap_err();
    assert_eq!((key.as_str(), violation.at), ("b", get(4, 5, 1)));
}

#[test]
fn a_value_is_known_by_its_text_and_every_byte_of_it_counts() {
    for value in [0, 1, 63, 64, u64::MAX] {
        assert_eq!(value_of(&text_of(value)), value);
    }
    let mut text = text_of(7);
    text.pop();
    assert!(std::panic::catch_unwind(|| value_of(&text)).is_err());
}
