//! The other end of a connection: its bytes, for HTTP, and whether it has gone, whatever bytes are
//! still unread.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::connection::ClientConnection;

/// The most that is read at once. hyper's buffer grows with what it gets and never shrinks: after
/// one long head a connection would keep a large buffer as long as it is open.
const MOST_AT_ONCE: usize = 4096;

#[derive(Clone)]
pub(crate) struct Peer {
    stream: Rc<TcpStream>,
    guest: Rc<ClientConnection>,
}

impl Peer {
    pub(super) fn new(stream: TcpStream, guest: Rc<ClientConnection>) -> Self {
        Self { stream: Rc::new(stream), guest }
    }

    pub(crate) fn connection(&self) -> &Rc<ClientConnection> {
        &self.guest
    }

    pub(super) fn stream(&self) -> Weak<TcpStream> {
        Rc::downgrade(&self.stream)
    }

    /// What hyper reads and writes.
    pub(super) fn bytes(&self) -> PeerBytes {
        PeerBytes(self.clone())
    }

    /// Returns when its end of the connection is closed, whatever it sent before.
    pub(super) async fn stage(&self) {
        // No client sends urgent data; that the peer has closed comes with it.
        while let Ok(ready) = self.stream.ready(Interest::PRIORITY).await {
            if ready.is_read_closed() {
                return;
            }
            // Otherwise this would come back at once, for ever.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    /// The same, asked of the kernel now.
    pub(super) fn has_gone(&self) -> bool {
        let mut asked = [PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok() && !asked[0].revents().is_empty()
    }
}

/// See [`Peer::bytes`].
pub(super) struct PeerBytes(Peer);

impl AsyncRead for PeerBytes {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Peer { stream, guest } = &self.0;
        if guest.is_to_be_left(context.waker()) {
            return Poll::Pending;
        }
        loop {
            ready!(stream.poll_read_ready(context))?;
            let mut piece = [0; MOST_AT_ONCE];
            let room = buffer.remaining().min(MOST_AT_ONCE);
            match stream.try_read(&mut piece[..room]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(bytes) => {
                    buffer.put_slice(&piece[..bytes]);
                    guest.has_sent(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for PeerBytes {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Peer { stream, guest } = &self.0;
        loop {
            let Poll::Ready(ready) = stream.poll_write_ready(context) else {
                guest.is_stuck();
                return Poll::Pending;
            };
            ready?;
            match stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    guest.takes(*done.as_ref().unwrap_or(&0));
                    return Poll::Ready(done);
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.guest.has_taken_all();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0.stream).shutdown(Shutdown::Write))
    }
}
