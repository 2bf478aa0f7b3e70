//! What the tests of the whole server share: the real binary on a port of its own, a real PostgreSQL, a client that
//! speaks raw bytes and believes nothing. `main.rs`, and what `tools/` runs for as long as it is told to, take from
//! here what they need:
//!
//! ```no_run
//! let server = Server::start(&["--event-loops", "2"]);
//! let mut client = server.connect();
//! assert_eq!(client.put("k", "v").status, 201);
//! assert_eq!(server.metric("hotrow_writes_total"), 1);
//! ```
//!
//! Nothing here waits for a time to pass: everything waits for a condition, and fails when a deadline passes first.

// No program uses all of it; and `pub` says what a module offers, though no crate can see it.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod certificates;
pub mod client;
pub mod database;
pub mod ending;
pub mod exposition;
pub mod history;
pub mod linearizable;
pub mod load;
pub mod paced;
pub mod postgresql;
pub mod process;
pub mod proxy;
pub mod server;
pub mod stub;
pub mod world;

pub use client::Client;
pub use server::Server;

use std::fmt::Display;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives it up. Far more than it ever takes: passing it is a failure.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds; fails with `what` when it does not within [`DEADLINE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        // Not to give anybody time, but to leave the processor to whoever is waited for.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A write whose worker has to connect first, which may take longer on a busy machine than a request may.
pub fn put_in_the_end(client: &mut Client, key: &str, value: &str) {
    wait_until("it is written", || client.put(key, value).status < 300);
}

/// The answer to a read whose reader has to connect first, perhaps, which may take longer on a busy machine than a request may.
pub fn get_in_the_end(client: &mut Client, key: &str) -> client::Response {
    let mut response = client.get(key);
    wait_until("it is read", || {
        if response.status >= 500 {
            response = client.get(key);
        }
        response.status < 500
    });
    response
}

/// Says what of a test is left out here, and why: on its output, and to `tools/test`, which says it again where it is seen.
pub fn left_out(what: &str, why: impl Display) {
    let line = format!("== {what}: SKIPPED, {why}\n");
    print!("{line}");
    if let Some(path) = std::env::var_os("HOTROW_LEFT_OUT") {
        let file = File::options().append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("tools/test has made the file");
    }
}

/// A file that only its owner may read, as those with secrets in them have to be.
pub fn write_secret(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    std::fs::write(path, text).expect("a file can be written there");
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("it is our file");
}

/// Text that does not compress and that no two seeds share: ASCII, so that bytes and characters are the same.
pub fn random_text(bytes: usize, seed: u64) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let mut random = fastrand::Rng::with_seed(seed);
    (0..bytes).map(|_| char::from(LETTERS[random.usize(..64)])).collect()
}
