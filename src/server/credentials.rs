//! What is read from files at the start and again at SIGHUP: tokens, and the certificate with its key. A file that cannot be used at the start ends it; one
//! that cannot be used later leaves what was in force. Used by [`super`] and, through [`Renewer`], by `main`.

use crate::api::auth::Tokens;
use crate::config::Config;
use crate::event_loop::Credentials;
use crate::event_loop::inbox::{Inbox, Mail};
use crate::event_loop::tls;
use crate::secrets;
use rustls::ServerConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where they are.
#[derive(Clone, Debug)]
struct Files {
    tokens: Option<PathBuf>,
    /// The certificate and its key.
    tls: Option<(PathBuf, PathBuf)>,
}

/// Reads them again, and tells the loops.
#[derive(Debug)]
pub struct Renewer {
    files: Files,
    current: Credentials,
    inboxes: Vec<Arc<Inbox>>,
}

impl Renewer {
    /// Reads the files that the flags name. An error is one line with the flag and the rule.
    pub(super) fn load(config: &Config) -> Result<Renewer, String> {
        let files = Files {
            tokens: config.auth_tokens_file.clone(),
            tls: config.tls_cert.clone().zip(config.tls_key.clone()),
        };
        let tokens = files.tokens.as_deref().map(tokens).transpose()?.map(Arc::new);
        let tls = files.tls.as_ref().map(|(cert, key)| tls_config(cert, key)).transpose()?;
        Ok(Renewer { files, current: Credentials { tokens, tls }, inboxes: Vec::new() })
    }

    /// What is in force.
    pub(super) fn current(&self) -> Credentials {
        self.current.clone()
    }

    /// Whom to tell.
    pub(super) fn telling(self, inboxes: Vec<Arc<Inbox>>) -> Renewer {
        Renewer { inboxes, ..self }
    }

    /// Reads every file again. Each that can be used is in force a moment later; what is wrong with another is logged.
    pub fn renew(&mut self) {
        if let Some(path) = &self.files.tokens {
            match tokens(path) {
                Ok(tokens) => {
                    log::info!("{tokens:?} are in force from {}", path.display());
                    let before = self.current.tokens.take();
                    let tokens = match before {
                        Some(before) => tokens.after(&before),
                        None => tokens,
                    };
                    self.current.tokens = Some(Arc::new(tokens));
                }
                Err(error) => log::error!("{error}; the tokens from before stay in force"),
            }
        }
        if let Some((cert, key)) = &self.files.tls {
            match tls_config(cert, key) {
                Ok(config) => {
                    log::info!("new connections get the certificate in {}", cert.display());
                    self.current.tls = Some(config);
                }
                Err(error) => log::error!("{error}; the certificate from before stays in force"),
            }
        }
        for inbox in &self.inboxes {
            if let Err(error) = inbox.send(Mail::Renew(self.current.clone())) {
                log::error!("an event loop cannot be told of renewed credentials: {error}");
            }
        }
    }
}

fn tls_config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    // A key that cannot be looked at cannot be read either, and that is an error of its own.
    if secrets::is_exposed(key).unwrap_or(false) {
        log::warn!("other users of this machine can read --tls-key {}; chmod 600 it", key.display());
    }
    tls::config(cert, key)
}

fn tokens(path: &Path) -> Result<Tokens, String> {
    let bad = |e: String| format!("cannot use --auth-tokens-file {}: {e}", path.display());
    if secrets::is_exposed(path).map_err(|e| bad(e.to_string()))? {
        log::warn!(
            "other users of this machine can read --auth-tokens-file {}; chmod 600 it",
            path.display()
        );
    }
    let text = secrets::read(path).map_err(|e| bad(e.to_string()))?;
    Tokens::parse(&text).map_err(bad)
}
