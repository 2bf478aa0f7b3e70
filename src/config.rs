//! Flags and environment into one checked, flat [`Config`]. Knows no thread and no socket. Called by `main`; read by
//! [`crate::server`]. `--help` is made from the comments here, and a test holds the README against it.

use crate::limits::MAX_VALUE_BYTES;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Serves the hot rows of a PostgreSQL table over HTTP/1.1.
#[derive(Debug, Parser)]
#[command(name = "hotrow", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server (the default)
    Serve(Config),
}

/// Everything that an operator can choose. A flag wins over its environment variable.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where data is served; port 0 picks a free one
    #[arg(long, env = "HOTROW_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Where /livez, /readyz, /metrics and /version are served, or off
    #[arg(long, env = "HOTROW_ADMIN_LISTEN", value_name = "ADDR:PORT|off", default_value = "127.0.0.1:9090",
          value_parser = admin_listen)]
    pub admin_listen: Listen,

    /// The database: any PostgreSQL 13 or newer, encoded in UTF8; DATABASE_URL is read too. Unset: hotrow runs a
    /// PostgreSQL of its own in --data-dir
    #[arg(long, env = "HOTROW_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Where hotrow's own PostgreSQL lives
    #[arg(long, env = "HOTROW_DATA_DIR", value_name = "DIR", default_value = "./hotrow-data")]
    pub data_dir: PathBuf,

    /// Threads that serve connections; auto is half of the cores
    #[arg(long, env = "HOTROW_EVENT_LOOPS", value_name = "N|auto", default_value = "auto", value_parser = event_loops)]
    pub event_loops: Count,

    /// Threads, each with a connection to PostgreSQL, that read what is not cached
    #[arg(long, env = "HOTROW_DB_READERS", value_name = "N", default_value = "2",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub db_readers: u16,

    /// Threads, each with a connection to PostgreSQL, that write
    #[arg(long, env = "HOTROW_DB_WRITERS", value_name = "N", default_value = "2",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub db_writers: u16,

    /// Jobs that wait for the readers, and for each writer; more are answered 503
    #[arg(long, env = "HOTROW_QUEUE_DEPTH", value_name = "N", default_value = "4096",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub queue_depth: u32,

    /// Memory for cached rows: keys, values and overhead
    #[arg(long, env = "HOTROW_CACHE_BYTES", value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    pub cache_bytes: usize,

    /// The largest value; a larger one is answered 413
    #[arg(long, env = "HOTROW_MAX_VALUE_BYTES", value_name = "SIZE", default_value = "1MiB", value_parser = value_size)]
    pub max_value_bytes: usize,

    /// Connections at a time; more are answered 503 and closed
    #[arg(long, env = "HOTROW_MAX_CONNECTIONS", value_name = "N", default_value = "16384",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// How long the content of a request may take to arrive, and then its answer to be found; 408, 503 or 504
    #[arg(long, env = "HOTROW_REQUEST_TIMEOUT", value_name = "D", default_value = "10s", value_parser = duration)]
    pub request_timeout: Duration,

    /// How long a request's head may take to arrive; 408
    #[arg(long, env = "HOTROW_HEADER_TIMEOUT", value_name = "D", default_value = "10s", value_parser = duration)]
    pub header_timeout: Duration,

    /// How long a connection may be silent between requests, or not read its answers; it is closed
    #[arg(long, env = "HOTROW_IDLE_TIMEOUT", value_name = "D", default_value = "60s", value_parser = duration)]
    pub idle_timeout: Duration,

    /// How long requests under way may take to finish once the server is told to stop
    #[arg(long, env = "HOTROW_DRAIN_TIMEOUT", value_name = "D", default_value = "10s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// What is logged on stderr: error, warn, info, debug, trace or off
    #[arg(long, env = "HOTROW_LOG_LEVEL", value_name = "L", default_value = "info")]
    pub log_level: log::LevelFilter,
}

/// A listener that may be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At this address.
    At(SocketAddr),
    /// Not at all.
    Off,
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

