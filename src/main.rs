//! Arguments in, exit code out.

use hotrow::config::{self, Invocation, Stop};
use hotrow::{commands, logging, server};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write;
use std::process::ExitCode;
use std::thread;

/// It could not start, or it failed.
const FAILED: u8 = 1;
/// The command line, or the environment, is unusable.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = match config::read(std::env::args_os()) {
        Ok(Invocation::Serve(config)) => config,
        Ok(other) => return answer(&other),
        Err(Stop::Asked(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Stop::Unusable(line)) => {
            eprintln!("hotrow: {line}");
            return ExitCode::from(USAGE);
        }
    };
    logging::start(config.log_level);
    let result = serve(&config);
    log::logger().flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("hotrow: {line}");
            ExitCode::from(FAILED)
        }
    }
}

/// Runs a command that prints something and ends.
fn answer(invocation: &Invocation) -> ExitCode {
    match commands::run(invocation) {
        Ok(text) => {
            // Whoever does not want to read it all (`| head`) may go.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("hotrow: {line}");
            ExitCode::from(FAILED)
        }
    }
}

fn serve(config: &config::Config) -> Result<(), String> {
    // Before anything is started: a signal that comes while it starts is kept until it can be followed.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|e| format!("cannot catch signals: {e}"))?;
    let running = server::start(config)?;
    eprintln!("{}", running.ready_line);
    let (stopper, killer) = (running.stopper(), running.killer());
    let spawned = thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            log::info!("stopping: requests under way are finished; a second signal ends at once");
            stopper.stop();
        }
        if signals.next().is_some() {
            if let Some(kill) = killer {
                kill();
            }
            std::process::exit(i32::from(FAILED));
        }
    });
    spawned.map_err(|e| format!("cannot start a thread: {e}"))?;
    running.join()
}
