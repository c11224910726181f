//! What a waiter is told, and how its wait is called off.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{QueueStatus, StoreError, Withheld};

/// What a backend tells a waiter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// We are in the queue, or our place in it may have changed.
    Queued(QueueStatus),
    /// No permit is granted, and a client that asks gets no place either.
    Withheld(Withheld),
    /// Another limit is in force; pinned, or because the semaphore is in use.
    Limit { asked: u32, stands: u32, pinned: bool },
    /// Another lease is in force.
    Ttl { asked: Duration, stands: Duration },
    /// Clients of another kind hold permits of it.
    Foreign { ttl: Duration },
    /// The environment claims that the permit we wait for is held around us, and nothing else shows
    /// it.
    HeldAround,
    /// The backend may not tell us whether it was restarted and forgot its permits.
    Blind,
    /// It may not wake us, so we check for free permits only once per heartbeat.
    Deaf { heartbeat: Duration },
    /// The backend does not answer, or not as it should; the request is retried. `may_last`: this
    /// was not the first try, and the retries do not soon end in an error.
    Trouble { what: StoreError, may_last: bool },
}

/// Where notices go.
#[derive(Debug, Clone)]
pub(crate) struct ProgressSender(Option<mpsc::UnboundedSender<Progress>>);

impl ProgressSender {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Progress>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// One to which no reader listens.
    pub(crate) fn unheard() -> Self {
        Self(None)
    }

    /// The waiter may not listen any more; that is no trouble of the backend.
    pub(crate) fn tell(&self, notice: Progress) {
        if let Some(sender) = &self.0 {
            let _ = sender.send(notice);
        }
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

    /// Runs a future unless it is called off; dropping the future has to be enough to end it. A
    /// result that came at the same moment is returned.
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