/// Why there is no configuration.
#[derive(Debug)]
pub enum Stop {
    /// `--help` or `--version`: print it and end well.
    Asked(String),
    /// One line that names the flag and the rule.
    Unusable(String),
}

/// Reads arguments (the first is the program's name) and the environment.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Config, Stop> {
    let cli = Cli::try_parse_from(arguments).map_err(|error| {
        let text = error.render().to_string();
        if !error.use_stderr() {
            return Stop::Asked(text);
        }
        let line: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        Stop::Unusable(line.join(" ").trim_start_matches("error: ").to_owned())
    })?;
    let mut config = match cli.command {
        Some(Command::Serve(config)) => config,
        None => cli.config,
    };
    if config.database_url.is_none() {
        config.database_url = std::env::var("DATABASE_URL").ok();
    }
    config.database_url = config.database_url.filter(|url| !url.is_empty());
    Ok(config)
}

fn admin_listen(text: &str) -> Result<Listen, String> {
    match text {
        "off" => Ok(Listen::Off),
        address => address.parse().map(Listen::At).map_err(|_| "an address is ADDR:PORT, or off".into()),
    }
}

fn event_loops(text: &str) -> Result<Count, String> {
    match text {
        "auto" => Ok(Count::Auto),
        number => match number.parse() {
            Ok(n @ 1..=64) => Ok(Count::Exactly(n)),
            _ => Err("it is a number from 1 to 64, or auto".into()),
        },
    }
}

fn size(text: &str) -> Result<usize, String> {
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

fn value_size(text: &str) -> Result<usize, String> {
    match size(text)? {
        bytes @ 1..=MAX_VALUE_BYTES => Ok(bytes),
        _ => Err(format!("it is from 1 to {MAX_VALUE_BYTES} bytes")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, Stop> {
        read(std::iter::once("hotrow").chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn everything_has_a_default_and_serve_may_be_said() {
        for arguments in [&[][..], &["serve"]] {
            let config = parse(arguments).unwrap();
            assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
            assert_eq!((config.cache_bytes, config.max_value_bytes), (256 << 20, 1 << 20));
            assert_eq!(config.event_loops.on(1), 1);
        }
        assert_eq!(parse(&["serve", "--listen", "[::1]:0"]).unwrap().listen.to_string(), "[::1]:0");
        assert_eq!(parse(&["--admin-listen", "off"]).unwrap().admin_listen, Listen::Off);
    }

    #[test]
    fn a_bad_value_is_one_line_that_names_the_flag_and_the_rule() {
        for (arguments, parts) in [
            (&["--listen", "8080"][..], ["--listen", "8080"]),
            (&["--cache-bytes", "1MB"], ["--cache-bytes", "KiB"]),
            (&["--cache-bytes", "99999999999GiB"], ["--cache-bytes", "size"]),
            (&["--max-value-bytes", "0"], ["--max-value-bytes", "from 1"]),
            (&["--max-value-bytes", "1GiB"], ["--max-value-bytes", "67108864"]),
            (&["--idle-timeout", "10"], ["--idle-timeout", "ms, s or m"]),
            (&["--idle-timeout", "0s"], ["--idle-timeout", "1ms"]),
            (&["--event-loops", "0"], ["--event-loops", "auto"]),
            (&["--queue-depth", "0"], ["--queue-depth", "1..="]),
            (&["--admin-listen", "on"], ["--admin-listen", "off"]),
            (&["--log-level", "loud"], ["--log-level", "loud"]),
            (&["--no-such-flag"], ["--no-such-flag", "unexpected"]),
            (&["prove"], ["prove", "unrecognized"]),
        ] {
            match parse(arguments) {
                Err(Stop::Unusable(line)) => {
                    assert!(!line.contains('\n') && parts.iter().all(|part| line.contains(part)), "{line}");
                }
                other => panic!("{arguments:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn help_is_asked_for() {
        assert!(matches!(parse(&["--help"]), Err(Stop::Asked(text)) if text.contains("--cache-bytes")));
    }
}
