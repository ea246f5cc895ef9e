//! The worker's table, read back and held against what the feed has sent.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::feed_server::ExpectedRow;
use super::local_aws;
use super::world::World;
use crate::table::Row;

/// The rows of a table.
pub struct TableRows {
    /// Those that have all four attributes.
    pub rows: Vec<Row>,
    /// All items.
    pub count: u64,
}

impl TableRows {
    /// Reads the worker's table.
    ///
    /// # Errors
    /// A table that is not there.
    pub fn read_back(world: &World) -> Result<Self, local_aws::Error> {
        let count = world.aws.table_item_count(world.table())?;
        let items = world.aws.scan_items(world.table(), usize::MAX)?;
        Ok(Self { rows: items.iter().filter_map(row_of).collect(), count })
    }

    /// The rows with the highest ids, which are the newest: at most so many, the newest first.
    #[must_use]
    pub fn newest(mut self, most: usize) -> Vec<Row> {
        // Of two numbers the longer one is the higher.
        self.rows.sort_by(|a, b| (b.id.len(), &b.id).cmp(&(a.id.len(), &a.id)));
        self.rows.truncate(most);
        self.rows
    }

    /// How many rows have an id that another has, too.
    #[must_use]
    pub fn duplicate_ids(&self) -> u64 {
        (self.rows.len() - self.ids().len()) as u64
    }

    fn ids(&self) -> HashSet<&str> {
        self.rows.iter().map(|row| row.id.as_str()).collect()
    }

    /// How many of these are not there.
    #[must_use]
    pub fn missing<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> u64 {
        let held = self.ids();
        ids.into_iter().filter(|id| !held.contains(id)).count() as u64
    }

    /// How many are not, to the letter, what is expected. Where nothing is, nothing is known: that is
    /// so for a recording.
    #[must_use]
    pub fn differing(&self, expected: &[ExpectedRow]) -> u64 {
        if expected.is_empty() {
            return 0;
        }
        let expected: HashMap<&str, &ExpectedRow> =
            expected.iter().map(|row| (row.id.as_str(), row)).collect();
        let same = |row: &&Row| {
            expected.get(row.id.as_str()).is_some_and(|wanted| {
                let moved = row.date.strip_prefix(&wanted.date).is_some_and(|rest| {
                    rest.is_empty() || rest.strip_prefix('#') == Some(&wanted.id)
                });
                row.user == wanted.user && row.text == wanted.text && moved
            })
        };
        (self.rows.len() - self.rows.iter().filter(same).count()) as u64
    }
}

/// The row of an item in DynamoDB's JSON; `None` where an attribute is missing or no string.
fn row_of(item: &Value) -> Option<Row> {
    let attribute = |name: &str| Some(item.get(name)?.get("S")?.as_str()?.to_owned());
    Some(Row {
        user: attribute("user")?,
        date: attribute("date")?,
        text: attribute("text")?,
        id: attribute("id")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(date: &str, text: &str, id: &str) -> Row {
        let [user, date, text, id] = ["user", date, text, id].map(str::to_owned);
        Row { user, date, text, id }
    }

    #[test]
    fn what_is_lost_doubled_or_changed_is_found() {
        let Row { user, date, text, id } = row("date", "text", "1");
        let expected = [ExpectedRow { user, date, text, id }];
        let differing = |row: Row| TableRows { rows: vec![row], count: 1 }.differing(&expected);
        assert_eq!(differing(row("date", "text", "1")), 0);
        assert_eq!(differing(row("date#1", "text", "1")), 0);
        for other in
            [row("date#2", "text", "1"), row("date", "Text", "1"), row("date", "text", "2")]
        {
            assert_eq!(differing(other), 1);
        }
        let rows = vec![row("date", "text", "1"), row("date#1", "text", "1")];
        let table = TableRows { rows, count: 2 };
        assert_eq!((table.duplicate_ids(), table.missing(["1", "2"])), (1, 1));
    }
}
