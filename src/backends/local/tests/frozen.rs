//! Waiters that live and do nothing: frozen with their container.

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, mkfifoat};

use super::*;

impl LocalWorld {
    /// Puts some in front of all others, now and later.
    async fn deaf(&self, count: usize) -> Vec<OwnedFd> {
        // Makes the directory.
        self.client().set_limit(&name(), Some(1)).await.unwrap();
        self.client().set_limit(&name(), None).await.unwrap();
        let deaf = |number| {
            let path = self.path().join(format!("q.{number:020}"));
            mkfifoat(CWD, &path, Mode::RWXU).unwrap();
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fifo = rustix::fs::openat(CWD, &path, flags, Mode::empty()).unwrap();
            flock(&fifo, FlockOperation::LockExclusive).unwrap();
            fifo
        };
        (1..=count).map(deaf).collect()
    }
}

async fn runs_on_behind(count: usize, limit: u32, dies: bool) {
    let world = LocalWorld(TempDir::new().unwrap());
    let request = || request().with(|terms| terms.limit = limit);
    let mut holders = Vec::new();
    for _ in 0..limit {
        holders.push(world.granted(request()).await);
    }
    let _deaf = world.deaf(count).await;
    let (first, second) = (world.waits(request()).await, world.waits(request()).await);
    let begin = Instant::now();
    for holder in holders {
        if dies { drop(holder) } else { holder.release(PATIENCE).await.unwrap() }
    }
    let first = first.granted().await;
    if limit == 1 {
        first.release(PATIENCE).await.unwrap();
    }
    second.granted().await;
    let took = begin.elapsed();
    let case = format!("{count} before, limit {limit}, dies: {dies}: {took:?}");
    assert!(took < Duration::from_secs(8), "{case}");
    let passed_over = world.files().iter().filter(|file| file.starts_with("p.")).count();
    assert_eq!(passed_over, count, "{case}");
}

#[test]
fn however_many_in_a_row_do_not_hear_the_permit_passes_on_behind_them() {
    LocalWorld::run(async |_| {
        let mut cases = Vec::new();
        for count in [1, 3, 4, 8, 12] {
            for (limit, dies) in [(1, false), (1, true), (2, false), (2, true)] {
                cases.push(spawn_local(runs_on_behind(count, limit, dies)));
            }
        }
        for case in cases {
            case.await.unwrap();
        }
    });
}

#[test]
fn a_limit_that_is_raised_reaches_waiters_after_deaf_ones() {
    LocalWorld::run(async |world| {
        let _holder = world.granted(request()).await;
        let _deaf = world.deaf(5).await;
        let waiting = world.waits(request()).await;
        world.client().set_limit(&name(), Some(2)).await.unwrap();
        waiting.granted().await;
    });
}

#[test]
fn who_is_among_the_last_again_because_those_behind_left_hears_of_a_free_permit() {
    LocalWorld::run(async |world| {
        let holder = world.granted(request()).await;
        let _deaf = world.deaf(4).await;
        let waiting = world.waits(request()).await;
        let mut others = Vec::new();
        for _ in 0..6 {
            others.push(world.waits(request()).await);
        }
        for other in others {
            other.acquiring.abort();
            assert!(other.acquiring.await.is_err_and(|error| error.is_cancelled()));
        }
        drop(holder);
        waiting.granted().await;
    });
}

#[test]
fn who_waits_for_the_mutex_hears() {
    LocalWorld::run(async |world| {
        let holder = world.granted(request()).await;
        let waiting = world.waits(request()).await;
        let is_it = |file: &String| file.starts_with("q.") && !file.ends_with("json");
        let path = world.path().join(world.files().into_iter().find(is_it).unwrap());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = rustix::fs::openat(CWD, &path, flags, Mode::empty()).unwrap();
        let mutex = fs::File::open(world.path().join("mutex")).unwrap();
        flock(&mutex, FlockOperation::LockExclusive).unwrap();
        // The first wake makes it look, for which it needs the mutex.
        for number in 1..=2 {
            rustix::io::write(&fifo, b"x").unwrap();
            let begin = Instant::now();
            while rustix::io::ioctl_fionread(&fifo).unwrap() > 0 {
                assert!(begin.elapsed() < PATIENCE, "the byte of number {number}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        drop(mutex);
        holder.release(PATIENCE).await.unwrap();
        waiting.granted().await;
    });
}

#[test]
fn waiters_in_the_middle_are_not_woken_by_grants() {
    LocalWorld::run(async |world| {
        let holder = world.granted(request()).await;
        let mut waiting = Vec::new();
        for _ in 0..9 {
            waiting.push(world.waits(request()).await);
        }
        // The waiters have read what the newcomers told them.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut notices = waiting.remove(4).notices;
        while notices.try_recv().is_ok() {}
        holder.release(PATIENCE).await.unwrap();
        let _next = waiting.remove(0).granted().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(notices.try_recv().is_err(), "it looked");
    });
}
