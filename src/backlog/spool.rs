//! The rows that wait on disk: one file of an embedded database, in the order in which they came.
//!
//! It holds posts, and never a credential. Every change is one transaction that is on the disk when
//! [`Spool::commit`] returns, so a process may be killed at any moment: the next one finds what was
//! committed.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};

use crate::table::Row;

/// The file in `SPOOL_DIR`.
const FILE: &str = "spool.redb";

/// A row by its number: user, date, text, id.
const ROWS: TableDefinition<u64, (&str, &str, &str, &str)> = TableDefinition::new("rows");

/// One entry: the size of all rows together, by [`Row::size`].
const BYTES: TableDefinition<(), u64> = TableDefinition::new("bytes");

/// What the database keeps of its file in memory. Rows pass it once, in order: more would not help.
const CACHE_BYTES: usize = 4 << 20;

/// A file that has grown beyond this is made small again once nothing waits in it.
const COMPACT_BYTES: u64 = 16 << 20;

/// Why rows do not wait on disk.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder or the file cannot be used.
    #[error("{path} cannot be written")]
    File {
        /// What cannot be written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{0} is in use by another process; each worker needs a SPOOL_DIR of its own")]
    InUse(PathBuf),
    /// The database refuses.
    #[error("{path} failed")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
}

/// Rows on disk.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    /// `None` after a failure, until it could be opened again.
    database: Option<Database>,
    limit: u64,
    bytes: u64,
    rows: u64,
    next: u64,
}

impl Spool {
    /// Opens the spool of `folder`, and makes it where there is none. A file that is damaged is moved
    /// aside, never deleted, and its new path returned with the empty spool that takes its place.
    ///
    /// # Errors
    /// A folder that cannot be written, or a spool that another process uses.
    pub fn open(folder: &Path, limit: u64) -> Result<(Self, Option<PathBuf>), SpoolError> {
        fs::create_dir_all(folder)
            .map_err(|source| SpoolError::File { path: folder.to_owned(), source })?;
        let path = folder.join(FILE);
        let mut spool = Self { path, database: None, limit, bytes: 0, rows: 0, next: 0 };
        let aside = match spool.reopen() {
            Err(SpoolError::Database { source, .. }) if is_damage(&source) => {
                let aside = spool.move_aside()?;
                spool.reopen()?;
                Some(aside)
            }
            other => other.map(|()| None)?,
        };
        Ok((spool, aside))
    }

    /// How many rows it holds.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// The number of the next row: above that of every row it has held since it was opened.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Whether so many bytes more fit under the limit.
    #[must_use]
    pub const fn has_room(&self, bytes: u64) -> bool {
        self.bytes + bytes <= self.limit
    }

    /// Adds and removes rows, all or none of it, and returns when that is on the disk. A number that
    /// is not there to be removed is passed over.
    ///
    /// # Errors
    /// What the disk answers. Nothing has changed then, where the file can be opened again, and the same may
    /// be asked again.
    pub fn commit<'a>(
        &mut self,
        added: impl Iterator<Item = (u64, &'a Row)> + Clone,
        removed: impl IntoIterator<Item = u64>,
    ) -> Result<(), SpoolError> {
        self.reopen()?;
        let Some(database) = &self.database else { return Ok(()) };
        let mut numbers = added.clone().map(|(number, _)| number).peekable();
        match change(database, added, removed) {
            Ok((bytes, rows, next)) => {
                (self.bytes, self.rows, self.next) = (bytes, rows, self.next.max(next));
                Ok(())
            }
            Err(error) => {
                let failed = self.failed(error);
                // A disk may have taken what it said to have failed with.
                let is_there = numbers.peek().is_some() && self.has_all(numbers);
                if is_there { Ok(()) } else { Err(failed) }
            }
        }
    }

    /// Whether rows of all these numbers are known to be there.
    fn has_all(&mut self, mut numbers: impl Iterator<Item = u64>) -> bool {
        let found = self.reopen().ok().and(self.database.as_ref()).map(|database| {
            let rows = database.begin_read()?.open_table(ROWS)?;
            numbers.try_fold(true, |all, number| {
                Ok::<_, redb::Error>(all && rows.get(number)?.is_some())
            })
        });
        matches!(found, Some(Ok(true)))
    }

