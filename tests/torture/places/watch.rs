use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::torture::history::Moment;

/// What a server would keep, and until when at least, if it can be asked.
pub(super) type Seen = Option<Vec<(String, Moment)>>;

/// Sees until when the server would keep each permit.
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    leapt: AtomicBool,
    looks: AtomicU64,
    kept: Mutex<BTreeMap<String, Moment>>,
}

impl Watch {
    const EACH: Duration = Duration::from_millis(30);

    pub(super) fn new(mut look: impl FnMut() -> Seen + Send + 'static) -> Self {
        let shared = Arc::<Shared>::default();
        let ours = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !ours.ends.load(Ordering::Relaxed) {
                let began = Instant::now();
                if let Some(seen) = look() {
                    ours.see(seen);
                }
                sleep(Self::EACH.saturating_sub(began.elapsed()));
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// The clock by which the server counts has leapt, and says nothing about time: whoever is
    /// there now is left out.
    pub(super) fn leapt(&self) {
        self.shared.leapt.store(true, Ordering::Relaxed);
    }

    pub(super) fn kept_until(&self) -> BTreeMap<String, Moment> {
        assert!(self.shared.looks.load(Ordering::Relaxed) > 0, "the server was never seen");
        self.shared.kept.lock().unwrap().clone()
    }
}

impl Shared {
    fn see(&self, seen: Vec<(String, Moment)>) {
        const FAR: Duration = Duration::from_hours(24);
        self.looks.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock().unwrap();
        let leapt = self.leapt.swap(false, Ordering::Relaxed);
        if leapt {
            kept.values_mut().for_each(|until| *until = until.plus(FAR));
        }
        for (permit, until) in seen {
            let until = if leapt { until.plus(FAR) } else { until };
            let known = kept.entry(permit).or_insert(until);
            *known = (*known).max(until);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
