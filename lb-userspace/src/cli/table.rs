//! Aligned columns for people.
//!
//! Two spaces between columns, no lines and no colours: what awk and grep like too.

use std::fmt;

/// How a column stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table that is being filled.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    indent: usize,
}

impl Table {
    /// An empty table. A heading that begins with `>` is that of a column of numbers.
    pub fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        let column = |heading: &'static str| match heading.strip_prefix('>') {
            Some(heading) => (heading, Align::Right),
            None => (heading, Align::Left),
        };
        Self { columns: headings.map(column).into(), rows: Vec::new(), indent: 0 }
    }

    /// The same table, moved to the right.
    #[must_use]
    pub fn indented(mut self, indent: usize) -> Self {
        self.indent = indent;
        self
    }

    /// Adds a row; it has as many cells as there are headings.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each heading");
        self.rows.push(cells.into());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn line(
        &self,
        f: &mut fmt::Formatter<'_>,
        widths: &[usize],
        cells: &mut dyn Iterator<Item = &str>,
    ) -> fmt::Result {
        let mut line = " ".repeat(self.indent);
        for (n, (cell, (width, (_, align)))) in
            cells.zip(widths.iter().zip(&self.columns)).enumerate()
        {
            let gap = if n == 0 { "" } else { "  " };
            let fill = " ".repeat(width - cell.chars().count());
            match align {
                Align::Left => line.extend([gap, cell, &fill]),
                Align::Right => line.extend([gap, &fill, cell]),
            }
        }
        writeln!(f, "{}", line.trim_end())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths: Vec<usize> = self.columns.iter().map(|(h, _)| h.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        self.line(f, &widths, &mut self.columns.iter().map(|(heading, _)| *heading))?;
        self.rows
            .iter()
            .try_for_each(|row| self.line(f, &widths, &mut row.iter().map(String::as_str)))
    }
}

/// A part of a whole as a percentage, `-` when the whole is nothing.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let tenths = (u128::from(part) * 1000 + u128::from(whole) / 2) / u128::from(whole);
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// A number of bytes in the largest unit that leaves a digit before the point.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut scaled, mut unit) = (u128::from(n) * 10 / 1024, 0);
    while scaled >= 10_240 && unit + 1 < UNITS.len() {
        scaled /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", scaled / 10, scaled % 10, UNITS[unit])
}

/// A time span in one or two units.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_text_left_and_nothing_trails() {
        let mut table = Table::new(["NAME", ">FLOWS", "WHY"]).indented(2);
        table.row(["vote".into(), "12".into(), String::new()]);
        table.row(["längster".into(), "1".into(), "x".into()]);
        let expected = "  NAME      FLOWS  WHY\n  vote         12\n  längster      1  x\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn quantities_are_short() {
        assert_eq!(percent(1, 3), "33.3%");
        assert_eq!(percent(3, 3), "100.0%");
        assert_eq!(percent(0, 0), "-");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(span(59), "59s");
        assert_eq!(span(61), "1m01s");
        assert_eq!(span(90_000), "1d01h");
    }
}
