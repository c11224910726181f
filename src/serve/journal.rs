//! What must outlive the process: every grant, and its end. An append-only file of lines, each
//! with its checksum, on the disk before anybody is told of the grant. It is written anew from what
//! is still held when the server starts and when it has grown.
//!
//! ```text
//! 5f0c2a11 {"begin":{"version":1,"boot":"…","last":1790000000000042}}
//! 9d1e77b0 {"grant":{"name":"deploy","id":"…","token":…,"limit":1,"ttl_ms":30000,"record":{…}}}
//! 03ab4cde {"end":{"name":"deploy","id":"…"}}
//! ```

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::backends::Record;

/// A permit on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) token: u64,
    /// The terms in force; none for a client that is alone as long as its connection lives.
    pub(crate) terms: Option<(u32, u64)>,
    pub(crate) record: Option<Record>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry<'a> {
    Begin { version: u32, boot: String, last: u64 },
    Grant(std::borrow::Cow<'a, Grant>),
    End { name: String, id: Uuid },
}

/// The version of the format. Another one is refused.
const VERSION: u32 = 1;

/// What was on record when the server started.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of their tokens.
    pub(crate) grants: Vec<Grant>,
    /// No number that was ever given out is greater.
    pub(crate) last: u64,
    /// The longest lease on record, if the machine has started since.
    pub(crate) rebooted: Option<Duration>,
}

/// Where grants are recorded.
pub(crate) struct Journal {
    writer: Option<Writer>,
}

struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    appended: Cell<u64>,
    /// Bytes since the file was last written anew, and how many are enough to do so.
    grown: Cell<u64>,
    enough: Cell<u64>,
    progress: watch::Receiver<Progress>,
    boot: String,
    /// Held as long as this server uses the directory.
    _lock: File,
}

/// How far the writing is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    written: u64,
    /// Why it does not get on.
    pub(crate) trouble: Option<String>,
}

enum Job {
    Append(Vec<u8>),
    /// Everything that is to be in the file, instead of what is.
    Rewrite(Vec<u8>),
}

/// A file that is smaller than this is not worth to be written anew.
const SMALL: u64 = 1 << 20;

/// How often a disk that is full is tried again.
const AGAIN: Duration = Duration::from_millis(500);

impl Journal {
    /// One that remembers nothing.
    pub(crate) fn none() -> Self {
        Self { writer: None }
    }

