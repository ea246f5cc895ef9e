//! The keeper of the spool: a thread that moves rows between memory and disk. It alone touches the
//! file, so that no disk, however slow, holds up reading or writing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::time::Instant;

use super::spool::{Spool, SpoolError};
use super::{Desk, FEW, InHand, Room, Waiting};
use crate::table::Row;
use crate::telemetry::chain;

/// How many commands are taken for one transaction, at the most.
const BATCH: usize = 4_096;

/// How many rows are brought back from the disk at once, and how many bytes at about the most.
const BROUGHT_BACK: usize = 1_024;
const BROUGHT_BACK_BYTES: usize = 4 << 20;

/// How long nothing need be heard until the keeper looks for itself whether the table is away.
const LOOK: Duration = Duration::from_millis(500);

/// How long the disk is left alone after it has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// How often at most the same trouble is logged.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// What the keeper is told.
#[derive(Debug)]
pub(super) enum Command {
    /// A row that leaves memory.
    Put(u64, Row, Option<Room>),
    /// A copy of a row that stays in hand.
    Keep(u64, Row, Option<Room>),
    /// The row of this number is in the table, or can never be.
    Settled(u64),
    /// It is not in hand any more, and not in the table.
    Back(u64),
    /// Nothing more is accepted.
    Close,
    /// The writers are at an end: what is in memory is to be put on the disk.
    End,
}

pub(super) struct Keeper {
    spool: Spool,
    desk: Arc<Desk>,
    commands: Receiver<Command>,
    /// `None` once nothing will come back from the disk any more: then the writers can end.
    queue: Option<async_channel::Sender<Waiting>>,
    rows: async_channel::Receiver<Waiting>,
    in_hand: InHand,
    /// Not on the disk yet.
    added: Vec<(u64, Row, Option<Room>)>,
    /// Not gone from the disk yet.
    settled: Vec<u64>,
    closed: bool,
    ending: bool,
    said_failed: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        spool: Spool,
        desk: Arc<Desk>,
        commands: Receiver<Command>,
        queue: async_channel::Sender<Waiting>,
        rows: async_channel::Receiver<Waiting>,
    ) -> Self {
        Self {
            spool,
            desk,
            commands,
            queue: Some(queue),
            rows,
            in_hand: InHand::new(),
            added: Vec::new(),
            settled: Vec::new(),
            closed: false,
            ending: false,
            said_failed: None,
        }
    }

    pub(super) fn run(mut self) {
        // What an earlier process has left is not to wait for a first command.
        let mut wait = Duration::ZERO;
        loop {
            self.listen(wait);
            if self.ending || self.desk.pulse.is_away() {
                self.clear_queue();
            }
            wait = match self.turn() {
                Ok(()) if self.ending => return,
                Ok(()) => LOOK,
                Err(error) => {
                    self.say_failed(&error);
                    if self.ending {
                        return;
                    }
                    std::thread::sleep(PAUSE);
                    Duration::ZERO
                }
            };
        }
    }

    /// Takes what there is to take, and waits for a first command.
    fn listen(&mut self, wait: Duration) {
        match self.commands.recv_timeout(wait) {
            Ok(command) => self.obey(command),
            // The desk has a sender, and the keeper the desk.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
        while self.added.len() + self.settled.len() < BATCH {
            let Ok(command) = self.commands.try_recv() else { return };
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Put(number, row, room) => self.added.push((number, row, room)),
            Command::Keep(number, row, room) => {
                self.in_hand.insert(number);
                self.added.push((number, row, room));
            }
            Command::Settled(number) => {
                self.in_hand.remove(&number);
                self.settled.push(number);
            }
            Command::Back(number) => {
                self.in_hand.remove(&number);
            }
            Command::Close => self.closed = true,
            Command::End => self.ending = true,
        }
    }

    /// Puts what waits in memory on the disk. What came from there is there still.
    fn clear_queue(&mut self) {
        while self.added.len() < BATCH || self.ending {
            let Ok(waiting) = self.rows.try_recv() else { return };
            let (row, number, room) = waiting.into_parts();
            if let Some(number) = number {
                self.in_hand.remove(&number);
            } else {
                self.desk.counts.rows_in_spool.add(1);
                self.added.push((self.desk.number(), row, room));
            }
        }
    }

    /// One turn: the disk is brought up to date, and what can be written comes back from it.
    fn turn(&mut self) -> Result<(), SpoolError> {
        if !self.added.is_empty() || !self.settled.is_empty() {
            self.commit()?;
            self.spool.compact()?;
        }
        self.bring_back()?;
        let behind = self.behind();
        self.desk.behind.store(behind, Ordering::Relaxed);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), SpoolError> {
        self.drop_what_has_no_room();
        let added = self.added.iter().map(|(number, row, _)| (*number, row));
        let before = self.spool.rows() + self.added.len() as u64;
        self.spool.commit(added, self.settled.iter().copied())?;
        let counts = &self.desk.counts;
        counts.rows_spooled.add(self.added.len() as u64);
        counts.rows_in_spool.subtract(before.saturating_sub(self.spool.rows()));
        self.added.clear();
        self.settled.clear();
        Ok(())
    }

    /// The newest rows do not fit where the spool is full.
    fn drop_what_has_no_room(&mut self) {
        let (spool, mut bytes) = (&self.spool, 0);
        let fits = |(_, row, _): &mut (u64, Row, Option<Room>)| {
            let fits = spool.has_room(bytes + row.size() as u64);
            bytes += if fits { row.size() as u64 } else { 0 };
            !fits
        };
        for (number, ..) in self.added.extract_if(.., fits) {
            self.desk.counts.rows_in_spool.subtract(1);
            // A copy alone is no loss.
            if !self.in_hand.remove(&number) {
                self.desk.counts.rows_dropped.increment();
            }
        }
    }

    /// How many rows are on the disk alone.
    fn behind(&self) -> u64 {
        self.spool.rows().saturating_sub(self.in_hand.len() as u64)
    }

    /// Brings the oldest rows back to where the writers take them.
    fn bring_back(&mut self) -> Result<(), SpoolError> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let behind = self.behind();
        let wanted = queue.len() < BROUGHT_BACK / 2 || behind <= FEW;
        if behind > 0 && wanted && !self.desk.queue.is_full() && !self.desk.pulse.is_away() {
            let rows = self.spool.oldest(&self.in_hand, BROUGHT_BACK, BROUGHT_BACK_BYTES)?;
            for (number, row) in rows {
                let Some(room) = self.desk.queue.take(row.size()) else { break };
                self.in_hand.insert(number);
                // It is open: this thread has a receiver of it.
                drop(queue.try_send(Waiting::new(row, Some(number), room, &self.desk)));
            }
        }
        if self.closed && self.spool.rows() == 0 {
            self.queue = None;
        }
        Ok(())
    }

    /// Says that the disk has failed, but not again and again.
    fn say_failed(&mut self, error: &SpoolError) {
        if self.said_failed.is_none_or(|said| said.elapsed() > SAID_EVERY) {
            self.said_failed = Some(Instant::now());
            let error = chain(error);
            tracing::error!(error, "the spool failed; rows wait in memory until it works again");
        }
    }
}
