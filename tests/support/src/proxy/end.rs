//! One end of a connection through the proxy, and what is under way to it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use socket2::SockRef;

/// What one read may bring, so that a request of the usual size is one chunk.
pub(super) const CHUNK: usize = 16 * 1024;

/// A connection that is over, for whatever reason.
pub(super) struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Bytes under way; none at all where only an end is passed on.
pub(super) struct Parcel {
    bytes: Vec<u8>,
    sent: usize,
    pub(super) due: Instant,
    then: Then,
}

/// What happens when it was delivered.
#[derive(Clone, Copy)]
pub(super) enum Then {
    GoOn,
    /// This direction ends.
    End,
    /// The whole connection ends.
    Cut,
}

impl Parcel {
    pub(super) fn new(bytes: Vec<u8>, due: Instant, then: Then) -> Self {
        Self { bytes, sent: 0, due, then }
    }
}

/// Our end of the connection to a client or to the server.
pub(super) struct End {
    /// None: nothing will be heard or said any more.
    pub(super) socket: Option<TcpStream>,
    pub(super) ready: PollFlags,
    pub(super) heard_all: bool,
    said_all: bool,
    /// What is still to be said.
    pub(super) queue: VecDeque<Parcel>,
}

impl End {
    pub(super) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self::with(Some(socket)))
    }

    pub(super) fn with(socket: Option<TcpStream>) -> Self {
        let (ready, queue) = (PollFlags::empty(), VecDeque::new());
        Self { socket, ready, heard_all: false, said_all: false, queue }
    }

    pub(super) fn interest(&self, room: bool, now: Instant) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, room && !self.heard_all);
        // What is due and still here did not fit.
        let blocked = self.queue.front().is_some_and(|parcel| parcel.due <= now);
        interest.set(PollFlags::OUT, blocked);
        interest
    }

    /// What was said to us, if anything was; empty once, at its end.
    pub(super) fn hear(&mut self) -> Result<Option<Vec<u8>>, Over> {
        let ready = std::mem::replace(&mut self.ready, PollFlags::empty());
        let Some(socket) = &mut self.socket else { return Ok(None) };
        if self.heard_all {
            return if ready.contains(PollFlags::ERR) { Err(Over) } else { Ok(None) };
        }
        if !ready.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) {
            return Ok(None);
        }
        let mut buffer = [0; CHUNK];
        match socket.read(&mut buffer) {
            Ok(length) => {
                self.heard_all = length == 0;
                Ok(Some(buffer[..length].to_vec()))
            }
            Err(error) if passing(&error) => Ok(None),
            Err(_) => Err(Over),
        }
    }

    /// Says as much as is due and fits.
    pub(super) fn say(&mut self, now: Instant, mut said: impl FnMut(Vec<u8>)) -> Result<(), Over> {
        if self.said_all {
            self.queue.clear();
        }
        let Some(socket) = &mut self.socket else { return Ok(()) };
        while let Some(mut parcel) = self.queue.pop_front_if(|parcel| parcel.due <= now) {
            if !push(socket, &mut parcel)? {
                self.queue.push_front(parcel);
                return Ok(());
            }
            said(parcel.bytes);
            match parcel.then {
                Then::GoOn => {}
                Then::Cut => return Err(Over),
                Then::End => {
                    self.said_all = true;
                    self.queue.clear();
                    socket.shutdown(Shutdown::Write)?;
                }
            }
        }
        Ok(())
    }

    /// Whether both directions have ended. The socket goes then, for it would wake us for ever.
    pub(super) fn done(&mut self) -> bool {
        if self.heard_all && self.said_all {
            self.socket = None;
        }
        self.socket.is_none()
    }

    pub(super) fn reset(self) {
        if let Some(socket) = &self.socket {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Drop for End {
    /// The kernel makes a reset of a close where something was left unread.
    fn drop(&mut self) {
        if let Some(socket) = &mut self.socket {
            let _ = socket.read(&mut [0; CHUNK]);
        }
    }
}

/// Whether all of it has been written.
fn push(socket: &mut TcpStream, parcel: &mut Parcel) -> Result<bool, Over> {
    while parcel.sent < parcel.bytes.len() {
        match socket.write(&parcel.bytes[parcel.sent..]) {
            Ok(length) => parcel.sent += length,
            Err(error) if passing(&error) => return Ok(false),
            Err(_) => return Err(Over),
        }
    }
    Ok(true)
}

/// Not a fault: it goes on later.
fn passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