    /// The oldest rows but those in `skipped`: at most so many, and of about so many bytes.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn oldest(
        &mut self,
        skipped: &BTreeSet<u64>,
        rows: usize,
        bytes: usize,
    ) -> Result<Vec<(u64, Row)>, SpoolError> {
        self.reopen()?;
        let Some(database) = &self.database else { return Ok(Vec::new()) };
        oldest(database, skipped, rows, bytes).map_err(|error| self.failed(error))
    }

    /// Gives the disk back what an outage took, where nothing waits any more.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn compact(&mut self) -> Result<(), SpoolError> {
        let is_large = fs::metadata(&self.path).is_ok_and(|file| file.len() > COMPACT_BYTES);
        let Some(database) = self.database.as_mut().filter(|_| self.rows == 0 && is_large) else {
            return Ok(());
        };
        match database.compact() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Begins a new file, in place of one that holds nothing more that is wanted.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn renew(&mut self) -> Result<(), SpoolError> {
        self.database = None;
        fs::remove_file(&self.path)
            .map_err(|source| SpoolError::File { path: self.path.clone(), source })?;
        self.reopen()
    }

    /// Opens the file where it is not open. After an error of its file a database stays closed.
    fn reopen(&mut self) -> Result<(), SpoolError> {
        if self.database.is_some() {
            return Ok(());
        }
        // A new file gets its name once it is whole: a process may be killed while it makes one.
        let unfinished = self.path.with_extension("new");
        let is_new = !self.path.exists();
        let path = if is_new { &unfinished } else { &self.path };
        let failed = |source| SpoolError::File { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(failed)?;
        let begun = file.try_clone().map_err(failed)?;
        let backend = match FileBackend::new(file) {
            Ok(backend) => backend,
            Err(error) => return Err(self.not_opened(error)),
        };
        if is_new {
            // It is nobody else's: the backend has locked it.
            begun.set_len(0).map_err(failed)?;
        }
        let mut builder = Builder::new();
        let database = match builder.set_cache_size(CACHE_BYTES).create_with_backend(backend) {
            Ok(database) => database,
            Err(error) => return Err(self.not_opened(error)),
        };
        // An old file is only read: a disk without any space gives what it holds.
        let totals = if is_new { change(&database, [], []) } else { totals(&database) };
        let (bytes, rows, next) = totals.map_err(|error| self.failed(error))?;
        if is_new {
            // Unlike a renaming, this replaces no file that another process has made meanwhile.
            fs::hard_link(&unfinished, &self.path)
                .map_err(|source| SpoolError::File { path: self.path.clone(), source })?;
        }
        // Where it cannot go it has the same content, or none.
        let _ = fs::remove_file(&unfinished);
        (self.bytes, self.rows, self.next) = (bytes, rows, self.next.max(next));
        self.database = Some(database);
        Ok(())
    }

    fn not_opened(&mut self, error: DatabaseError) -> SpoolError {
        match error {
            DatabaseError::DatabaseAlreadyOpen => SpoolError::InUse(self.path.clone()),
            error => self.failed(error.into()),
        }
    }

    fn failed(&mut self, error: redb::Error) -> SpoolError {
        self.database = None;
        SpoolError::Database { path: self.path.clone(), source: Box::new(error) }
    }

    /// Renames the file to the first name that is free.
    fn move_aside(&self) -> Result<PathBuf, SpoolError> {
        let mut names =
            (1_u32..).map(|number| self.path.with_extension(format!("damaged-{number}")));
        let aside = names.find(|name| !name.exists()).unwrap_or_else(|| self.path.clone());
        fs::rename(&self.path, &aside)
            .map_err(|source| SpoolError::File { path: self.path.clone(), source })?;
        Ok(aside)
    }
}

