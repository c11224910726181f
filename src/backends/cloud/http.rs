//! Connections to a cloud-semaphore server. A request goes over one that is there, once: the link
//! never dials or sends again by itself, because a server of the original kind crashes when a
//! request names a client that it does not know.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap, LOCATION};
use hyper::http::request;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::OBSERVE;
use super::config::CloudConfig;
use super::protocol::{KEY_HEADER, LIST, VERSION, VERSION_HEADER};
use crate::backends::tls::{self, Secret, TlsError, TlsPeer};
use crate::engine::retry::{ATTEMPT_TIMEOUT, with_timeout};
use crate::net::{self, VanishedPeer, connected_tcp, open};
use crate::permits::error::{Protocol, StoreError};

/// A server that has vanished is noticed within eleven seconds.
const VANISHED: VanishedPeer = VanishedPeer {
    silence: Duration::from_secs(5),
    interval: Duration::from_secs(2),
    unacknowledged: Some(Duration::from_secs(10)),
};

/// The largest answer to most requests; to one about all clients of a semaphore, which may be
/// thousands; and the largest line.
const LARGEST_ANSWER: usize = 1 << 20;
const LARGEST_LOOK: usize = 64 << 20;
const LONGEST_LINE: usize = 64 << 10;

/// What is known before anything is connected.
pub(super) struct HttpDialer {
    pub(super) config: CloudConfig,
    tls: Option<TlsPeer>,
}

/// One connection, with one request on it at a time.
pub(super) struct HttpConnection {
    requests: SendRequest<Full<Bytes>>,
    /// Moves the bytes while it is polled; none once the connection has ended.
    traffic: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    /// The same connection.
    socket: OwnedFd,
    server: SocketAddr,
}

/// The head of an answer, and what comes after it.
pub(super) struct HttpResponse {
    pub(super) status: StatusCode,
    /// Whether the server is one of ours.
    pub(super) ours: bool,
    body: Incoming,
    /// How much of that is read.
    most: usize,
}

impl HttpDialer {
    pub(super) fn new(config: CloudConfig) -> Result<Self, TlsError> {
        let tls = config.url.tls.then(|| config.tls.to_host(&config.url.host)).transpose()?;
        Ok(Self { config, tls })
    }

    pub(super) async fn dial(&self) -> Result<HttpConnection, StoreError> {
        let url = &self.config.url;
        let found = net::addresses(&url.host, url.port).await;
        let found =
            found.map_err(|why| StoreError::HostNotFound { host: url.host.clone(), why })?;
        let dial = |server, time: Option<Duration>| {
            with_timeout(time.unwrap_or(ATTEMPT_TIMEOUT), self.dial_to(server))
        };
        let dialled = net::first_of(found, dial, StoreError::is_permanent).await;
        dialled.map_err(|last| last.unwrap_or(StoreError::NoAddress))
    }

    /// Connects to a server that was found already.
    pub(super) async fn dial_to(&self, server: SocketAddr) -> Result<HttpConnection, StoreError> {
        let connecting = async {
            let stream = connected_tcp(open(&server.into(), VANISHED)?, false).await?;
            let socket = stream.as_fd().try_clone_to_owned()?;
            Ok((stream, socket))
        };
        let (stream, socket) = connecting.await.map_err(|error| unreachable(&error))?;
        match &self.tls {
            None => HttpConnection::over(stream, socket, server).await,
            Some((config, name)) => {
                // Boxed: TLS needs much room, and most connections do without it.
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = Box::pin(async { connector.connect(name.clone(), stream).await });
                let stream = stream.await.map_err(|error| tls_trouble(&error))?;
                Box::pin(HttpConnection::over(stream, socket, server)).await
            }
        }
    }

    /// A request about a semaphore, with our key.
    pub(super) fn request(&self, path: &str, name: &str) -> request::Builder {
        const PLAIN: &AsciiSet =
            &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        let name = utf8_percent_encode(name, PLAIN);
        self.request_by(Method::GET, &format!("{path}?name={name}"))
    }

    /// The same of any kind.
    pub(super) fn request_by(&self, method: Method, uri: &str) -> request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(HOST, self.config.url.authority())
            .header(VERSION_HEADER, VERSION);
        match &self.config.key {
            Some(Secret(key)) => request.header(KEY_HEADER, key.as_slice()),
            None => request,
        }
    }
}

