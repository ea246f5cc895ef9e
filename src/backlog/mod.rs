//! Where accepted rows wait for the table: in memory while it answers, on disk while it does not.
//!
//! Reading never waits for writing. A row goes to the queue in memory, from which the writers take.
//! When the table has acknowledged nothing for [`pulse::AWAY`], or the queue is full, the rows of the
//! queue and those that follow go to the [`spool`], a file that a killed process leaves to the next.
//! From there they come back, oldest first, and each leaves the file once the table has it. Without
//! `SPOOL_DIR` there is the queue alone. What finds no room is dropped, counted and reported.

mod keeper;
pub mod pulse;
pub mod spool;

use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc as thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::counts::Counts;
use crate::table::Row;
use keeper::{Command, Keeper};
use pulse::Pulse;
use spool::{Spool, SpoolError};

/// How many rows wait in the queue, at the most.
pub const QUEUE_ROWS: usize = 65_536;

/// How many bytes they have together, at the most, by [`Row::size`]. Most rows have some hundred,
/// but a post may be long, and a small task has 512 MB.
pub const QUEUE_BYTES: usize = 32 << 20;

/// As long as no more rows than these are on the disk alone, the next go to memory, and those on the
/// disk come back whatever there is: else a few would be on their way for ever.
const FEW: u64 = 512;

/// So much more may be on its way to the disk.
const UNDER_WAY_ROWS: usize = 16_384;
const UNDER_WAY_BYTES: usize = 8 << 20;

/// How long the disk has to take what is left at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// A row that the table does not have yet. One that is let go of before it is settled goes to the
/// disk, whatever the reason.
#[derive(Debug)]
pub struct Waiting {
    row: Row,
    /// Its place in the order in which rows came.
    number: u64,
    /// Whether the disk has a copy of it, or one is on its way there.
    on_disk: bool,
    desk: Arc<Desk>,
    room: Room,
    /// Whether a writer has begun to write it.
    begun: bool,
    settled: bool,
}

impl Waiting {
    /// What is to be written.
    #[must_use]
    pub const fn row(&self) -> &Row {
        &self.row
    }

    /// A writer begins to write it. Until this goes, an answer is waited for.
    pub fn begin(&mut self) {
        if !mem::replace(&mut self.begun, true) {
            self.desk.pulse.begin();
        }
    }

    /// What the table says of rows is told here.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.desk.pulse
    }

    /// The row was not written yet. While the table is away the disk has a copy of it.
    pub fn keep(&mut self) {
        if !self.on_disk && self.desk.pulse.is_away() {
            self.on_disk = self.desk.keep(self.number, &self.row);
        }
    }

    /// The row is in the table, or can never be.
    pub fn settle(mut self) {
        self.settled = true;
        if self.on_disk {
            self.desk.tell(Command::Settled(self.number));
        }
    }

    fn new(number: u64, row: Row, on_disk: bool, room: Room, desk: &Arc<Desk>) -> Self {
        Self { row, number, on_disk, desk: Arc::clone(desk), room, begun: false, settled: false }
    }

    /// Its number, the row and its room, for whoever puts it elsewhere.
    fn into_parts(mut self) -> (u64, Row, Room) {
        self.settled = true;
        (self.number, mem::take(&mut self.row), mem::take(&mut self.room))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.begun {
            self.desk.pulse.end();
        }
        if self.settled {
            return;
        }
        let (number, row) = (self.number, mem::take(&mut self.row));
        self.desk.tell(if self.on_disk {
            Command::Back(number)
        } else {
            // It needs no room on its way: not more than the writers have in hand are let go of.
            Command::Put(number, row, Room::default())
        });
    }
}

/// What reader, writers and keeper share.
#[derive(Debug)]
struct Desk {
    pulse: Arc<Pulse>,
    counts: Arc<Counts>,
    queue: Arc<Bound>,
    under_way: Arc<Bound>,
    /// To the keeper of the spool, where there is one.
    keeper: Option<thread::Sender<Command>>,
    /// The number of the next row.
    next: AtomicU64,
    /// How many rows are on the disk alone.
    behind: AtomicU64,
}

impl Desk {
    fn tell(&self, command: Command) {
        if let Some(keeper) = &self.keeper {
            // It is at an end only where the process leaves.
            let _ = keeper.send(command);
        }
    }

