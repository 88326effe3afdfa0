//! What code that writes SQL needs, so that it depends on this crate only.

pub use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, Value, ValueRef};
pub use rusqlite::{Params, Row, ToSql, named_params, params, params_from_iter};
