//! A place for a value that is taken out to be used and put back afterwards, a connection say.

use std::sync::{Mutex, PoisonError};

pub(super) struct TakeCell<T>(Mutex<Option<T>>);

impl<T> TakeCell<T> {
    pub(super) fn empty() -> Self {
        Self(Mutex::new(None))
    }

    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }
}

impl<T> Default for TakeCell<T> {
    fn default() -> Self {
        Self::empty()
    }
}
