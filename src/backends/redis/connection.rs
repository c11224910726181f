//! One connection to a Redis: dialled, let in, and then questions and their answers, in order.
//!
//! The crate `redis` is the codec, not the client. Its async connections want a runtime, and ours sends
//! the first question before there is one, so that the server works on it while semrun forks. Who we
//! are is said with that question and costs no round trip, and a refused client hears why. Measured with
//! `benches/redis-connection/run` (medians of 600 processes in turn, twice): with the crate's
//! connection a process that asks twice takes 1.14 to 1.21 times as long, 1.12 to 1.14 times without
//! saying who it is, and is 0.5 MB larger.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ConnectionAddr, RedisError, ServerError, Value, cmd};
use rustls::pki_types::ServerName;
use socket2::{SockAddr, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::config::{RedisConfig, RedisUrl};
use super::resp::ReplyBuffer;
use crate::backends::tls::{Tls, TlsError, TlsPeer};
use crate::net::{self, ByteStream, VanishedPeer, connected, open};
use crate::permits::error::{Protocol, StoreError};

/// How soon a server that has vanished is noticed.
const VANISHED: VanishedPeer = VanishedPeer {
    silence: Duration::from_secs(10),
    interval: Duration::from_secs(5),
    unacknowledged: Some(Duration::from_secs(10)),
};

/// How long a greeting is usually answered at the latest.
const GREETING: Duration = Duration::from_millis(600);

/// The size of the read buffer.
const ROOM: usize = 8 * 1024;

/// What is known before anything is connected.
pub(super) struct RedisDialer {
    url: RedisUrl,
    tls: Option<TlsPeer>,
}

/// A connection that we were let in on.
pub(super) struct Connection {
    stream: Box<dyn ByteStream>,
    inbox: ReplyBuffer,
}

/// Questions that were sent before there was a runtime to wait with.
pub(super) struct PrefetchedRequest {
    socket: Socket,
    sent: usize,
}

/// What ended a conversation: a fact about the server, or what the library says of it.
#[derive(Debug, Clone)]
pub(super) enum ConnectionError {
    Known(StoreError),
    Library(RedisError),
}

impl ConnectionError {
    /// Whether the connection is gone, and another one may do.
    pub(super) fn is_io(&self) -> bool {
        match self {
            Self::Known(error) => *error == StoreError::Closed,
            Self::Library(error) => error.is_io_error(),
        }
    }
}

impl From<StoreError> for ConnectionError {
    fn from(error: StoreError) -> Self {
        Self::Known(error)
    }
}

impl From<RedisError> for ConnectionError {
    fn from(error: RedisError) -> Self {
        Self::Library(error)
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        Self::Library(error.into())
    }
}

impl From<ServerError> for ConnectionError {
    fn from(error: ServerError) -> Self {
        Self::Library(error.into())
    }
}

impl RedisDialer {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, TlsError> {
        let url = config.url.clone();
        let tls = match url.info().addr() {
            ConnectionAddr::TcpTls { host, .. } => Some(config.tls.to_host(host)?),
            _ => None,
        };
        Ok(Self { url, tls })
    }

    /// Sends questions on a connection of their own, if that takes no time: nothing has to be looked
    /// up, negotiated or shown before. The rest is left to [`PrefetchedRequest::proceed`].
    pub(super) fn begin(&self, questions: &[Cmd]) -> Option<PrefetchedRequest> {
        if !self.handshake().is_empty() {
            return None;
        }
        let socket = match self.url.info().addr() {
            ConnectionAddr::Tcp(host, port) => {
                open(&SocketAddr::new(host.parse::<IpAddr>().ok()?, *port).into(), VANISHED)
            }
            ConnectionAddr::Unix(path) => {
                SockAddr::unix(path).and_then(|path| open(&path, VANISHED))
            }
            _ => return None,
        };
        let socket = socket.ok()?;
        let sent = match socket.send(&with_handshake(questions)) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // The next dial reports what is wrong.
            Err(_) => return None,
        };
        Some(PrefetchedRequest { socket, sent })
    }

    /// The caller bounds the time.
    pub(super) async fn dial(&self) -> Result<Connection, ConnectionError> {
        let stream = match self.url.info().addr() {
            ConnectionAddr::Unix(path) => {
                connected(open(&SockAddr::unix(path)?, VANISHED)?, false).await?
            }
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                self.dial_one_of(found(host, *port).await?).await?
            }
            _ => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
        };
        let mut conversation = Connection::over(stream);
        for question in self.handshake() {
            conversation.say(&question.get_packed_command()).await?;
            let answer = match conversation.read_reply().await? {
                // Before Redis 6 there are passwords and no users.
                Value::ServerError(error)
                    if error.details().is_some_and(|text| text.contains("wrong number of arg")) =>
                {
                    let password = self.url.secret().unwrap_or_default();
                    conversation.say(&cmd("AUTH").arg(password).get_packed_command()).await?;
                    conversation.read_reply().await?
                }
                answer => answer,
            };
            answer.extract_error()?;
        }
        Ok(conversation)
    }

    async fn dial_one_of(
        &self,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> Result<Box<dyn ByteStream>, ConnectionError> {
        let dial = async |address, time: Option<Duration>| match time {
            Some(time) => timeout(time, self.dial_to(address))
                .await
                .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())),
            None => self.dial_to(address).await,
        };
        let dialled = net::first_of(addresses, dial, |_| false).await;
        dialled
            .map_err(|last| last.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound).into()))
    }

    async fn dial_to(&self, address: SocketAddr) -> Result<Box<dyn ByteStream>, ConnectionError> {
        let stream = connected(open(&address.into(), VANISHED)?, false).await?;
        let Some((config, name)) = &self.tls else { return Ok(stream) };
        let connector = TlsConnector::from(Arc::clone(config));
        tokio::select! {
            biased;
            stream = connector.connect(name.clone(), stream) => Ok(Box::new(stream?)),
            () = answers_without_tls(address) => Err(StoreError::NoTls(Protocol::Redis).into()),
        }
    }

    /// Whether a server that closes a plain connection without an answer speaks TLS.
    pub(super) async fn meets_tls(&self) -> bool {
        let ConnectionAddr::Tcp(host, port) = self.url.info().addr() else { return false };
        let greeted = async {
            let address = found(host, *port)
                .await?
                .next()
                .ok_or(io::ErrorKind::NotFound)
                .map_err(io::Error::from)?;
            let name = ServerName::from(address.ip());
            let greeting =
                Tls::greeting(name).ok_or(io::ErrorKind::Unsupported).map_err(io::Error::from)?;
            first_byte(address, &greeting).await.map_err(ConnectionError::from)
        };
        // A TLS record: an alert, or the next part of the handshake.
        matches!(timeout(net::ONE_OF_SEVERAL, greeted).await, Ok(Ok(0x15 | 0x16)))
    }

    /// What has to be answered before anything else may be asked: a client that is not let in, or
    /// not to the right database, must not change anything there.
    fn handshake(&self) -> Vec<Cmd> {
        let settings = self.url.info().redis_settings();
        let mut questions = Vec::new();
        let user = settings.username().filter(|user| !user.is_empty());
        let password = self.url.secret();
        // A user without a password needs none, and is not the default user.
        if user.is_some() || password.is_some() {
            let mut question = cmd("AUTH");
            question.arg(user).arg(password.unwrap_or_default());
            questions.push(question);
        }
        if settings.db() != 0 {
            let mut question = cmd("SELECT");
            question.arg(settings.db());
            questions.push(question);
        }
        questions
    }
}