/// Whether a file can never be opened again, by this version at least.
fn is_damage(error: &redb::Error) -> bool {
    use redb::Error::{
        Corrupted, RepairAborted, TableDoesNotExist, TableTypeMismatch, UpgradeRequired,
    };
    match error {
        // The last two are a database, but not one of rows: what an empty file becomes, for one.
        Corrupted(_)
        | RepairAborted
        | UpgradeRequired(_)
        | TableTypeMismatch { .. }
        | TableDoesNotExist(_) => true,
        // A file that ends too soon, or is no database at all.
        redb::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

/// The bytes and rows that the spool holds, and the number of the next.
fn totals(database: &Database) -> Result<(u64, u64, u64), redb::Error> {
    let transaction = database.begin_read()?;
    let rows = transaction.open_table(ROWS)?;
    let bytes = transaction.open_table(BYTES)?.get(())?.map_or(0, |bytes| bytes.value());
    let next = rows.last()?.map_or(0, |(number, _)| number.value() + 1);
    Ok((bytes, rows.len()?, next))
}

/// One transaction. Returns the bytes and rows that the spool holds now, and the number of the next.
fn change<'a>(
    database: &Database,
    added: impl IntoIterator<Item = (u64, &'a Row)>,
    removed: impl IntoIterator<Item = u64>,
) -> Result<(u64, u64, u64), redb::Error> {
    let transaction = database.begin_write()?;
    let totals = {
        let mut rows = transaction.open_table(ROWS)?;
        let mut totals = transaction.open_table(BYTES)?;
        let mut bytes = totals.get(())?.map_or(0, |bytes| bytes.value());
        for (number, row) in added {
            let row_of = (&*row.user, &*row.date, &*row.text, &*row.id);
            // It may be there already, by a transaction that seemed to have failed.
            if rows.insert(number, row_of)?.is_none() {
                bytes += row.size() as u64;
            }
        }
        // Before anything is removed, so that no number is given twice.
        let next = rows.last()?.map_or(0, |(number, _)| number.value() + 1);
        for number in removed {
            if let Some(row) = rows.remove(number)? {
                bytes = bytes.saturating_sub(size(row.value()) as u64);
            }
        }
        totals.insert((), bytes)?;
        (bytes, rows.len()?, next)
    };
    transaction.commit()?;
    Ok(totals)
}

fn oldest(
    database: &Database,
    skipped: &BTreeSet<u64>,
    rows: usize,
    mut bytes: usize,
) -> Result<Vec<(u64, Row)>, redb::Error> {
    let transaction = database.begin_read()?;
    let mut found = Vec::new();
    for entry in transaction.open_table(ROWS)?.iter()? {
        let (number, row) = entry?;
        if found.len() == rows || bytes == 0 {
            break;
        }
        if skipped.contains(&number.value()) {
            continue;
        }
        let [user, date, text, id] = <[&str; 4]>::from(row.value()).map(str::to_owned);
        bytes = bytes.saturating_sub(size(row.value()));
        found.push((number.value(), Row { user, date, text, id }));
    }
    Ok(found)
}

fn size((user, date, text, id): (&str, &str, &str, &str)) -> usize {
    Row::size_of(user, date, text, id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const LIMIT: u64 = 1 << 20;

    #[test]
    fn a_file_that_was_being_made_when_its_process_was_killed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("spool.new"), b"redb, or the beginning of it").unwrap();
        let (spool, damaged) = Spool::open(folder.path(), LIMIT).unwrap();
        assert_eq!((spool.rows(), damaged), (0, None));
        let names = fs::read_dir(folder.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
    }

    fn row(number: u64) -> Row {
        let text = format!("text {number} ありがとう {}", "x".repeat(300));
        Row { user: "user".into(), date: "date".into(), text, id: number.to_string() }
    }

    fn rows(spool: &mut Spool) -> Vec<(u64, Row)> {
        spool.oldest(&BTreeSet::new(), usize::MAX, usize::MAX).unwrap()
    }

    fn commit(spool: &mut Spool, added: std::ops::Range<u64>, removed: std::ops::Range<u64>) {
        let added: Vec<_> = added.map(|number| (number, row(number))).collect();
        spool.commit(added.iter().map(|(number, row)| (*number, row)), removed).unwrap();
    }

    fn open(folder: &Path) -> Spool {
        let (spool, aside) = Spool::open(folder, LIMIT).unwrap();
        assert_eq!(aside, None);
        spool
    }

    #[test]
    fn what_was_committed_is_there_again_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = open(&folder.path().join("made"));
        commit(&mut spool, 0..300, 0..0);
        commit(&mut spool, 300..400, 0..200);
        // What is not there is no fault, and what comes and goes in one is never there.
        commit(&mut spool, 400..401, 0..1);
        commit(&mut spool, 401..402, 401..402);
        let size = |rows: &[(u64, Row)]| rows.iter().map(|(_, row)| row.size() as u64).sum::<u64>();
        let expected: Vec<_> = (200..401).map(|number| (number, row(number))).collect();
        assert_eq!(rows(&mut spool), expected);
        drop(spool);
        let mut spool = open(&folder.path().join("made"));
        assert_eq!(rows(&mut spool), expected);
        assert_eq!((spool.rows(), spool.bytes, spool.next()), (201, size(&expected), 401));
    }

    #[test]
    fn the_oldest_come_first_but_those_in_hand() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = open(folder.path());
        commit(&mut spool, 0..10, 0..0);
        let in_hand = BTreeSet::from([0, 2]);
        let mut numbers = |rows, bytes| {
            let found = spool.oldest(&in_hand, rows, bytes).unwrap();
            found.into_iter().map(|(number, _)| number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(3, usize::MAX), [1, 3, 4]);
        // One more than fits, never none.
        assert_eq!(numbers(100, 1), [1]);
        assert_eq!(numbers(100, row(0).size() + 1), [1, 3]);
    }

    #[test]
    fn a_number_is_given_once_even_where_the_last_row_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = open(folder.path());
        commit(&mut spool, 0..5, 0..5);
        assert_eq!((spool.rows(), spool.next()), (0, 5));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_moved_aside_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        for number in 1..=2 {
            let path = folder.path().join(FILE);
            fs::write(&path, vec![b'x'; 9_000]).unwrap();
            let (mut spool, aside) = Spool::open(folder.path(), LIMIT).unwrap();
            let aside = aside.unwrap();
            assert_eq!(aside, folder.path().join(format!("spool.damaged-{number}")));
            assert_eq!(fs::read(aside).unwrap().len(), 9_000);
            commit(&mut spool, 0..1, 0..0);
        }
    }

    #[test]
    fn a_file_that_was_cut_short_is_moved_aside_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = open(folder.path());
        commit(&mut spool, 0..100, 0..0);
        drop(spool);
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for length in [0, 1, 100, 4_096, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            let (mut spool, aside) = Spool::open(folder.path(), LIMIT).unwrap();
            assert!(aside.is_some() || rows(&mut spool).len() == 100, "{length}");
        }
    }

    #[test]
    fn what_a_failed_transaction_has_left_is_known_row_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = open(folder.path());
        commit(&mut spool, 0..3, 0..0);
        // As after an error.
        spool.database = None;
        assert!(spool.has_all(0..3));
        assert!(!spool.has_all(0..4));
        assert!(!spool.has_all([7].into_iter()));
    }

    #[test]
    fn two_processes_cannot_have_one_spool() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(folder.path());
        let refused = Spool::open(folder.path(), LIMIT).unwrap_err();
        assert!(matches!(refused, SpoolError::InUse(_)), "{refused}");
    }

    #[test]
    fn nobody_else_can_read_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let _spool = open(folder.path());
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_file_is_at_most_twice_as_large_as_its_rows_and_small_again_when_they_have_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path(), u64::MAX).unwrap();
        for batch in 0..20 {
            commit(&mut spool, batch * 4_000..(batch + 1) * 4_000, 0..0);
        }
        let length = || fs::metadata(folder.path().join(FILE)).unwrap().len();
        assert!(length() < 2 * spool.bytes, "{} for {}", length(), spool.bytes);
        spool.compact().unwrap();
        assert!(length() > spool.bytes, "rows are there");
        commit(&mut spool, 0..0, 0..80_000);
        spool.compact().unwrap();
        assert!(length() < COMPACT_BYTES, "{}", length());
    }
}
