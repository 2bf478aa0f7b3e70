//! The server, as its clients here see it: two requests, and which of their failures may pass. The only place that knows
//! `ureq`. Used by [`super::import`] and [`super::export`].

use super::report;
use crate::api::collection::PATH;
use crate::api::list::NDJSON;
use crate::config::transfer as flags;
use crate::process::say;
use crate::{secrets, store};
use rustls::crypto::ring;
use std::cell::Cell;
use std::error::Error as _;
use std::io::{ErrorKind, Read};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Error, Timeout};

/// How long a name may take to be found and a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long nothing may come, or go. Longer than the server takes for any step, unless its `--request-timeout` is large.
const SILENCE: Duration = Duration::from_secs(120);
/// More than the server ever answers to lines: a hundred refusals.
const ANSWER_BYTES: u64 = 1024 * 1024;
/// The longest token that a server may have, with room for blanks.
const TOKEN_BYTES: usize = 1024;

/// Why there is no answer, or none of use.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Another try may do, after a pause that the server may have named.
    MayPass(String, Option<Duration>),
    /// It would end in the same way.
    Stays(String),
}

/// An answer to lines.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) content: Vec<u8>,
}

/// A server.
#[derive(Debug)]
pub(super) struct Remote {
    agent: Agent,
    base: String,
    authorization: Option<String>,
    /// Somebody is there: not to be reached again may pass, never to have been is a mistake in the URL.
    was_there: Cell<bool>,
}

impl Remote {
    /// Reads the files that the flags name.
    pub(super) fn new(flags: &flags::Remote) -> Result<Remote, String> {
        let base = flags.base().to_owned();
        let authorization = flags.token_file.as_deref().map(authorization).transpose()?;
        // Nothing in between may answer in the server's place, and nobody else is to get the token.
        let config = Agent::config_builder().http_status_as_error(false).proxy(None);
        let config = config.max_redirects(0).max_redirects_will_error(false);
        let config = config.user_agent(concat!("hotrow/", env!("CARGO_PKG_VERSION")));
        let config = config.timeout_connect(Some(CONNECT)).timeout_recv_response(Some(SILENCE));
        let mut config = config.timeout_per_read(Some(SILENCE)).timeout_per_write(Some(SILENCE));
        find(&base)?;
        if base.starts_with("https:") {
            config = config.tls_config(tls(flags.cacert.as_deref())?);
        }
        let agent = config.build().new_agent();
        Ok(Remote { agent, base, authorization, was_there: Cell::new(false) })
    }

    /// All rows with a prefix, or those behind a key: a stream of lines.
    pub(super) fn rows(&self, query: &str) -> Result<impl Read + use<>, Trouble> {
        let mut request = self.agent.get(format!("{}{PATH}?{query}", self.base));
        request = request.header(header::ACCEPT, NDJSON);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answer = self.answered(request.call())?;
        let fields = answer.headers();
        let is =
            |name, value: &str| field(fields, name).is_some_and(|field| field.eq_ignore_ascii_case(value));
        match answer.status().as_u16() {
            200 if !is(header::CONTENT_TYPE, NDJSON) => {
                Err(Trouble::Stays(self.about("the answer is none that hotrow gives")))
            }
            // Whoever speaks HTTP/1.0 in between cannot say whether all of it has come.
            200 if !is(header::TRANSFER_ENCODING, "chunked")
                && field(fields, header::CONTENT_LENGTH).is_none() =>
            {
                Err(Trouble::Stays(self.about("the answer does not say where it ends")))
            }
            200 => Ok(answer.into_body().into_with_config().limit(u64::MAX).reader()),
            status => {
                let retry_after = retry_after(fields);
                let reason = self.about(&report::reason(status, &content(answer)?));
                if report::may_pass(status) {
                    Err(Trouble::MayPass(reason, retry_after))
                } else {
                    Err(Trouble::Stays(reason))
                }
            }
        }
    }

    /// Stores lines.
    pub(super) fn load(&self, lines: &[u8]) -> Result<Answer, Trouble> {
        let mut request = self.agent.put(format!("{}{PATH}", self.base));
        // A refusal that needs no look at the lines comes before they are sent, and is not lost on the way.
        request = request.header(header::CONTENT_TYPE, NDJSON).header(header::EXPECT, "100-continue");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answer = self.answered(request.send(lines))?;
        let (status, retry_after) = (answer.status().as_u16(), retry_after(answer.headers()));
        Ok(Answer { status, retry_after, content: content(answer)? })
    }

