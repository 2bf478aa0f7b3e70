//! Looks at a process from outside, by `/proc` (proc(5)). Knows nothing of hotrow.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;

/// Memory of the process that is in RAM, in bytes.
pub fn rss_bytes(pid: u32) -> usize {
    memory(pid, "VmRSS:")
}

/// The most that was ever in RAM, in bytes.
pub fn peak_rss_bytes(pid: u32) -> usize {
    memory(pid, "VmHWM:")
}

/// Memory in RAM, that part of it that is no file's, in bytes; and threads.
pub fn memory_and_threads(pid: u32) -> (usize, usize, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let threads =
        status.lines().find_map(|line| line.strip_prefix("Threads:")).expect("every process has it");
    (memory(pid, "VmRSS:"), memory(pid, "RssAnon:"), threads.trim().parse().expect("it is a number"))
}

fn memory(pid: u32, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("every process has it");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("it is a number of kB");
    kib * 1024
}

/// File descriptors that the process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

/// Processor time that the process has used, in clock ticks (100 a second).
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name before it, in parentheses, may have blanks: utime and stime are the 12th and 13th field behind it.
    let fields = stat.rsplit_once(") ").expect("a name in parentheses").1;
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks are a number")).sum()
}

/// The process is gone; or it has ended, and whose child it was has not asked how (a zombie): process 1 does not everywhere.
pub fn has_ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // Behind its name, which may have anything in it: proc(5).
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['Z', 'X']))
}

/// How many connections a test may hold that wants so many, by the limit on descriptors of this process and of those that it
/// starts; `None` where those are so few that they show nothing. What is left out is said.
pub fn connections_allowed(what: &str, wanted: usize) -> Option<usize> {
    // Some for the other tests of this program.
    let count = wanted.min(allow_many_descriptors().saturating_sub(2_000));
    if count < wanted {
        let why = format!("the limit on file descriptors (ulimit -Hn) allows {count}");
        super::left_out(&format!("{wanted} {what}"), why);
    }
    (count >= wanted / 10).then_some(count)
}

/// Raises this process's limit on file descriptors as far as it may, and returns it.
pub fn allow_many_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("up to the hard limit is allowed");
    limit.maximum.map_or(usize::MAX, |maximum| maximum as usize)
}
