//! What a process that is killed half-way leaves, made by hand, file by file; and the order of
//! making and removing files, which makes that harmless.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, mkfifoat};

use super::*;

/// What happens to the files of a directory, in its order.
struct FileEvents(OwnedFd);

impl FileEvents {
    fn of(path: &Path) -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let flags = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::DELETE;
        inotify::add_watch(&inotify, path, flags).unwrap();
        Self(inotify)
    }

    /// Without the mutex, and without the digits of the names.
    fn so_far(&self) -> Vec<String> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut events = Vec::new();
        while let Ok(event) = reader.next() {
            let file = event.file_name().unwrap().to_str().unwrap();
            let what = match event.events() {
                ReadFlags::CREATE => '+',
                ReadFlags::DELETE => '-',
                _ => '~',
            };
            let file: String = file.chars().filter(|c| !c.is_ascii_digit()).collect();
            if file != "mutex" {
                events.push(format!("{what}{file}"));
            }
        }
        events
    }
}

fn mkfifo(path: &Path) -> OwnedFd {
    mkfifoat(CWD, path, Mode::RWXU).unwrap();
    rustix::fs::openat(CWD, path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap()
}

/// Has a permit granted and given back at once, and says that nothing is left.
async fn passes(world: &LocalWorld, what: &str) {
    let begin = Instant::now();
    world.granted(request()).await.release(PATIENCE).await.unwrap();
    assert!(begin.elapsed() < Duration::from_millis(800), "{what}: {:?}", begin.elapsed());
    let left = world.files().into_iter().filter(|file| file != "done" && file != "mutex");
    assert_eq!(left.collect::<Vec<_>>(), [""; 0], "{what}");
}

#[test]
fn whatever_counts_has_a_record_and_what_is_removed_counts_no_more_before_that() {
    LocalWorld::run(async |world| {
        passes(&world, "the first").await;
        let events = FileEvents::of(&world.path());
        let asked = detached(HOUR);
        drop(world.granted(asked.clone()).await);
        assert_eq!(events.so_far(), ["+k.", "+k..json", "~k..json", "~k."]);
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Now);
        assert_eq!(events.so_far(), ["+done", "~done", "~k.", "-k..json", "-k."]);

        let asked = detached(HOUR).with(|terms| terms.min_hold = HOUR);
        drop(world.granted(asked.clone()).await);
        events.so_far();
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Now);
        assert_eq!(events.so_far(), ["~done", "~k."], "kept");
        assert!(world.revoke(asked.id, Revocation::Forced).await);
        assert_eq!(events.so_far(), ["~k.", "-k..json", "-k."]);

        let asked = request().with(|terms| terms.min_hold = HOUR);
        let lease = world.granted(asked.clone()).await;
        let made = ["+s.", "+s..json", "~s..json", "+k.", "+k..json", "~k..json", "~k."];
        assert_eq!(events.so_far(), made);
        assert!(world.revoke(asked.id, Revocation::Forced).await);
        // What is written to a FIFO is no event.
        let removed = ["-s..json", "-s.", "~k.", "-k..json", "-k."];
        assert_eq!(events.so_far(), removed);
        drop(lease);
    });
}

#[test]
fn a_detached_permit_that_is_half_made_or_half_removed_is_none_and_goes_with_the_next() {
    LocalWorld::run(async |world| {
        let asked = detached(HOUR);
        drop(world.granted(asked.clone()).await);
        let [file, record] = ["", "json"].map(|end| {
            let is_it = |file: &String| file.starts_with("k.") && file.ends_with(end);
            world.path().join(world.files().into_iter().find(is_it).unwrap())
        });
        let content = fs::read(&record).unwrap();
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Now);
        for (what, written) in [
            ("no record yet", None),
            ("half a record", Some(&content[..40])),
            ("all", Some(&*content)),
        ] {
            fs::write(&file, "").unwrap();
            if let Some(written) = written {
                fs::write(&record, written).unwrap();
            }
            assert_eq!(world.phases().await, [], "{what}");
            fs::write(&file, "").unwrap();
            assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Before, "{what}");
            passes(&world, what).await;
        }
    });
}

#[test]
fn a_permit_that_was_remembered_but_not_ended_is_given_back_again() {
    LocalWorld::run(async |world| {
        let asked = detached(HOUR);
        drop(world.granted(asked.clone()).await);
        let done = world.path().join("done");
        fs::write(&done, format!("{:020} {}\n", 1, asked.id)).unwrap();
        assert_eq!(world.phases().await, [HolderState::Holding]);
        let waiting = world.waits(request()).await;
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Now);
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Before);
        waiting.granted().await.release(PATIENCE).await.unwrap();
        passes(&world, "given back").await;
    });
}