    /// What went wrong, and with whom.
    pub(super) fn about(&self, reason: &str) -> String {
        format!("{}{PATH}: {reason}", self.base)
    }

    fn answered(&self, result: Result<Response<Body>, Error>) -> Result<Response<Body>, Trouble> {
        let error = match result {
            Ok(answer) => {
                self.was_there.set(true);
                return Ok(answer);
            }
            Err(error) => error,
        };
        let reason = self.about(&words(&error));
        let passes = match &error {
            Error::Io(e) if is_nobody(e.kind()) => self.was_there.get(),
            Error::HostNotFound | Error::ConnectionFailed => self.was_there.get(),
            Error::Timeout(Timeout::Connect | Timeout::Resolve) => self.was_there.get(),
            // A certificate that is not trusted comes as an error of I/O, too.
            Error::Io(e) if is_about_tls(e) => false,
            Error::Io(_) | Error::Timeout(_) => {
                // Somebody has taken the connection.
                self.was_there.set(true);
                true
            }
            _ => false,
        };
        Err(if passes { Trouble::MayPass(reason, None) } else { Trouble::Stays(reason) })
    }
}

/// A name that nobody has will not be found by asking again.
fn find(base: &str) -> Result<(), String> {
    let uri: Uri = base.parse().map_err(|e| format!("{base}: {e}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    match (host, uri.port_u16().unwrap_or(443)).to_socket_addrs() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{base}: cannot find {host}: {error}")),
    }
}

fn content(answer: Response<Body>) -> Result<Vec<u8>, Trouble> {
    let read = answer.into_body().into_with_config().limit(ANSWER_BYTES).read_to_vec();
    read.map_err(|error| match error {
        Error::BodyExceedsLimit(_) => Trouble::Stays("the answer is longer than any of hotrow's".into()),
        error => Trouble::MayPass(format!("the answer has broken off: {}", words(&error)), None),
    })
}

fn field(fields: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    fields.get(name)?.to_str().ok()
}

fn retry_after(fields: &HeaderMap) -> Option<Duration> {
    report::retry_after(field(fields, header::RETRY_AFTER)?)
}

/// Nobody is there, or there is no way.
fn is_nobody(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::AddrNotAvailable
    )
}

fn is_about_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// An error in one line.
fn words(error: &Error) -> String {
    match error {
        Error::HostNotFound => "there is no such host".into(),
        Error::ConnectionFailed => "cannot connect".into(),
        Error::Io(error) => error.to_string(),
        Error::Rustls(error) => error.to_string(),
        Error::Timeout(Timeout::Connect | Timeout::Resolve) => "nobody takes the connection".into(),
        Error::Timeout(_) => format!("nothing has come or gone for {} s", SILENCE.as_secs()),
        error => error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}

/// The field with the token in a file.
fn authorization(path: &Path) -> Result<String, String> {
    let bad = |reason: String| format!("cannot use --token-file {}: {reason}", path.display());
    let text = secrets::read(path).map_err(|e| bad(e.to_string()))?;
    let token = text.trim();
    if token.is_empty() || token.len() > TOKEN_BYTES || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad("there is to be one token in it, and nothing else".into()));
    }
    if secrets::is_exposed(path).map_err(|e| bad(e.to_string()))? {
        say(format_args!(
            "hotrow: other users of this machine can read --token-file {}; chmod 600 it",
            path.display()
        ));
    }
    Ok(format!("Bearer {token}"))
}

/// Whom to trust, with the same cryptography that the server has.
fn tls(cacert: Option<&Path>) -> Result<TlsConfig, String> {
    let certificates = store::tls::trusted(cacert).map_err(|reason| match cacert {
        Some(path) => format!("cannot use --cacert {}: {reason}", path.display()),
        None => reason,
    })?;
    if certificates.is_empty() {
        return Err("the system trusts no certificate; install ca-certificates, or give --cacert".into());
    }
    let certificates: Vec<_> =
        certificates.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build())
}