    /// Whether a row that comes now has many before it on the disk.
    fn is_behind(&self) -> bool {
        let under_way = self.under_way.rows.load(Ordering::Relaxed) as u64;
        self.behind.load(Ordering::Relaxed) + under_way > FEW
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives a row to the disk. Returns it where there is no disk, or too much on its way there.
    fn put(&self, number: u64, row: Row) -> Result<(), Row> {
        if self.keeper.is_none() {
            return Err(row);
        }
        let Some(room) = self.under_way.take(row.size()) else { return Err(row) };
        self.tell(Command::Put(number, row, room));
        Ok(())
    }

    /// Gives the disk a copy of a row that stays in hand. Whether it is on its way: not where there is no
    /// disk, or too much on its way there.
    fn keep(&self, number: u64, row: &Row) -> bool {
        let room = self.keeper.as_ref().and_then(|_| self.under_way.take(row.size()));
        let Some(room) = room else { return false };
        self.tell(Command::Keep(number, row.clone(), room));
        true
    }
}

/// The end of the backlog that takes rows in.
#[derive(Debug)]
pub struct Backlog {
    desk: Arc<Desk>,
    queue: async_channel::Sender<Waiting>,
}

impl Backlog {
    /// Takes a row that was accepted. Never waits.
    pub fn accept(&self, row: Row) {
        let Err(_dropped) = self.wait(row) else { return };
        self.desk.counts.rows_dropped.increment();
    }

    fn wait(&self, mut row: Row) -> Result<(), Row> {
        let desk = &self.desk;
        let number = desk.number();
        let to_disk = desk.is_behind() || desk.pulse.is_away();
        if to_disk {
            match desk.put(number, row) {
                Ok(()) => return Ok(()),
                Err(refused) => row = refused,
            }
        }
        let Some(room) = desk.queue.take(row.size()) else {
            return if to_disk { Err(row) } else { desk.put(number, row) };
        };
        // It has no bound of its own, and is open as long as a writer lives.
        let waiting = Waiting::new(number, row, false, room, desk);
        let Err(refused) = self.queue.try_send(waiting) else { return Ok(()) };
        Err(refused.into_inner().into_parts().1)
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.desk.tell(Command::Close);
    }
}

/// The end of the backlog that outlives the reading.
#[derive(Debug)]
pub struct Rest {
    desk: Arc<Desk>,
    /// Where a keeper was started, it tells its end here.
    ended: Option<oneshot::Receiver<()>>,
}

impl Rest {
    /// Whether the table answers is known here.
    #[must_use]
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.desk.pulse)
    }

    /// Puts what is still in memory on the disk, where there is one. The writers are at an end.
    pub async fn flush(self) {
        self.desk.tell(Command::End);
        if let Some(ended) = self.ended
            && timeout(FLUSH, ended).await.is_err()
        {
            tracing::error!(limit = ?FLUSH, "the spool did not take what was left in time");
        }
    }
}

/// Sets up a backlog, with what an earlier process has left in its spool.
///
/// # Errors
/// A thread that cannot be started. A spool that cannot be used is no error: then the log says so,
/// and there is the queue alone.
pub fn open(
    spool: Option<(&Path, u64)>,
    counts: &Arc<Counts>,
) -> std::io::Result<(Backlog, Rest, async_channel::Receiver<Waiting>)> {
    let (queue, rows) = async_channel::unbounded();
    if spool.is_none() {
        tracing::info!(queue_rows = QUEUE_ROWS, "there is no SPOOL_DIR: rows wait in memory alone");
    }
    let spool = spool.and_then(|(folder, limit)| opened(folder, limit));
    let (sender, commands) = thread::channel();
    let desk = Arc::new(Desk {
        pulse: Arc::new(Pulse::new(Instant::now())),
        counts: Arc::clone(counts),
        queue: Arc::new(Bound::new(QUEUE_ROWS, QUEUE_BYTES)),
        under_way: Arc::new(Bound::new(UNDER_WAY_ROWS, UNDER_WAY_BYTES)),
        keeper: spool.is_some().then_some(sender),
        next: AtomicU64::new(spool.as_ref().map_or(0, Spool::next)),
        behind: AtomicU64::new(spool.as_ref().map_or(0, Spool::rows)),
    });
    let ended = match spool {
        None => None,
        Some(spool) => {
            counts.rows_recovered.add(spool.rows());
            counts.rows_in_spool.set(spool.rows());
            let (end, ended) = oneshot::channel();
            let keeper =
                Keeper::new(spool, Arc::clone(&desk), commands, queue.clone(), rows.clone());
            std::thread::Builder::new().name("spool".to_owned()).spawn(move || {
                keeper.run();
                // Nobody waits for it where the process leaves at once.
                let _ = end.send(());
            })?;
            Some(ended)
        }
    };
    Ok((Backlog { desk: Arc::clone(&desk), queue }, Rest { desk, ended }, rows))
}

