//! Connections to other hosts: finding addresses, dialling, and noticing that a peer has vanished.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

/// How long a name server has; less than an attempt, so that it is named.
const LOOKING_UP: Duration = Duration::from_millis(1500);

/// How long one of several addresses may take to answer.
pub(crate) const ONE_OF_SEVERAL: Duration = Duration::from_millis(400);

/// Why a host has no address for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostNotFound {
    NameServerSilent,
    NoAddress,
    /// What the library says.
    Said(String),
}

/// How a peer that has vanished is noticed: three questions without an answer, or data that it does
/// not acknowledge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VanishedPeer {
    /// After how much silence the first question is sent.
    pub(crate) silence: Duration,
    /// How far apart they are.
    pub(crate) interval: Duration,
    /// How long data may be on its way. None: as long as the kernel tries.
    pub(crate) unacknowledged: Option<Duration>,
}

/// A stream of bytes, whatever carries it.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// The addresses of a host.
pub(crate) async fn addresses(
    host: &str,
    port: u16,
) -> Result<impl Iterator<Item = SocketAddr> + use<>, HostNotFound> {
    let found = timeout(LOOKING_UP, lookup_host((host, port))).await;
    let found = found.map_err(|_elapsed| HostNotFound::NameServerSilent)?;
    let mut found = found
        .map_err(|error| {
            // The library's text in front of that says the same.
            let why = error.to_string();
            HostNotFound::Said(why.rsplit(": ").next().unwrap_or_default().into())
        })?
        .collect::<Vec<_>>()
        .into_iter()
        .peekable();
    if found.peek().is_some() { Ok(found) } else { Err(HostNotFound::NoAddress) }
}

/// Dials one address after the other until one answers, or fails in a way that is final. An address
/// that never answers must not keep us from another that works: so all but the last get a time to
/// keep to. None: there was no address.
pub(crate) async fn first_of<T, E, F: Future<Output = Result<T, E>>>(
    addresses: impl Iterator<Item = SocketAddr>,
    dial: impl Fn(SocketAddr, Option<Duration>) -> F,
    is_final: impl Fn(&E) -> bool,
) -> Result<T, Option<E>> {
    let mut addresses = addresses.peekable();
    let mut last = None;
    while let Some(address) = addresses.next() {
        match dial(address, addresses.peek().map(|_| ONE_OF_SEVERAL)).await {
            Ok(stream) => return Ok(stream),
            Err(error) if is_final(&error) => return Err(Some(error)),
            Err(error) => last = Some(error),
        }
    }
    Err(last)
}

/// Begins to connect, which needs no runtime.
pub(crate) fn open(address: &SockAddr, vanished: VanishedPeer) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if address.domain() != Domain::UNIX {
        prepare(&(&socket).into(), vanished)?;
    }
    match socket.connect(address) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Has small messages sent at once, and a peer that has vanished noticed. Connections that a
/// listener accepts are as it is.
pub(crate) fn prepare(socket: &SockRef<'_>, vanished: VanishedPeer) -> io::Result<()> {
    let VanishedPeer { silence, interval, unacknowledged } = vanished;
    let keepalive = TcpKeepalive::new().with_time(silence).with_interval(interval).with_retries(3);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    match unacknowledged {
        Some(time) => socket.set_tcp_user_timeout(Some(time)),
        None => Ok(()),
    }
}

/// Waits for a connection that was begun. If something was sent, it was connected, and the reader
/// finds its state: there may be something to read before an error.
pub(crate) async fn connected(socket: Socket, was: bool) -> io::Result<Box<dyn ByteStream>> {
    if socket.local_addr()?.domain() != Domain::UNIX {
        return Ok(Box::new(connected_tcp(socket, was).await?));
    }
    let stream = UnixStream::from_std(StdUnixStream::from(socket))?;
    stream.writable().await?;
    let error = if was { None } else { stream.take_error()? };
    error.map_or(Ok(Box::new(stream)), Err)
}

/// The same for a connection over TCP.
pub(crate) async fn connected_tcp(socket: Socket, was: bool) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    let error = if was { None } else { stream.take_error()? };
    error.map_or(Ok(stream), Err)
}
