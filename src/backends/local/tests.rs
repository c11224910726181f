//! What only the local backend does: which waiters a change wakes, and what is in the files.

mod crashes;
mod frozen;
mod threads_and_runtime;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use uuid::Uuid;

use super::Local;
use super::directory::LocalConfig;
use crate::permits::Canceller;
use crate::permits::Terms;
use crate::permits::{
    AcquireRequest, Acquisition, Backend, CancelToken, ClientInfo, HolderState, Lease, LossStage,
    Name, Progress, ProgressSender, ReleaseOutcome, Revocation, SemaphoreSnapshot, StoreError,
};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(10);

struct LocalWorld(TempDir);

struct TestWaiter {
    acquiring: JoinHandle<Box<dyn Lease>>,
    _canceller: Canceller,
    notices: mpsc::UnboundedReceiver<Progress>,
}

impl LocalWorld {
    fn run<F: AsyncFnOnce(LocalWorld)>(test: F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let world = Self(TempDir::new().unwrap());
        LocalSet::new().block_on(&runtime, test(world));
    }

    fn client(&self) -> Local {
        Local::new(LocalConfig::named(&self.0.path().join("permits")))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("permits/x")
    }

    fn asks(&self, request: AcquireRequest) -> TestWaiter {
        let client = self.client();
        let (turn, notices) = ProgressSender::channel();
        let (canceller, cancel) = CancelToken::pair();
        let acquiring = spawn_local(async move {
            match client.acquire(&request, &turn, cancel).await.unwrap() {
                Acquisition::Granted(lease) => lease,
                _ => panic!("not granted"),
            }
        });
        TestWaiter { acquiring, _canceller: canceller, notices }
    }

    async fn waits(&self, request: AcquireRequest) -> TestWaiter {
        let mut waiting = self.asks(request);
        while !matches!(waiting.notices.recv().await, Some(Progress::Queued(_))) {}
        waiting
    }

    async fn granted(&self, request: AcquireRequest) -> Box<dyn Lease> {
        self.asks(request).granted().await
    }

    async fn snapshot(&self) -> SemaphoreSnapshot {
        self.client().observe(&name()).await.unwrap()
    }

    async fn phases(&self) -> Vec<HolderState> {
        self.snapshot().await.holders.iter().map(crate::permits::Holder::state).collect()
    }

    async fn revoke(&self, id: Uuid, how: Revocation) -> bool {
        self.client().revoke(&name(), id, how).await.unwrap()
    }

    async fn give_back(&self, id: Uuid) -> ReleaseOutcome {
        self.client().release_detached(&name(), id).await.unwrap()
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.path()).unwrap();
        let mut files: Vec<_> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        files
    }
}

impl TestWaiter {
    async fn granted(self) -> Box<dyn Lease> {
        tokio::time::timeout(PATIENCE, self.acquiring).await.expect("in time").unwrap()
    }

    /// Whether it goes on waiting for a moment.
    async fn still_waits(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), &mut self.acquiring).await.is_err()
    }
}

fn name() -> Name {
    "x".parse().unwrap()
}

fn request() -> AcquireRequest {
    let who = ClientInfo {
        label: "test".into(),
        host: "here".into(),
        pid: 1,
        user: "me".into(),
        detached: false,
    };
    AcquireRequest::of(name(), Terms::default(), who)
}

fn detached(ttl: Duration) -> AcquireRequest {
    let request = request().with(|terms| terms.ttl = ttl);
    AcquireRequest { who: ClientInfo { detached: true, ..request.who }, ..request }
}

/// What a daemon does that the command leaves behind.
fn keep_open(lease: &dyn Lease) -> OwnedFd {
    lease.inherited_fd().unwrap().as_fd().try_clone_to_owned().unwrap()
}