    /// Reads what is in a directory, which is made if need be, and goes on there.
    pub(crate) fn open(directory: &Path) -> io::Result<(Self, Found)> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Self::open_at(directory, boot)
    }

    fn open_at(directory: &Path, boot: String) -> io::Result<(Self, Found)> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let lock = private().create(true).append(true).open(directory.join("lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(io::Error::other("another server uses it"));
        }
        let path = directory.join("journal");
        let found = match fs::read(&path) {
            Ok(bytes) => replay(&bytes, &boot)
                .map_err(|what| io::Error::other(format!("{}: {what}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::default(),
            Err(error) => return Err(error),
        };
        let content = snapshot(&boot, found.last, &found.grants);
        let file = write_anew(&path, &content)?;
        let (jobs, todo) = channel();
        let (tell, progress) = watch::channel(Progress::default());
        let size = content.len() as u64;
        let work = Work { path, file, size, tell };
        let thread =
            std::thread::Builder::new().name("journal".into()).spawn(move || work.run(&todo))?;
        let writer = Writer {
            jobs: Some(jobs),
            thread: Some(thread),
            appended: Cell::new(0),
            grown: Cell::new(0),
            enough: Cell::new(SMALL.max(size * 4)),
            progress,
            boot,
            _lock: lock,
        };
        Ok((Self { writer: Some(writer) }, found))
    }

    /// Whether anything outlives the process.
    pub(crate) fn remembers(&self) -> bool {
        self.writer.is_some()
    }

    pub(crate) fn granted(&self, grant: &Grant) {
        self.append(&Entry::Grant(std::borrow::Cow::Borrowed(grant)));
    }

    pub(crate) fn ended(&self, name: &str, id: Uuid) {
        self.append(&Entry::End { name: name.into(), id });
    }

    fn append(&self, entry: &Entry<'_>) {
        let Some(writer) = &self.writer else { return };
        let line = line(entry);
        writer.grown.set(writer.grown.get() + line.len() as u64);
        writer.send(Job::Append(line));
    }

    /// Whether it is time for [`Journal::rewrite`].
    pub(crate) fn has_grown(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.grown.get() > writer.enough.get())
    }

    /// Forgets what is over: only these are still held.
    pub(crate) fn rewrite(&self, last: u64, grants: &[Grant]) {
        let Some(writer) = &self.writer else { return };
        let content = snapshot(&writer.boot, last, grants);
        writer.grown.set(0);
        writer.enough.set(SMALL.max(content.len() as u64 * 4));
        writer.send(Job::Rewrite(content));
    }

    /// Returns once everything that was recorded so far is on the disk, or with the reason why it
    /// does not get there.
    pub(crate) async fn written(&self) -> Result<(), String> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let target = writer.appended.get();
        let mut progress = writer.progress.clone();
        let done = progress
            .wait_for(|progress| progress.written >= target || progress.trouble.is_some())
            .await;
        match done.map(|progress| progress.clone()) {
            Ok(progress) if progress.written >= target => Ok(()),
            Ok(Progress { trouble, .. }) => Err(trouble.unwrap_or_default()),
            Err(_gone) => Err("the thread that writes has ended".into()),
        }
    }

    /// The same, however long it takes.
    pub(crate) async fn certainly_written(&self) {
        while self.written().await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What tells of trouble and of its end; none where nothing is written.
    pub(crate) fn progress(&self) -> Option<watch::Receiver<Progress>> {
        self.writer.as_ref().map(|writer| writer.progress.clone())
    }
}

impl Writer {
    fn send(&self, job: Job) {
        self.appended.set(self.appended.get() + 1);
        // A thread that has ended is noticed by those who wait for it.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
    }
}

impl Drop for Writer {
    /// Writes what is left.
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The thread that writes.
struct Work {
    path: PathBuf,
    file: File,
    /// How much of the file is good.
    size: u64,
    tell: watch::Sender<Progress>,
}

impl Work {
    fn run(mut self, todo: &Receiver<Job>) {
        let mut jobs = Vec::new();
        loop {
            if jobs.is_empty() {
                let Ok(job) = todo.recv() else { return };
                jobs.push(job);
            }
            // All that has come meanwhile goes to the disk together.
            let closed = loop {
                match todo.try_recv() {
                    Ok(job) => jobs.push(job),
                    Err(nothing) => break nothing == TryRecvError::Disconnected,
                }
            };
            match self.write(&jobs) {
                Ok(()) => {
                    let done = jobs.drain(..).count() as u64;
                    self.tell.send_modify(|progress| {
                        progress.written += done;
                        progress.trouble = None;
                    });
                }
                // Nobody was told of what is not there.
                Err(_) if closed => return,
                Err(error) => {
                    self.tell.send_modify(|progress| progress.trouble = Some(error.to_string()));
                    std::thread::sleep(AGAIN);
                }
            }
        }
    }

    /// All of it, or nothing.
    fn write(&mut self, jobs: &[Job]) -> io::Result<()> {
        let mut lines = Vec::new();
        for job in jobs {
            match job {
                Job::Append(line) => lines.extend_from_slice(line),
                Job::Rewrite(content) => {
                    // If that fails the old file is as good, and what comes before is written there.
                    if let Ok(file) = write_anew(&self.path, content) {
                        lines.clear();
                        self.file = file;
                        self.size = content.len() as u64;
                    }
                }
            }
        }
        self.append(&lines)
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all_at(lines, self.size).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Half a line must not stay where the next one begins.
            self.file.set_len(self.size)?;
        } else {
            self.size += lines.len() as u64;
        }
        written
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn write_anew(path: &Path, content: &[u8]) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut file = private().create(true).write(true).truncate(true).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

fn snapshot(boot: &str, last: u64, grants: &[Grant]) -> Vec<u8> {
    let mut content = line(&Entry::Begin { version: VERSION, boot: boot.into(), last });
    for grant in grants {
        content.extend(line(&Entry::Grant(std::borrow::Cow::Borrowed(grant))));
    }
    content
}

fn line(entry: &Entry<'_>) -> Vec<u8> {
    let json = serde_json::to_string(entry).expect("plain data");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

fn read_line(line: &[u8]) -> Option<Entry<'static>> {
    let line = std::str::from_utf8(line).ok()?;
    let (sum, json) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok().filter(|_| sum.len() == 8)?;
    (sum == crc32fast::hash(json.as_bytes())).then_some(())?;
    serde_json::from_str(json).ok()
}

/// What the lines come to. Only the last one may be damaged: it was being written when the
/// machine stopped, and nobody was told of it.
fn replay(bytes: &[u8], boot: &str) -> Result<Found, String> {
    let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
    // Behind the last line end.
    let torn = lines.pop().unwrap_or_default();
    let mut found = Found::default();
    let mut held: HashMap<(String, Uuid), Grant> = HashMap::new();
    let mut longest = Duration::ZERO;
    let mut rebooted = false;
    let last = lines.len();
    for (number, text) in (1..).zip(lines) {
        let entry = match read_line(text) {
            Some(entry) if number > 1 || matches!(entry, Entry::Begin { .. }) => entry,
            // A disk may bring back the last block as zeroes.
            _ if number == last && number > 1 && torn.is_empty() => break,
            _ => {
                return Err(format!(
                    "line {number} is damaged; what is held is not known. Wait until no command \
                     runs that relies on it, then move the file away"
                ));
            }
        };
        match entry {
            Entry::Begin { version, .. } if version != VERSION => {
                return Err(format!("it has format {version}, and this program writes {VERSION}"));
            }
            Entry::Begin { boot: then, last, .. } => {
                rebooted = then != boot;
                found.last = last;
            }
            Entry::Grant(grant) => {
                let grant = grant.into_owned();
                found.last = found.last.max(grant.token);
                let ttl = grant.terms.map_or(0, |(_, ttl)| ttl);
                longest = longest.max(Duration::from_millis(ttl));
                held.insert((grant.name.clone(), grant.id), grant);
            }
            Entry::End { name, id } => drop(held.remove(&(name, id))),
        }
    }
    found.grants = held.into_values().collect();
    found.grants.sort_unstable_by_key(|grant| grant.token);
    found.rebooted = rebooted.then_some(longest);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn grant(number: u64) -> Grant {
        Grant {
            name: format!("n{}", number % 3),
            id: Uuid::from_u128(number.into()),
            token: number,
            terms: Some((2, 30_000)),
            record: None,
        }
    }

    fn found(directory: &TempDir) -> Vec<Grant> {
        Journal::open_at(directory.path(), "b".into()).unwrap().1.grants
    }

    #[test]
    fn what_was_granted_and_not_ended_is_found_again() {
        let directory = TempDir::new().unwrap();
        let (journal, nothing) = Journal::open_at(directory.path(), "b".into()).unwrap();
        assert_eq!((nothing.grants, nothing.last), (vec![], 0));
        (1..=3).for_each(|number| journal.granted(&grant(number)));
        journal.ended("n2", Uuid::from_u128(2));
        drop(journal);
        let (journal, again) = Journal::open_at(directory.path(), "b".into()).unwrap();
        assert_eq!((again.grants, again.last, again.rebooted), (vec![grant(1), grant(3)], 3, None));
        journal.rewrite(7, &[grant(3)]);
        journal.granted(&grant(5));
        drop(journal);
        let (_, again) = Journal::open_at(directory.path(), "other".into()).unwrap();
        let longest = Some(Duration::from_secs(30));
        assert_eq!(
            (again.grants, again.last, again.rebooted),
            (vec![grant(3), grant(5)], 7, longest)
        );
    }

    #[test]
    fn one_directory_serves_one_server() {
        let directory = TempDir::new().unwrap();
        let first = Journal::open_at(directory.path(), "b".into()).unwrap();
        let error = Journal::open_at(directory.path(), "b".into()).err().unwrap();
        assert!(error.to_string().contains("another server"));
        drop(first);
        found(&directory);
    }

    #[test]
    fn damage_before_the_end_is_not_taken_for_nothing() {
        let directory = TempDir::new().unwrap();
        let (journal, _) = Journal::open_at(directory.path(), "b".into()).unwrap();
        (1..=3).for_each(|number| journal.granted(&grant(number)));
        drop(journal);
        let path = directory.path().join("journal");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = Journal::open_at(directory.path(), "b".into()).err().unwrap().to_string();
        assert!(error.contains("line 3 is damaged"), "{error}");
    }

    proptest! {
        // A machine may stop at any moment: what is found is what was recorded until some entry.
        #[test]
        fn a_torn_end_loses_only_what_nobody_was_told(cut in 0..2000_usize) {
            let mut bytes = snapshot("b", 0, &[]);
            let begin = bytes.len();
            (1..=9).for_each(|number| bytes.extend(line(&Entry::Grant(std::borrow::Cow::Owned(grant(number))))));
            let cut = begin + cut % (bytes.len() - begin + 1);
            let whole = bytes[..cut].split(|byte| *byte == b'\n').count() - 2;
            let found = replay(&bytes[..cut], "b").unwrap();
            prop_assert_eq!(found.grants.len(), whole);
        }

        #[test]
        fn no_content_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = replay(&bytes, "b");
            let _ = read_line(&bytes);
        }
    }
}