fn opened(folder: &Path, limit: u64) -> Option<Spool> {
    let unusable = |error: SpoolError| {
        let error = crate::telemetry::chain(&error);
        tracing::error!(
            error,
            queue_rows = QUEUE_ROWS,
            "there is no spool: rows wait in memory alone"
        );
    };
    let (spool, damaged) = Spool::open(folder, limit).map_err(unusable).ok()?;
    if let Some(aside) = damaged {
        let aside = aside.display();
        tracing::error!(%aside, "the spool cannot be read and was moved aside: rows in it were not written");
    }
    if spool.rows() > 0 {
        tracing::info!(rows = spool.rows(), "an earlier process has left rows in the spool");
    }
    Some(spool)
}

/// So many rows and bytes may be in a place at once.
#[derive(Debug)]
struct Bound {
    rows: AtomicUsize,
    bytes: AtomicUsize,
    most_rows: usize,
    most_bytes: usize,
}

impl Bound {
    const fn new(most_rows: usize, most_bytes: usize) -> Self {
        Self { rows: AtomicUsize::new(0), bytes: AtomicUsize::new(0), most_rows, most_bytes }
    }

    fn is_full(&self) -> bool {
        self.rows.load(Ordering::Relaxed) >= self.most_rows
            || self.bytes.load(Ordering::Relaxed) >= self.most_bytes
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let room = Room { bound: Some(Arc::clone(self)), bytes };
        let rows = self.rows.fetch_add(1, Ordering::Relaxed);
        let taken = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // What was added is given back where the room goes. A row alone always fits.
        (rows < self.most_rows && (taken + bytes <= self.most_bytes || taken == 0)).then_some(room)
    }
}

