//! Standard error: the lines that people read there, and on a terminal the one waiting line that
//! is redrawn and cleared. What the lines say is in `report.rs`; that nothing in them disturbs a
//! terminal, or makes two of one line, is seen to here, whoever wrote it.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{tcgetpgrp, tcgetwinsize};
use unicode_width::UnicodeWidthChar;

use crate::kernel::own_group;
use crate::report::{harmless, shortened};
use crate::supervise::signals::without_stopping_at_the_terminal;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loudness {
    /// Errors.
    Quiet,
    /// And what somebody who waits wants to know.
    Normal,
    /// And what was decided.
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
        // On a terminal that is not ours to control, nobody says whether we are in front.
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

    /// Draws the waiting line in place of the last one. In the background it would be drawn into
    /// what somebody else does on that terminal.
    pub(crate) fn draw(&mut self, line: impl Display) {
        if self.redraws() && in_foreground() {
            let columns = tcgetwinsize(io::stderr()).map_or(80, |size| size.ws_col);
            let line = fitting(&harmless(&format!("semrun: {line}")), columns);
            write(&format!("\r{line}\x1b[K"), &PATIENCE);
            self.drawn = true;
        }
    }

    /// Another process of ours may have drawn the waiting line, and cannot take it away any more.
    pub(crate) fn take_over(&mut self) {
        self.drawn = self.redraws();
    }

    /// Takes the waiting line away.
    pub(crate) fn clear(&mut self) {
        if self.drawn && in_foreground() {
            write("\r\x1b[K", &PATIENCE);
        }
        self.drawn = false;
    }
}

/// How long somebody who does not read may hold us up. Behind it a command waits to be stopped.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Writes a line to standard output at once or not at all: nobody may be reading.
pub(crate) fn announce(line: &str) {
    let stdout = io::stdout();
    let mut ready = [PollFd::new(&stdout, PollFlags::OUT)];
    if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1) {
        let mut stdout = stdout.lock();
        let _ = stdout.write_all(one_line(line).as_bytes()).and_then(|()| stdout.flush());
    }
}

/// Writes a line at once or not at all, for one who has others to serve; and says which.
pub(crate) fn log(line: &str) -> bool {
    write(&one_line(line), &Timespec { tv_sec: 0, tv_nsec: 0 })
}

/// The same, for one who ends: a reader may be slow.
pub(crate) fn last_log(line: &str) -> bool {
    write(&one_line(line), &PATIENCE)
}

/// A server may send a message of any length.
const LONGEST_LINE: usize = 8_000;

/// With its end, and with no other.
fn one_line(line: &str) -> String {
    format!("{}\n", shortened(&harmless(line), LONGEST_LINE))
}

/// Nobody may be reading, or not just now; that must neither end a job nor hold it up.
fn write(text: &str, patience: &Timespec) -> bool {
    let stderr = io::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    // What is ready takes a line without blocking.
    if poll(&mut ready, Some(patience)) == Ok(0) {
        return false;
    }
    // `stty tostop` stops whoever writes from the background; semrun has a command to look after.
    let _ = without_stopping_at_the_terminal(|| io::stderr().write_all(text.as_bytes()));
    // Where there is nothing to write to, there is nothing to wait for.
    true
}

/// Whether a terminal knows no more than lines.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

fn in_foreground() -> bool {
    tcgetpgrp(io::stderr()).is_ok_and(|group| Some(group) == own_group())
}

/// As much of a line as one row shows; the last columns stay free.
pub(crate) fn fitting(line: &str, columns: u16) -> String {
    // What somebody types is shown behind it, `^C` say, and must not begin a new row.
    let room = usize::from(if columns == 0 { 80 } else { columns }).saturating_sub(3);
    if line.chars().map(|c| c.width().unwrap_or(0)).sum::<usize>() <= room {
        return line.into();
    }
    let mut used = 1;
    let mut text: String = line
        .chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        })
        .collect();
    if room > 0 {
        text.push('…');
    }
    text
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
        assert_eq!(fitting("short", 80), "short");
        assert_eq!(fitting("0123456789", 10), "012345…");
        assert_eq!(fitting("0123456", 10), "0123456");
        assert_eq!(fitting("日本語日本語", 10), "日本語…");
        assert_eq!(fitting("anything", 3), "");
    }
}
