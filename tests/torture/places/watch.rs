use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::torture::history::{Kept, Moment};

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
    /// When those looks began that were answered.
    looks: Mutex<Vec<Moment>>,
    kept: Mutex<BTreeMap<String, Moment>>,
}

impl Watch {
    const EACH: Duration = Duration::from_millis(30);

    pub(super) fn new(mut look: impl FnMut() -> Seen + Send + 'static) -> Self {
        let shared = Arc::<Shared>::default();
        let ours = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !ours.ends.load(Ordering::Relaxed) {
                let (began, moment) = (Instant::now(), Moment::now());
                if let Some(seen) = look() {
                    ours.see(moment, seen);
                }
                sleep(Self::EACH.saturating_sub(began.elapsed()));
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// The clock by which the server counts has leapt, and says nothing about time: the clients
    /// that are there now are left out.
    pub(super) fn leapt(&self) {
        self.shared.leapt.store(true, Ordering::Relaxed);
    }

    pub(super) fn kept(&self) -> Kept {
        let looks = self.shared.looks.lock().unwrap().clone();
        assert!(!looks.is_empty(), "the server was never seen");
        Kept { until: self.shared.kept.lock().unwrap().clone(), looks }
    }
}

impl Shared {
    fn see(&self, at: Moment, seen: Vec<(String, Moment)>) {
        const FAR: Duration = Duration::from_hours(24);
        self.looks.lock().unwrap().push(at);
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