#[test]
fn who_is_killed_while_it_remembers_spoils_no_other_memory() {
    LocalWorld::run(async |world| {
        let mut given = Vec::new();
        for _ in 0..70 {
            let asked = detached(HOUR);
            drop(world.granted(asked.clone()).await);
            assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Now);
            given.push(asked.id);
        }
        // The next one has the place of the one that is the oldest now, the seventh.
        let done = world.path().join("done");
        let whole = fs::read(&done).unwrap();
        let line = format!("{:020} {}\n", 71, Uuid::new_v4());
        for torn in 0..line.len() {
            let mut text = whole.clone();
            text[6 * line.len()..][..torn].copy_from_slice(&line.as_bytes()[..torn]);
            fs::write(&done, text).unwrap();
            for id in &given[7..] {
                assert_eq!(world.give_back(*id).await, ReleaseOutcome::Before, "{torn} bytes");
            }
        }
        // Nor does an unfinished first one.
        fs::write(&done, &line[..30]).unwrap();
        let asked = detached(HOUR);
        drop(world.granted(asked.clone()).await);
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Now);
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Before);
    });
}

#[test]
fn fifos_that_are_half_made_or_half_removed_have_no_owner() {
    LocalWorld::run(async |world| {
        passes(&world, "the first").await;
        for letter in ['q', 'p', 's'] {
            let fifo = world.path().join(format!("{letter}.{:020}", 5));
            let record = if letter == 'p' { 'q' } else { letter };
            let record = world.path().join(format!("{record}.{:020}.json", 5));
            for with_record in [false, true] {
                mkfifo(&fifo);
                if with_record {
                    fs::write(&record, "{").unwrap();
                }
                assert_eq!(world.phases().await, []);
                passes(&world, &format!("{letter} {with_record}")).await;
            }
        }
        // Given back, and a daemon keeps it open.
        let fifo = world.path().join(format!("s.{:020}", 5));
        let daemon = mkfifo(&fifo);
        flock(&daemon, FlockOperation::LockExclusive).unwrap();
        let mut writer = fs::OpenOptions::new();
        let writer = writer.write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
        rustix::io::write(&writer, b"xx").unwrap();
        passes(&world, "given back").await;
    });
}

#[test]
fn what_the_dead_left_goes_with_the_next_also_where_other_permits_are_free() {
    LocalWorld::run(async |world| {
        let request = || request().with(|terms| terms.limit = 3);
        let begin = Instant::now();
        for dead in [1, 2] {
            for _ in 0..dead {
                drop(world.granted(request()).await);
            }
            assert_eq!(world.files().len(), 1 + 2 * dead, "{:?}", world.files());
            // Not while a process that may have had such a permit is still ending.
            while world.files() != ["mutex"] {
                assert!(begin.elapsed() < PATIENCE, "{:?}", world.files());
                world.granted(request()).await.release(PATIENCE).await.unwrap();
            }
        }
    });
}

#[test]
fn a_permit_whose_owner_cannot_be_read_is_not_taken_for_another_ones() {
    LocalWorld::run(async |world| {
        let asked = detached(HOUR);
        drop(world.granted(asked.clone()).await);
        let record = world.files().into_iter().find(|file| file.ends_with("json")).unwrap();
        let record = world.path().join(record);
        fs::remove_file(&record).unwrap();
        // Cannot be opened, whichever user we are.
        std::os::unix::fs::symlink("/", &record).unwrap();
        assert!(world.client().release_detached(&name(), asked.id).await.is_err());
        assert!(world.client().revoke(&name(), asked.id, Revocation::Forced).await.is_err());
    });
}

#[test]
fn what_users_share_has_its_mode_before_its_name_and_what_is_left_unfinished_goes() {
    LocalWorld::run(async |world| {
        let base = world.0.path().join("permits");
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, fs::Permissions::from_mode(0o2770)).unwrap();
        let me = rustix::process::geteuid().as_raw();
        // Left by a process of this user that was killed while it made a semaphore.
        fs::create_dir(base.join(format!(".new.{me}"))).unwrap();
        let lease = world.granted(request()).await;
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1, "the semaphore");
        let modes = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(modes(&world.path()), 0o2770);
        let files = world.files();
        for file in &files {
            assert_eq!(modes(&world.path().join(file)), 0o660, "{file}");
        }
        assert_eq!(files.len(), 3, "{files:?}");
        let taken = base.join(format!(".new.{me}"));
        fs::write(&taken, "by another user").unwrap();
        let other = AcquireRequest { name: "y".parse().unwrap(), ..request() };
        world.granted(other).await.release(PATIENCE).await.unwrap();
        assert_eq!(modes(&base.join("y")), 0o2770);
        drop(mkfifo(&world.path().join("new.1")));
        fs::write(world.path().join("new.2"), "half").unwrap();
        lease.release(PATIENCE).await.unwrap();
        let events = FileEvents::of(&world.path());
        let lease = world.granted(request()).await;
        let made: Vec<_> =
            events.so_far().into_iter().filter(|what| what.starts_with('+')).collect();
        assert!(made.len() == 2 && made.iter().all(|what| what.starts_with("+new.")), "{made:?}");
        lease.release(PATIENCE).await.unwrap();
        assert_eq!(world.files(), ["mutex"]);
    });
}
