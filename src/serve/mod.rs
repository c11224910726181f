//! A cloud-semaphore server: the original's protocol, and leases for our own client. The listener
//! and what ends it come from outside.
//!
//! On hyper alone, without axum or another framework. Clients of the original rely on what Express
//! does: which queries, bodies and methods it takes, and how it answers others. A client may close
//! its end and still wait for its answer, and the server has to notice when it goes. And each of
//! thousands of waiters is an open request, for which there are 25 KiB (docs/performance.md).

pub(crate) mod bearer;
pub(crate) mod bounds;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod journal;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod notices;
pub(crate) mod peer_stream;
mod rejected_keys;
pub(crate) mod routes;
pub(crate) mod seals;
pub(crate) mod semaphores;
mod tombstones;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use self::connection::SLOWEST_HEAD;
use self::connections::Connections;
use self::log::{Log, LogEvent};
use self::notices::ServerFact;
use self::peer_stream::Peer;
use self::routes::Routes;
use crate::net::{self, VanishedPeer};

/// The longest head. A name of 4,096 bytes fits in, however it is encoded.
const LARGEST_HEAD: usize = 32 * 1024;

/// How long to wait for descriptors when there are none.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How many connections the kernel keeps until they are accepted, as far as it may.
const LONGEST_QUEUE: i32 = 4096;

/// How much of an answer the kernel keeps for a client, in bytes; it takes that twice. Left to itself it
/// would be 4 MiB for each connection.
const SEND_BUFFER: usize = 128 * 1024;

/// How long until it is said again.
const NOT_AGAIN: Duration = Duration::from_mins(1);

/// A future on the one thread of the server.
pub(crate) type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The TLS configuration for new connections. Another may replace it while the server runs.
pub(crate) type Greeting = RefCell<Arc<ServerConfig>>;

/// Serves until `shutdown` is ready. To be called where tasks of one thread can be spawned.
pub(crate) async fn run(
    listener: TcpListener,
    tls: Option<Rc<Greeting>>,
    routes: Rc<Routes>,
    door: Rc<Connections>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    prepare(&listener)?;
    let mut connections = JoinSet::new();
    let semaphores = Rc::clone(&routes.semaphores);
    let mut shutdown = std::pin::pin!(shutdown);
    let mut time = std::pin::pin!(semaphores.keep_time());
    let mut disk = std::pin::pin!(tell_of_trouble(&routes));
    let mut failures = std::pin::pin!(routes.failures.tell(&semaphores.log));
    let (said, crowded) = (Cell::new(None), Cell::new(None));
    let mut watching = true;
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => {
                semaphores.close();
                return Ok(());
            }
            ended = &mut time => return ended,
            () = &mut disk, if watching => watching = false,
            () = &mut failures => {}
            Some(_) = connections.join_next() => {}
            (stream, from) = next_connection(&listener, &said, &semaphores.log) => {
                let peer = Peer::new(stream, door.enter(from.ip()));
                let tls = tls.as_ref().map(|tls| TlsAcceptor::from(Arc::clone(&tls.borrow())));
                let talk = serve_connection(peer.clone(), tls, Rc::clone(&routes));
                let ends = connections.spawn_local(talk);
                door.watch(peer.connection(), ends, peer.stream());
                drop(peer);
                if door.make_room(from.ip()).await > 0 {
                    say_seldom(&crowded, &semaphores.log, &ServerFact::Crowded);
                }
            }
        }
    }
}

/// Every connection is as its listener: small answers are sent at once, and a peer that vanished
/// silently is noticed after half a minute.
fn prepare(listener: &TcpListener) -> io::Result<()> {
    let vanished = VanishedPeer {
        silence: Duration::from_secs(15),
        interval: Duration::from_secs(5),
        unacknowledged: None,
    };
    let socket = SockRef::from(listener);
    net::prepare(&socket, vanished)?;
    // We bound what clients do not read, not the kernel.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    // A client that is not accepted at once comes again after a second, or three.
    socket.listen(LONGEST_QUEUE)
}

/// The next one that comes. Without a free descriptor it waits, and the present connections go on.
async fn next_connection(
    listener: &TcpListener,
    said: &Cell<Option<Instant>>,
    log: &Log,
) -> (TcpStream, SocketAddr) {
    loop {
        let error = match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => error,
        };
        let none_left = matches!(
            Errno::from_io_error(&error),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
        );
        // Otherwise it was gone before we saw it.
        if none_left {
            say_seldom(said, log, &ServerFact::NoDescriptors(error));
            tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
        }
    }
}

/// Logs a recurring condition only once in a while.
fn say_seldom(said: &Cell<Option<Instant>>, log: &Log, news: &ServerFact<'_>) {
    if said.get().is_none_or(|when| when.elapsed() > NOT_AGAIN) {
        said.set(Some(Instant::now()));
        log.tell(LogEvent::Alert, news);
    }
}

/// Logs when the disk refuses what has to be recorded, and when it works again.
async fn tell_of_trouble(routes: &Routes) {
    let Some(mut progress) = routes.semaphores.journal.progress() else { return };
    let mut known = None;
    while progress.changed().await.is_ok() {
        let error = progress.borrow_and_update().error.clone();
        if error != known {
            let news = error.as_deref().map_or(ServerFact::Records, ServerFact::DoesNotRecord);
            routes.semaphores.log.tell(LogEvent::Alert, &news);
            known = error;
        }
    }
}

async fn serve_connection(peer: Peer, tls: Option<TlsAcceptor>, routes: Rc<Routes>) {
    let bytes = peer.bytes();
    match tls {
        None => serve(bytes, peer, routes).await,
        Some(tls) => {
            let handshake = tokio::time::timeout(SLOWEST_HEAD, tls.accept(bytes));
            let handshake = Box::pin(handshake).await;
            if let Ok(Ok(stream)) = handshake {
                peer.connection().request_begins();
                // Boxed: connections without TLS need not have the room for it.
                Box::pin(serve(stream, peer, routes)).await;
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, routes: Rc<Routes>) {
    let service = service_fn(|request| Rc::clone(&routes).answer(request, peer.clone()));
    let talk = async {
        // An error of a connection ends it and its open request.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            // The guest knows better how long that is.
            .header_read_timeout(None)
            .max_buf_size(LARGEST_HEAD)
            // A client that sends a request and closes its end gets the answer all the same;
            // requests that stay open check for that themselves.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    };
    peer.connection().unless_slow(talk).await;
}
