//! What feature code sees of a database: one transaction, for the length of one closure.

use std::ops::Deref;

use rusqlite::{Connection, Params, Row};

use crate::error::StoreError;

/// A consistent view of one database. Cannot write.
pub struct ReadTx<'c> {
    conn: &'c Connection,
}

/// A transaction that may write. Committed when its closure returns `Ok`, rolled back otherwise.
pub struct WriteTx<'c> {
    read: ReadTx<'c>,
}

impl<'c> ReadTx<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self { conn }
    }

    /// All rows of the statement, at most `rows_max`: more is an error, so that nothing is left
    /// out silently. A caller that wants the first few says so with LIMIT.
    ///
    /// # Errors
    /// Whatever the statement or `row` reports; [`StoreError::Query`] for too many rows.
    pub fn query<T>(
        &self,
        sql: &str,
        params: impl Params,
        rows_max: usize,
        mut row: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        self.for_each(sql, params, |next| {
            if all.len() == rows_max {
                return Err(StoreError::query(format!("more than {rows_max} rows")));
            }
            all.push(row(next)?);
            Ok(())
        })?;
        Ok(all)
    }

    /// The only row of the statement, or `None`.
    ///
    /// # Errors
    /// Whatever the statement or `row` reports; [`StoreError::Query`] for a second row.
    pub fn query_one<T>(
        &self,
        sql: &str,
        params: impl Params,
        row: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.query(sql, params, 1, row)?.pop())
    }

    /// Hands every row to `row` as it is read; an error ends the reading.
    ///
    /// # Errors
    /// Whatever the statement or `row` reports.
    pub fn for_each(
        &self,
        sql: &str,
        params: impl Params,
        mut row: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        while let Some(next) = rows.next()? {
            row(next)?;
        }
        Ok(())
    }
}

impl<'c> WriteTx<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self {
            read: ReadTx::new(conn),
        }
    }

    /// Runs one statement that returns no rows; tells how many rows it changed.
    ///
    /// # Errors
    /// Whatever the statement reports. The closure should pass the error on: the transaction may
    /// already be rolled back.
    pub fn execute(&mut self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        Ok(self.read.conn.prepare_cached(sql)?.execute(params)?)
    }

    /// The row id of the last insert of this transaction.
    #[must_use]
    pub fn last_insert_id(&self) -> i64 {
        self.read.conn.last_insert_rowid()
    }
}

impl<'c> Deref for WriteTx<'c> {
    type Target = ReadTx<'c>;

    fn deref(&self) -> &ReadTx<'c> {
        &self.read
    }
}
