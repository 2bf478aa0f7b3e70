//! How a loop ends: nobody new comes in, whoever is there is served, and then nobody is left.

use super::listener::Queue;
use super::{Client, EventLoop};
use crate::connection::Role;
use crate::limits::{ACCEPTS_A_TURN, LISTEN_BACKLOG};
use std::sync::atomic::Ordering;

impl EventLoop {
    /// From here on every answer is the last of its connection.
    pub(super) fn begin_to_drain(&mut self) {
        if self.here.draining.is_some() {
            return;
        }
        self.here.draining = Some(self.here.now_ms + self.here.shared.drain_timeout_ms);
        // Whoever the kernel has let in is served; nobody new is let in. The admin socket stays to the end. A socket that
        // was handed over keeps its queue, and is given up at once.
        for listener in &mut self.listeners {
            listener.ready = listener.queue == Queue::Own;
        }
        // As many as a queue holds, whoever else comes meanwhile.
        for _ in 0..=LISTEN_BACKLOG as usize / ACCEPTS_A_TURN {
            self.accept();
        }
        self.listeners.retain(|listener| listener.role == Role::Admin);
        let cx = self.here.context();
        for (slot, client) in &mut self.clients {
            client.connection.drain(&cx);
            self.wheel.arm(slot as u32, client.connection.deadline_ms());
        }
    }

    /// Nobody is left to be served, or it has taken too long. Whoever has the admin socket waits for the other loops, too:
    /// what they still do is to be seen.
    pub(super) fn has_drained(&self) -> bool {
        let others_have =
            || self.listeners.is_empty() || self.here.shared.connections.load(Ordering::Relaxed) == 0;
        self.here
            .draining
            .is_some_and(|until_ms| self.is_served_out() && others_have() || self.here.now_ms >= until_ms)
    }

    /// Nobody is left to be served here.
    pub(super) fn is_served_out(&self) -> bool {
        self.clients.len() == self.admin
    }

    /// The time to drain is over: whoever still waits is told so.
    pub(super) fn abandon_all(&mut self) {
        let cx = self.here.context();
        for (_, Client { stream, connection, .. }) in &mut self.clients {
            connection.abandon(stream, &mut self.ws, &cx);
        }
    }
}