impl PrefetchedRequest {
    pub(super) fn is_sent(&self) -> bool {
        self.sent > 0
    }

    /// Goes on from there, with the same questions, until only the answers are missing, after those
    /// to the handshake.
    pub(super) async fn proceed(self, questions: &[Cmd]) -> Result<Connection, ConnectionError> {
        let sent = self.is_sent();
        let mut conversation = Connection::over(connected(self.socket, sent).await?);
        conversation.say(&with_handshake(questions)[self.sent..]).await?;
        Ok(conversation)
    }
}

impl Connection {
    fn over(stream: Box<dyn ByteStream>) -> Self {
        Self { stream, inbox: ReplyBuffer::default() }
    }

    /// Asks one thing, where nothing else is under way.
    pub(super) async fn request(&mut self, question: &Cmd) -> Result<Value, ConnectionError> {
        self.say(&question.get_packed_command()).await?;
        Ok(self.read_reply().await?.extract_error()?)
    }

    pub(super) async fn say(&mut self, text: &[u8]) -> Result<(), ConnectionError> {
        let said = async {
            self.stream.write_all(text).await?;
            self.stream.flush().await
        };
        let Err(error) = said.await else { return Ok(()) };
        // A server that refuses clients says why before it closes the connection.
        match self.read_reply().await {
            Ok(Value::ServerError(refusal)) => Err(refusal.into()),
            _ => Err(error.into()),
        }
    }