/// How much the thread that runs the test has computed.
fn computed() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_revoked_run_hears_of_it_and_its_permit_passes_on_at_its_release_only() {
    LocalWorld::run(async |world| {
        let asked = request();
        let mut lease = world.granted(asked.clone()).await;
        let _daemon = keep_open(&*lease);
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(world.waits(request()).await);
        }
        assert!(world.revoke(asked.id, Revocation::Graceful).await);
        assert!(world.revoke(asked.id, Revocation::Graceful).await, "twice is once");
        assert_eq!(lease.lost().await.stage, LossStage::Revoking);
        assert_eq!(world.phases().await, [HolderState::Revoking]);
        assert_eq!(world.snapshot().await.held(asked.id), None);
        // Waiters that came before the revocation and one that comes after it: none spins.
        waiting.push(world.waits(request()).await);
        assert!(waiting[0].still_waits().await);
        let before = computed();
        assert!(waiting[3].still_waits().await && waiting[1].still_waits().await);
        assert!(computed() < before + Duration::from_millis(20));
        // The daemon keeps the FIFO open, so nothing hangs up.
        lease.release(PATIENCE).await.unwrap();
        for waiting in waiting {
            waiting.granted().await.release(PATIENCE).await.unwrap();
        }
        assert!(!world.revoke(asked.id, Revocation::Forced).await);
        assert_eq!(world.files(), ["mutex"]);
    });
}

#[test]
fn a_revoked_permit_passes_on_when_its_holder_dies() {
    LocalWorld::run(async |world| {
        let asked = request();
        let lease = world.granted(asked.clone()).await;
        assert!(world.revoke(asked.id, Revocation::Graceful).await);
        let waiting = world.waits(request()).await;
        drop(lease);
        waiting.granted().await;
    });
}

#[test]
fn a_run_whose_permit_is_taken_away_at_once_hears_of_it_and_the_next_one_has_it() {
    LocalWorld::run(async |world| {
        for gently_first in [false, true] {
            let asked = request().with(|terms| terms.min_hold = HOUR);
            let mut lease = world.granted(asked.clone()).await;
            if gently_first {
                assert!(world.revoke(asked.id, Revocation::Graceful).await);
            }
            let waiting = world.waits(request()).await;
            assert!(world.revoke(asked.id, Revocation::Forced).await);
            assert_eq!(lease.lost().await.stage, LossStage::Now);
            let next = waiting.granted().await;
            lease.release(PATIENCE).await.unwrap();
            assert_eq!(world.phases().await, [HolderState::Holding], "that of the next one");
            next.release(PATIENCE).await.unwrap();
            assert_eq!(world.files(), ["mutex"]);
        }
    });
}

#[test]
fn a_permit_that_is_kept_passes_on_at_its_moment_however_its_holder_went() {
    LocalWorld::run(async |world| {
        let hold = Duration::from_millis(300);
        for dies in [false, true] {
            let begin = Instant::now();
            let asked = request().with(|terms| terms.min_hold = hold);
            let lease = world.granted(asked.clone()).await;
            assert_eq!(world.phases().await, [HolderState::Holding], "one permit, not two");
            let waiting = [world.waits(request()).await, world.waits(request()).await];
            if dies {
                drop(lease);
            } else {
                lease.release(PATIENCE).await.unwrap();
            }
            let snapshot = world.snapshot().await;
            assert_eq!(snapshot.holders[0].state(), HolderState::MinHold);
            assert!(snapshot.holders[0].left().is_some_and(|left| left <= hold));
            assert_eq!(snapshot.holder(asked.id).map(|_| ()), Some(()));
            assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Before);
            for waiting in waiting {
                waiting.granted().await.release(PATIENCE).await.unwrap();
                assert!(begin.elapsed() >= hold);
            }
            assert!(begin.elapsed() < hold + Duration::from_millis(200), "{:?}", begin.elapsed());
            assert_eq!(world.files(), ["mutex"]);
        }
    });
}

#[test]
fn a_run_that_took_long_enough_leaves_nothing() {
    LocalWorld::run(async |world| {
        let asked = request().with(|terms| terms.min_hold = Duration::from_millis(1));
        let lease = world.granted(asked).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        lease.release(PATIENCE).await.unwrap();
        assert_eq!(world.files(), ["mutex"]);
    });
}

