//! Tables and times for people.

use crate::db;
use std::fmt;

/// Rows under a head, each column as wide as its widest cell.
#[derive(Debug)]
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table of these columns.
    pub fn new(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_string)] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: [usize; N] =
            std::array::from_fn(|at| self.rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default());
        for row in &self.rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// How long ago a moment was, given in unix seconds.
pub fn ago(at: i64) -> String {
    match db::now().saturating_sub(at) {
        seconds if seconds < 60 => "just now".into(),
        seconds => format!("{} ago", span(seconds.unsigned_abs())),
    }
}

/// A span of seconds in its largest unit: `4 min`, `3 h`, `2 d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["NAME", "KEY"]);
        table.row(["laptop".into(), "a".into()]);
        table.row(["größe".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME    KEY\nlaptop  a\ngröße\n");
    }

    #[test]
    fn spans_are_rough() {
        let check = |seconds, expected: &str| assert_eq!(span(seconds), expected);
        check(0, "0 s");
        check(59, "59 s");
        check(60, "1 min");
        check(7199, "1 h");
        check(200_000, "2 d");
        assert_eq!(ago(db::now() - 120), "2 min ago");
        assert_eq!(ago(db::now() + 5), "just now");
    }
}
