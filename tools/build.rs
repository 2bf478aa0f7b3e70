//! What `hotrow --version` says besides its own number: the commit it is built from, and the client that it speaks to
//! PostgreSQL with. The commit is `HOTROW_COMMIT`, for who builds from an archive; else git's, in release builds only:
//! elsewhere every commit would compile everything anew for nothing.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=tools/build.rs");
    println!("cargo::rerun-if-env-changed=HOTROW_COMMIT");
    println!("cargo::rustc-env=HOTROW_COMMIT={}", commit());
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rustc-env=HOTROW_POSTGRES_CRATE={}", locked("postgres"));
}

fn commit() -> String {
    if let Some(commit) = env::var("HOTROW_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return commit;
    }
    if env::var("PROFILE").as_deref() != Ok("release") {
        return "development".to_owned();
    }
    for changed in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(changed).exists() {
            println!("cargo::rerun-if-changed={changed}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    // The sources may lie within somebody else's repository: that one's commit is not ours.
    if !Path::new(".git").exists() {
        return None;
    }
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The version of a package in Cargo.lock.
fn locked(package: &str) -> String {
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let found = lock.split("[[package]]").find_map(|entry| {
        let mut lines = entry.trim_start().lines();
        lines.next().filter(|line| *line == format!("name = \"{package}\""))?;
        Some(lines.next()?.strip_prefix("version = \"")?.trim_end_matches('"').to_owned())
    });
    found.unwrap_or_else(|| "unknown".to_owned())
}
