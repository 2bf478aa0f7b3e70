//! Starts the worker threads. Blocking happens in them and nowhere else. Called by [`crate::server`].

use super::reader::Reader;
use super::sweeper::Sweeper;
use super::worker::Shared;
use super::writer::Writer;
use super::{Connector, Job, ReadWork};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// The queues to the workers, and their threads.
#[derive(Debug)]
pub struct Pool {
    /// To all readers.
    pub reads: Sender<ReadWork>,
    /// To each writer.
    pub writes: Vec<Sender<Job>>,
    /// Nothing is sent here: when it is gone, the sweeper ends, and a reader that waits for its database.
    pub end: Sender<Infallible>,
    /// They end when all senders are gone.
    pub threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the workers. `queue_depth` bounds each queue, in jobs.
    pub fn start<C: Connector>(
        shared: &Arc<Shared<C>>,
        readers: usize,
        writers: usize,
        queue_depth: usize,
    ) -> io::Result<Pool> {
        let (reads, read_queue): (Sender<ReadWork>, Receiver<ReadWork>) = bounded(queue_depth);
        let (end, ends) = bounded(1);
        let mut threads = Vec::new();
        for i in 0..readers {
            let reader = Reader::new(Arc::clone(shared), read_queue.clone(), ends.clone(), i);
            threads.push(Builder::new().name(format!("reader {i}")).spawn(move || reader.run())?);
        }
        let mut writes = Vec::new();
        for i in 0..writers {
            let (sender, queue) = bounded(queue_depth);
            writes.push(sender);
            let writer = Writer::new(Arc::clone(shared), queue, i);
            threads.push(Builder::new().name(format!("writer {i}")).spawn(move || writer.run())?);
        }
        let sweep = Sweeper::new(Arc::clone(shared), ends);
        threads.push(Builder::new().name("sweeper".into()).spawn(move || sweep.run())?);
        Ok(Pool { reads, writes, end, threads })
    }
}
