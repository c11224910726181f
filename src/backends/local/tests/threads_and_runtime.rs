//! How a permit depends on the process that holds it: its threads, its runtime.

use std::fs::{self, File};

use rustix::fs::{FlockOperation, flock};
use tokio::runtime::{Builder, Runtime};

use super::*;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_granted_permit_leaves_no_thread_behind_also_when_the_mutex_was_waited_for() {
    LocalWorld::run(async |world| {
        drop(world.granted(request()).await);
        let path = world.path().join("mutex");
        let mutex = File::open(&path).unwrap();
        flock(&mutex, FlockOperation::LockExclusive).unwrap();
        let opened = || {
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.filter(|open| fs::read_link(open.path()).is_ok_and(|to| to == path)).count()
        };
        let asking = world.asks(request());
        // Ours, that of the client that asks, and that of its thread.
        while opened() < 3 {
            tokio::task::yield_now().await;
        }
        drop(mutex);
        let _lease = asking.granted().await;
        assert_eq!(opened(), 1, "a thread has the mutex open");
    });
}

#[test]
fn a_permit_outlives_the_runtime_in_which_it_was_granted() {
    let world = LocalWorld(TempDir::new().unwrap());
    let asked = request();
    let mut lease = runtime().block_on(async {
        let progress = ProgressSender::unheard();
        match world.client().acquire(&asked, &progress, CancelToken::pair().1).await.unwrap() {
            Acquisition::Granted(lease) => lease,
            _ => panic!("not granted"),
        }
    });
    runtime().block_on(async {
        let (lost, revoked) = tokio::join!(tokio::time::timeout(PATIENCE, lease.lost()), async {
            tokio::task::yield_now().await;
            world.revoke(asked.id, Revocation::Graceful).await
        });
        assert!(revoked);
        assert_eq!(lost.expect("hears of it").stage, LossStage::Revoking);
        lease.release(PATIENCE).await.unwrap();
    });
    assert_eq!(world.files(), ["mutex"]);
}
