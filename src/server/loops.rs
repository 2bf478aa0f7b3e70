//! The event loops: what each polls, hears from others and counts is made before anything knows of it, for workers answer into
//! inboxes; then each is started in a thread of its own. Used by [`super`].

use super::cannot_start_thread;
use super::sockets::Sockets;
use crate::connection::Role;
use crate::event_loop::inbox::Inbox;
use crate::event_loop::listener::{Listener, Queue};
use crate::event_loop::{ADMIN_LISTENER, Credentials, DATA_LISTENER, EventLoop, Shared, WAKER};
use crate::metrics::Counters;
use mio::{Poll, Waker};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// An event loop that is to be.
pub(super) struct Seed {
    poll: Poll,
    pub(super) inbox: Arc<Inbox>,
    pub(super) counters: Arc<Counters>,
}

/// What so many loops begin with.
pub(super) fn seeds(loops: usize) -> Result<Vec<Seed>, String> {
    let seed = |_| {
        let poll = Poll::new()?;
        let inbox = Arc::new(Inbox::new(Waker::new(poll.registry(), WAKER)?));
        Ok(Seed { poll, inbox, counters: Arc::default() })
    };
    (0..loops).map(seed).collect::<io::Result<_>>().map_err(|e| cannot_poll(&e))
}

/// Starts them, each with its share of the sockets.
pub(super) fn start(
    seeds: Vec<Seed>,
    sockets: Sockets,
    shared: &Arc<Shared>,
    credentials: &Credentials,
) -> Result<Vec<JoinHandle<()>>, String> {
    let Sockets { data, mut admin, .. } = sockets;
    let mut threads = Vec::new();
    for (number, (seed, data)) in seeds.into_iter().zip(data).enumerate() {
        let Seed { poll, inbox, counters } = seed;
        let data = data.into_iter();
        let data = data.map(|(socket, queue)| Listener::new(socket, DATA_LISTENER, Role::Data, queue));
        // The first loop serves operations too.
        let admin = admin.drain(..);
        let admin = admin.map(|socket| Listener::new(socket, ADMIN_LISTENER, Role::Admin, Queue::Own));
        let listeners = data.chain(admin).collect();
        let (shared, credentials) = (Arc::clone(shared), credentials.clone());
        let event_loop = EventLoop::new(poll, number as u16, shared, credentials, inbox, counters, listeners)
            .map_err(|e| cannot_poll(&e))?;
        let turn = move || {
            // Nobody would serve its connections any more, and others would go on as if all were well: as where it panics, who
            // watches over the process starts it anew.
            if let Err(error) = event_loop.run() {
                log::error!("event loop {number} has failed: {error}");
                log::logger().flush();
                std::process::abort();
            }
        };
        let thread = thread::Builder::new().name(format!("loop {number}")).spawn(turn);
        threads.push(thread.map_err(|e| cannot_start_thread(&e))?);
    }
    Ok(threads)
}

fn cannot_poll(error: &io::Error) -> String {
    format!("cannot poll: {error}")
}
