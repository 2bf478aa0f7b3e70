//! Flags and environment into one checked, flat [`Config`]. Knows no thread and no socket. Called by `main`; read by
//! [`crate::server`]. `--help` is made from the comments here, and a test holds the README against it.

mod database;
mod origins;
pub mod settings;
pub mod transfer;
mod values;

pub use values::{AccessLogFormat, AccessLogTo, Count, Listen, LogFormat, Most};

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use settings::Setting;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use transfer::{Export, Import};

/// The commit that this program was built from, as far as is known.
pub const COMMIT: &str = env!("HOTROW_COMMIT");
/// The package that speaks to PostgreSQL, with its version.
pub const POSTGRES_CLIENT: &str =
    concat!("postgres ", env!("HOTROW_POSTGRES_CRATE"), ", for PostgreSQL 13 and newer");
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("HOTROW_COMMIT"), ")");
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit ",
    env!("HOTROW_COMMIT"),
    "\nclient postgres ",
    env!("HOTROW_POSTGRES_CRATE"),
    ", for PostgreSQL 13 and newer"
);

/// Serves the hot rows of a PostgreSQL table over HTTP/1.1.
#[derive(Debug, Parser)]
#[command(name = "hotrow", version = VERSION, long_version = LONG_VERSION, args_conflicts_with_subcommands = true)]
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
    /// Asks a running server whether it is ready: exit code 0 if it is, 1 if not
    Ready(Ready),
    /// Applies what is missing of the schema to the database, and ends
    Migrate {
        /// Prints the statements instead, for an administrator to apply
        #[arg(long)]
        print: bool,
        /// The database
        #[arg(long, env = "HOTROW_DATABASE_URL", value_name = "URL", hide_env_values = true)]
        database_url: Option<String>,
        /// A file with its URL in it
        #[arg(long, env = "HOTROW_DATABASE_URL_FILE", value_name = "PATH")]
        database_url_file: Option<PathBuf>,
    },
    /// Stores the rows of a file, or of stdin, by a running server
    Import(Import),
    /// Writes all rows of a running server to a file, or to stdout, a line of JSON for each
    Export(Export),
    /// Prints every flag's value and where it comes from, passwords masked
    Config(Config),
    /// Prints a script that completes hotrow's arguments in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// What is to be done.
#[derive(Debug)]
pub enum Invocation {
    /// Run the server.
    Serve(Config),
    /// Ask one whether it is ready.
    Ready(Ready),
    /// Bring the schema up to date.
    Migrate {
        /// Only print the statements.
        print: bool,
        /// The database.
        database_url: Option<String>,
        /// What says so, for messages.
        given_by: String,
    },
    /// Store rows.
    Import(Import),
    /// Fetch rows.
    Export(Export),
    /// Print the settings.
    Config(Config),
    /// Print this script.
    Completions(String),
}

impl Invocation {
    /// The address of the database that is to be used, if it is given, and what says so.
    pub fn database(&self) -> Option<(&str, &str)> {
        let (url, given_by) = match self {
            Invocation::Serve(config) => (&config.database_url, &config.database_given_by),
            Invocation::Migrate { print: false, database_url, given_by } => (database_url, given_by),
            _ => return None,
        };
        Some((url.as_deref()?, given_by))
    }
}

/// Whom to ask whether it is ready.
#[derive(Args, Clone, Debug)]
pub struct Ready {
    /// Where the server's operations are
    #[arg(long, env = "HOTROW_ADMIN_LISTEN", value_name = "ADDR:PORT|off", default_value = "127.0.0.1:9090",
          value_parser = values::admin_listen)]
    pub admin_listen: Listen,

    /// How long the answer may take
    #[arg(long, value_name = "D", default_value = "5s", value_parser = values::duration)]
    pub timeout: Duration,
}

