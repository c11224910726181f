//! A queue for one reader, in which each message is once at most: one that was not taken yet says all
//! that another one would. A permit has several and nothing in most of them, so an empty one takes
//! little memory; each of tokio's channels has room for 32 messages.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Inbox<T> {
    messages: Mutex<VecDeque<T>>,
    more: Notify,
}

impl<T: PartialEq> Inbox<T> {
    pub(super) fn put(&self, message: T) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if !messages.contains(&message) {
            messages.push_back(message);
        }
        drop(messages);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_that_was_not_taken_yet_is_not_put_again() {
        let inbox = Inbox::default();
        for message in ["a", "b", "a", "a"] {
            inbox.put(message);
        }
        assert_eq!([inbox.next().await, inbox.next().await], ["a", "b"]);
        assert!(inbox.messages.lock().unwrap().is_empty());
        inbox.put("a");
        assert_eq!(inbox.next().await, "a");
    }
}
