//! The body of an answer, and how much of all bodies is on the way at one time.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use crate::serve::LocalFuture;
use crate::serve::connection::OpenRequest;

/// How short an answer is not counted, and how much of longer ones may be on the way at once, in
/// bytes. One always may, as it may list many clients.
const SHORT: usize = 4 * 1024;
const MOST: usize = 64 << 20;

/// The body of an answer: some text, and for a client that listens what comes later.
pub(crate) struct ResponseBody {
    pub(super) first: Option<Bytes>,
    pub(super) then: Option<Later>,
    /// The request, which is answered with the end of this.
    pub(super) asking: Option<OpenRequest>,
}

/// Gives the next piece of an answer, which ends without one.
pub(super) struct Later {
    pub(super) next: Box<dyn Fn() -> LocalFuture<'static, Option<Bytes>>>,
    pub(super) coming: LocalFuture<'static, Option<Bytes>>,
}

impl ResponseBody {
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        let first = (!text.is_empty()).then_some(text);
        Self { first, then: None, asking: None }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(then) = &mut self.then else { return Poll::Ready(None) };
        match then.coming.as_mut().poll(context) {
            Poll::Ready(Some(piece)) => {
                then.coming = (then.next)();
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Poll::Ready(None) => {
                self.then = None;
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.then.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.then {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.first.as_ref().map_or(0, |first| first.len() as u64)),
        }
    }
}

/// Answers that are long and that their clients have not taken yet, and long requests.
#[derive(Default)]
pub(super) struct LongAnswers(Arc<AtomicUsize>);

/// The room of one of them.
pub(super) struct Room {
    length: usize,
    all: Arc<AtomicUsize>,
}

/// It counts until its last byte is sent.
struct CountedBytes {
    text: Bytes,
    _room: Room,
}

impl LongAnswers {
    /// Whether one of about that length can be on its way.
    pub(super) fn has_room(&self, length: usize) -> bool {
        let before = self.0.load(Ordering::Relaxed);
        length <= SHORT || before == 0 || before + length <= MOST
    }

    /// None: there are too many.
    pub(super) fn hold(&self, text: Bytes) -> Option<Bytes> {
        if text.len() <= SHORT {
            return Some(text);
        }
        let room = self.reserve(text.len())?;
        Some(Bytes::from_owner(CountedBytes { text, _room: room }))
    }

    /// None: there are too many.
    pub(super) fn reserve(&self, length: usize) -> Option<Room> {
        if !self.has_room(length) {
            return None;
        }
        self.0.fetch_add(length, Ordering::Relaxed);
        Some(Room { length, all: Arc::clone(&self.0) })
    }
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.length, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_have_room_until_they_are_sent_and_short_ones_always() {
        let answers = LongAnswers::default();
        let text = |length| Bytes::from(vec![b'x'; length]);
        let mut held: Vec<_> = (0..64).map(|_| answers.hold(text(1 << 20)).unwrap()).collect();
        assert!(answers.hold(text(SHORT + 1)).is_none());
        assert!(answers.hold(text(SHORT)).is_some());
        // As hyper does it: the last piece counts for all.
        let rest = held.pop().unwrap().split_off(10);
        assert!(answers.hold(text(SHORT + 1)).is_none());
        drop(rest);
        assert!(answers.hold(text(SHORT + 1)).is_some());
        held.clear();
        assert!(answers.hold(text(MOST + 1)).is_some(), "one may always be");
    }
}
