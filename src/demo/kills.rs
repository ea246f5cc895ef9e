//! The worker is killed again and again while DynamoDB is in trouble, and started again on the same
//! disk. What was on the disk at any kill is in the table at the end, once.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::sleep;

use super::drill::Drill;
use super::local_aws;
use super::running_worker::{Error, RunningWorker};
use super::table_rows::TableRows;
use super::trouble::Trouble;
use super::world::World;
use crate::backlog::spool::{Spool, SpoolError};
use crate::table::Row;

/// How long at the most a worker lives on after the moment that was waited for.
const MOST_MILLIS: u64 = 400;

/// What a run is made of.
#[derive(Clone)]
pub struct Settings<'a> {
    /// The worker, and its feed. Troubles and moments are drawn from its seed, too.
    pub drill: Drill<'a>,
    /// How many are killed.
    pub kills: u64,
}

/// What is waited for before a kill; some milliseconds pass after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The process was started.
    Started,
    /// The stream is open.
    Reading,
    /// The file of the spool has changed: rows come to it, or leave it.
    Spooling,
    /// A row has come to the table; if it was in the spool, it may be there still.
    Writing,
}

impl Moment {
    const fn name(self) -> &'static str {
        match self {
            Self::Started => "its start",
            Self::Reading => "reading",
            Self::Spooling => "spooling",
            Self::Writing => "writing",
        }
    }
}

/// One kill.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kill {
    /// The first is 1.
    pub number: u64,
    /// What was wrong with DynamoDB; none where nothing was.
    pub trouble: Option<&'static str>,
    /// After what the process was killed.
    pub after: &'static str,
    /// How many milliseconds after it.
    pub after_millis: u64,
    /// Rows in the spool that it left.
    pub rows_in_spool: u64,
    /// Rows in the table.
    pub rows_in_table: u64,
}

/// What all kills came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// All of them.
    pub kills: Vec<Kill>,
    /// Rows that were in the spool at one kill at least.
    pub rows_in_spools: u64,
    /// Those of them that the table does not hold.
    pub rows_lost: u64,
    /// Rows with an id that another has, too.
    pub duplicate_ids: u64,
    /// Rows, in the table or in a spool, whose user, date or text is not what the feed sent.
    pub rows_differing: u64,
    /// Spools that could not be read after a kill.
    pub spools_unreadable: u64,
    /// What workers have logged as an error.
    pub errors: Vec<String>,
    /// Posts that the feed handed over.
    pub posts_sent: u64,
    /// Rows read back from the table.
    pub rows_in_table: u64,
    /// Posts that were in a killed process's memory or socket alone. No disk can keep these.
    pub posts_lost_with_memory: u64,
    /// How the last worker, which was not killed, ended.
    pub worker_exit: String,
}

impl Report {
    /// Whether all that was on the disk is in the table, once and to the letter, no disk was
    /// unreadable, and the last worker has ended well.
    #[must_use]
    pub fn is_right(&self) -> bool {
        let none = [
            self.rows_lost,
            self.duplicate_ids,
            self.rows_differing,
            self.spools_unreadable,
            self.errors.len() as u64,
        ];
        none.iter().all(|count| *count == 0) && self.worker_exit == "exit status: 0"
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trouble, after) = (self.trouble.unwrap_or("healthy"), self.after);
        write!(f, "kill {:>5}   {trouble:<13}", self.number)?;
        write!(f, "{:>4} ms after {after:<9}", self.after_millis)?;
        write!(f, "   in spool {:>7}   in table {:>8}", self.rows_in_spool, self.rows_in_table)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "  {name:<36}{value}");
        line("workers killed", &self.kills.len())?;
        let left = self.kills.iter().filter(|kill| kill.rows_in_spool > 0).count();
        line("  that left rows in the spool", &left)?;
        line("rows that were in a spool", &self.rows_in_spools)?;
        line("  of them lost", &self.rows_lost)?;
        line("duplicate ids", &self.duplicate_ids)?;
        line("rows not as sent", &self.rows_differing)?;
        line("spools unreadable", &self.spools_unreadable)?;
        line("errors in the workers' logs", &self.errors.len())?;
        for error in self.errors.iter().take(3) {
            line("", error)?;
        }
        line("posts sent", &self.posts_sent)?;
        line("rows in the table", &self.rows_in_table)?;
        line("posts in a killed process alone", &self.posts_lost_with_memory)?;
        line("the last worker ended with", &self.worker_exit)
    }
}

/// Kills workers, and lets a last one finish. `show` is called after each kill.
///
/// # Errors
/// A worker that does not start, ends by itself or hangs.
pub async fn run(settings: &Settings<'_>, mut show: impl FnMut(&Kill)) -> Result<Report, Error> {
    let Settings { drill, kills } = settings;
    let world = drill.world().await?;
    let folder = tempfile::tempdir()?;
    let mut lives = Lives {
        world: &world,
        program: drill.program,
        folder: folder.path(),
        rng: fastrand::Rng::with_seed(drill.seed),
        left: 0,
        seen: HashMap::new(),
        spools_unreadable: 0,
        errors: Vec::new(),
    };
    let mut made = Vec::new();
    for number in 1..=*kills {
        let kill = lives.kill(number).await?;
        show(&kill);
        made.push(kill);
    }
    let worker_exit = lives.finish().await?;

    let table = TableRows::read_back(&world)?;
    let expected = world.feed.expected_rows();
    let sent: HashMap<&str, _> = expected.iter().map(|row| (row.id.as_str(), row)).collect();
    let as_sent = |row: &&Row| {
        sent.get(row.id.as_str()).is_some_and(|sent| {
            (&sent.user, &sent.date, &sent.text) == (&row.user, &row.date, &row.text)
        })
    };
    let seen_as_sent = lives.seen.values().filter(as_sent).count();
    Ok(Report {
        kills: made,
        rows_in_spools: lives.seen.len() as u64,
        rows_lost: table.missing(lives.seen.keys().map(String::as_str)),
        duplicate_ids: table.duplicate_ids(),
        rows_differing: table.differing(&expected) + (lives.seen.len() - seen_as_sent) as u64,
        spools_unreadable: lives.spools_unreadable,
        errors: lives.errors,
        posts_sent: world.feed.statistics().posts_sent,
        rows_in_table: table.count,
        posts_lost_with_memory: table.missing(expected.iter().map(|row| row.id.as_str())),
        worker_exit,
    })
}

