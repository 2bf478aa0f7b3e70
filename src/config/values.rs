//! What stands behind a flag: the forms of its value, and how each is read. What is wrong comes back as the rule, for
//! clap to print behind the flag's name. Used by [`crate::config`] alone; the types are read by [`crate::server`].

use crate::limits::MAX_VALUE_BYTES;
use clap::ValueEnum;
use log::LevelFilter;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// A listener that may be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At this address.
    At(SocketAddr),
    /// Not at all.
    Off,
}

/// Where every answer is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTo {
    /// To a file.
    File(PathBuf),
    /// To stdout.
    Stdout,
    /// Nowhere.
    Off,
}

/// The form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogFormat {
    /// The Common Log Format, with more behind it.
    Common,
    /// An object a line.
    Json,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// A number that may be left to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// This many.
    Exactly(u16),
    /// As the machine has cores for.
    Auto,
}

impl Count {
    /// The number, on a machine with so many cores.
    pub fn on(self, cores: usize) -> usize {
        match self {
            Count::Exactly(n) => usize::from(n),
            Count::Auto => (cores / 2).clamp(1, 64),
        }
    }
}

/// A bound that may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Most {
    /// So many.
    Of(u32),
    /// Any number.
    Off,
}

impl Most {
    /// The bound, if there is one.
    pub fn at_most(self) -> Option<u32> {
        match self {
            Most::Of(most) => Some(most),
            Most::Off => None,
        }
    }
}

pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address is IP:PORT, like 127.0.0.1:8080 or [::1]:8080".into())
}

pub(super) fn log_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| "it is error, warn, info, debug, trace or off".into())
}

pub(super) fn admin_listen(text: &str) -> Result<Listen, String> {
    match text {
        "off" => Ok(Listen::Off),
        address => address.parse().map(Listen::At).map_err(|_| "an address is ADDR:PORT, or off".into()),
    }
}

/// A number that counts something, up to the highest one that is let in.
pub(super) fn whole<N: TryFrom<u32>, const HIGHEST: u32>(text: &str) -> Result<N, String> {
    let number = text.parse().ok().filter(|number| (1..=HIGHEST).contains(number));
    let number = number.and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| format!("it is a whole number from 1 to {HIGHEST}"))
}

pub(super) fn line_number(text: &str) -> Result<NonZeroU64, &'static str> {
    text.parse().map_err(|_| "lines are counted from 1 on")
}

pub(super) fn per_ip(text: &str) -> Result<Most, String> {
    match text {
        "off" => Ok(Most::Off),
        number => match number.parse() {
            Ok(n @ 1..=1_000_000) => Ok(Most::Of(n)),
            _ => Err("it is a number from 1 to 1000000, or off".into()),
        },
    }
}

pub(super) fn access_log(text: &str) -> Result<AccessLogTo, Infallible> {
    Ok(match text {
        "off" => AccessLogTo::Off,
        "-" => AccessLogTo::Stdout,
        path => AccessLogTo::File(path.into()),
    })
}

pub(super) fn event_loops(text: &str) -> Result<Count, String> {
    match text {
        "auto" => Ok(Count::Auto),
        number => match number.parse() {
            Ok(n @ 1..=64) => Ok(Count::Exactly(n)),
            _ => Err("it is a number from 1 to 64, or auto".into()),
        },
    }
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    let rule =
        || "a size is a whole number of bytes, or one with KiB, MiB or GiB behind it, like 256MiB".to_owned();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit: usize = match &text[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(rule()),
    };
    let number: usize = text[..digits].parse().map_err(|_| rule())?;
    number.checked_mul(unit).ok_or_else(rule)
}

pub(super) fn value_size(text: &str) -> Result<usize, String> {
    match size(text)? {
        bytes @ 1..=MAX_VALUE_BYTES => Ok(bytes),
        _ => Err(format!("it is from 1 to {MAX_VALUE_BYTES} bytes")),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let rule = || {
        "a duration is a whole number with ms, s or m behind it, like 500ms or 10s, from 1ms to 1440m"
            .to_owned()
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit_ms: u64 = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(rule()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| rule())?;
    match number.checked_mul(unit_ms) {
        Some(ms @ 1..=86_400_000) => Ok(Duration::from_millis(ms)),
        _ => Err(rule()),
    }
}

/// A duration, or none.
pub(super) fn pause(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0ms" | "0s" | "0m" => Ok(Duration::ZERO),
        text => duration(text).map_err(|rule| rule.replace("from 1ms", "0s, or from 1ms")),
    }
}