/// A place for one row, which is given back where this goes; by default none.
#[derive(Debug, Default)]
struct Room {
    bound: Option<Arc<Bound>>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(bound) = &self.bound {
            bound.rows.fetch_sub(1, Ordering::Relaxed);
            bound.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As long as a busy machine may take.
    const LIMIT: Duration = Duration::from_mins(1);

    fn row(number: usize) -> Row {
        let text = "x".repeat(300);
        Row { user: "user".into(), date: "date".into(), text, id: number.to_string() }
    }

    /// Takes as many rows as there must be, as a writer does.
    fn take(rows: &async_channel::Receiver<Waiting>, count: usize) -> Vec<Waiting> {
        (0..count).map(|_| rows.recv_blocking().unwrap()).collect()
    }

    fn ids(rows: &[Waiting]) -> Vec<usize> {
        rows.iter().map(|waiting| waiting.row().id.parse().unwrap()).collect()
    }

    /// Takes as many rows as there must be, and settles each.
    fn write(rows: &async_channel::Receiver<Waiting>, count: usize) -> Vec<usize> {
        let settled = (0..count).map(|_| {
            let waiting = rows.recv_blocking().unwrap();
            let id = waiting.row().id.parse().unwrap();
            waiting.settle();
            id
        });
        settled.collect()
    }

    /// Row 0, which a writer has in hand until the table counts as away.
    fn cut_off(backlog: &Backlog, rows: &async_channel::Receiver<Waiting>) -> Waiting {
        backlog.accept(row(0));
        let mut waiting = take(rows, 1).pop().unwrap();
        waiting.begin();
        until(|| waiting.pulse().is_away());
        waiting
    }

    fn until(condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < LIMIT);
            std::thread::yield_now();
        }
    }

    async fn flush(backlog: Backlog, rest: Rest) {
        drop(backlog);
        rest.flush().await;
    }

    #[test]
    fn without_a_spool_the_newest_rows_are_dropped_and_counted_where_the_queue_is_full() {
        let counts = Arc::new(Counts::default());
        let (backlog, _rest, rows) = open(None, &counts).unwrap();
        for number in 0..QUEUE_ROWS + 10 {
            backlog.accept(row(number));
        }
        assert_eq!((rows.len(), counts.rows_dropped.count()), (QUEUE_ROWS, 10));
        take(&rows, 1).pop().unwrap().settle();
        backlog.accept(row(0));
        assert_eq!((rows.len(), counts.rows_dropped.count()), (QUEUE_ROWS, 10));
    }

    #[test]
    fn long_rows_fill_the_queue_by_their_bytes() {
        let counts = Arc::new(Counts::default());
        let (backlog, _rest, rows) = open(None, &counts).unwrap();
        for number in 0..64 {
            backlog.accept(Row { text: "x".repeat(1 << 20), ..row(number) });
        }
        assert_eq!((rows.len(), counts.rows_dropped.count()), (31, 33));
        take(&rows, 31).into_iter().for_each(Waiting::settle);
        // One alone always fits.
        backlog.accept(Row { text: "x".repeat(QUEUE_BYTES * 2), ..row(0) });
        assert_eq!(rows.len(), 1);
    }

    #[tokio::test]
    async fn what_the_queue_cannot_hold_goes_over_the_disk_in_its_order_and_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::default());
        let (backlog, rest, rows) = open(Some((folder.path(), 1 << 30)), &counts).unwrap();
        let all = QUEUE_ROWS + 3_000;
        for number in 0..all {
            backlog.accept(row(number));
        }
        until(|| counts.rows_in_spool.level() == 3_000);
        assert_eq!(write(&rows, QUEUE_ROWS), (0..QUEUE_ROWS).collect::<Vec<_>>());
        let taken = take(&rows, 3_000);
        assert_eq!(ids(&taken), (QUEUE_ROWS..all).collect::<Vec<_>>());
        // In memory again, and on the disk as well, until the table has them.
        assert_eq!(counts.rows_in_spool.level(), 3_000);
        taken.into_iter().for_each(Waiting::settle);
        until(|| counts.rows_in_spool.level() == 0);
        backlog.accept(row(all));
        assert_eq!(ids(&take(&rows, 1)), [all], "and was not settled");
        flush(backlog, rest).await;
        assert_eq!((counts.rows_spooled.count(), counts.rows_dropped.count()), (3_001, 0));
        assert_eq!(Spool::open(folder.path(), 1 << 30).unwrap().0.rows(), 1);
    }

    #[tokio::test]
    async fn a_row_that_is_let_go_of_is_on_the_disk_and_the_next_process_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Some((folder.path(), 1 << 30));
        let counts = Arc::new(Counts::default());
        let (backlog, rest, rows) = open(spool, &counts).unwrap();
        for number in 0..30 {
            backlog.accept(row(number));
        }
        let mut taken = take(&rows, 20);
        taken.drain(..10).for_each(Waiting::settle);
        drop(taken);
        flush(backlog, rest).await;

        let counts = Arc::new(Counts::default());
        let (backlog, rest, rows) = open(spool, &counts).unwrap();
        assert_eq!((counts.rows_recovered.count(), counts.rows_in_spool.level()), (20, 20));
        let taken = take(&rows, 20);
        let mut found = ids(&taken);
        found.sort_unstable();
        assert_eq!(found, (10..30).collect::<Vec<_>>());
        // One that is given back comes again.
        drop(taken);
        let taken = take(&rows, 20);
        drop(backlog);
        assert!(!rows.is_closed(), "rows are in hand");
        taken.into_iter().for_each(Waiting::settle);
        assert!(rows.recv().await.is_err(), "nothing can come any more");
        rest.flush().await;
        assert_eq!(Spool::open(folder.path(), 1 << 30).unwrap().0.rows(), 0);
    }

    #[tokio::test]
    async fn rows_that_go_to_the_disk_after_the_last_was_accepted_come_back_too() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::default());
        let (backlog, rest, rows) = open(Some((folder.path(), 1 << 30)), &counts).unwrap();
        for number in 0..100 {
            backlog.accept(row(number));
        }
        let mut first = take(&rows, 1).pop().unwrap();
        first.begin();
        drop(backlog);
        until(|| counts.rows_in_spool.level() == 99);
        let _ = first.pulse().acknowledged();
        first.settle();
        assert_eq!(write(&rows, 99), (1..100).collect::<Vec<_>>());
        assert!(rows.recv().await.is_err(), "nothing can come any more");
        rest.flush().await;
        assert_eq!(counts.rows_in_spool.level(), 0);
    }

    #[test]
    fn rows_that_waited_in_memory_as_the_table_went_away_come_back_before_those_that_came_later() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::default());
        let (backlog, _rest, rows) = open(Some((folder.path(), 1 << 30)), &counts).unwrap();
        backlog.accept(row(0));
        let mut first = take(&rows, 1).pop().unwrap();
        first.begin();
        for number in 1..=5_000 {
            backlog.accept(row(number));
        }
        until(|| first.pulse().is_away());
        for number in 5_001..=6_000 {
            backlog.accept(row(number));
        }
        until(|| counts.rows_in_spool.level() == 6_000);
        let _ = first.pulse().acknowledged();
        first.settle();
        assert_eq!(write(&rows, 6_000), (1..=6_000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_is_left_at_the_end_goes_to_the_disk_as_far_as_it_fits() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::default());
        let room = 10 * row(10).size() as u64;
        let (backlog, rest, _rows) = open(Some((folder.path(), room)), &counts).unwrap();
        for number in 10..25 {
            backlog.accept(row(number));
        }
        flush(backlog, rest).await;
        assert_eq!(counts.rows_in_spool.level(), 10);
    }

    #[test]
    fn a_row_that_is_refused_for_ever_does_not_keep_those_on_the_disk_from_being_tried() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::default());
        let (backlog, _rest, rows) = open(Some((folder.path(), 1 << 30)), &counts).unwrap();
        let refused = cut_off(&backlog, &rows);
        for number in 1..100 {
            backlog.accept(row(number));
        }
        until(|| !rows.is_empty());
        assert_eq!(ids(&take(&rows, 1)), [1]);
        let _ = refused.pulse().acknowledged();
        let mut found: Vec<usize> = write(&rows, 99);
        found.sort_unstable();
        assert_eq!(found, (1..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_full_spool_does_not_take_waits_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::default());
        let (backlog, _rest, rows) = open(Some((folder.path(), 1 << 20)), &counts).unwrap();
        let only = cut_off(&backlog, &rows);
        let all = 2 * (1 << 20) / row(0).size();
        for number in 1..=all {
            backlog.accept(row(number));
        }
        until(|| counts.rows_spooled.count() > 0 && rows.len() > all / 4);
        let _ = only.pulse().acknowledged();
        let mut found = write(&rows, all);
        found.sort_unstable();
        assert_eq!(found, (1..=all).collect::<Vec<_>>());
        assert_eq!(counts.rows_dropped.count(), 0);
    }

    #[tokio::test]
    async fn a_copy_that_a_full_spool_does_not_take_is_no_row_lost() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::default());
        let (backlog, rest, rows) = open(Some((folder.path(), 100)), &counts).unwrap();
        let mut only = cut_off(&backlog, &rows);
        only.keep();
        only.settle();
        flush(backlog, rest).await;
        assert_eq!((counts.rows_dropped.count(), counts.rows_in_spool.level()), (0, 0));
    }

    #[test]
    fn a_full_spool_drops_the_newest_rows_and_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::default());
        let (backlog, _rest, rows) = open(Some((folder.path(), 1 << 20)), &counts).unwrap();
        let all = QUEUE_ROWS + 4_000;
        for number in 0..all {
            backlog.accept(row(number));
        }
        let fit = (1 << 20) / row(QUEUE_ROWS).size();
        until(|| counts.rows_spooled.count() + counts.rows_dropped.count() == 4_000);
        assert_eq!(counts.rows_spooled.count(), fit as u64);
        assert_eq!(write(&rows, QUEUE_ROWS + fit), (0..QUEUE_ROWS + fit).collect::<Vec<_>>());
    }

    #[test]
    fn a_folder_that_cannot_be_used_leaves_the_queue() {
        let counts = Arc::new(Counts::default());
        let (backlog, _rest, rows) =
            open(Some((Path::new("/proc/spool"), 1 << 30)), &counts).unwrap();
        backlog.accept(row(0));
        assert_eq!(ids(&take(&rows, 1)), [0]);
    }
}
