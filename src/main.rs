//! Arguments in, exit code out.

mod signals;

use hotrow::commands::Ended;
use hotrow::config::{self, Invocation, LogFormat, Stop};
use hotrow::process::say;
use hotrow::service::{self, Pulse};
use hotrow::store::conninfo::{self, URL_FORM};
use hotrow::store::managed::Killer;
use hotrow::{commands, logging, server};
use log::LevelFilter;
use signals::Signals;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{self, ExitCode};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// It could not start, or it failed.
const FAILED: u8 = 1;
/// The command line, or the environment, is unusable.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    if let Err(error) = hide_password() {
        say(format_args!(
            "hotrow: cannot hide the password of --database-url: {error}; give it in --database-url-file"
        ));
        return ExitCode::from(FAILED);
    }
    let invocation = match config::read(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(Stop::Asked(text)) => {
            return print(&text);
        }
        Err(Stop::Unusable(line)) => {
            say(format_args!("hotrow: {line}"));
            return ExitCode::from(USAGE);
        }
    };
    if let Some((url, given_by)) = invocation.database()
        && let Err(rule) = conninfo::read(url, |name| std::env::var_os(name))
    {
        say(format_args!("hotrow: {given_by}: {rule}; it looks like {URL_FORM}"));
        return ExitCode::from(USAGE);
    }
    let config = match invocation {
        Invocation::Serve(config) => config,
        other => return answer(&other),
    };
    // Before there is a thread.
    let inherited = match server::inherited(&config) {
        Ok(inherited) => inherited,
        Err(line) => return failed(&line, USAGE),
    };
    logging::start(config.log_level, config.log_format);
    let result = serve(&config, inherited);
    log::logger().flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => failed(&line, FAILED),
    }
}

/// The service has not been, or is no more: its manager is told, too.
fn failed(line: &str, code: u8) -> ExitCode {
    service::failed(line);
    say_in_time(format!("hotrow: {line}"));
    ExitCode::from(code)
}

/// Says a line, but goes on after a second: a stderr that is stuck, as a full pipe is that nobody reads, is to hold nobody up.
fn say_in_time(line: String) {
    let (done, wait) = mpsc::channel();
    let said = thread::Builder::new().name("say".into()).spawn(move || {
        say(line);
        let _ = done.send(());
    });
    if said.is_ok() {
        let _ = wait.recv_timeout(Duration::from_secs(1));
    }
}

/// Everyone can read a process's arguments (`ps`); its environment only its owner. So a URL with a password moves from
/// there to here: the program starts itself again, as the same process.
fn hide_password() -> io::Result<()> {
    const FLAG: &str = "--database-url";
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let (mut others, mut urls) = (Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.to_str().and_then(|text| text.strip_prefix(FLAG)) {
            // Without a value it is refused with all other flags that are wrong.
            Some("") => match arguments.next() {
                Some(url) => urls.push(url),
                None => others.push(argument),
            },
            Some(value) if value.starts_with('=') => urls.push(value[1..].into()),
            _ => others.push(argument),
        }
    }
    // In the environment it would give way to a file, where both together are refused.
    let is_contradicted = others
        .iter()
        .any(|other| other.to_str().is_some_and(|other| other.starts_with("--database-url-file")));
    match &urls[..] {
        [url] if !is_contradicted && url.to_str().is_some_and(conninfo::has_password) => {
            let mut command = process::Command::new(std::env::current_exe()?);
            // A flag wins over the file's variable, and a variable would not.
            command.env_remove("HOTROW_DATABASE_URL_FILE").env("HOTROW_DATABASE_URL", url);
            Err(command.arg0(name).args(others).exec())
        }
        // Two are refused with all other flags that are wrong.
        _ => Ok(()),
    }
}

/// Runs a command that does one thing and ends.
fn answer(invocation: &Invocation) -> ExitCode {
    // It speaks to the database as the server does, and has no flag for what is said of that.
    if let Invocation::Migrate { print: false, .. } = invocation {
        logging::start(LevelFilter::Warn, LogFormat::Text);
    }
    let result = commands::run(invocation);
    log::logger().flush();
    match result {
        Ok(Ended::Printed(text)) => print(&text),
        Ok(Ended::Done(line)) => {
            say(line);
            ExitCode::SUCCESS
        }
        Ok(Ended::Partly(line)) => {
            say(line);
            ExitCode::from(FAILED)
        }
        Err(line) => {
            say(format_args!("hotrow: {line}"));
            ExitCode::from(FAILED)
        }
    }
}

fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever does not want to read it all (`| head`) may go.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            say(format_args!("hotrow: cannot write to stdout: {error}"));
            ExitCode::from(FAILED)
        }
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

fn serve(config: &config::Config, inherited: server::Inherited) -> Result<(), String> {
    let longest = server::longest_start(config);
    service::starting(longest);
    let mut promised = Instant::now() + longest;
    let killer = Killer::default();
    // Before anything is started that a signal could be about.
    let signals = Signals::follow({
        let killer = killer.clone();
        move || {
            killer.kill();
            process::exit(i32::from(FAILED));
        }
    })?;
    let mut running = server::start(config, inherited, &killer, |longest| {
        let until = Instant::now() + longest;
        // Whoever is told the same once a second learns nothing.
        if until > promised + Duration::from_secs(1) {
            service::starting(longest);
            promised = until;
        }
        // A migration may take longer than whoever sends a signal wants to wait.
        signals.wanted()
    })?;
    service::ready(&running.ready_line);
    service::watch(Pulse::new(running.inboxes()));
    signals.serves(&mut running)?;
    say_in_time(running.ready_line.clone());
    running.join()
}
