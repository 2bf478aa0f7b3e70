//! The sockets that are served: opened here, or handed over by a service manager (sd_listen_fds(3)). One that was handed
//! over outlives the process: whoever connects while nobody accepts waits in its queue, and a restart refuses nobody.
//! And the descriptors for them and for their connections. Used by [`super`]; `main` takes what is handed over before it starts threads.

use crate::config::{Config, Listen, exposure};
use crate::event_loop::listener::{self, Queue};
use crate::limits::{ADMIN_DESCRIPTORS, LOOP_DESCRIPTORS, OWN_DESCRIPTORS, SESSION_DESCRIPTORS};
use listenfd::ListenFd;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Listening sockets that this process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    data: Vec<TcpListener>,
    admin: Vec<TcpListener>,
}

/// What is served by whom.
#[derive(Debug)]
pub(super) struct Sockets {
    /// For the data, for each loop.
    pub(super) data: Vec<Dealt>,
    /// Where the data is; the first of several.
    pub(super) address: SocketAddr,
    /// For operations; the first loop's.
    pub(super) admin: Vec<TcpListener>,
    /// Where they are, if they are.
    pub(super) admin_address: Option<SocketAddr>,
    /// How many descriptors they are more than one a loop and one for operations.
    pub(super) extra: usize,
}

/// One loop's sockets.
type Dealt = Vec<(TcpListener, Queue)>;

/// Takes what was handed over, once: a second call finds nothing. It changes the environment, so nobody else may look at
/// that: no thread may have been started. An error is one line about how it was handed over: another try would find the same.
pub fn inherited(config: &Config) -> Result<Inherited, String> {
    let mut given = ListenFd::from_env();
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut inherited = Inherited::default();
    for at in 0..given.len() {
        let name = names.next().unwrap_or_default();
        let cannot = |error| format!("cannot take the socket {name:?} that was handed over: {error}");
        let Some(socket) = given.take_tcp_listener(at).map_err(cannot)? else { continue };
        listener::take_over(&socket).map_err(cannot)?;
        match name {
            "" | "http" | "https" => inherited.data.push(socket),
            "admin" => inherited.admin.push(socket),
            other => {
                return Err(format!(
                    "a socket was handed over with the name {other:?}; say what it is for: FileDescriptorName=http or \
                     FileDescriptorName=admin"
                ));
            }
        }
    }
    match inherited.exposure(config)? {
        Some(line) => Err(line),
        None => Ok(inherited),
    }
}

impl Inherited {
    /// What flags would have said of these addresses.
    fn exposure(&self, config: &Config) -> Result<Option<String>, String> {
        let (data, admin) = (addresses(&self.data)?, addresses(&self.admin)?);
        let of =
            |data, admin| exposure(data, admin, config.auth_tokens_file.is_some(), config.allow_anonymous);
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut lines =
            data.into_iter().map(|at| of(at, None)).chain(admin.into_iter().map(|at| of(nowhere, Some(at))));
        Ok(lines.find_map(|line| line))
    }
}

/// Opens what was not handed over. An error is one line with the flag and the remedy.
pub(super) fn open(config: &Config, given: Inherited, loops: usize) -> Result<Sockets, String> {
    let inherited = !given.data.is_empty();
    let data = match inherited {
        true => deal(&given.data, loops).map_err(|e| format!("cannot share a socket: {e}"))?,
        false => {
            let own = listen("--listen", config.listen, loops)?;
            own.into_iter().map(|socket| vec![(socket, Queue::Own)]).collect()
        }
    };
    let admin = match (given.admin.is_empty(), config.admin_listen) {
        (false, _) => given.admin,
        (true, Listen::Off) => Vec::new(),
        (true, Listen::At(at)) if !inherited && at == config.listen && at.port() != 0 => {
            return Err(format!("--admin-listen and --listen are both {at}: they need a port each"));
        }
        (true, Listen::At(at)) => listen("--admin-listen", at, 1)?,
    };
    let (addresses, admin_addresses) =
        (addresses(data.iter().flatten().map(|(socket, _)| socket))?, addresses(&admin)?);
    if inherited {
        for at in &addresses {
            log::info!("data is served on the socket at {at} that was handed over, not at --listen");
        }
    }
    let extra = data.iter().map(Vec::len).sum::<usize>() - loops + admin.len().saturating_sub(1);
    let admin_address = admin_addresses.first().copied();
    Ok(Sockets { data, address: addresses[0], admin, admin_address, extra })
}

