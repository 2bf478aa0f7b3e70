//! Arguments in, exit code out.

use hotrow::config::{self, Stop};
use hotrow::{logging, server};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::process::ExitCode;
use std::thread;

/// It could not start, or it failed.
const FAILED: u8 = 1;
/// The command line, or the environment, is unusable.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = match config::read(std::env::args_os()) {
        Ok(config) => config,
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
