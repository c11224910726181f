//! The screen of `status --watch`, which is drawn again whenever something changes.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;

use crate::cli::messages::Output;
use crate::commands::cannot_write;
use crate::console::{fitting, is_dumb};

/// How often to look.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// Where it is shown.
pub(super) struct RedrawnScreen {
    /// Whether a page can be drawn over another one there.
    redraws: bool,
    last: Option<String>,
}

impl RedrawnScreen {
    pub(super) fn new() -> Self {
        Self { redraws: io::stdout().is_terminal() && !is_dumb(), last: None }
    }

    /// Shows a page: on a screen in place of the last one, elsewhere below it if `key` has changed.
    /// False: the reader has gone.
    pub(super) fn show(&mut self, page: &Output, key: String) -> anyhow::Result<bool> {
        let text = if self.redraws {
            self.redrawn(page)
        } else if self.last.as_ref() == Some(&key) {
            return Ok(is_read());
        } else {
            page.text().into()
        };
        self.last = Some(key);
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(cannot_write(error)),
        }
    }

    /// The page as much as fits, over what is there.
    fn redrawn(&self, page: &Output) -> String {
        let size = tcgetwinsize(io::stdout()).ok();
        // One that does not know its size says 0.
        let rows = size.map(|size| size.ws_row).filter(|rows| *rows > 0).unwrap_or(24);
        let columns = size.map_or(80, |size| size.ws_col);
        let first = if self.last.is_none() { "\x1b[2J" } else { "" };
        let mut text = format!("{first}\x1b[H");
        for line in page.text().lines().take(usize::from(rows.max(2)) - 1) {
            let _ = write!(text, "{}\x1b[K\r\n", fitting(line, columns));
        }
        text.push_str("\x1b[J");
        text
    }
}

/// Whether a reader may be there, as far as that is known without writing.
fn is_read() -> bool {
    let stdout = io::stdout();
    let mut stage = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut stage, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(1)
}
