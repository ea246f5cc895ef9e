//! The writers: threads that take rows from the backlog and put them into the table, many at once,
//! each row until it is there.
//!
//! A writer has a runtime of its own for its thread alone, which costs a third less of processor time
//! than one runtime over all threads does, and reading never waits for it. So it has connections of its
//! own, too: over those that the other one opened, each call would wake that one's thread and wait for
//! it, which costs a third as much again.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::backlog::Waiting;
use crate::counts::Counts;
use crate::retry::Jitter;
use crate::table::{Kind, Table};

/// How many `PutItem` calls are under way at once, at the most, over all writers.
const IN_FLIGHT: usize = 64;

/// How many writers there are at the most. One keeps a core busy, and more than two would read faster
/// than a feed delivers.
const WRITERS: usize = 2;

/// The longest wait before a row is tried again: short enough that a stop writes what an outage that
/// is just over has left.
const RETRY: Duration = Duration::from_secs(2);

/// A row that is refused as invalid is given up when the table has taken others between two such answers,
/// and again between the next two. Once would not tell: an answer to another row may come late.
const BESIDE_OTHERS: u32 = 2;

/// The running writers.
#[derive(Debug)]
pub struct Writers {
    /// Closed once all are at an end.
    ended: mpsc::Receiver<()>,
    leave: watch::Sender<bool>,
}

impl Writers {
    /// Starts them: one for each processor, two at the most.
    ///
    /// # Errors
    /// A thread or a runtime that cannot be started.
    pub fn start(
        table: &Table,
        rows: &async_channel::Receiver<Waiting>,
        counts: &Arc<Counts>,
    ) -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let writers = processors.clamp(1, WRITERS);
        let (end, ended) = mpsc::channel(1);
        let leave = watch::Sender::new(false);
        for _ in 0..writers {
            let (table, rows, counts) = (table.clone(), rows.clone(), Arc::clone(counts));
            let (end, mut left) = (end.clone(), leave.subscribe());
            let (report, begun) = std::sync::mpsc::channel();
            thread::Builder::new().name("writer".to_owned()).spawn(move || {
                // Made here, because a runtime must not be dropped where another one runs.
                let runtime =
                    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                        Ok(runtime) => runtime,
                        Err(error) => return drop(report.send(error)),
                    };
                drop(report);
                let table = table.with_own_connections();
                runtime.block_on(async {
                    tokio::select! {
                        () = write_all(&table, &rows, IN_FLIGHT / writers, &counts) => {}
                        // What is under way is let go of, and goes to the disk.
                        _ = left.wait_for(|leave| *leave) => {}
                    }
                });
                // A lookup of a name may still hang in a thread; it has nothing to finish.
                runtime.shutdown_background();
                drop(end);
            })?;
            if let Ok(error) = begun.recv() {
                return Err(error);
            }
        }
        Ok(Self { ended, leave })
    }

    /// Until all rows are written and no more can come.
    pub async fn ended(&mut self) {
        // Nothing is ever sent.
        self.ended.recv().await;
    }

    /// Ends them with what they have in hand.
    pub async fn leave(&mut self) {
        self.leave.send_replace(true);
        self.ended().await;
    }
}

async fn write_all(
    table: &Table,
    rows: &async_channel::Receiver<Waiting>,
    in_flight: usize,
    counts: &Counts,
) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = under_way.next() => {}
            row = rows.recv(), if under_way.len() < in_flight => match row {
                Ok(waiting) => under_way.push(write(table, waiting, counts)),
                Err(async_channel::RecvError) => break,
            },
        }
    }
    while under_way.next().await.is_some() {}
}

/// Writes a row, however long it takes. Only one that no table can take is given up.
async fn write(table: &Table, mut waiting: Waiting, counts: &Counts) {
    if let Some(fault) = waiting.row().fault() {
        return give_up(waiting, fault, counts);
    }
    let (mut refused_at, mut beside_others) = (None, 0);
    let mut jitter = Jitter::new(Duration::from_millis(100), RETRY);
    waiting.begin();
    loop {
        let asked = Instant::now();
        let error = match table.put(waiting.row()).await {
            Ok(collided) => {
                counts.put_latency.record(asked.elapsed());
                if collided {
                    counts.rows_collided.increment();
                }
                counts.rows_written.increment();
                if let Some(silence) = waiting.pulse().acknowledged() {
                    let away_seconds = silence.as_secs_f64();
                    tracing::info!(
                        table = table.name(),
                        away_seconds,
                        rows_waiting = counts.summary().rows_waiting,
                        "the table takes rows again",
                    );
                }
                return waiting.settle();
            }
            Err(error) => error,
        };
        if error.kind == Kind::Invalid {
            let before = refused_at.replace(Instant::now());
            let others = waiting.pulse().last_acknowledged();
            beside_others += u32::from(before.is_some_and(|before| others > before));
            if beside_others == BESIDE_OTHERS {
                return give_up(waiting, &error.to_string(), counts);
            }
        }
        match error.kind {
            Kind::Taken => {
                let reason = "its date#id is the key of an item with another id";
                return give_up(waiting, reason, counts);
            }
            Kind::Invalid | Kind::Denied | Kind::NoTaskRole | Kind::NoTable | Kind::Transient => {
                // In an outage every row fails again and again.
                if waiting.pulse().failed() {
                    tracing::warn!(
                        error = %error,
                        advice = error.kind.advice(),
                        rows_waiting = counts.summary().rows_waiting,
                        rows_in_spool = counts.rows_in_spool.level(),
                        "a row was not written yet",
                    );
                }
                waiting.keep();
                sleep(jitter.next_wait()).await;
            }
        }
    }
}

fn give_up(waiting: Waiting, reason: &str, counts: &Counts) {
    counts.rows_rejected.increment();
    let id = waiting.row().id.as_str();
    tracing::error!(id, reason, "a row can never be written and was dropped");
    waiting.settle();
}
