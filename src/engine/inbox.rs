//! A queue for one reader. A permit has several and nothing in most of them, so an empty one takes
//! little memory; each of tokio's channels has room for 32 messages.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Inbox<T> {
    messages: Mutex<VecDeque<T>>,
    more: Notify,
}

impl<T> Inbox<T> {
    pub(super) fn put(&self, message: T) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push_back(message);
        self.more.notify_one();
    }

    /// The next message, whenever that comes. Cancel-safe.
    pub(super) async fn next(&self) -> T {
        loop {
            let next = self.messages.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(message) = next {
                return message;
            }
            self.more.notified().await;
        }
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { messages: Mutex::default(), more: Notify::new() }
    }
}
