//! What the kernel knows of this process, for the metrics that every process has. Counting descriptors takes a look at
//! each of them where the kernel is older than 6.2: milliseconds for thousands of connections. So a thread of its own
//! looks every few seconds, and a scrape reads what it saw. Read by [`crate::api::exposition`]. And how this process speaks to
//! whoever started it.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

/// How often the thread looks.
const PERIOD: Duration = Duration::from_secs(5);

/// A line on stderr. That nobody reads there any more is no reason to end, as `eprintln!` has it.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What was seen last.
#[derive(Debug, Default)]
pub struct Process {
    /// When it began, in milliseconds since 1970.
    start_ms: u64,
    open_fds: AtomicU64,
    virtual_bytes: AtomicU64,
    resident_bytes: AtomicU64,
}

impl Process {
    /// Looks once, and goes on to look for as long as somebody holds what this returns: of a process that `began` then.
    pub fn watch(began: SystemTime) -> Arc<Process> {
        let since = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let process = Arc::new(Process { start_ms: since.as_millis() as u64, ..Process::default() });
        process.look();
        let weak: Weak<Process> = Arc::downgrade(&process);
        let watch = move || {
            while let Some(process) = weak.upgrade() {
                process.look();
                drop(process);
                thread::sleep(PERIOD);
            }
        };
        if let Err(error) = thread::Builder::new().name("process".into()).spawn(watch) {
            log::warn!(
                "the metrics of the process will stand still, for a thread cannot be started: {error}"
            );
        }
        process
    }

    fn look(&self) {
        // proc(5): sizes in KiB, a line for each.
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, bytes) in [("VmSize:", &self.virtual_bytes), ("VmRSS:", &self.resident_bytes)] {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0);
            bytes.store(kib * 1024, Ordering::Relaxed);
        }
        // Since Linux 6.2 the folder's size is their number; before, it was 0. The one that reads the folder is none.
        let folder = "/proc/self/fd";
        let open_fds = match fs::metadata(folder).map_or(0, |folder| folder.len()) {
            0 => fs::read_dir(folder).map_or(0, |folder| folder.count().saturating_sub(1) as u64),
            number => number,
        };
        self.open_fds.store(open_fds, Ordering::Relaxed);
    }

    /// When it began, in seconds since 1970.
    pub fn start_seconds(&self) -> f64 {
        self.start_ms as f64 / 1e3
    }

    /// File descriptors open.
    pub fn open_fds(&self) -> u64 {
        self.open_fds.load(Ordering::Relaxed)
    }

    /// Address space.
    pub fn virtual_bytes(&self) -> u64 {
        self.virtual_bytes.load(Ordering::Relaxed)
    }

    /// Memory in RAM.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes.load(Ordering::Relaxed)
    }
}

/// Processor time of the process so far, in seconds; as of now.
pub fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// File descriptors that may be open; the largest number there is where nothing bounds them.
pub fn max_fds() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_memory_descriptors_and_time() {
        let process = Process::watch(SystemTime::now());
        let file = fs::File::open("/proc/self/stat").unwrap();
        process.look();
        // Other tests of this program open files meanwhile: only what must be there is certain.
        assert!((3..max_fds()).contains(&process.open_fds()));
        assert!(process.resident_bytes() > 100_000 && process.virtual_bytes() > process.resident_bytes());
        assert!(cpu_seconds() > 0.0 && process.start_seconds() > 1.7e9);
        drop(file);
    }
}
