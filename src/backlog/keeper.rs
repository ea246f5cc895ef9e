//! The keeper of the spool: a thread that moves rows between memory and disk. It alone touches the
//! file, so that no disk, however slow, holds up reading or writing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::time::Instant;

use super::spool::{Spool, SpoolError};
use super::{Desk, FEW, Room, Waiting};
use crate::table::{ITEM, Row};
use crate::telemetry::chain;

/// How many commands are taken for one transaction, at the most.
const BATCH: usize = 4_096;

/// How long more of them are waited for, so that a row does not have a transaction of its own: that
/// costs more than all the rest of its way.
const GATHERING: Duration = Duration::from_millis(50);

/// How many rows are brought back from the disk at once, and how many bytes at about the most.
const BROUGHT_BACK: usize = 2_048;
const BROUGHT_BACK_BYTES: usize = 4 << 20;

/// How long nothing need be heard until the keeper looks for itself whether the table is away.
const LOOK: Duration = Duration::from_millis(500);

/// The same once nothing more is accepted: the writers wait to hear that there is no more.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// How long the disk is left alone after it has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What fails is tried again with one in so many rows. Each failure has the file opened anew, which for
/// a large one takes its time.
const LESS: usize = 64;

/// What is left of the spool when rows that wait in memory do not go there any more: room for one row.
const LAST_ROOM: u64 = ITEM as u64;

/// How often at most the same trouble is logged.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// What the keeper is told.
#[derive(Debug)]
pub(super) enum Command {
    /// A row that leaves memory.
    Put(u64, Row, Room),
    /// A copy of a row that stays in hand.
    Keep(u64, Row, Room),
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
    /// Rows on the disk, or on their way there, that are not to be brought back from it: they are in
    /// memory as well, or settled.
    in_hand: BTreeSet<u64>,
    /// Not on the disk yet.
    added: Vec<(u64, Row, Room)>,
    /// On the disk, and not to be there any more.
    settled: Vec<u64>,
    /// Settled before they got there. A transaction that failed may have got there all the same.
    came_and_went: Vec<u64>,
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
            in_hand: BTreeSet::new(),
            added: Vec::new(),
            settled: Vec::new(),
            came_and_went: Vec::new(),
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
                Ok(()) if self.closed => LAST_LOOK,
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

