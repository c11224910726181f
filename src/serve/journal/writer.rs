//! The thread that writes a journal: what has come together goes to the disk together, and is
//! retried until it gets there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use rustix::fs::renameat;
use tokio::sync::watch;

use super::format::line;
use crate::files::create;

/// The name of the file, and that of its replacement in progress.
pub(super) const JOURNAL: &str = "journal";
const ASIDE: &str = "journal.new";

/// How long between retries, when the disk is full, say.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// How far the writer is.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriterStatus {
    pub(super) written: u64,
    /// Why it cannot write.
    pub(crate) error: Option<String>,
}

pub(super) enum Job {
    /// An entry as JSON.
    Append(String),
    /// The new content of the file.
    Rewrite(Vec<u8>),
}

pub(super) struct WriterThread {
    path: PathBuf,
    directory: File,
    file: File,
    /// How much of the file is good.
    size: u64,
    /// Whether there may be more in it than that.
    torn: bool,
    /// Whether the file was just renamed, and the rename may not be on the disk.
    renamed: bool,
    tell: watch::Sender<WriterStatus>,
}

impl WriterThread {
    pub(super) fn new(
        path: PathBuf,
        directory: File,
        file: File,
        size: u64,
        tell: watch::Sender<WriterStatus>,
    ) -> Self {
        Self { path, directory, file, size, torn: false, renamed: false, tell }
    }

    pub(super) fn run(mut self, todo: &Receiver<Job>) {
        let mut jobs = Vec::new();
        loop {
            if jobs.is_empty() {
                let Ok(job) = todo.recv() else { return };
                jobs.push(job);
            }
            let closed = loop {
                match todo.try_recv() {
                    Ok(job) => add(&mut jobs, job),
                    Err(nothing) => break nothing == TryRecvError::Disconnected,
                }
            };
            match self.write(&jobs) {
                Ok(()) => {
                    let done = jobs.drain(..).count() as u64;
                    self.tell.send_modify(|progress| {
                        progress.written += done;
                        progress.error = None;
                    });
                }
                // No client was told of what is not there.
                Err(_) if closed => return,
                Err(error) => {
                    self.tell.send_modify(|progress| progress.error = Some(error.to_string()));
                    std::thread::sleep(AGAIN);
                }
            }
        }
    }

    /// Writes all jobs, or nothing that counts. May be called again with the same and more.
    fn write(&mut self, jobs: &[Job]) -> io::Result<()> {
        let last = jobs.iter().enumerate().rev().find_map(|(place, job)| match job {
            Job::Rewrite(content) => Some((place, content)),
            Job::Append(_) => None,
        });
        // If that fails, the old file is as good, and all jobs are appended to it.
        let rewritten = last.and_then(|(place, content)| {
            self.replace(content).ok()?;
            Some(place)
        });
        let entries: Vec<_> = jobs[rewritten.map_or(0, |place| place + 1)..]
            .iter()
            .filter_map(|job| match job {
                Job::Append(entry) => Some(entry.as_str()),
                Job::Rewrite(_) => None,
            })
            .collect();
        if self.renamed {
            self.directory.sync_all()?;
            self.renamed = false;
        }
        self.append(&entries)
    }

    fn replace(&mut self, content: &[u8]) -> io::Result<()> {
        let file = write_aside(&self.directory, content)?;
        rename_from_aside(&self.directory)?;
        self.file = file;
        self.size = content.len() as u64;
        self.torn = false;
        self.renamed = true;
        Ok(())
    }

    fn append(&mut self, entries: &[&str]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        if !self.is_in_place() {
            return Err(io::Error::other("the journal was moved or deleted; restart the server"));
        }
        if self.torn {
            // Half a line must not stay where the next one begins.
            self.file.set_len(self.size)?;
        }
        let line = line(entries);
        self.torn = true;
        self.file.write_all_at(&line, self.size)?;
        self.file.sync_data()?;
        self.torn = false;
        self.size += line.len() as u64;
        Ok(())
    }

    /// Whether our open file is the one that another server would find.
    fn is_in_place(&self) -> bool {
        match (self.file.metadata(), fs::symlink_metadata(&self.path)) {
            (Ok(open), Ok(found)) => (open.dev(), open.ino()) == (found.dev(), found.ino()),
            _ => false,
        }
    }
}