#[test]
fn a_kept_permit_that_is_revoked_passes_on_at_once() {
    LocalWorld::run(async |world| {
        for how in [Revocation::Graceful, Revocation::Forced] {
            let asked = request().with(|terms| terms.min_hold = HOUR);
            world.granted(asked.clone()).await.release(PATIENCE).await.unwrap();
            let waiting = world.waits(request()).await;
            assert!(world.revoke(asked.id, how).await);
            waiting.granted().await.release(PATIENCE).await.unwrap();
        }
    });
}

#[test]
fn revocation_lifts_what_would_keep_a_permit() {
    LocalWorld::run(async |world| {
        let asked = request().with(|terms| terms.min_hold = HOUR);
        let lease = world.granted(asked.clone()).await;
        let waiting = world.waits(request()).await;
        assert!(world.revoke(asked.id, Revocation::Graceful).await);
        lease.release(PATIENCE).await.unwrap();
        waiting.granted().await;
    });
}

#[test]
fn a_detached_permit_needs_no_process_and_ends_with_its_lease() {
    LocalWorld::run(async |world| {
        let ttl = Duration::from_millis(300);
        let asked = detached(ttl);
        let lease = world.granted(asked.clone()).await;
        assert!(lease.inherited_fd().is_none() && lease.validity().is_some());
        drop(lease);
        let waiting = world.waits(request()).await;
        assert_eq!(world.snapshot().await.ttl, Some(ttl));
        tokio::time::sleep(ttl / 2).await;
        let begin = Instant::now();
        let attached = world.client().attach(&name(), asked.id).await.unwrap().unwrap();
        assert_eq!(attached.permit().id, asked.id);
        drop(attached);
        waiting.granted().await.release(PATIENCE).await.unwrap();
        let took = begin.elapsed();
        assert!(took >= ttl * 9 / 10 && took < ttl + Duration::from_millis(200), "{took:?}");
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Unknown);
        assert!(world.client().attach(&name(), asked.id).await.unwrap().is_none());
        assert_eq!(world.files(), ["mutex"]);
    });
}

#[test]
fn an_attached_permit_is_renewed_until_it_is_revoked() {
    LocalWorld::run(async |world| {
        let asked = detached(Duration::from_millis(300));
        drop(world.granted(asked.clone()).await);
        let mut lease = world.client().attach(&name(), asked.id).await.unwrap().unwrap();
        let renewing = spawn_local(async move { lease.lost().await });
        let before = computed();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(
            computed() < before + Duration::from_millis(50),
            "what it writes is not news to it"
        );
        assert_eq!(world.phases().await, [HolderState::Holding]);
        assert!(world.revoke(asked.id, Revocation::Graceful).await);
        assert_eq!(world.phases().await, [HolderState::Revoking]);
        assert!(world.client().attach(&name(), asked.id).await.unwrap().is_none());
        assert_eq!(renewing.await.unwrap().stage, LossStage::Revoking);
        world.granted(request()).await;
    });
}

#[test]
fn what_was_given_back_is_remembered_for_a_while() {
    LocalWorld::run(async |world| {
        let mut given = Vec::new();
        for _ in 0..70 {
            let asked = detached(HOUR);
            drop(world.granted(asked.clone()).await);
            assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Now);
            given.push(asked.id);
        }
        assert_eq!(world.give_back(given[69]).await, ReleaseOutcome::Before);
        assert_eq!(world.give_back(given[6]).await, ReleaseOutcome::Before);
        assert_eq!(world.give_back(given[5]).await, ReleaseOutcome::Unknown);
        assert_eq!(world.files(), ["done", "mutex"]);
        let run = request();
        let _lease = world.granted(run.clone()).await;
        assert_eq!(world.give_back(run.id).await, ReleaseOutcome::Unknown);
        assert_eq!(world.phases().await, [HolderState::Holding]);
    });
}

