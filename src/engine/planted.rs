//! Bugs for the simulation to find: each takes one rule away, and has words of what is violated without it. Most are
//! looked for in [`super::shard`], the others in the simulation's own made-up parts (`src/simulation.rs`).

/// The bugs and the list of them are written at once, so that none is missing in the list.
macro_rules! bugs {
    ($($(#[$about:meta])+ $name:ident => $violation:literal,)+) => {
        /// A bug that the simulation must catch.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum PlantedBug {
            $($(#[$about])+ $name,)+
        }

        impl PlantedBug {
            /// Each, and what the violation says that it is caught by.
            pub const ALL: &[(PlantedBug, &str)] = &[$((PlantedBug::$name, $violation),)+];
        }
    };
}

bugs! {
    /// A write's end leaves reads their flight: an old value is cached after a newer one was acknowledged.
    LateRefill => "a hit",
    /// A write of unknown outcome leaves the old value in the cache.
    KeepInDoubt => "a hit",
    /// A DELETE leaves the value in the cache.
    DeleteForgetsToForget => "a hit",
    /// A read that fills nothing tells of a write under way, and the next hit does not know of it.
    TimeRunsBack => "a hit",
    /// Of two writers whose writes of a key overlap, the one that is heard of last is taken for the last to commit.
    MixedWritesAreCached => "a hit",
    /// A write in doubt is tried again although another writer has written the key since.
    TriedAgainBehindOthers => "has happened twice",
    /// Whoever waits for a change is not told of a write that nobody knows the end of.
    UnknownIsNoChange => "was never told",
    /// What a bulk load has replaced stays in the cache.
    LoadForgetsToForget => "a hit",
    /// Of an absent key a read of now tells nothing new, though a row may have been made and deleted meanwhile.
    AbsentIsNoNews => "a hit",
    /// A write's end puts its row over another program's, which was told while it was under way.
    TheEndIsTheNewest => "a hit",
    /// When a database has lost commits, what is being written is cached all the same.
    LostCommitsAreCached => "a hit",
    /// Writes of one key run on two writers: their outcomes reach the cache in another order than the table.
    ReorderedWrites => "a hit",
    /// The old backend is not waited for: what it had been sent may commit after the doubt is over.
    NoFence => "a hit",
    /// A write is acknowledged when it is sent.
    AcknowledgedBeforeCommit => "was acknowledged and not committed",
    /// The cache gives rows whose time is over.
    KeptPastItsTime => "whose time is over",
    /// A row that was looked at before its time was over is changed behind it.
    ChangedPastItsTime => "a swap of a row that was not there any more",
    /// An addition whose answer was lost is done again.
    CountedTwice => "additions are acknowledged",
    /// A batch does not hold the row that it is done for.
    NotHeld => "was done for a row that was not there any more",
    /// Every reply comes twice.
    AnsweredTwice => "has had its reply",
    /// A row is made where there is one.
    CreatedTwice => "a row was made where there was one",
}