/// Adds a job. Of several rewrites only the last one counts, and the others may be large.
fn add(jobs: &mut Vec<Job>, job: Job) {
    if matches!(job, Job::Rewrite(_)) {
        for job in &mut *jobs {
            if let Job::Rewrite(content) = job {
                *content = Vec::new();
            }
        }
    }
    jobs.push(job);
}

pub(super) fn write_aside(directory: &File, content: &[u8]) -> io::Result<File> {
    create::write_aside(directory, ASIDE, content)
}

pub(super) fn rename_from_aside(directory: &File) -> io::Result<()> {
    Ok(renameat(directory, ASIDE, directory, JOURNAL)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::format::{JournalEntry, RecordedGrant, replay, snapshot};
    use super::*;
    use crate::permits::Terms;
    use std::path::Path;

    fn entry(number: u64) -> String {
        let grant = RecordedGrant::sample("x", number, Terms::default());
        serde_json::to_string(&JournalEntry::Grant(std::borrow::Cow::Owned(grant))).unwrap()
    }

    fn tokens(path: &Path) -> Vec<u64> {
        let found = replay(&fs::read(path).unwrap(), "b").unwrap();
        found.grants.iter().map(|grant| grant.token).collect()
    }

    /// A journal in which nothing is held yet.
    fn begun(directory: &tempfile::TempDir) -> (PathBuf, WriterThread) {
        let path = directory.path().join("journal");
        let begin = snapshot("b", None, 0, &BTreeMap::new(), &[]);
        let parent = File::open(directory.path()).unwrap();
        let file = write_aside(&parent, &begin).unwrap();
        rename_from_aside(&parent).unwrap();
        let tell = watch::channel(WriterStatus::default()).0;
        (path.clone(), WriterThread::new(path, parent, file, begin.len() as u64, tell))
    }

    #[test]
    fn what_a_rewrite_would_have_had_is_appended_when_there_is_no_room_for_it() {
        let directory = tempfile::TempDir::new().unwrap();
        let (path, mut work) = begun(&directory);
        // What a rewrite needs is not to be had.
        fs::create_dir(path.with_extension("new")).unwrap();
        let jobs = [
            Job::Append(entry(1)),
            Job::Rewrite(snapshot("b", None, 9, &BTreeMap::new(), &[])),
            Job::Append(entry(2)),
        ];
        work.write(&jobs).unwrap();
        assert_eq!(tokens(&path), [1, 2]);
        fs::remove_dir(path.with_extension("new")).unwrap();
        work.write(&jobs).unwrap();
        assert_eq!(tokens(&path), [2], "the rewrite stands for what was before it");
    }

    #[test]
    fn rewrites_that_cannot_be_written_do_not_pile_up() {
        let directory = tempfile::TempDir::new().unwrap();
        let (path, mut work) = begun(&directory);
        fs::create_dir(path.with_extension("new")).unwrap();
        let mut jobs = Vec::new();
        for number in 1..=100 {
            add(&mut jobs, Job::Append(entry(number)));
            add(&mut jobs, Job::Rewrite(snapshot("b", None, number, &BTreeMap::new(), &[])));
        }
        let contents =
            jobs.iter().filter(|job| matches!(job, Job::Rewrite(one) if !one.is_empty()));
        assert_eq!((jobs.len(), contents.count()), (200, 1));
        work.write(&jobs).unwrap();
        assert_eq!(tokens(&path), (1..=100).collect::<Vec<_>>());
        fs::remove_dir(path.with_extension("new")).unwrap();
        work.write(&jobs).unwrap();
        assert_eq!(tokens(&path), [0_u64; 0], "the last one stands for all");
    }

    #[test]
    fn a_journal_that_was_moved_away_is_not_written_to() {
        let directory = tempfile::TempDir::new().unwrap();
        let (path, mut work) = begun(&directory);
        fs::rename(&path, directory.path().join("journal.1")).unwrap();
        let error = work.write(&[Job::Append(entry(1))]).unwrap_err();
        assert!(error.to_string().contains("moved or deleted"));
    }
}
