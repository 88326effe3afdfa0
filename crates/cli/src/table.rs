//! Aligned columns for people.

use crate::print::one_line;

/// Rows that are looked at before the widths are fixed; later rows stream with those widths.
const LOOK_AHEAD: usize = 256;

/// How a column is aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table whose first rows decide the widths.
pub(crate) struct Table {
    columns: &'static [(&'static str, Align)],
    waiting: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl Table {
    pub(crate) fn new(columns: &'static [(&'static str, Align)]) -> Self {
        Self {
            columns,
            waiting: Vec::new(),
            widths: None,
        }
    }

    /// Adds a row; what can be printed already is appended to `out`.
    pub(crate) fn row(&mut self, cells: Vec<String>, out: &mut String) {
        match &self.widths {
            Some(widths) => self.write(&cells, widths, out),
            None => {
                self.waiting.push(cells);
                if self.waiting.len() == LOOK_AHEAD {
                    self.finish(out);
                }
            }
        }
    }

    /// Prints what still waits, the header first.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if self.widths.is_some() {
            return;
        }
        let rows = std::mem::take(&mut self.waiting);
        let width = |index: usize, head: &str| {
            rows.iter()
                .filter_map(|row| row.get(index))
                .map(|cell| cell.chars().count())
                .chain([head.len()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (head, _))| width(index, head))
            .collect();
        let head: Vec<String> = self
            .columns
            .iter()
            .map(|(head, _)| (*head).to_owned())
            .collect();
        self.write(&head, &widths, out);
        for row in &rows {
            self.write(row, &widths, out);
        }
        self.widths = Some(widths);
    }

    fn write(&self, cells: &[String], widths: &[usize], out: &mut String) {
        let begin = out.len();
        for (((_, align), width), cell) in self.columns.iter().zip(widths).zip(cells) {
            if out.len() > begin {
                out.push_str("  ");
            }
            let cell = one_line(cell);
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            match align {
                Align::Left => out.extend([&*cell, &padding]),
                Align::Right => out.extend([&*padding, &cell]),
            }
        }
        out.truncate(begin + out[begin..].trim_end().len());
        out.push('\n');
    }
}

/// `name  value` lines with the values under each other.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts
        .iter()
        .map(|(name, value)| format!("{name:width$}  {}\n", one_line(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[(&str, Align)] = &[("NAME", Align::Left), ("COUNT", Align::Right)];

    #[test]
    fn columns_stand_under_each_other() {
        let (mut table, mut out) = (Table::new(COLUMNS), String::new());
        table.row(vec!["acme".to_owned(), "7".to_owned()], &mut out);
        table.row(
            vec!["a\u{1b}[2J".to_owned(), "1234567".to_owned()],
            &mut out,
        );
        table.finish(&mut out);
        assert_eq!(out, "NAME     COUNT\nacme         7\na [2J  1234567\n");
    }

    #[test]
    fn a_long_table_streams() {
        let (mut table, mut out) = (Table::new(COLUMNS), String::new());
        for _ in 0..LOOK_AHEAD {
            table.row(vec!["x".to_owned(), "1".to_owned()], &mut out);
        }
        assert_eq!(out.lines().count(), LOOK_AHEAD + 1);
        table.row(vec!["y".to_owned(), "2".to_owned()], &mut out);
        table.finish(&mut out);
        assert_eq!(out.lines().count(), LOOK_AHEAD + 2);
    }
}
