//! Resting: a process that waits for long keeps little of its program in memory.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::time::{Instant, sleep};

use crate::sys::program_memory::{self, QUIET};

thread_local! {
    /// Whether nothing has happened for a while.
    static TIRED: Cell<bool> = const { Cell::new(false) };
}

/// The last action of a thread before it sleeps: memory that is touched later comes back.
pub(super) fn fall_asleep() {
    if TIRED.take() {
        program_memory::release_unused();
    }
}

/// Runs a future, and gives memory back whenever nothing has happened for a while. An occasional
/// event, a heartbeat say, takes some of it again, so it is given back again.
pub(super) async fn release_memory_during<T>(doing: impl Future<Output = T>) -> T {
    let mut doing = pin!(doing);
    let mut quiet = pin!(sleep(QUIET));
    let mut rests = false;
    poll_fn(|context| {
        if let Poll::Ready(done) = doing.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        if quiet.as_mut().poll(context).is_ready() && !rests {
            rests = true;
            TIRED.set(true);
        } else {
            rests = false;
            quiet.as_mut().reset(Instant::now() + QUIET);
            let _ = quiet.as_mut().poll(context);
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_in_each_long_sleep_and_in_no_short_one() {
        thread_local!(static GIVEN: Cell<u32> = const { Cell::new(0) });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .on_thread_park(|| {
                GIVEN.set(GIVEN.get() + u32::from(TIRED.get()));
                fall_asleep();
            })
            .build()
            .unwrap();
        let given = runtime.block_on(release_memory_during(async {
            for _ in 0..10 {
                sleep(QUIET / 2).await;
            }
            let short = GIVEN.get();
            sleep(QUIET * 10).await;
            let long = GIVEN.get();
            sleep(QUIET * 10).await;
            (short, long, GIVEN.get())
        }));
        assert_eq!(given, (0, 1, 2));
    }
}