#[test]
fn a_detached_permit_that_was_given_back_may_be_kept() {
    LocalWorld::run(async |world| {
        let asked = detached(HOUR).with(|terms| terms.min_hold = Duration::from_millis(300));
        let lease = world.granted(asked.clone()).await;
        let waiting = world.waits(request()).await;
        lease.release(PATIENCE).await.unwrap();
        assert_eq!(world.phases().await, [HolderState::MinHold]);
        assert!(world.client().attach(&name(), asked.id).await.unwrap().is_none());
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Before);
        waiting.granted().await;
        assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Before);
    });
}

#[test]
fn giving_back_a_detached_permit_or_revoking_it_at_once_wakes_the_next() {
    LocalWorld::run(async |world| {
        for revoked in [false, true] {
            let asked = detached(HOUR);
            let mut lease = world.granted(asked.clone()).await;
            let waiting = world.waits(request()).await;
            if revoked {
                assert!(world.revoke(asked.id, Revocation::Forced).await);
            } else {
                assert_eq!(world.give_back(asked.id).await, ReleaseOutcome::Now);
            }
            waiting.granted().await.release(PATIENCE).await.unwrap();
            drop(std::mem::replace(&mut lease, world.granted(request()).await));
        }
    });
}

#[test]
fn a_permit_of_another_boot_and_a_garbled_one_are_none() {
    LocalWorld::run(async |world| {
        for garble in [false, true] {
            drop(world.granted(detached(HOUR)).await);
            let file = world.files().into_iter().find(|file| file.len() == 22).unwrap();
            let file = world.path().join(file);
            let text = fs::read_to_string(&file).unwrap();
            let other = format!("{}{}", Uuid::new_v4(), &text[36..]);
            fs::write(&file, if garble { "x" } else { &other }).unwrap();
            world.granted(request()).await.release(PATIENCE).await.unwrap();
            assert_eq!(world.files(), ["mutex"]);
        }
    });
}

#[test]
fn a_limit_that_is_raised_lets_everybody_in_who_fits() {
    LocalWorld::run(async |world| {
        let _first = world.granted(request()).await;
        let mut waiting = Vec::new();
        for _ in 0..8 {
            waiting.push(world.waits(request()).await);
        }
        let begin = Instant::now();
        world.client().set_limit(&name(), Some(8)).await.unwrap();
        let mut last = waiting.pop().unwrap();
        let mut leases = Vec::new();
        for waiting in waiting {
            leases.push(waiting.granted().await);
        }
        assert!(begin.elapsed() < Duration::from_millis(500), "no timer: {:?}", begin.elapsed());
        assert!(last.still_waits().await);
        // The users' own limit stands again, and no holder is stopped.
        world.client().set_limit(&name(), None).await.unwrap();
        let snapshot = world.snapshot().await;
        assert_eq!((snapshot.limit, snapshot.pinned, snapshot.holders.len()), (Some(1), false, 8));
        leases.clear();
        assert!(last.still_waits().await);
    });
}

#[test]
fn an_idle_semaphore_is_pinned_as_well() {
    LocalWorld::run(async |world| {
        world.client().set_limit(&name(), None).await.unwrap();
        assert!(!world.path().exists(), "nothing to unpin");
        world.client().set_limit(&name(), Some(3)).await.unwrap();
        let snapshot = world.snapshot().await;
        assert_eq!((snapshot.limit, snapshot.pinned), (Some(3), true));
        let _leases = [world.granted(request()).await, world.granted(request()).await];
        let mut waiting = world.asks(request());
        let limit = Progress::Limit { asked: 1, stands: 3, pinned: true };
        assert_eq!(waiting.notices.recv().await, Some(limit));
        let strict = request().with(|terms| terms.strict = true);
        let turn = ProgressSender::unheard();
        let refused = world.client().acquire(&strict, &turn, CancelToken::pair().1).await;
        let Err(error) = refused else { panic!("refused") };
        let StoreError::Differs(differs) = error.cause else { panic!("{error}") };
        assert_eq!((differs.pinned, differs.stands), (true, (3, None)));
    });
}
