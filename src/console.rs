//! Standard error: the lines that people read there, and on a terminal the one waiting line that
//! is redrawn and cleared. What the lines say is in `cli/messages`; this module makes sure that
//! nothing in them disturbs a terminal or makes two of one line.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{tcgetpgrp, tcgetwinsize};
use unicode_width::UnicodeWidthChar;

use crate::printable::{printable, truncated};
use crate::sys::{own_group, without_stopping_at_the_terminal};

/// How much to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loudness {
    /// Errors.
    Quiet,
    /// And messages for a waiting user.
    Normal,
    /// And decisions.
    Verbose,
}

/// Standard error, with at most one line on it that will be redrawn.
#[derive(Debug)]
pub(crate) struct Console {
    loudness: Loudness,
    /// Whether a line can be redrawn there.
    redraws: bool,
    drawn: bool,
}

impl Console {
    pub(crate) fn new(loudness: Loudness) -> Self {
        // On a terminal that is not ours to control, we cannot tell whether we are in front.
        let ours = io::stderr().is_terminal() && tcgetpgrp(io::stderr()).is_ok();
        Self { loudness, redraws: ours && !is_dumb(), drawn: false }
    }

    /// Whether there is a waiting line to keep up to date.
    pub(crate) fn redraws(&self) -> bool {
        self.redraws && self.loudness != Loudness::Quiet
    }

    /// Whether lines of this loudness are written.
    pub(crate) fn says(&self, loudness: Loudness) -> bool {
        loudness <= self.loudness
    }

    /// Writes a line.
    pub(crate) fn say(&mut self, loudness: Loudness, line: impl Display) {
        if self.says(loudness) {
            self.clear();
            write(&one_line(&format!("semrun: {line}")), &PATIENCE);
        }
    }

    /// Draws the waiting line in place of the last one: the first of these that fits, or as much as
    /// does of the first, and of the last where there are few columns. In the background it would
    /// be drawn into another job's output on that terminal.
    pub(crate) fn draw(&mut self, lines: &[String]) {
        if self.redraws() && in_foreground() {
            let columns = tcgetwinsize(io::stderr()).map_or(80, |size| size.ws_col);
            let lines: Vec<_> = lines.iter().map(|line| printable(line)).collect();
            let fits = |line: &&Cow<'_, str>| width(line) <= usable_columns(columns);
            let few = usable_columns(columns) < FEW;
            let longest = if few { lines.last() } else { lines.first() };
            let line = lines.iter().find(fits).or(longest);
            let line = line.map_or(String::new(), |line| fitting(line, columns));
            write(&format!("\r{line}\x1b[K"), &PATIENCE);
            self.drawn = true;
        }
    }

    /// Another process of ours may have drawn the waiting line, and cannot clear it any more.
    pub(crate) fn take_over(&mut self) {
        self.drawn = self.redraws();
    }

    /// Clears the waiting line.
    pub(crate) fn clear(&mut self) {
        if self.drawn && in_foreground() {
            write("\r\x1b[K", &PATIENCE);
        }
        self.drawn = false;
    }
}

/// With fewer columns, optional words are left out.
const FEW: usize = 60;

/// How long a reader that does not read may hold us up. Meanwhile a command waits to be stopped.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Writes a line to standard output at once or not at all: there may be no reader.
pub(crate) fn announce(line: &str) {
    let stdout = io::stdout();
    let mut ready = [PollFd::new(&stdout, PollFlags::OUT)];
    if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1) {
        let mut stdout = stdout.lock();
        let _ = stdout.write_all(one_line(line).as_bytes()).and_then(|()| stdout.flush());
    }
}

/// Writes some lines of ours to standard error.
pub(crate) fn explain(text: &str) {
    write(&format!("{}\n", text.trim_end()), &PATIENCE);
}

/// Writes a line at once or not at all, as the server has others to serve; says whether it did.
pub(crate) fn log(line: &str) -> bool {
    write(&one_line(line), &Timespec { tv_sec: 0, tv_nsec: 0 })
}

/// The same, before the process ends: a reader may be slow.
pub(crate) fn last_log(line: &str) -> bool {
    write(&one_line(line), &PATIENCE)
}

/// A server may send a message of any length.
const LONGEST_LINE: usize = 8_000;

/// The line with one line end, and no other in it.
fn one_line(line: &str) -> String {
    format!("{}\n", truncated(&printable(line), LONGEST_LINE))
}

/// There may be no reader, or a slow one; that must neither end a job nor hold it up.
fn write(text: &str, patience: &Timespec) -> bool {
    let stderr = io::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    // A stream that is ready takes a line without blocking.
    if poll(&mut ready, Some(patience)) == Ok(0) {
        return false;
    }
    // `stty tostop` stops a process that writes from the background; semrun has a command to look
    // after.
    let _ = without_stopping_at_the_terminal(|| io::stderr().write_all(text.as_bytes()));
    // Where there is nothing to write to, there is nothing to wait for.
    true
}

/// Whether a terminal can only print lines.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

fn in_foreground() -> bool {
    tcgetpgrp(io::stderr()).is_ok_and(|group| Some(group) == own_group())
}

/// As much of a line as one row shows; the last columns stay free.
pub(crate) fn fitting(line: &str, columns: u16) -> String {
    cut(line, usable_columns(columns), ellipsis())
}

/// How many columns of a row are used. What the user types is shown after them, `^C` say, and must
/// not begin a new row.
pub(crate) fn usable_columns(columns: u16) -> usize {
    usize::from(if columns == 0 { 80 } else { columns }).saturating_sub(3)
}

fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// As much of a text as fits into so many columns, with a mark where something is left out.
pub(crate) fn cut(text: &str, room: usize, mark: &str) -> String {
    if width(text) <= room {
        return text.into();
    }
    let mark = if width(mark) < room { mark } else { "" };
    let mut used = width(mark);
    let mut shown: String = text
        .chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        })
        .collect();
    shown.push_str(mark);
    shown
}

/// The mark for omitted text, in characters that the terminal has.
pub(crate) fn ellipsis() -> &'static str {
    let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(set).and_then(std::env::var_os);
    ellipsis_in(&locale.unwrap_or_default().to_string_lossy())
}

fn ellipsis_in(locale: &str) -> &'static str {
    let locale = locale.to_ascii_lowercase();
    if locale.contains("utf-8") || locale.contains("utf8") { "…" } else { "..." }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_once_whatever_is_in_it() {
        assert_eq!(one_line("a\nserver: b\x1b\u{2028}c"), "a\u{FFFD}server: b\u{FFFD}\u{FFFD}c\n");
        assert!(one_line(&"x".repeat(1 << 20)).len() < 8_100);
    }

    #[test]
    fn a_line_is_cut_to_one_row() {
        let fitting = |line, columns| cut(line, usable_columns(columns), "…");
        assert_eq!(fitting("short", 80), "short");
        assert_eq!(fitting("0123456789", 10), "012345…");
        assert_eq!(fitting("0123456", 10), "0123456");
        assert_eq!(fitting("日本語日本語", 10), "日本語…");
        assert_eq!(fitting("anything", 3), "");
        assert_eq!(cut("0123456789", 7, "..."), "0123...");
        assert_eq!(cut("0123456789", 2, "..."), "01");
    }

    #[test]
    fn what_is_left_out_is_marked_in_the_characters_of_the_locale() {
        let marks = ["en_US.UTF-8", "de_DE.utf8", "C", "", "en_US"].map(ellipsis_in);
        assert_eq!(marks, ["…", "…", "...", "...", "..."]);
    }
}
