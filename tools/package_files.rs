//! What a package has besides the program and is made from its flags: the man page, and the environment file with every
//! option. Run by `tools/package`; held against the program by `tests/package.rs`.
//!
//!     cargo run --example package_files -- DIR

use clap::{Arg, ArgAction, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

/// The value that the unit sets before it reads the environment file.
const DATA_DIR: &str = "/var/lib/hotrow";

fn main() -> io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: package_files DIR"));
    };
    std::fs::write(dir.join("hotrow.1"), man_page()?)?;
    std::fs::write(dir.join("hotrow.default"), environment_file())
}

/// hotrow(1).
pub fn man_page() -> io::Result<String> {
    let command = hotrow::config::command();
    let man =
        Man::new(command.clone()).manual("hotrow").source(format!("hotrow {}", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("PP", []).text([roman(
        "Rows of a PostgreSQL table are served as /kv/KEY: GET, HEAD, PUT (also as SET), DELETE, POST. Reads come from \
         memory; a write is answered when PostgreSQL has committed it. Every flag can be given by an environment \
         variable, too; a flag wins. Sizes take KiB, MiB, GiB; durations ms, s, m.",
    )]);
    roff.to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    commands(&mut roff, &command);
    for (heading, entries) in SECTIONS {
        roff.control("SH", [*heading]);
        if *heading == "ENVIRONMENT" {
            variables(&mut roff, &command);
        }
        for (term, text) in *entries {
            entry(&mut roff, term, text);
        }
    }
    roff.to_writer(&mut page)?;
    String::from_utf8(page).map_err(io::Error::other)
}

/// A term, and what it is.
fn entry(roff: &mut Roff, term: &str, text: &str) {
    roff.control("TP", []).text([bold(term)]).text([roman(text)]);
}

/// Each command with the options that `serve` does not have.
fn commands(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["COMMANDS"]);
    let serve: Vec<&str> = command.get_arguments().map(|arg| arg.get_id().as_str()).collect();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let positional: Vec<String> =
            sub.get_positionals().map(|arg| arg.get_id().as_str().to_uppercase()).collect();
        entry(
            roff,
            &[&["hotrow".to_owned(), sub.get_name().to_owned()][..], &positional].concat().join(" "),
            &about,
        );
        for arg in sub.get_opts().filter(|arg| !serve.contains(&arg.get_id().as_str())) {
            roff.control("RS", []);
            entry(roff, &flag(arg), &help(arg));
            roff.control("RE", []);
        }
    }
}

/// The variable of each flag.
fn variables(roff: &mut Roff, command: &Command) {
    for arg in command.get_arguments() {
        if let Some(variable) = arg.get_env() {
            entry(roff, &variable.to_string_lossy(), &flag(arg));
        }
    }
}

fn flag(arg: &Arg) -> String {
    let long = format!("--{}", arg.get_long().unwrap_or_default());
    match arg.get_value_names() {
        Some([name, ..]) if arg.get_action().takes_values() => format!("{long} {name}"),
        _ => long,
    }
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "ENVIRONMENT",
        &[
            ("DATABASE_URL", "Read where neither --database-url nor --database-url-file is given."),
            ("PG_BINDIR", "The folder with postgres and initdb, where they are not where systems put them."),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, LISTEN_FDNAMES",
                "Set by systemd(1): hotrow tells it when it serves, that it is alive, and takes over its sockets named http and admin instead of --listen and --admin-listen.",
            ),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "Requests under way are finished, and hotrow ends with 0. A second one ends it at once.",
            ),
            ("SIGHUP", "Files of tokens and certificates are read again, and log files are opened anew."),
        ],
    ),
    (
        "FILES",
        &[
            (
                "/etc/default/hotrow",
                "The environment of the service hotrow.service: every option, commented out.",
            ),
            (
                "/var/lib/hotrow",
                "The data of the service's own PostgreSQL; its programs' words are in postgres.log.",
            ),
            ("/var/log/hotrow", "Where the service may write an access log."),
            (
                "hotrow.socket, hotrow-admin.socket",
                "Where the service is reached; to be changed by systemctl edit.",
            ),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "It did what it was asked to."),
            ("1", "It could not, and says why in one line; of hotrow ready: the server is not ready."),
            ("2", "A flag or a variable is unusable; the line names it."),
        ],
    ),
    (
        "EXAMPLES",
        &[
            ("hotrow", "Serves at http://127.0.0.1:8080, with a PostgreSQL of its own in ./hotrow-data."),
            ("curl -X PUT -d hello http://127.0.0.1:8080/kv/greeting", "Stores a value."),
            ("curl http://127.0.0.1:8080/kv/greeting", "Reads it."),
        ],
    ),
    ("SEE ALSO", &[("postgres(1), curl(1), systemd.socket(5), /usr/share/doc/hotrow/README.md", "")]),
];

/// `/etc/default/hotrow`: every option of the server with its default, commented out.
pub fn environment_file() -> String {
    let mut file = "\
# Options of the service hotrow. A line that is not commented out is in force from the next start: systemctl restart
# hotrow. What is in force now: curl http://127.0.0.1:9090/config. See hotrow(1).
#
# Where the service is reached is not chosen here but by systemctl edit hotrow.socket and hotrow-admin.socket; only
# where these are switched off (systemctl mask) do HOTROW_LISTEN and HOTROW_ADMIN_LISTEN count.
#
# Everybody may read this file. A URL with a password belongs into a file of the user hotrow's own
# (HOTROW_DATABASE_URL_FILE), which the service may read: in /etc, not in /home or /tmp.
"
    .to_owned();
    for arg in hotrow::config::command().get_arguments() {
        let Some(variable) = arg.get_env().and_then(|name| name.to_str()) else { continue };
        let default = arg.get_default_values().first().and_then(|value| value.to_str());
        let value = match (variable, arg.get_action(), default) {
            ("HOTROW_DATA_DIR", ..) => DATA_DIR.to_owned(),
            (_, ArgAction::SetTrue, _) => "false".to_owned(),
            (.., Some(default)) => default.to_owned(),
            (.., None) => {
                arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name).to_owned()
            }
        };
        let unset = default.is_none() && arg.get_action().takes_values();
        let unset = if unset { " (unset)" } else { "" };
        write!(file, "\n# {}{unset}\n#{variable}={value}\n", help(arg).replace('\n', " "))
            .expect("a string takes everything");
    }
    file
}