/// Everything that an operator can choose. A flag wins over its environment variable.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where data is served; port 0 picks a free one
    #[arg(long, env = "HOTROW_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8080",
          value_parser = values::listen)]
    pub listen: SocketAddr,

    /// Where /livez, /readyz, /metrics, /config and /version are served, or off
    #[arg(long, env = "HOTROW_ADMIN_LISTEN", value_name = "ADDR:PORT|off", default_value = "127.0.0.1:9090",
          value_parser = values::admin_listen)]
    pub admin_listen: Listen,

    /// The database: any PostgreSQL 13 or newer, encoded in UTF8; DATABASE_URL is read too. Unset: hotrow runs a
    /// PostgreSQL of its own in --data-dir
    #[arg(long, env = "HOTROW_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// A file with the URL of the database in it, for one that has a password
    #[arg(long, env = "HOTROW_DATABASE_URL_FILE", value_name = "PATH")]
    pub database_url_file: Option<PathBuf>,

    /// Where hotrow's own PostgreSQL lives
    #[arg(long, env = "HOTROW_DATA_DIR", value_name = "DIR", default_value = "./hotrow-data")]
    pub data_dir: PathBuf,

    /// Threads that serve connections; auto is half of the cores
    #[arg(long, env = "HOTROW_EVENT_LOOPS", value_name = "N|auto", default_value = "auto", value_parser = values::event_loops)]
    pub event_loops: Count,

    /// Threads, each with a connection to PostgreSQL, that read what is not cached
    #[arg(long, env = "HOTROW_DB_READERS", value_name = "N", default_value = "2",
          value_parser = values::whole::<u16, 256>)]
    pub db_readers: u16,

    /// Threads, each with a connection to PostgreSQL, that write
    #[arg(long, env = "HOTROW_DB_WRITERS", value_name = "N", default_value = "2",
          value_parser = values::whole::<u16, 64>)]
    pub db_writers: u16,

    /// Jobs that wait for the readers, and for each writer; more are answered 503
    #[arg(long, env = "HOTROW_QUEUE_DEPTH", value_name = "N", default_value = "4096",
          value_parser = values::whole::<u32, 1_000_000>)]
    pub queue_depth: u32,

    /// Memory for cached rows: keys, values and overhead
    #[arg(long, env = "HOTROW_CACHE_BYTES", value_name = "SIZE", default_value = "256MiB", value_parser = values::size)]
    pub cache_bytes: usize,

    /// The largest value; a larger one is answered 413
    #[arg(long, env = "HOTROW_MAX_VALUE_BYTES", value_name = "SIZE", default_value = "1MiB", value_parser = values::value_size)]
    pub max_value_bytes: usize,

    /// Connections at a time; more are answered 503 and closed
    #[arg(long, env = "HOTROW_MAX_CONNECTIONS", value_name = "N", default_value = "16384",
          value_parser = values::whole::<u32, 1_000_000>)]
    pub max_connections: u32,

    /// Connections at a time of one client address, of IPv6 one /64; more are answered 503 and closed
    #[arg(long, env = "HOTROW_MAX_CONNECTIONS_PER_IP", value_name = "N|off", default_value = "off",
          value_parser = values::per_ip)]
    pub max_connections_per_ip: Most,

    /// Lets scripts of this origin read the answers (CORS): https://app.example.com, several with commas between them,
    /// or * for everyone
    // --help shows it as it stands here: without the <> of a link.
    #[allow(rustdoc::bare_urls)]
    #[arg(long, env = "HOTROW_CORS_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',',
          value_parser = origins::origin)]
    pub cors_allow_origin: Vec<String>,

    /// Who may do what: a file with a line for each token, `ro TOKEN` or `rw TOKEN`; read again at SIGHUP
    #[arg(long, env = "HOTROW_AUTH_TOKENS_FILE", value_name = "PATH")]
    pub auth_tokens_file: Option<PathBuf>,

    /// Serves the data over TLS, with this certificate chain in PEM; read again at SIGHUP
    #[arg(long, env = "HOTROW_TLS_CERT", value_name = "PATH", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The key of the certificate, in PEM
    #[arg(long, env = "HOTROW_TLS_KEY", value_name = "PATH", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Lets everyone in who reaches an address other than a loopback one: to operations, and where there are no tokens
    /// to the data
    #[arg(long, env = "HOTROW_ALLOW_ANONYMOUS", value_parser = BoolishValueParser::new())]
    pub allow_anonymous: bool,

    /// How long the content of a request may take to arrive, and then its answer to be found; 408, 503 or 504
    #[arg(long, env = "HOTROW_REQUEST_TIMEOUT", value_name = "D", default_value = "10s", value_parser = values::duration)]
    pub request_timeout: Duration,

    /// How long a request's head may take to arrive; 408
    #[arg(long, env = "HOTROW_HEADER_TIMEOUT", value_name = "D", default_value = "10s", value_parser = values::duration)]
    pub header_timeout: Duration,

    /// How long a connection may be silent between requests, or not read its answers; it is closed
    #[arg(long, env = "HOTROW_IDLE_TIMEOUT", value_name = "D", default_value = "60s", value_parser = values::duration)]
    pub idle_timeout: Duration,

    /// How long the server, told to stop, goes on as before, while /readyz says that it drains: so that load balancers
    /// turn elsewhere first
    #[arg(long, env = "HOTROW_DRAIN_DELAY", value_name = "D", default_value = "0s", value_parser = values::pause)]
    pub drain_delay: Duration,

    /// How long requests under way may take to finish once the server drains
    #[arg(long, env = "HOTROW_DRAIN_TIMEOUT", value_name = "D", default_value = "10s", value_parser = values::duration)]
    pub drain_timeout: Duration,

    /// Logs every answer to this file, or - for stdout, or off
    #[arg(long, env = "HOTROW_ACCESS_LOG", value_name = "PATH|-|off", default_value = "off", value_parser = values::access_log)]
    pub access_log: AccessLogTo,

    /// The form of the access log: common (with the request's name and the duration behind it) or json
    #[arg(
        long,
        env = "HOTROW_ACCESS_LOG_FORMAT",
        value_name = "F",
        default_value = "common",
        hide_possible_values = true
    )]
    pub access_log_format: AccessLogFormat,

    /// The form of the log on stderr: text or json
    #[arg(
        long,
        env = "HOTROW_LOG_FORMAT",
        value_name = "F",
        default_value = "text",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,

    /// What is logged on stderr: error, warn, info, debug, trace or off
    #[arg(long, env = "HOTROW_LOG_LEVEL", value_name = "L", default_value = "info", value_parser = values::log_level)]
    pub log_level: log::LevelFilter,

    /// What says which database, for messages
    #[arg(skip)]
    pub database_given_by: String,

    /// All of them as they were given, and where
    #[arg(skip)]
    pub settings: Vec<Setting>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum Stop {
    /// `--help` or `--version`: print it and end well.
    Asked(String),
    /// One line that names the flag and the rule.
    Unusable(String),
}

