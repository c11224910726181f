//! What must outlive the process: every grant, and its end. An append-only file of lines, each
//! with its checksum, on the disk before anybody is told of the grant. A line is all that was
//! written at once, so that only the last one can be damaged when the machine stops. The file is
//! written anew from what is still held when the server starts and when it has grown.
//!
//! ```text
//! 5f0c2a11 [{"begin":{"version":1,"boot":"…","last":1790000000000042,"longest_ms":0}}]
//! 9d1e77b0 [{"grant":{"name":"deploy","id":"…","token":…,"terms":[1,30000],"record":{…}}}]
//! 03ab4cde [{"end":{"name":"deploy","id":"…"}},{"grant":{…}}]
//! ```

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::backends::Record;
use crate::backends::cloud::wire::millis;

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
    Begin {
        version: u32,
        boot: String,
        last: u64,
        /// The longest lease that the machine may have forgotten when it started, as long as that
        /// is waited for.
        longest_ms: u64,
    },
    Grant(Cow<'a, Grant>),
    End {
        name: String,
        id: Uuid,
    },
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
    /// Whether there was a server before this one.
    pub(crate) restarted: bool,
    /// The longest lease on record, if the machine has started since.
    pub(crate) rebooted: Option<Duration>,
    /// When it was started, for the record.
    boot: String,
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
    /// Of this start of the machine.
    boot: String,
    /// Of an earlier one, and the longest lease then, until that is over.
    before: RefCell<Option<(String, Duration)>>,
    /// Held as long as this server uses the directory.
    _lock: File,
}

/// How far the writing is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    written: u64,
    /// Jobs that a later one has made needless, and that is not done.
    superseded: u64,
    /// Why it does not get on.
    pub(crate) trouble: Option<String>,
}