impl HttpConnection {
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        socket: OwnedFd,
        server: SocketAddr,
    ) -> Result<Self, StoreError> {
        let (requests, traffic) =
            handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        Ok(Self { requests, traffic: Some(Box::pin(traffic)), socket, server })
    }

    /// The address of its other end.
    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// A descriptor of the connection; the server sees its end when all of them are closed.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Sends a request and waits for the head of its answer, however long that takes.
    pub(super) async fn send(
        &mut self,
        request: request::Builder,
    ) -> Result<HttpResponse, StoreError> {
        self.send_with(request, Bytes::new()).await
    }

    /// The same with a body.
    pub(super) async fn send_with(
        &mut self,
        request: request::Builder,
        body: Bytes,
    ) -> Result<HttpResponse, StoreError> {
        let path = request.uri_ref().map(|uri| uri.path().to_owned()).unwrap_or_default();
        let most = if [OBSERVE, LIST].contains(&&*path) { LARGEST_LOOK } else { LARGEST_ANSWER };
        let has_key = request.headers_ref().is_some_and(|headers| headers.contains_key(KEY_HEADER));
        let request = request.body(Full::new(body));
        let request = request.map_err(|_| StoreError::ApiKeyMalformed)?;
        let answer = self.requests.send_request(request);
        let answer = with(&mut self.traffic, answer).await.map_err(|error| broken(&error))?;
        let version = answer.headers().get(VERSION_HEADER);
        let ours = version.is_some_and(|version| version == VERSION);
        if let Some(version) = version.filter(|_| !ours) {
            return Err(StoreError::OtherVersion(beginning(version.as_bytes())));
        }
        let status = answer.status();
        match status {
            StatusCode::UNAUTHORIZED if !has_key => Err(StoreError::ApiKeyMissing),
            StatusCode::UNAUTHORIZED => Err(StoreError::ApiKeyRefused),
            // One of ours says why.
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::FORBIDDEN if ours => {
                let text = self
                    .read(HttpResponse { status, ours, body: answer.into_body(), most })
                    .await?;
                let text = beginning(&text);
                Err(if status == StatusCode::FORBIDDEN {
                    StoreError::Forbidden(text)
                } else {
                    StoreError::NotNow(text)
                })
            }
            _ if ours => Ok(HttpResponse { status, ours, body: answer.into_body(), most }),
            status if status.is_redirection() => Err(redirected(answer.headers())),
            _ => of_a_gateway(status).map_or_else(
                || Ok(HttpResponse { status, ours, body: answer.into_body(), most }),
                Err,
            ),
        }
    }

    /// Reads the rest of an answer.
    pub(super) async fn read(&mut self, answer: HttpResponse) -> Result<Bytes, StoreError> {
        let body = Limited::new(answer.body, answer.most).collect();
        let body = with(&mut self.traffic, body).await;
        let body = body.map_err(|error| match error.downcast_ref() {
            Some(error) => broken(error),
            None => StoreError::Endless,
        });
        Ok(body?.to_bytes())
    }

    /// Reads the next line of an answer, or what is left of it.
    pub(super) async fn line(&mut self, answer: &mut HttpResponse) -> Result<Vec<u8>, StoreError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") && line.len() < LONGEST_LINE {
            match with(&mut self.traffic, answer.body.frame()).await {
                Some(Ok(frame)) => line.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(broken(&error)),
                None => break,
            }
        }
        Ok(line)
    }

    /// The connection, if another request can go over it, as far as we know.
    pub(super) async fn if_idle(mut self) -> Option<Self> {
        let ready = with(&mut self.traffic, self.requests.ready());
        let ready = tokio::time::timeout(Duration::ZERO, ready).await;
        ready.is_ok_and(|ready| ready.is_ok()).then_some(self)
    }
}

/// Waits for something that comes over the connection, while its bytes move.
async fn with<T>(
    traffic: &mut Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    what: impl Future<Output = T>,
) -> T {
    let mut what = std::pin::pin!(what);
    if let Some(moving) = traffic {
        tokio::select! {
            biased;
            done = &mut what => return done,
            _ = moving => *traffic = None,
        }
    }
    // The connection has ended, and with it whatever was under way.
    what.await
}

fn unreachable(error: &io::Error) -> StoreError {
    StoreError::Unreachable(error.to_string())
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn tls_trouble(error: &io::Error) -> StoreError {
    match tls_error(error) {
        Some(rustls::Error::InvalidMessage(_)) => StoreError::NoTls(Protocol::Http),
        Some(error) => tls::refusal(error),
        None => unreachable(error),
    }
}

fn broken(error: &hyper::Error) -> StoreError {
    if error.is_parse() {
        return StoreError::NotHttp;
    }
    let cause = std::error::Error::source(error);
    let of_io = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    // A server refuses our certificate only after our side of the handshake.
    if let Some(error) = of_io.filter(|error| tls_error(error).is_some()) {
        return tls_trouble(error);
    }
    match of_io.map(io::Error::kind) {
        // The kernel found that the peer is gone.
        Some(io::ErrorKind::TimedOut) => return StoreError::Silent,
        Some(io::ErrorKind::UnexpectedEof) => return StoreError::Closed,
        _ => {}
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return StoreError::Closed;
    }
    let cause = cause.map_or_else(|| error.to_string(), ToString::to_string);
    StoreError::Broken(cause)
}

/// Redirects are not followed: the request has a key in it, which is for the named server alone.
fn redirected(headers: &HeaderMap) -> StoreError {
    StoreError::Redirected(headers.get(LOCATION).map(|there| beginning(there.as_bytes())))
}

/// An answer of a gateway, which says nothing of the server itself. Its body is a page for people.
fn of_a_gateway(status: StatusCode) -> Option<StoreError> {
    Some(match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            StoreError::GatewaySilent(status.as_u16())
        }
        StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            StoreError::GatewayRefuses(status.to_string())
        }
        StatusCode::TOO_MANY_REQUESTS => StoreError::GatewayBusy(status.to_string()),
        _ => return None,
    })
}

/// The beginning of a server's text, as much of it as belongs in a line.
fn beginning(text: &[u8]) -> String {
    const SHOWN: usize = 300;
    let text = String::from_utf8_lossy(text);
    text.lines().next().unwrap_or_default().chars().take(SHOWN).collect()
}

/// An answer that we do not expect.
pub(super) fn unexpected(status: StatusCode, path: &'static str) -> StoreError {
    match status {
        StatusCode::NOT_FOUND => StoreError::UnknownPath(path),
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => {
            StoreError::NotACloudSemaphore { status: status.to_string(), path }
        }
        status => StoreError::UnexpectedStatus { status: status.to_string(), path },
    }
}