    /// Waits for a first command, and gathers those that follow.
    fn listen(&mut self, wait: Duration) {
        let mut until = Instant::now() + wait;
        for heard in 0..BATCH {
            match self.commands.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(command) => self.obey(command),
                // The desk has a sender, and the keeper the desk.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
            if self.ending {
                return;
            }
            if heard == 0 {
                until = Instant::now() + GATHERING;
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Put(number, row, room) => self.added.push((number, row, room)),
            Command::Keep(number, row, room) => {
                self.in_hand.insert(number);
                self.added.push((number, row, room));
            }
            // A copy that the disk had no room for is not there to be removed.
            Command::Settled(number) if self.in_hand.contains(&number) => self.settled.push(number),
            Command::Settled(_) => {}
            Command::Back(number) => {
                self.in_hand.remove(&number);
            }
            Command::Close => self.closed = true,
            Command::End => self.ending = true,
        }
    }

    /// Puts what waits in memory on the disk, as long as there is room; at the end all of it. What came
    /// from there is there still.
    fn clear_queue(&mut self) {
        let mut bytes: u64 = self.added.iter().map(|(_, row, _)| row.size() as u64).sum();
        while self.ending || (self.added.len() < BATCH && self.spool.has_room(bytes + LAST_ROOM)) {
            let Ok(waiting) = self.rows.try_recv() else { return };
            let on_disk = waiting.on_disk;
            let (number, row, room) = waiting.into_parts();
            if on_disk {
                self.in_hand.remove(&number);
            } else {
                bytes += row.size() as u64;
                self.added.push((number, row, room));
            }
        }
    }

    /// One turn: the disk is brought up to date, and what can be written comes back from it. A disk
    /// that takes nothing more still gives.
    fn turn(&mut self) -> Result<(), SpoolError> {
        let mut taken = Ok(());
        if !self.added.is_empty() || !self.settled.is_empty() || !self.came_and_went.is_empty() {
            taken = self.commit().and_then(|()| self.spool.compact());
            if taken.is_err() {
                self.give_back();
            }
        }
        let given = self.bring_back();
        self.desk.behind.store(self.behind(), Ordering::Relaxed);
        self.desk.counts.rows_in_spool.set(self.on_disk());
        taken.and(given)
    }

    /// How many rows are on the disk that the table does not have.
    fn on_disk(&self) -> u64 {
        self.spool.rows().saturating_sub(self.settled.len() as u64)
    }

    /// A disk that has no space for all of it takes the oldest: after a failure less is tried at once,
    /// and in the end only what goes from it. One without space for even that begins anew, once the
    /// table has all that was there.
    fn commit(&mut self) -> Result<(), SpoolError> {
        self.forget_what_came_and_went();
        self.drop_what_has_no_room();
        let mut most = self.added.len();
        let mut failed = Ok(());
        loop {
            match self.commit_first(most) {
                Ok(()) if self.added.is_empty() => return Ok(()),
                Ok(()) if most == 0 => return failed,
                Ok(()) => most = most.min(self.added.len()),
                Err(_) if most == 0 && self.is_spent() => {
                    self.spool.renew()?;
                    self.forget_settled();
                    most = self.added.len();
                }
                Err(error) if most == 0 => return Err(error),
                Err(error) => {
                    failed = Err(error);
                    most /= LESS;
                }
            }
        }
    }

    /// Whether the disk holds rows, but none that is wanted.
    fn is_spent(&mut self) -> bool {
        if self.settled.is_empty() {
            return false;
        }
        // It is asked, as a transaction that failed may have got there all the same.
        let unwanted = self.settled.iter().chain(&self.came_and_went).copied().collect();
        self.spool.oldest(&unwanted, 1, usize::MAX).is_ok_and(|wanted| wanted.is_empty())
    }

    /// One transaction, with the first so many of what is to be added.
    fn commit_first(&mut self, most: usize) -> Result<(), SpoolError> {
        let added = self.added.iter().take(most).map(|(number, row, _)| (*number, row));
        self.spool.commit(added, self.settled.iter().chain(&self.came_and_went).copied())?;
        self.desk.counts.rows_spooled.add(most as u64);
        self.added.drain(..most);
        self.forget_settled();
        self.desk.counts.rows_in_spool.set(self.on_disk());
        Ok(())
    }

    fn forget_settled(&mut self) {
        for number in self.settled.drain(..).chain(self.came_and_went.drain(..)) {
            self.in_hand.remove(&number);
        }
    }

    /// A copy whose row was settled before it got to the disk has no use for room there.
    fn forget_what_came_and_went(&mut self) {
        let settled: HashSet<u64> = self.settled.iter().copied().collect();
        let went = |(number, ..): &mut (u64, Row, Room)| settled.contains(number);
        let went: HashSet<u64> =
            self.added.extract_if(.., went).map(|(number, ..)| number).collect();
        self.settled.retain(|number| !went.contains(number));
        self.came_and_went.extend(went);
    }

    /// While the table takes rows and the disk does not, they go to the table. Copies of rows in hand
    /// wait for the disk.
    fn give_back(&mut self) {
        if self.desk.pulse.is_away() {
            return;
        }
        let in_hand = &self.in_hand;
        let rows: Vec<_> =
            self.added.extract_if(.., |(number, ..)| !in_hand.contains(number)).collect();
        for (number, row, room) in rows {
            if let Err(row) = self.to_memory(number, row) {
                self.added.push((number, row, room));
            }
        }
    }

    /// Has a row wait in memory that was on its way to the disk. Returns it where there is no room.
    fn to_memory(&self, number: u64, row: Row) -> Result<(), Row> {
        let Some(queue) = self.queue.as_ref().filter(|_| !self.ending) else { return Err(row) };
        let Some(room) = self.desk.queue.take(row.size()) else { return Err(row) };
        // It is open: this thread has a receiver of it.
        drop(queue.try_send(Waiting::new(number, row, false, room, &self.desk)));
        Ok(())
    }

    /// Where the spool is full, the newest rows wait in memory, and are dropped where that is full, too.
    fn drop_what_has_no_room(&mut self) {
        let (spool, mut bytes) = (&self.spool, 0);
        let fits_not = |(_, row, _): &mut (u64, Row, Room)| {
            let fits = spool.has_room(bytes + row.size() as u64);
            bytes += if fits { row.size() as u64 } else { 0 };
            !fits
        };
        let rows: Vec<_> = self.added.extract_if(.., fits_not).collect();
        for (number, row, _room) in rows {
            // A copy alone is no loss. At the end a row that is let go of stays among those that wait, and
            // is told of with them.
            let is_copy = self.in_hand.remove(&number);
            if !is_copy && self.to_memory(number, row).is_err() && !self.ending {
                self.desk.counts.rows_dropped.increment();
            }
        }
    }

    /// How many rows are on the disk alone.
    fn behind(&self) -> u64 {
        // Copies that have not got there are not among those that it holds.
        let is_copy = |(number, ..): &&(u64, Row, Room)| self.in_hand.contains(number);
        let under_way = self.added.iter().filter(is_copy).count() + self.came_and_went.len();
        self.spool.rows().saturating_sub(self.in_hand.len().saturating_sub(under_way) as u64)
    }

    /// Brings the oldest rows back to where the writers take them.
    fn bring_back(&mut self) -> Result<(), SpoolError> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let behind = self.behind();
        // Where what is in hand can never be written, only another row shows that the table is there.
        let (wanted, most) = if self.desk.pulse.is_away() {
            (queue.is_empty() && !self.ending, 1)
        } else {
            (queue.len() < BROUGHT_BACK / 2 || behind <= FEW, BROUGHT_BACK)
        };
        if behind > 0 && wanted && !self.desk.queue.is_full() {
            let rows = self.spool.oldest(&self.in_hand, most, BROUGHT_BACK_BYTES)?;
            for (number, row) in rows {
                let Some(room) = self.desk.queue.take(row.size()) else { break };
                self.in_hand.insert(number);
                // It is open: this thread has a receiver of it.
                drop(queue.try_send(Waiting::new(number, row, true, room, &self.desk)));
            }
        }
        // What waits in memory may have to go over the disk yet, if the table goes away.
        if self.closed && self.on_disk() == 0 && self.added.is_empty() && self.rows.is_empty() {
            self.queue = None;
        }
        Ok(())
    }

    /// Says that the disk has failed, but not again and again.
    fn say_failed(&mut self, error: &SpoolError) {
        if self.ending {
            let (error, rows) = (chain(error), self.added.len());
            return tracing::error!(error, rows, "the spool failed; rows in memory are lost");
        }
        if self.said_failed.is_none_or(|said| said.elapsed() > SAID_EVERY) {
            self.said_failed = Some(Instant::now());
            let error = chain(error);
            tracing::error!(error, "the spool failed; rows wait in memory until it works again");
        }
    }
}