/// Every loop polls a descriptor of its own. Of one socket all loops accept; of as many as there are loops, or more, each
/// loop has its own, as with `SO_REUSEPORT` (`ReusePort=yes`, and the address as often as there are loops). None is left
/// out: whoever waited there would wait for ever.
fn deal(given: &[TcpListener], loops: usize) -> io::Result<Vec<Dealt>> {
    let mut groups: Vec<(SocketAddr, Vec<&TcpListener>)> = Vec::new();
    for socket in given {
        let address = socket.local_addr()?;
        match groups.iter_mut().find(|(known, _)| *known == address) {
            Some((_, sockets)) => sockets.push(socket),
            None => groups.push((address, vec![socket])),
        }
    }
    let mut dealt: Vec<Dealt> = (0..loops).map(|_| Vec::new()).collect();
    for (_, sockets) in groups {
        let queue = if sockets.len() < loops { Queue::Shared } else { Queue::Kept };
        for at in 0..sockets.len().max(loops) {
            dealt[at % loops].push((sockets[at % sockets.len()].try_clone()?, queue));
        }
    }
    Ok(dealt)
}

/// Each address once, in their order.
fn addresses<'a>(sockets: impl IntoIterator<Item = &'a TcpListener>) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::new();
    for socket in sockets {
        let address = socket.local_addr().map_err(|e| format!("a listener has no address: {e}"))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn listen(flag: &str, address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, String> {
    listener::open(address, count).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port",
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
            _ => "choose another address",
        };
        format!("cannot listen on {address} ({flag}): {error}; {remedy}")
    })
}

/// As many descriptors as the system lets us have: every connection needs one.
pub(super) fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        log::warn!("the limit on file descriptors cannot be raised: {error}");
    }
}

/// How many descriptors connections may take, so that the rest of the server never lacks one.
pub(super) fn max_sockets(loops: usize, sessions: usize, listeners: usize) -> usize {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
    let others = OWN_DESCRIPTORS
        + ADMIN_DESCRIPTORS
        + loops * LOOP_DESCRIPTORS
        + listeners
        + sessions * SESSION_DESCRIPTORS;
    limit.saturating_sub(others).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many descriptors of which socket each loop gets.
    fn dealt(sockets: usize, loops: usize) -> Vec<usize> {
        let given = listener::open("127.0.0.1:0".parse().unwrap(), sockets).unwrap();
        let dealt = deal(&given, loops).unwrap();
        dealt.iter().map(Vec::len).collect()
    }

    #[test]
    fn every_loop_has_a_socket_and_every_socket_a_loop() {
        for (sockets, loops, expected) in [
            (1, 1, vec![1]),
            (1, 3, vec![1, 1, 1]),
            (2, 3, vec![1, 1, 1]),
            (3, 3, vec![1, 1, 1]),
            (5, 3, vec![2, 2, 1]),
        ] {
            assert_eq!(dealt(sockets, loops), expected, "{sockets} sockets, {loops} loops");
        }
        // Two addresses: each for every loop.
        let open = |at: &str| listener::open(at.parse().unwrap(), 1).unwrap().pop().unwrap();
        let given = [open("127.0.0.1:0"), open("127.0.0.2:0")];
        let dealt = deal(&given, 2).unwrap();
        for sockets in &dealt {
            let own: Vec<SocketAddr> =
                sockets.iter().map(|(socket, _)| socket.local_addr().unwrap()).collect();
            assert_eq!(own, addresses(&given).unwrap());
        }
    }
}
