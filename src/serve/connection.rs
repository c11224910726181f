//! One connection: how long it may stay as it is, and what the door knows of it.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::connections::Connections;

/// How long a connection may take to send the head of a request, the first one or the next.
pub(super) const SLOWEST_HEAD: Duration = Duration::from_secs(6);

/// How long a client may take to read an answer, and the bytes a second that allow it longer.
const SLOWEST_TAKING: Duration = Duration::from_secs(30);
const SLOWEST_RATE: u64 = 64 * 1024;

pub(crate) struct ClientConnection {
    door: Rc<Connections>,
    number: u64,
    address: IpAddr,
    ends: OnceCell<AbortHandle>,
    known: Cell<bool>,
    /// Whether it has a complete request that is not answered.
    asks: Cell<bool>,
    /// Its place among the known ones without a request.
    place: Cell<Option<u64>>,
    /// Since when it has no request, or sends one.
    since: Cell<Instant>,
    /// How much of the next one has come.
    half: Cell<usize>,
    /// How long it may rest.
    rest: Cell<Duration>,
    /// Since when it does not read what is sent, and how much it has read.
    stuck: Cell<Option<(Instant, u64)>>,
    /// The reader to wake when that is over.
    reader: RefCell<Option<Waker>>,
}

/// A request that is not answered yet.
pub(crate) struct OpenRequest(Rc<ClientConnection>);

impl ClientConnection {
    pub(super) fn new(door: Rc<Connections>, number: u64, address: IpAddr) -> Self {
        Self {
            door,
            number,
            address: address.to_canonical(),
            ends: OnceCell::new(),
            known: Cell::new(false),
            asks: Cell::new(false),
            place: Cell::new(None),
            since: Cell::new(Instant::now()),
            half: Cell::new(0),
            rest: Cell::new(SLOWEST_HEAD),
            stuck: Cell::new(None),
            reader: RefCell::new(None),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn is_ended_by(&self, ends: AbortHandle) {
        let _ = self.ends.set(ends);
    }

    /// Its time for the first request begins now.
    pub(super) fn request_begins(&self) {
        self.since.set(Instant::now());
    }

    /// A request, or at least its head, is complete.
    pub(crate) fn open_request(self: &Rc<Self>) -> OpenRequest {
        self.asks.set(true);
        self.half.set(0);
        self.door.has_whole(self.number);
        self.rests_no_more();
        OpenRequest(Rc::clone(self))
    }

    /// It has shown a key.
    pub(crate) fn shows_key(&self) {
        if !self.known.get() {
            self.known.set(self.door.authenticate(self));
        }
    }

    /// Whether it has shown a key and may stay. Otherwise it may end at any moment: too many have.
    pub(crate) fn is_known(&self) -> bool {
        self.known.get()
    }

    /// It keeps a permit that has to be renewed after a third of this, over this connection.
    pub(crate) fn renews_within(&self, ttl: Duration) {
        let rest = (ttl / 2).saturating_add(SLOWEST_HEAD);
        self.rest.set(self.rest.get().max(rest));
    }

    /// So many bytes have come.
    pub(super) fn has_sent(&self, bytes: usize) {
        if self.asks.get() {
            return;
        }
        let before = self.half.get();
        if before == 0 && self.known.get() {
            self.since.set(Instant::now());
        }
        self.half.set(before + bytes);
        if let Some(ends) = self.ends.get() {
            self.door.has_half(self.number, ends, before + bytes);
        }
    }

    /// It does not take what is sent to it.
    pub(super) fn is_stuck(&self) {
        if self.stuck.get().is_none() {
            self.stuck.set(Some((Instant::now(), 0)));
        }
    }

    /// It has taken so many bytes.
    pub(super) fn takes(&self, bytes: usize) {
        if let Some((since, taken)) = self.stuck.get() {
            self.stuck.set(Some((since, taken.saturating_add(bytes as u64))));
        }
    }

    /// It has taken everything.
    pub(super) fn has_taken_all(&self) {
        if self.stuck.take().is_some() {
            self.since.set(Instant::now());
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    /// Whether to read nothing from it now: a client that reads no answers gets no more. Wakes the
    /// reader when that has changed.
    pub(super) fn is_to_be_left(&self, reader: &Waker) -> bool {
        let left = self.stuck.get().is_some();
        if left {
            self.reader.replace(Some(reader.clone()));
        }
        left
    }

    /// When it ends if nothing changes.
    fn deadline(&self) -> Option<Instant> {
        if let Some((since, taken)) = self.stuck.get() {
            return since.checked_add(SLOWEST_TAKING + Duration::from_secs(taken / SLOWEST_RATE));
        }
        if self.asks.get() {
            return None;
        }
        let slow = self.half.get() > 0 || !self.known.get();
        self.since.get().checked_add(if slow { SLOWEST_HEAD } else { self.rest.get() })
    }

    /// Runs its conversation, and stops when it has been too slow.
    pub(super) async fn unless_slow(&self, conversation: impl Future<Output = ()>) {
        let mut conversation = pin!(conversation);
        let mut alarm = pin!(sleep_until(Instant::now() + SLOWEST_HEAD));
        // The deadline changes only while the conversation is polled, and is checked after that.
        poll_fn(|context| {
            if conversation.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            while let Some(deadline) = self.deadline() {
                if deadline <= Instant::now() {
                    return Poll::Ready(());
                }
                if alarm.is_elapsed() || deadline < alarm.deadline() {
                    alarm.as_mut().reset(deadline);
                }
                if alarm.as_mut().poll(context).is_pending() {
                    break;
                }
            }
            Poll::Pending
        })
        .await;
    }

    fn rests_no_more(&self) {
        if let Some(place) = self.place.take() {
            self.door.rests_no_more(place);
        }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.rests_no_more();
        self.door.left(self, self.known.get());
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let Self(guest) = self;
        guest.asks.set(false);
        guest.half.set(0);
        guest.since.set(Instant::now());
        if guest.known.get()
            && let Some(ends) = guest.ends.get()
        {
            guest.rests_no_more();
            guest.place.set(Some(guest.door.note_partial_head(ends)));
        }
    }
}
