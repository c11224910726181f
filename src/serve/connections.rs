//! All connections, and which of them end when there are too many. One that has not shown a key is
//! a stranger. Strangers have room of their own, which others never need, and the oldest makes room
//! for the newest: so a client that has a key can always connect and show it, however many others
//! there are.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::{Rc, Weak};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, yield_now};

use super::connection::ClientConnection;

/// Descriptors for everything but connections: the journal, its directory, clocks, signals.
const RESERVED: usize = 32;

/// The most strangers, unless more are asked for.
const MOST_STRANGERS: usize = 1024;

/// How large an incomplete request may be without being counted, and how much larger ones may have
/// in all, in bytes.
const SMALL_HEAD: usize = 8 * 1024;
const HALF_HEADS: usize = 16 << 20;

/// How often we wait for a key that has arrived but is not read yet.
const LOOKS: usize = 3;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// Connections that have not shown a key, in all and from one address.
    pub(crate) strangers: usize,
    pub(crate) of_one_address: usize,
    /// Connections that have.
    pub(crate) known: usize,
}

impl ConnectionLimits {
    /// What fits into so many descriptors: by default a quarter for strangers, and a quarter of
    /// that for each address. Strangers never get more than half.
    pub(crate) fn within(
        descriptors: usize,
        strangers: Option<usize>,
        of_one_address: Option<usize>,
    ) -> Self {
        let left = descriptors - RESERVED.min(descriptors / 4);
        let strangers = strangers.unwrap_or((left / 4).min(MOST_STRANGERS));
        let strangers = strangers.clamp(1, (left / 2).max(1));
        let of_one_address = of_one_address.unwrap_or(strangers / 4).clamp(1, strangers);
        Self { strangers, of_one_address, known: (left - strangers.min(left)).max(1) }
    }
}

pub(crate) struct Connections {
    room: ConnectionLimits,
    inside: RefCell<ConnectionTable>,
}

#[derive(Default)]
struct ConnectionTable {
    last: u64,
    /// In order of arrival, without those that are told to end.
    strangers: BTreeMap<u64, AnonymousConnection>,
    /// Strangers, including those.
    count: usize,
    addresses: HashMap<IpAddr, Address>,
    known: usize,
    /// Of these, those without a request, in the order in which the last one ended.
    idle: BTreeMap<u64, AbortHandle>,
    /// Connections with an incomplete request that is no longer small.
    half: BTreeMap<u64, PartialHead>,
    half_bytes: usize,
}

struct AnonymousConnection {
    ends: AbortHandle,
    address: IpAddr,
    stream: Weak<TcpStream>,
}

#[derive(Default)]
struct Address {
    count: usize,
    strangers: BTreeSet<u64>,
}

struct PartialHead {
    bytes: usize,
    ends: AbortHandle,
}

/// What has to be done before one more may stay.
enum Overflow {
    None,
    /// One has to go.
    Oldest(u64),
    /// One is ending already.
    Leaving,
}

impl Connections {
    pub(crate) fn new(room: ConnectionLimits) -> Rc<Self> {
        Rc::new(Self { room, inside: RefCell::default() })
    }

    /// A connection is there, and nothing has come over it.
    pub(super) fn enter(self: &Rc<Self>, address: IpAddr) -> Rc<ClientConnection> {
        let mut inside = self.inside.borrow_mut();
        inside.last += 1;
        inside.count += 1;
        inside.addresses.entry(group(address)).or_default().count += 1;
        Rc::new(ClientConnection::new(Rc::clone(self), inside.last, address))
    }

    /// Remembers how to end it, and its stream, to check for input.
    pub(super) fn watch(
        &self,
        guest: &ClientConnection,
        ends: AbortHandle,
        stream: Weak<TcpStream>,
    ) {
        guest.is_ended_by(ends.clone());
        let address = group(guest.address());
        let mut inside = self.inside.borrow_mut();
        inside.addresses.entry(address).or_default().strangers.insert(guest.number());
        inside.strangers.insert(guest.number(), AnonymousConnection { ends, address, stream });
    }