enum Job {
    /// An entry as JSON.
    Append(String),
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
        let before = found.rebooted.map(|longest| (found.boot.clone(), longest));
        let content = snapshot(&boot, before.as_ref(), found.last, &found.grants);
        // Kept open: when it is needed there may be no descriptor left.
        let directory = File::open(directory)?;
        let file = write_aside(&path, &content)?;
        rename_from_aside(&path)?;
        directory.sync_all()?;
        let (jobs, todo) = channel();
        let (tell, progress) = watch::channel(Progress::default());
        let size = content.len() as u64;
        let work = Work { path, directory, file, size, renamed: false, tell };
        let thread = std::thread::Builder::new().name("journal".into());
        let thread = thread.spawn(move || work.run(&todo))?;
        let writer = Writer {
            jobs: Some(jobs),
            thread: Some(thread),
            appended: Cell::new(0),
            grown: Cell::new(0),
            enough: Cell::new(SMALL.max(size * 4)),
            progress,
            boot,
            before: RefCell::new(before),
            _lock: lock,
        };
        Ok((Self { writer: Some(writer) }, found))
    }

    /// Whether what is on record may not be all: the machine was started, and the longest lease
    /// of before is not over.
    pub(crate) fn is_of_another_boot(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.before.borrow().is_some())
    }

    /// That lease is over; the next [`Journal::rewrite`] says so.
    pub(crate) fn is_of_this_boot(&self) {
        if let Some(writer) = &self.writer {
            writer.before.replace(None);
        }
    }

    /// Whether anything outlives the process.
    pub(crate) fn remembers(&self) -> bool {
        self.writer.is_some()
    }

    pub(crate) fn granted(&self, grant: &Grant) {
        self.append(&Entry::Grant(Cow::Borrowed(grant)));
    }

    pub(crate) fn ended(&self, name: &str, id: Uuid) {
        self.append(&Entry::End { name: name.into(), id });
    }

    fn append(&self, entry: &Entry<'_>) {
        let Some(writer) = &self.writer else { return };
        let json = serde_json::to_string(entry).expect("plain data");
        writer.grown.set(writer.grown.get() + json.len() as u64);
        writer.send(Job::Append(json));
    }

    /// Whether it is time for [`Journal::rewrite`].
    pub(crate) fn has_grown(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.grown.get() > writer.enough.get())
    }

    /// Forgets what is over: only these are still held.
    pub(crate) fn rewrite(&self, last: u64, grants: &[Grant]) {
        let Some(writer) = &self.writer else { return };
        let content = snapshot(&writer.boot, writer.before.borrow().as_ref(), last, grants);
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
    directory: File,
    file: File,
    /// How much of the file is good.
    size: u64,
    /// Whether the file has just got its name, and the disk does not know.
    renamed: bool,
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
                        progress.written += done + std::mem::take(&mut progress.superseded);
                        progress.trouble = None;
                    });
                }
                // Nobody was told of what is not there.
                Err(_) if closed => return,
                Err(error) => {
                    // The last of them has everything that came before.
                    if let Some(last) = jobs.iter().rposition(|job| matches!(job, Job::Rewrite(_)))
                    {
                        let superseded = jobs.drain(..last).count() as u64;
                        self.tell.send_modify(|progress| progress.superseded += superseded);
                    }
                    self.tell.send_modify(|progress| progress.trouble = Some(error.to_string()));
                    std::thread::sleep(AGAIN);
                }
            }
        }
    }

    /// All of it, or nothing that counts.
    fn write(&mut self, jobs: &[Job]) -> io::Result<()> {
        let mut entries = Vec::new();
        for job in jobs {
            match job {
                Job::Append(entry) => entries.push(entry.as_str()),
                Job::Rewrite(content) => {
                    // If that fails the old file is as good, and what comes before is written there.
                    if let Ok(file) = self.replace(content) {
                        entries.clear();
                        self.file = file;
                        self.size = content.len() as u64;
                        self.renamed = true;
                    }
                }
            }
        }
        if self.renamed {
            self.directory.sync_all()?;
            self.renamed = false;
        }
        self.append(&entries)
    }

    fn replace(&self, content: &[u8]) -> io::Result<File> {
        let file = write_aside(&self.path, content)?;
        rename_from_aside(&self.path)?;
        Ok(file)
    }

    fn append(&mut self, entries: &[&str]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.file.metadata()?.nlink() == 0 {
            return Err(io::Error::other("somebody has deleted the journal; restart the server"));
        }
        let line = line(entries);
        let written = self.file.write_all_at(&line, self.size).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Half a line must not stay where the next one begins.
            self.file.set_len(self.size)?;
        } else {
            self.size += line.len() as u64;
        }
        written
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Beside the journal, and on the disk.
fn write_aside(path: &Path, content: &[u8]) -> io::Result<File> {
    let aside = path.with_extension("new");
    let mut file = private().create(true).write(true).truncate(true).open(aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(file)
}

fn rename_from_aside(path: &Path) -> io::Result<()> {
    fs::rename(path.with_extension("new"), path)
}

/// What the journal is when nothing has been appended: a line to begin with, and one with all
/// that is held.
fn snapshot(
    boot: &str,
    before: Option<&(String, Duration)>,
    last: u64,
    grants: &[Grant],
) -> Vec<u8> {
    let json = |entry: &Entry<'_>| serde_json::to_string(entry).expect("plain data");
    let (boot, longest) = match before {
        Some((boot, longest)) => (boot.clone(), *longest),
        None => (boot.into(), Duration::ZERO),
    };
    let begin = Entry::Begin { version: VERSION, boot, last, longest_ms: millis(longest) };
    let mut content = line(&[&json(&begin)]);
    if !grants.is_empty() {
        let grants: Vec<_> =
            grants.iter().map(|grant| json(&Entry::Grant(Cow::Borrowed(grant)))).collect();
        content.extend(line(&grants.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    content
}

fn line(entries: &[&str]) -> Vec<u8> {
    let json = format!("[{}]", entries.join(","));
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

fn read_line(line: &[u8]) -> Option<Vec<Entry<'static>>> {
    let line = std::str::from_utf8(line).ok()?;
    let (sum, json) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok().filter(|_| sum.len() == 8)?;
    (sum == crc32fast::hash(json.as_bytes())).then_some(())?;
    serde_json::from_str(json).ok()
}

/// What the lines come to. Only the last one may be damaged, unless it is the first: it was being
/// written when the machine stopped, and nobody was told of it.
fn replay(bytes: &[u8], boot: &str) -> Result<Found, String> {
    let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
    // Behind the last line end.
    let torn = lines.pop().unwrap_or_default();
    let damaged = |number: usize| {
        format!(
            "line {number} is damaged; what is held is not known. Wait until no command runs that \
             relies on it, then move the file away"
        )
    };
    let mut found = Found { restarted: true, ..Found::default() };
    let mut held: HashMap<(String, Uuid), Grant> = HashMap::new();
    let mut longest = Duration::ZERO;
    let mut begun = false;
    let last = lines.len();
    for (number, text) in (1..).zip(lines) {
        let Some(entries) = read_line(text) else {
            // A disk may bring back the last block as zeroes.
            if number == last && begun && torn.is_empty() {
                break;
            }
            return Err(damaged(number));
        };
        for entry in entries {
            match entry {
                Entry::Begin { version, .. } if version != VERSION => {
                    return Err(format!(
                        "it has format {version}, and this program writes {VERSION}"
                    ));
                }
                Entry::Begin { boot, last, longest_ms, .. } if !begun => {
                    begun = true;
                    found.boot = boot;
                    found.last = last;
                    longest = Duration::from_millis(longest_ms);
                }
                Entry::Grant(grant) if begun && grant.token < GREATEST => {
                    let grant = grant.into_owned();
                    found.last = found.last.max(grant.token);
                    let ttl = grant.terms.map_or(0, |(_, ttl)| ttl);
                    longest = longest.max(Duration::from_millis(ttl));
                    held.insert((grant.name.clone(), grant.id), grant);
                }
                Entry::End { name, id } if begun => drop(held.remove(&(name, id))),
                Entry::Begin { .. } | Entry::Grant(_) | Entry::End { .. } => {
                    return Err(damaged(number));
                }
            }
        }
    }
    if !begun {
        return Err(damaged(1));
    }
    found.grants = held.into_values().collect();
    found.grants.sort_unstable_by_key(|grant| grant.token);
    if found
        .grants
        .windows(2)
        .any(|pair| pair[0].token == pair[1].token && pair[0].name == pair[1].name)
    {
        return Err("two permits have the same token".into());
    }
    found.rebooted = (found.boot != boot).then_some(longest);
    Ok(found)
}

/// No number that is given out comes near it.
const GREATEST: u64 = 1 << 62;

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
    fn a_journal_whose_first_line_is_not_whole_is_not_taken_for_a_new_one() {
        let whole = snapshot("b", None, 0, &[]);
        for bytes in [&b""[..], &[0; 4096], b"\n", &whole[..whole.len() - 1], b"00000000 []\n"] {
            assert!(replay(bytes, "b").is_err_and(|error| error.contains("line 1 is damaged")));
        }
        assert!(replay(&whole, "b").is_ok());
    }

    #[test]
    fn the_lease_of_an_earlier_boot_is_remembered_until_it_is_over() {
        let directory = TempDir::new().unwrap();
        let open = || Journal::open_at(directory.path(), "now".into()).unwrap();
        let (journal, _) = Journal::open_at(directory.path(), "before".into()).unwrap();
        journal.granted(&grant(1));
        journal.ended("n1", Uuid::from_u128(1));
        drop(journal);
        let longest = Some(Duration::from_secs(30));
        for _ in 0..2 {
            let (journal, found) = open();
            assert_eq!((found.rebooted, journal.is_of_another_boot()), (longest, true));
        }
        let (journal, _) = open();
        journal.is_of_this_boot();
        journal.rewrite(1, &[]);
        drop(journal);
        assert_eq!(open().1.rebooted, None);
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
        let mut bytes = snapshot("b", None, 0, &[grant(1), grant(2)]);
        let end = Entry::End { name: "n1".into(), id: Uuid::from_u128(1) };
        bytes.extend(line(&[&serde_json::to_string(&end).unwrap()]));
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert!(replay(&bytes, "b").is_err_and(|error| error.contains("line 2 is damaged")));
    }

    proptest! {
        // A machine may stop at any moment: what is found is what was recorded until some entry.
        #[test]
        fn a_torn_end_loses_only_what_nobody_was_told(cut in 0..2000_usize) {
            let mut bytes = snapshot("b", None, 0, &[]);
            let begin = bytes.len();
            for number in 1..=9 {
                let entry = Entry::Grant(Cow::Owned(grant(number)));
                bytes.extend(line(&[&serde_json::to_string(&entry).unwrap()]));
            }
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
