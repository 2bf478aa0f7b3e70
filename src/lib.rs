#![doc = include_str!("README.md")]

pub mod access_log;
pub mod api;
pub mod clock;
pub mod commands;
pub mod config;
pub mod connection;
pub mod engine;
pub mod event_loop;
pub mod http;
pub mod limits;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod output;
pub mod process;
pub mod secrets;
pub mod server;
pub mod service;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod token;
pub mod transfer;
