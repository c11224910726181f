//! What people and programs read on standard output: lines with nothing in them that could disturb
//! a terminal, whatever their origin.

use std::borrow::Cow;
use std::fmt::Display;

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::printable::{printable, printable_json};

/// Whole lines, ready to be written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Output(String);

impl Output {
    pub(crate) fn of(line: impl Display) -> Self {
        let mut page = Self::default();
        page.line(line);
        page
    }

    /// A JSON document, with hidden characters escaped.
    pub(crate) fn document(document: &impl Serialize) -> serde_json::Result<Self> {
        let json = serde_json::to_string_pretty(document)?;
        Ok(Self(printable_json(json) + "\n"))
    }

    /// The same in one line.
    pub(crate) fn document_line(document: &impl Serialize) -> serde_json::Result<Self> {
        let json = serde_json::to_string(document)?;
        Ok(Self(printable_json(json) + "\n"))
    }

    pub(crate) fn line(&mut self, line: impl Display) {
        self.0.push_str(&printable(&line.to_string()));
        self.0.push('\n');
    }

    /// A table: each column is as wide as its widest cell, with two blanks between.
    pub(crate) fn rows(&mut self, rows: &[Vec<&str>]) {
        let rows: Vec<Vec<Cow<'_, str>>> =
            rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        let columns = rows.first().map_or(0, Vec::len);
        let widest = |column: usize| rows.iter().map(|row| width(&row[column])).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(widest).collect();
        for row in &rows {
            let mut left = 0;
            for (cell, widest) in row.iter().zip(&widths) {
                self.0.extend(std::iter::repeat_n(' ', left));
                self.0.push_str(cell);
                left = widest - width(cell) + 2;
            }
            self.0.truncate(self.0.trim_end_matches(' ').len());
            self.0.push('\n');
        }
    }

    /// The same in so many columns: what does not fit of the last one goes on below it, or further left
    /// where there is little room.
    pub(crate) fn rows_within(&mut self, rows: &[Vec<&str>], columns: usize) {
        const ENOUGH: usize = 40;
        const LITTLE: usize = 4;
        let mut page = Self::default();
        page.rows(rows);
        let widest = |column: usize| rows.iter().map(|row| width(&printable(row[column]))).max();
        let before = rows.first().map_or(0, |row| row.len().saturating_sub(1));
        let start: usize = (0..before).map(|column| widest(column).unwrap_or(0) + 2).sum();
        let indent = if columns >= start + ENOUGH { start } else { LITTLE };
        for line in page.0.lines() {
            self.0.push_str(&wrapped(line, start, indent, columns));
        }
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// One line as several, which end between words. What is before `start` stays as it is.
fn wrapped(line: &str, start: usize, indent: usize, columns: usize) -> String {
    if width(line) <= columns || line.len() <= start {
        return format!("{line}\n");
    }
    let (head, rest) = line.split_at_checked(start).unwrap_or(("", line));
    let mut text = head.to_owned();
    let mut used = width(head);
    let mut first = true;
    for word in rest.split(' ') {
        if !first && used + 1 + width(word) > columns {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
            used = indent;
        } else if !first {
            text.push(' ');
            used += 1;
        }
        text.push_str(word);
        used += width(word);
        first = false;
    }
    text.push('\n');
    text
}

fn width(text: &str) -> usize {
    // Nearly all text is ASCII, which is quick to measure.
    if text.is_ascii() { text.len() } else { text.width() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let mut page = Output::of("a\nb\x1b[31m\u{202e}");
        page.rows(&[vec!["x\r", "1"], vec!["日本", "2"], vec!["", "\u{2028}"]]);
        let text = "a\u{FFFD}b\u{FFFD}[31m\u{FFFD}\nx\u{FFFD}    1\n日本  2\n      \u{FFFD}\n";
        assert_eq!(page.text(), text);
        let mut page = Output::default();
        page.rows_within(&[vec!["ok", "words that go on"], vec!["error", "short"]], 50);
        assert_eq!(page.text(), "ok     words that go on\nerror  short\n");
        let mut page = Output::default();
        let words = "a word and another one, and so on until the line is full and beyond";
        page.rows_within(&[vec!["ok", words]], 50);
        let lines =
            "ok  a word and another one, and so on until the\n    line is full and beyond\n";
        assert_eq!(page.text(), lines);
        let page = Output::document(&["\u{9b}31m\n", "x"]).unwrap();
        assert_eq!(page.text(), "[\n  \"\\u009b31m\\n\",\n  \"x\"\n]\n");
    }
}
