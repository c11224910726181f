//! What somebody who waits for a permit is told, and how it is called off.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{QueueStatus, StoreError, Withheld};

/// What a backend has to say while somebody waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// We are in the queue, or our place in it may have changed.
    Queued(QueueStatus),
    /// No permit is granted, and whoever asks is given no place either.
    Withheld(Withheld),
    /// Another limit stands and counts; pinned, or because the semaphore is in use.
    Limit { asked: u32, stands: u32, pinned: bool },
    /// Another lease stands and counts.
    Ttl { asked: Duration, stands: Duration },
    /// Clients of another kind hold permits of it.
    Foreign { ttl: Duration },
    /// The environment says that the permit we wait for is held around us, and nothing else does.
    HeldAround,
    /// The backend may not tell us whether it was restarted and forgot its permits.
    Blind,
    /// It may not wake us, so that what is free is noticed only so often.
    Deaf { heartbeat: Duration },
    /// The backend does not answer, or not as it should, and is tried again. It may last if it was not the first try and an error does not end it soon.
    Trouble { what: StoreError, may_last: bool },
}

/// Where notices go.
#[derive(Debug, Clone)]
pub(crate) struct ProgressSender(mpsc::UnboundedSender<Progress>);

impl ProgressSender {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Progress>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Nobody may be listening any more; that is no trouble of the backend.
    pub(crate) fn tell(&self, notice: Progress) {
        let _ = self.0.send(notice);
    }
}

/// The waiting side of a cancellation.
#[derive(Debug, Clone)]
pub(crate) struct CancelToken(watch::Receiver<bool>);

/// The end of a cancellation that calls it off. Dropping it cancels nothing.
#[derive(Debug)]
pub(crate) struct Canceller(watch::Sender<bool>);

impl CancelToken {
    pub(crate) fn pair() -> (Canceller, Self) {
        let (sender, receiver) = watch::channel(false);
        (Canceller(sender), Self(receiver))
    }

    /// Does something unless it is called off; dropping it has to be enough. A result that came
    /// at the same moment is returned.
    pub(crate) async fn unless_cancelled<T>(mut self, doing: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = doing => Some(done),
            () = self.cancelled() => None,
        }
    }

    /// Ready once it is called off.
    pub(crate) async fn cancelled(&mut self) {
        if self.0.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Canceller {
    pub(crate) fn cancel(&self) {
        let _ = self.0.send(true);
    }
}
