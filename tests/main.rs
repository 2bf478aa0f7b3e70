//! The tests of the whole server, in one program: built once, with one PostgreSQL for all that do no harm to theirs.
//! README.md beside this says which file shows what; `cargo test --test server tls::` runs those of one.

#![allow(clippy::unwrap_used, reason = "what is not there fails the test")]

mod batch;
mod bounds;
mod bulk;
mod checker;
mod collection;
mod commands;
mod conditions;
mod cors;
mod data_path;
mod database_tls;
mod deploy;
mod failover;
mod faults;
mod fences;
mod framing;
mod history;
mod hostile;
mod life_cycle;
mod listening;
mod locks;
mod logs;
mod memory;
mod operations;
mod outage;
mod package;
mod plans;
mod private_postgres;
mod readme;
mod refusals;
mod restart;
mod security;
mod startup;
mod support;
mod tables;
mod tidy;
mod tls;
mod transfer;
