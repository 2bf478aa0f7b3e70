//! The database at the start: opened, the private one too, and made ready in time, or refused with the cause and the remedy. Used by
//! [`super`].

use super::{MARGIN, cannot_start_thread};
use crate::config::Config;
use crate::store;
use crate::store::conninfo::URL_FORM;
use crate::store::managed::{Killer, Managed};
use crate::store::postgres::{About, Postgres};
use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a database may take to answer for the first time, if its URL does not say that it may take longer.
pub(super) const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long it may take whatever its URL says.
const LONGEST_ANSWER: Duration = Duration::from_secs(60 * 60);
/// How often somebody is asked whether it is still to be waited for.
const LOOK: Duration = Duration::from_secs(1);
/// The pause between two attempts at a database that is starting.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The database that was named, or the private one, which is started.
pub(super) fn open_database(
    config: &Config,
    address: SocketAddr,
    sessions: usize,
    killer: &Killer,
    takes_longer: &mut impl FnMut(Duration) -> bool,
) -> Result<(Postgres, Option<Managed>), String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let instance = format!("{host}/{address}");
    match &config.database_url {
        Some(url) => {
            let database = Postgres::new(url, &instance, config.request_timeout);
            let unusable =
                |e| format!("cannot use {}: {e}; it looks like {URL_FORM}", config.database_given_by);
            Ok((database.map_err(unusable)?, None))
        }
        None => {
            let managed = Managed::start(&config.data_dir, sessions, killer, takes_longer)?;
            let database = Postgres::private(&managed.url(), &instance, config.request_timeout);
            Ok((database.map_err(|e| format!("cannot use the private PostgreSQL: {e}"))?, Some(managed)))
        }
    }
}

/// How far a database is on its way to be ready.
enum Preparing {
    /// There are migrations to apply.
    Migrates,
    Done(Result<About, store::Error>),
}

/// Makes the database ready. A server that takes the connection and then says nothing is an error, not a hang.
pub(super) fn prepare_in_time(
    database: &Postgres,
    place: &str,
    takes_longer: impl FnMut(Duration) -> bool,
) -> Result<About, String> {
    let (sender, receiver) = mpsc::channel();
    let limit = database.longest_open().clamp(FIRST_ANSWER, LONGEST_ANSWER);
    let database = database.clone();
    thread::Builder::new()
        .name("prepare".into())
        .spawn(move || {
            // Nobody listens any more to who was given up.
            let done = prepare(&database, limit, || drop(sender.send(Preparing::Migrates)));
            drop(sender.send(Preparing::Done(done)));
        })
        .map_err(|e| cannot_start_thread(&e))?;
    let unusable = |cause: String| {
        let remedy = remedy(&cause);
        format!("cannot use the database ({place}): {cause}; {remedy}")
    };
    wait_for(&receiver, limit, takes_longer).map_err(unusable)
}

/// Waits for so long, and for migrations without end: whoever gave them up would begin anew with them. Whether it is still to be
/// waited for is asked meanwhile.
fn wait_for(
    receiver: &mpsc::Receiver<Preparing>,
    limit: Duration,
    mut takes_longer: impl FnMut(Duration) -> bool,
) -> Result<About, String> {
    let (mut migrates, mut said) = (false, false);
    let mut deadline = Instant::now() + limit;
    loop {
        match receiver.recv_timeout(LOOK.min(deadline.saturating_duration_since(Instant::now()))) {
            Ok(Preparing::Done(result)) => return result.map_err(|e| e.to_string()),
            Ok(Preparing::Migrates) => migrates = true,
            Err(RecvTimeoutError::Timeout) => {
                let is_over = Instant::now() >= deadline;
                if is_over && migrates {
                    deadline = Instant::now() + limit;
                    if !std::mem::replace(&mut said, true) {
                        log::info!(
                            "migrations are being applied: the more rows there are, the longer it takes"
                        );
                    }
                } else if is_over {
                    return Err(no_answer(limit));
                }
                if !takes_longer(deadline.saturating_duration_since(Instant::now()) + MARGIN) {
                    let what = if migrates { "its migrations were applied" } else { "it had answered" };
                    return Err(format!("told to stop before {what}"));
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Err(no_answer(limit)),
        }
    }
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs())
}

/// A server that is starting, or recovers from a crash, says so: it is given a moment instead of taken for unusable.
fn prepare(database: &Postgres, limit: Duration, migrates: impl Fn()) -> Result<About, store::Error> {
    let until = Instant::now() + limit.mul_f32(0.9);
    loop {
        match database.prepare(&migrates) {
            Err(error) if is_passing(&error.to_string()) && Instant::now() < until => {
                thread::sleep(FIRST_PAUSE)
            }
            result => return result,
        }
    }
}

/// SQLSTATE class 57, operator intervention, and a session that it has cut off.
fn is_passing(cause: &str) -> bool {
    cause.contains("SQLSTATE 57P0") || cause.contains("connection closed")
}

fn remedy(cause: &str) -> &'static str {
    match cause {
        _ if cause.contains("28P01") || cause.contains("28000") || cause.contains("password") => {
            "check user and password, and the server's pg_hba.conf"
        }
        _ if cause.contains("3D000") => "make it with: createdb --encoding=UTF8 NAME",
        _ if cause.contains("42501") && cause.contains("hotrow_migrations") => {
            "GRANT SELECT ON hotrow_migrations to it"
        }
        _ if cause.contains("hotrow_migrations says") => "then start hotrow again",
        _ if cause.contains("42501") || cause.contains("3F000") => {
            "grant CREATE on its schema, or apply sql/migrations as an administrator"
        }
        _ if cause.contains("pg_stat_activity hides") => "then start hotrow again",
        _ if ["the column", "no column", "plain table", "unique index", "does not take a statement"]
            .iter()
            .any(|part| cause.contains(part)) =>
        {
            "it is no table of hotrow's: alter it (hotrow migrate --print shows one), or choose another database"
        }
        _ if cause.contains("has not made") => {
            "hotrow migrate takes it for that; else rename it, or choose another database"
        }
        _ if cause.contains("encoded in") => "choose another database",
        _ if cause.contains("told to stop before its migrations") => "the next start begins anew with them",
        _ if cause.contains("TLS") => {
            "check sslmode and sslrootcert in the URL, and the server's certificate and its setting ssl"
        }
        _ => "check that PostgreSQL runs there and takes connections",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_waited_for_and_silence_is_not() {
        let (sender, receiver) = mpsc::channel();
        let no_time = Duration::ZERO;
        let silence = wait_for(&receiver, no_time, |_| panic!("nothing was begun"));
        assert_eq!(silence, Err("no answer within 0 s".to_owned()));
        sender.send(Preparing::Migrates).unwrap();
        let (mut told, about) = (0, About { version: "15".into() });
        let result = wait_for(&receiver, no_time, |longer| {
            assert_eq!(longer, MARGIN);
            told += 1;
            if told == 5 {
                sender.send(Preparing::Done(Ok(about.clone()))).unwrap();
            }
            true
        });
        assert_eq!((result, told), (Ok(about), 5));
        // Nobody wants it any more.
        sender.send(Preparing::Migrates).unwrap();
        assert!(wait_for(&receiver, no_time, |_| false).unwrap_err().contains("told to stop"));
    }
}
