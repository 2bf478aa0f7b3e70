//! The commands beside `serve`: each does one thing, prints it, and ends. Called by `main`.

use crate::config::settings;
use crate::config::{Invocation, Listen, Ready, reachable};
use crate::store::migrations;
use crate::store::postgres::Postgres;
use crate::transfer::{export, import};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// More than `/readyz` ever says.
const ANSWER_BYTES: u64 = 16 * 1024;

/// How a command has ended well, or well enough to say more than that it has failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this, for stdout.
    Printed(String),
    /// With this line for stderr.
    Done(String),
    /// With this line for stderr: there is something that it could not do.
    Partly(String),
}

/// Runs a command that is not `serve`. An error is one line with the cause and the remedy.
pub fn run(invocation: &Invocation) -> Result<Ended, String> {
    let printed = match invocation {
        Invocation::Serve(_) => Err("serve is not run here".into()),
        Invocation::Ready(ready) => ask(ready),
        Invocation::Migrate { print: true, .. } => Ok(migrations::script()),
        Invocation::Migrate { database_url: None, .. } => {
            Err("there is no --database-url: hotrow's own PostgreSQL is migrated whenever it starts".into())
        }
        Invocation::Migrate { database_url: Some(url), given_by, .. } => migrate(url, given_by),
        Invocation::Config(config) => Ok(settings::to_text(&config.settings)),
        Invocation::Completions(script) => Ok(script.clone()),
        Invocation::Export(export) => {
            let (rows, bytes) = export::run(export)?;
            return Ok(Ended::Done(format!("exported {rows} rows, {bytes} bytes")));
        }
        Invocation::Import(import) => {
            let (written, refused) = import::run(import)?;
            let line = format!("imported {written} rows, {refused} refused");
            return Ok(if refused == 0 { Ended::Done(line) } else { Ended::Partly(line) });
        }
    };
    printed.map(Ended::Printed)
}

fn migrate(url: &str, given_by: &str) -> Result<String, String> {
    let cannot = |error: crate::store::Error| {
        format!(
            "cannot migrate the database ({given_by}): {error}; hotrow migrate --print shows what is applied"
        )
    };
    let database = Postgres::new(url, "migrate", Duration::from_secs(60)).map_err(cannot)?;
    let applied = database.migrate().map_err(cannot)?;
    Ok(match applied {
        0 => "nothing to do: every migration is applied\n".to_owned(),
        1 => "applied 1 migration\n".to_owned(),
        n => format!("applied {n} migrations\n"),
    })
}

/// Asks a server whether it is ready.
fn ask(ready: &Ready) -> Result<String, String> {
    let address = match ready.admin_listen {
        Listen::At(address) => reachable(address),
        Listen::Off => return Err("--admin-listen is off: there is nobody to ask".into()),
    };
    let cannot =
        |error: std::io::Error| format!("cannot ask http://{address}/readyz (--admin-listen): {error}");
    let deadline = Instant::now() + ready.timeout;
    let mut stream = TcpStream::connect_timeout(&address, ready.timeout).map_err(cannot)?;
    let left = |deadline: Instant| {
        let left = deadline.saturating_duration_since(Instant::now());
        Some(left.max(Duration::from_millis(1)))
    };
    stream.set_write_timeout(left(deadline)).map_err(cannot)?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(cannot)?;
    let mut answer = Vec::new();
    loop {
        stream.set_read_timeout(left(deadline)).map_err(cannot)?;
        let mut part = [0; 1024];
        match stream.read(&mut part).map_err(cannot)? {
            0 => break,
            n => answer.extend_from_slice(&part[..n]),
        }
        if answer.len() as u64 > ANSWER_BYTES || Instant::now() > deadline {
            return Err(format!(
                "http://{address}/readyz gives no answer that hotrow gives (--admin-listen)"
            ));
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some("503") => Err(format!("not ready: {}", body.trim_end().replace('\n', "; "))),
        _ => Err(format!("http://{address}/readyz gives no answer that hotrow gives (--admin-listen)")),
    }
}