/// The command line with all its flags, for documents that are made from it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The same, as these arguments are read by. `-1`, or `-1s`, is a bad value of the flag in front of it, and no flag that nobody knows.
/// Only where there is one: else a flag without its value would take the next flag for it.
fn parser(arguments: &[OsString]) -> clap::Command {
    let is_below_zero = |argument: &OsString| match argument.as_encoded_bytes() {
        [b'-', first, ..] => first.is_ascii_digit(),
        _ => false,
    };
    if !arguments.iter().any(is_below_zero) {
        return Cli::command();
    }
    let allow = |arg: clap::Arg| match is_judged(&arg) {
        true => arg.allow_hyphen_values(true),
        false => arg,
    };
    Cli::command().mut_args(allow).mut_subcommands(|command| command.mut_args(allow))
}

/// True of a flag whose value is judged: a count, a size or a duration, an address, an origin, a form or a level. A path may be called
/// `-1`.
fn is_judged(arg: &clap::Arg) -> bool {
    let name = arg.get_value_names().and_then(|names| names.first()?.split('|').next());
    name.is_some_and(|name| ["N", "SIZE", "D", "ADDR:PORT", "ORIGIN", "F", "L"].contains(&name))
}

/// Reads arguments (the first is the program's name) and the environment.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Stop> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = parser(&arguments);
    let first = arguments.get(1).and_then(|argument| argument.to_str());
    if first.is_some_and(|name| command.find_subcommand(name).is_some()) {
        // clap would judge the variables by the flags in front of the subcommand, too, of which there are none.
        command = command.mut_args(|arg| arg.env(Resettable::Reset));
    }
    let parsed = command.try_get_matches_from_mut(&arguments).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let (cli, matches) = parsed.map_err(|error| {
        let text = error.render().to_string();
        if !error.use_stderr() {
            return Stop::Asked(text);
        }
        let line: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let line = line.join(" ");
        let line = line.trim_start_matches("error: ");
        Stop::Unusable(match variable_at_fault(&error, &command, &arguments) {
            Some(variable) => format!("{line} (it is in {variable})"),
            None => line.to_owned(),
        })
    })?;
    let settings = match matches.subcommand() {
        Some((name, matches)) => {
            command.find_subcommand(name).map_or_else(Vec::new, |command| settings::gather(command, matches))
        }
        None => settings::gather(&command, &matches),
    };
    Ok(match cli.command {
        None => Invocation::Serve(guarded(complete(cli.config, settings)?)?),
        Some(Command::Serve(config)) => Invocation::Serve(guarded(complete(config, settings)?)?),
        Some(Command::Config(config)) => Invocation::Config(complete(config, settings)?),
        Some(Command::Ready(ready)) => Invocation::Ready(ready),
        Some(Command::Migrate { print, database_url, database_url_file }) => {
            let mut settings = settings;
            let given = database::given(database_url, database_url_file, &mut settings, database::usual())?;
            Invocation::Migrate { print, database_url: given.url, given_by: given.by }
        }
        Some(Command::Import(import)) => {
            Invocation::Import(Import { remote: import.remote.complete().map_err(Stop::Unusable)?, ..import })
        }
        Some(Command::Export(export)) => {
            Invocation::Export(Export { remote: export.remote.complete().map_err(Stop::Unusable)?, ..export })
        }
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "hotrow", &mut script);
            Invocation::Completions(String::from_utf8_lossy(&script).into_owned())
        }
    })
}