/// One worker after the other, on one disk.
struct Lives<'a> {
    world: &'a World,
    program: &'a Path,
    folder: &'a Path,
    rng: fastrand::Rng,
    /// Rows that the last one has left in the spool.
    left: usize,
    /// Rows that were in a spool, by id.
    seen: HashMap<String, Row>,
    spools_unreadable: u64,
    errors: Vec<String>,
}

impl Lives<'_> {
    async fn start(&self) -> Result<RunningWorker, Error> {
        // A worker starts when the table takes rows.
        self.world.aws.clear_faults();
        let spool = self.spool();
        let spool = spool.to_string_lossy();
        Ok(RunningWorker::start(self.world, self.program, &[("SPOOL_DIR", &*spool)]).await?)
    }

    fn spool(&self) -> std::path::PathBuf {
        self.folder.join("spool")
    }

    /// When the file of the spool was changed last.
    fn changed(&self) -> Option<SystemTime> {
        fs::metadata(self.spool().join("spool.redb")).and_then(|file| file.modified()).ok()
    }

    /// What the next life is like.
    fn draw(&mut self) -> (Option<Trouble>, Moment) {
        let moments = [Moment::Started, Moment::Reading, Moment::Spooling, Moment::Writing];
        let moment = self.rng.choice(moments).unwrap_or(Moment::Reading);
        let away = [Trouble::Outage, Trouble::Hang, Trouble::Denied].map(Some);
        let troubled = [Trouble::Throttling, Trouble::Resets, Trouble::LostAnswers].map(Some);
        let choice = match moment {
            // The table takes rows, and does so before a stream is open.
            Moment::Started => vec![None],
            Moment::Writing => [&[None], &troubled[..]].concat(),
            // Where the table takes some rows, none need go to the disk.
            Moment::Spooling => away.to_vec(),
            Moment::Reading => [&[None], &away[..], &troubled].concat(),
        };
        (self.rng.choice(choice).flatten(), moment)
    }

    async fn kill(&mut self, number: u64) -> Result<Kill, Error> {
        let (trouble, moment) = self.draw();
        let mut worker = self.start().await?;
        if moment != Moment::Started {
            worker.until("an open stream", |worker| worker.log.opened).await?;
            if let Some(trouble) = trouble {
                self.world.aws.inject(trouble.fault());
            }
        }
        match moment {
            Moment::Started | Moment::Reading => {}
            Moment::Spooling => {
                let before = self.changed();
                worker.until("a row in the spool", |_| self.changed() != before).await?;
            }
            Moment::Writing => {
                let before = self.rows_in_table()?;
                let written = || self.rows_in_table().is_ok_and(|rows| rows > before);
                worker.until("a row in the table", |_| written()).await?;
            }
        }
        let after_millis = self.rng.u64(0..=MOST_MILLIS);
        sleep(Duration::from_millis(after_millis)).await;
        worker.kill().await?;
        self.errors.append(&mut worker.log.errors);
        self.read_spool()?;
        let (trouble, after) = (trouble.map(Trouble::name), moment.name());
        let rows_in_spool = self.left as u64;
        let rows_in_table = self.rows_in_table()?;
        Ok(Kill { number, trouble, after, after_millis, rows_in_spool, rows_in_table })
    }

    fn rows_in_table(&self) -> Result<u64, local_aws::Error> {
        self.world.aws.table_item_count(self.world.table())
    }

    /// Reads what a killed process has left, in a copy: the next worker is to find the file as it is.
    fn read_spool(&mut self) -> Result<(), Error> {
        let copy = tempfile::tempdir_in(self.folder)?;
        match fs::copy(self.spool().join("spool.redb"), copy.path().join("spool.redb")) {
            Ok(_) => {}
            // It was killed before there was one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if let Ok(Some(rows)) = rows(copy.path()) {
            self.left = rows.len();
            self.seen.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
        } else {
            self.spools_unreadable += 1;
        }
        Ok(())
    }

    /// A last worker, which writes all that is left. Returns how it ended.
    async fn finish(&mut self) -> Result<String, Error> {
        let mut worker = self.start().await?;
        worker.until("an open stream", |worker| worker.log.opened).await?;
        worker.feed_ends(&self.world.feed).await?;
        worker
            .until("an empty spool", |worker| {
                let waiting = ["rows_waiting", "rows_in_spool"].map(|name| worker.log.count(name));
                worker.log.count("connects") > 0 && waiting == [0, 0]
            })
            .await?;
        let status = worker.stop().await?;
        self.errors.append(&mut worker.log.errors);
        Ok(status)
    }
}

/// The rows of a spool; none where it is damaged.
fn rows(folder: &Path) -> Result<Option<Vec<Row>>, SpoolError> {
    let (mut spool, damaged) = Spool::open(folder, u64::MAX)?;
    if damaged.is_some() {
        return Ok(None);
    }
    let rows = spool.oldest(&BTreeSet::new(), usize::MAX, usize::MAX)?;
    Ok(Some(rows.into_iter().map(|(_, row)| row).collect()))
}