    /// What the server says next.
    pub(super) async fn read_reply(&mut self) -> Result<Value, ConnectionError> {
        loop {
            if let Some(answer) = self.inbox.next()? {
                return Ok(answer);
            }
            let received = &mut self.inbox.received;
            received.reserve(ROOM);
            if self.stream.read_buf(received).await? == 0 {
                return Err(StoreError::Closed.into());
            }
        }
    }
}

/// Whether a script did nothing because too few replicas are in step.
pub(super) fn is_refusal(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "ALONE")
}

/// What a sentinel says of a server that it watches under that name, if it talks to all.
pub(super) async fn sentinel_says(
    address: SocketAddr,
    name: &str,
) -> Result<Value, ConnectionError> {
    let stream = connected(open(&address.into(), VANISHED)?, false).await?;
    Connection::over(stream).request(cmd("SENTINEL").arg("MASTER").arg(name)).await
}

/// Returns if a server that says nothing to a TLS greeting has an answer to a plain question.
async fn answers_without_tls(address: SocketAddr) {
    sleep(GREETING).await;
    if !matches!(first_byte(address, b"PING\r\n").await, Ok(b'+' | b'-')) {
        std::future::pending::<()>().await;
    }
}

/// How a server begins its answer, on a connection of its own.
async fn first_byte(address: SocketAddr, question: &[u8]) -> io::Result<u8> {
    let mut stream = connected(open(&address.into(), VANISHED)?, false).await?;
    stream.write_all(question).await?;
    stream.flush().await?;
    stream.read_u8().await
}

async fn found(
    host: &str,
    port: u16,
) -> Result<impl Iterator<Item = SocketAddr> + use<>, ConnectionError> {
    let found = net::addresses(host, port).await;
    Ok(found.map_err(|why| StoreError::HostNotFound { host: host.into(), why })?)
}

/// How many answers there are to the handshake.
pub(super) const HANDSHAKE: usize = 2;

/// What `CLIENT LIST` shows of us.
fn client_info() -> [Cmd; HANDSHAKE] {
    let say = |what: &str, value: &str| {
        let mut question = cmd("CLIENT");
        question.arg("SETINFO").arg(what).arg(value);
        question
    };
    [say("LIB-NAME", env!("CARGO_PKG_NAME")), say("LIB-VER", env!("CARGO_PKG_VERSION"))]
}

/// The questions as they are sent first on a connection: who we are takes no round trip of its own.
fn with_handshake(questions: &[Cmd]) -> Vec<u8> {
    [handshake(), packed(questions)].concat()
}

pub(super) fn handshake() -> Vec<u8> {
    packed(&client_info())
}

pub(super) fn packed(questions: &[Cmd]) -> Vec<u8> {
    questions.iter().flat_map(Cmd::get_packed_command).collect()
}