/// The environment variable that a flag has its bad value from: clap names the flag alone.
fn variable_at_fault(error: &clap::Error, command: &clap::Command, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let long = flag.strip_prefix("--")?.split([' ', '=']).next()?;
    let is_given =
        arguments.iter().filter_map(|argument| argument.to_str()?.strip_prefix("--")).any(|given| {
            given.strip_prefix(long).is_some_and(|value| value.is_empty() || value.starts_with('='))
        });
    let all = command.get_subcommands().chain([command]).flat_map(clap::Command::get_arguments);
    let variable = all.filter(|arg| arg.get_long() == Some(long)).find_map(clap::Arg::get_env)?;
    (!is_given).then(|| variable.to_string_lossy().into_owned())
}

/// Adds what clap does not know of.
fn complete(config: Config, settings: Vec<Setting>) -> Result<Config, Stop> {
    origins::together(&config.cors_allow_origin).map_err(Stop::Unusable)?;
    database::complete(config, settings)
}

/// Refuses to let strangers in by mistake.
fn guarded(config: Config) -> Result<Config, Stop> {
    let admin = match config.admin_listen {
        Listen::At(address) => Some(address),
        Listen::Off => None,
    };
    let line = exposure(config.listen, admin, config.auth_tokens_file.is_some(), config.allow_anonymous);
    line.map_or(Ok(config), |line| Err(Stop::Unusable(line)))
}

/// What is wrong with listening there, if something is: others than this machine's own users could come in whom nobody
/// has let in.
pub fn exposure(
    data: SocketAddr,
    admin: Option<SocketAddr>,
    has_tokens: bool,
    allow_anonymous: bool,
) -> Option<String> {
    let is_exposed = |address: SocketAddr| !allow_anonymous && !address.ip().to_canonical().is_loopback();
    if is_exposed(data) && !has_tokens {
        return Some(format!(
            "--listen {data}: everyone who reaches this address could read and change everything; give \
             --auth-tokens-file, or say --allow-anonymous if that is meant"
        ));
    }
    let admin = admin.filter(|admin| is_exposed(*admin))?;
    Some(format!(
        "--admin-listen {admin}: everyone who reaches this address could read metrics and settings; give a loopback \
         address, or say --allow-anonymous if that is meant"
    ))
}

