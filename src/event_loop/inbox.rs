//! Replies and commands for one event loop, and its waker. Sent to by the workers and by [`crate::server`]; drained by
//! the loop.

use super::Credentials;
use crate::store::{Deliver, Reply};
use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Waker;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a loop is sent.
#[derive(Debug)]
pub enum Mail {
    /// An answer for one of its connections.
    Reply(Reply),
    /// From now on these are in force.
    Renew(Credentials),
    /// Show that the loop turns.
    Beat,
    /// Stop accepting, and end when the last connection has.
    Drain,
}

/// Both sides of the queue. It has no bound of its own: replies are bounded by the workers' queues, by the shards' waiters and watchers, and
/// by the keys of a request.
#[derive(Debug)]
pub struct Inbox {
    sender: Sender<Mail>,
    receiver: Receiver<Mail>,
    waker: Waker,
    /// A wake is on its way: further mail needs none.
    awake: AtomicBool,
    /// Pieces of [`Mail::Beat`] that the loop has come across.
    beats: AtomicU64,
    /// The loop has ended as it should.
    ended: AtomicBool,
}

impl Inbox {
    /// An inbox whose mail wakes the poll that `waker` belongs to.
    pub fn new(waker: Waker) -> Inbox {
        let (sender, receiver) = unbounded();
        let (awake, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Inbox { sender, receiver, waker, awake, beats: AtomicU64::new(0), ended }
    }

    /// Sends one piece of mail and wakes the loop.
    pub fn send(&self, mail: Mail) -> io::Result<()> {
        self.push(mail);
        self.wake()
    }

    /// The loop has come across a [`Mail::Beat`].
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// How many it has come across.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// The loop has nothing left to do, and ends.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// True once the loop has ended in good order.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn push(&self, mail: Mail) {
        self.sender.send(mail).expect("the receiver lives as long as the sender: both are here");
    }

    /// One system call for a batch, and none while the loop has not looked since the last.
    fn wake(&self) -> io::Result<()> {
        if self.awake.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // One that has failed is not on its way: the next piece of mail tries again.
        self.waker.wake().inspect_err(|_| self.awake.store(false, Ordering::Release))
    }

    /// What came since the last time. The order is what makes it safe: first reset, *then* drain. Mail that comes
    /// between the two is drained now and wakes once more for nothing; the other way round it would be left lying.
    pub fn drain(&self) -> impl Iterator<Item = Mail> {
        // A swap like the sender's: of two swaps one comes first, so that either the mail is seen or the wake is sent.
        self.awake.swap(false, Ordering::AcqRel);
        self.receiver.try_iter()
    }
}

/// The inboxes of all loops, for the workers.
#[derive(Debug)]
pub struct Inboxes(pub Vec<Arc<Inbox>>);

impl Deliver for Inboxes {
    fn deliver(&self, replies: &mut Vec<Reply>) {
        let mut to_wake = 0u64;
        for reply in replies.drain(..) {
            let event_loop = usize::from(reply.ticket.event_loop);
            // A bit for each: there are 64 loops at most.
            to_wake |= 1 << event_loop;
            self.0[event_loop].push(Mail::Reply(reply));
        }
        for (at, inbox) in self.0.iter().enumerate() {
            if to_wake & (1 << at) != 0
                && let Err(error) = inbox.wake()
            {
                log::error!("event loop {at} cannot be woken: {error}");
            }
        }
    }
}
