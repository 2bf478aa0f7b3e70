//! Everything dies, and the cache never lies: sixteen clients on five keys, one kind of fault after the other, and a
//! judge of all that was answered (`support/linearizable.rs`). The seeds are fixed; `tools/torture` does the same for
//! hours with others.

use crate::support::linearizable::Prior;
use crate::support::load::Load;
use crate::support::process::has_ended;
use crate::support::world::{Fault, World, judge};
use crate::support::{Server, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

/// More loops than this machine may have cores, so that replies cross threads.
const LOOPS: [&str; 2] = ["--event-loops", "3"];

/// A world of these faults. They must have been felt, and everything must work behind the last of them.
fn suffer(seed: u64, flags: &[&str], faults: &[Fault]) {
    let mut world = World::new(seed, &[&LOOPS, flags].concat());
    let report = world.suffer(faults);
    println!(
        "seed {seed}: {report:?}, {} reconnects",
        world.server().metric("hotrow_database_reconnects_total")
    );
    assert!(report.operations > 200 * faults.len() as u64 / 10, "{report:?}");
}

/// Without any fault, every answer is exact: a PUT's 200 and 201 too.
#[test]
fn peace_with_a_cache_of_a_few_entries() {
    for (seed, cache) in [(1, "2KiB"), (2, "256MiB"), (3, "0")] {
        let mut world = World::new(seed, &[&LOOPS[..], &["--cache-bytes", cache]].concat());
        world.start_load();
        world.load().go_on_for(1_500);
        if cache == "2KiB" {
            assert!(world.server().metric("hotrow_cache_evictions_total") > 0, "eviction takes part");
        }
        let report = world.judge(Prior::Exact);
        assert_eq!((report.refused, report.unknown), (0, 0));
    }
}

#[test]
fn backends_terminated_at_random() {
    suffer(11, &[], &[Fault::Terminate; 12]);
    suffer(12, &["--cache-bytes", "2KiB"], &[Fault::Terminate, Fault::TerminateAll].repeat(4));
}

#[test]
fn postgresql_stopped_immediately_and_started_again() {
    suffer(21, &[], &[Fault::StopImmediately; 3]);
    suffer(22, &["--cache-bytes", "2KiB"], &[Fault::KillBackend; 2]);
}

#[test]
fn postgresql_frozen_for_longer_than_a_request_may_take() {
    suffer(31, &["--request-timeout", "1s", "--cache-bytes", "2KiB"], &[Fault::Freeze; 2]);
}

#[test]
fn hotrow_killed_and_started_again() {
    suffer(41, &[], &[Fault::KillHotrow, Fault::KillHotrowHolding].repeat(3));
    suffer(42, &["--cache-bytes", "0"], &[Fault::KillHotrowHolding; 4]);
}

#[test]
fn answers_lost_on_the_network() {
    suffer(51, &[], &[Fault::CutAnswer, Fault::CutAnswer, Fault::Delay].repeat(4));
    suffer(52, &["--cache-bytes", "2KiB"], &[Fault::CutAnswer; 8]);
}

#[test]
fn requests_that_the_network_delivers_after_the_connection_is_lost() {
    let faults = [Fault::HoldRequest, Fault::HoldRequestForLong];
    suffer(61, &[], &faults.repeat(5));
    suffer(62, &["--cache-bytes", "2KiB"], &[faults[0], Fault::Delay, faults[1]].repeat(4));
}

#[test]
fn commits_that_are_let_through_after_their_connection_is_lost() {
    suffer(71, &[], &[Fault::HeldCommit; 8]);
    suffer(72, &["--cache-bytes", "2KiB"], &[Fault::HeldCommit; 8]);
}

#[test]
fn everything_in_one_life() {
    let mut faults = Fault::ALL.to_vec();
    fastrand::Rng::with_seed(81).shuffle(&mut faults);
    suffer(81, &["--request-timeout", "2s"], &faults);
}

#[test]
fn the_private_postgresql_killed_under_hotrow() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let data = dir.path().join("data");
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.arg("--data-dir").arg(&data).args(LOOPS);
    let server = Server::spawn(command);
    let load = Load::start(server.address, (0..5).map(|i| format!("key-{i}")).collect(), 91);
    let place = data.canonicalize().unwrap().join("postgres");
    // Whoever is just being started may have written half of its number: that of a stranger.
    let postmaster = || {
        let text = fs::read_to_string(place.join("postmaster.pid")).ok()?;
        let pid: u32 = text.lines().next()?.parse().ok()?;
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let is_it = arguments.split(|b| *b == 0).any(|argument| argument == place.as_os_str().as_bytes());
        Some(pid).filter(|_| is_it && !has_ended(pid))
    };
    for _ in 0..3 {
        // What the last one has left may answer for a moment, and its number stay for longer.
        wait_until("one that serves is killed", || {
            let Some(pid) = postmaster() else { return false };
            load.go_on_for(100);
            let it = Pid::from_raw(pid as i32).filter(|_| postmaster() == Some(pid));
            let is_killed = it.is_some_and(|it| kill_process(it, Signal::KILL).is_ok());
            // Else it would be taken for the next one.
            wait_until("it has ended", || !is_killed || has_ended(pid));
            is_killed
        });
    }
    load.go_on_for(200);
    load.every_kind_is_done();
    let socket = data.canonicalize().unwrap().join("run");
    let url = format!("host='{}' user=hotrow dbname=hotrow", socket.display());
    println!("{:?}", judge(load, &server, &url, Prior::Repeated));
}