/// Where a server that listens on every address of its machine is reached from there.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::settings::Origin;
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, Stop> {
        match read(std::iter::once("hotrow").chain(arguments.iter().copied()).map(OsString::from))? {
            Invocation::Serve(config) | Invocation::Config(config) => Ok(config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_setting_knows_where_it_comes_from() {
        let url = "postgresql://me:secret@host/db";
        for command in [&[][..], &["serve"], &["config"]] {
            let arguments = [command, &["--cache-bytes", "1GiB", "--database-url", url]].concat();
            let settings = parse(&arguments).unwrap().settings;
            let found = |name: &str| settings.iter().find(|setting| setting.name == name).unwrap();
            let (cache, listen) = (found("cache-bytes"), found("listen"));
            assert_eq!((cache.value.as_deref(), cache.origin), (Some("1GiB"), Origin::Flag));
            assert_eq!((listen.value.as_deref(), listen.origin), (Some("127.0.0.1:8080"), Origin::Default));
            assert_eq!(found("database-url").value.as_deref(), Some("postgresql://me:***@host/db"));
            assert_eq!(
                settings.len(),
                Cli::command().get_arguments().filter(|arg| arg.get_env().is_some()).count()
            );
        }
    }

    #[test]
    fn every_flag_has_a_variable_of_its_name() {
        let mut command = Cli::command();
        command.build();
        let mut flags = 0;
        for arg in command.get_arguments() {
            let long = arg.get_long().unwrap();
            if !["help", "version"].contains(&long) {
                flags += 1;
                let variable = format!("HOTROW_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(arg.get_env(), Some(variable.as_ref()), "--{long}");
            }
        }
        assert!(flags > 20, "{flags}");
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
        assert_eq!(parse(&["--drain-delay", "0s"]).unwrap().drain_delay, Duration::ZERO);
        assert_eq!(parse(&["--drain-delay", "5s"]).unwrap().drain_delay, Duration::from_secs(5));
        assert_eq!(parse(&["--admin-listen", "off"]).unwrap().admin_listen, Listen::Off);
    }

    #[test]
    fn a_bad_value_is_one_line_that_names_the_flag_and_the_rule() {
        for (arguments, parts) in [
            (&["--listen", "8080"][..], ["--listen", "8080"]),
            (&["--listen", "localhost:8080"], ["--listen", "IP:PORT"]),
            (&["--cache-bytes", "1MB"], ["--cache-bytes", "KiB"]),
            (&["--cache-bytes", "99999999999GiB"], ["--cache-bytes", "size"]),
            (&["--max-value-bytes", "0"], ["--max-value-bytes", "from 1"]),
            (&["--max-value-bytes", "1GiB"], ["--max-value-bytes", "67108864"]),
            (&["--idle-timeout", "10"], ["--idle-timeout", "ms, s or m"]),
            (&["--idle-timeout", "0s"], ["--idle-timeout", "1ms"]),
            (&["--drain-delay", "5"], ["--drain-delay", "0s, or from 1ms"]),
            (&["--event-loops", "0"], ["--event-loops", "auto"]),
            (&["--max-connections-per-ip", "0"], ["--max-connections-per-ip", "off"]),
            (&["--listen", "0.0.0.0:1"], ["--listen 0.0.0.0:1", "--allow-anonymous"]),
            (&["--listen", "[::]:1"], ["--listen [::]:1", "--auth-tokens-file"]),
            (&["--admin-listen", "0.0.0.0:1"], ["--admin-listen 0.0.0.0:1", "--allow-anonymous"]),
            (
                &["--auth-tokens-file", "/t", "--listen", "0.0.0.0:1", "--admin-listen", "192.0.2.1:1"],
                ["--admin-listen 192.0.2.1:1", "--allow-anonymous"],
            ),
            (&["--queue-depth", "0"], ["--queue-depth", "1 to 1000000"]),
            (&["--db-writers", "x"], ["--db-writers", "1 to 64"]),
            (&["import", "--from-line", "0", "-"], ["--from-line", "from 1 on"]),
            (&["--cors-allow-origin", "https://a/"], ["--cors-allow-origin", "SCHEME://HOST"]),
            (&["--cors-allow-origin", "https://a,https://b:443"], ["--cors-allow-origin", ":443"]),
            (
                &["--cors-allow-origin", "https://a", "--cors-allow-origin", "*"],
                ["--cors-allow-origin", "alone"],
            ),
            (&["--admin-listen", "on"], ["--admin-listen", "off"]),
            (&["--log-level", "loud"], ["--log-level", "error, warn, info"]),
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

    /// `-1` is no flag.
    #[test]
    fn a_number_below_zero_is_a_bad_value_of_its_flag() {
        let command = Cli::command();
        let of = |command: &clap::Command| {
            let numbers = command.get_arguments().filter(|arg| is_judged(arg));
            numbers.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect::<Vec<_>>()
        };
        let mut looked_at = 0;
        for (name, flags) in command
            .get_subcommands()
            .map(|command| (Some(command.get_name()), of(command)))
            .chain([(None, of(&command))])
        {
            for flag in &flags {
                for value in ["-1", "-1s", "-1KiB"] {
                    looked_at += 1;
                    let arguments: Vec<&str> = name.into_iter().chain([flag.as_str(), value]).collect();
                    match parse(&arguments) {
                        Err(Stop::Unusable(line)) => {
                            let invalid = format!("invalid value '{value}' for '{flag} ");
                            assert!(line.starts_with(&invalid), "{arguments:?}: {line}");
                        }
                        other => panic!("{arguments:?}: {other:?}"),
                    }
                }
            }
        }
        assert!(looked_at > 100, "{looked_at}");
        // A value that was forgotten is none.
        match parse(&["--event-loops", "--log-level", "info"]) {
            Err(Stop::Unusable(line)) => {
                assert!(line.starts_with("a value is required for '--event-loops"), "{line}")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn help_is_asked_for() {
        assert!(matches!(parse(&["--help"]), Err(Stop::Asked(text)) if text.contains("--cache-bytes")));
    }
}