    /// Ends those that came first until there is room for the last one, which came from there. Returns how
    /// many.
    pub(super) async fn make_room(&self, address: IpAddr) -> usize {
        let address = group(address);
        let (mut looks, mut ended) = (0, 0);
        loop {
            match self.overflow(address) {
                Overflow::None => return ended,
                Overflow::Leaving => {}
                Overflow::Oldest(number) => {
                    // Its key may be here already.
                    if looks < LOOKS && self.has_said_something(number) {
                        looks += 1;
                    } else {
                        self.inside.borrow_mut().send_away(number);
                        ended += 1;
                    }
                }
            }
            // Meanwhile the ones sent away end, and the others read what has come.
            yield_now().await;
        }
    }

    fn overflow(&self, address: IpAddr) -> Overflow {
        let inside = self.inside.borrow();
        let there = inside.addresses.get(&address);
        let oldest = if let Some(there) = there.filter(|it| it.count > self.room.of_one_address) {
            there.strangers.first()
        } else if inside.count > self.room.strangers {
            inside.strangers.keys().next()
        } else {
            return Overflow::None;
        };
        oldest.map_or(Overflow::Leaving, |number| Overflow::Oldest(*number))
    }

    fn has_said_something(&self, number: u64) -> bool {
        let inside = self.inside.borrow();
        let stranger = inside.strangers.get(&number);
        let Some(stream) = stranger.and_then(|stranger| stranger.stream.upgrade()) else {
            return false;
        };
        let mut asked = [PollFd::new(&*stream, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// A stranger has shown a key. False: requests under way take all the room for known clients,
    /// so it stays a stranger, and ends when others come.
    pub(super) fn authenticate(&self, guest: &ClientConnection) -> bool {
        let mut inside = self.inside.borrow_mut();
        if inside.known >= self.room.known {
            let Some((_, ends)) = inside.idle.pop_first() else { return false };
            ends.abort();
        }
        inside.forget_stranger(guest);
        inside.known += 1;
        true
    }

    /// A known one has no request any more. Returns its place among the idle ones.
    pub(super) fn note_partial_head(&self, ends: &AbortHandle) -> u64 {
        let mut inside = self.inside.borrow_mut();
        inside.last += 1;
        let place = inside.last;
        inside.idle.insert(place, ends.clone());
        place
    }

    pub(super) fn rests_no_more(&self, place: u64) {
        self.inside.borrow_mut().idle.remove(&place);
    }

    /// So many bytes of an incomplete request have come.
    pub(super) fn has_half(&self, number: u64, ends: &AbortHandle, bytes: usize) {
        let Some(bytes) = bytes.checked_sub(SMALL_HEAD) else { return };
        let mut inside = self.inside.borrow_mut();
        inside.forget_half(number);
        inside.half_bytes += bytes;
        inside.half.insert(number, PartialHead { bytes, ends: ends.clone() });
        while inside.half_bytes > HALF_HEADS
            && let Some((_, PartialHead { bytes, ends })) = inside.half.pop_first()
        {
            inside.half_bytes -= bytes;
            ends.abort();
        }
    }

    /// Its request is complete.
    pub(super) fn has_whole(&self, number: u64) {
        self.inside.borrow_mut().forget_half(number);
    }

    /// A connection has ended.
    pub(super) fn left(&self, guest: &ClientConnection, known: bool) {
        let mut inside = self.inside.borrow_mut();
        inside.forget_half(guest.number());
        if known {
            inside.known -= 1;
        } else {
            inside.forget_stranger(guest);
        }
    }
}

impl ConnectionTable {
    fn send_away(&mut self, number: u64) {
        if let Some(AnonymousConnection { ends, address, .. }) = self.strangers.remove(&number) {
            ends.abort();
            if let Some(there) = self.addresses.get_mut(&address) {
                there.strangers.remove(&number);
            }
        }
    }

    fn forget_stranger(&mut self, guest: &ClientConnection) {
        self.count -= 1;
        self.strangers.remove(&guest.number());
        if let Entry::Occupied(mut there) = self.addresses.entry(group(guest.address())) {
            there.get_mut().strangers.remove(&guest.number());
            there.get_mut().count -= 1;
            if there.get().count == 0 {
                there.remove();
            }
        }
    }

    fn forget_half(&mut self, number: u64) {
        if let Some(half) = self.half.remove(&number) {
            self.half_bytes -= half.bytes;
        }
    }
}

/// What counts as one address: of IPv6 a network of 64 bits, which any single host may have.
pub(super) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
