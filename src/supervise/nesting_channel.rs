//! Runs within a run: a nested semrun goes ahead under the permit that is held around it, and is never
//! without one. It connects to the worker of the run around it, which tells it until when the permit
//! is certainly held and when it is lost, and which gives the permit back only when the connection
//! is closed. Its end tells each of the other's death.
//!
//! Both ends check that the nested process descends from the other. A copy of the environment in
//! another process proves nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, socket_with,
};
use rustix::process::getpid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

use super::descendants::is_below;
use crate::clock::Moment;
use crate::permits::LossStage;
use crate::sys::watch;

/// What the outer run says of its permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OuterNews {
    /// It is certainly held for so long from that moment; none: for as long as the run lives.
    Held(Option<(Moment, Duration)>),
    /// It is lost.
    Lost(LossStage),
}

impl OuterNews {
    const LENGTH: usize = 17;
    const ENDLESS: u8 = b'e';
    const HELD: u8 = b'h';
    const LOST: [(u8, LossStage); 3] =
        [(b'n', LossStage::Now), (b'b', LossStage::Before), (b'y', LossStage::Revoking)];

    fn to_bytes(self) -> [u8; Self::LENGTH] {
        let (kind, first, second) = match self {
            Self::Held(None) => (Self::ENDLESS, Duration::ZERO, Duration::ZERO),
            Self::Held(Some((since, ttl))) => (Self::HELD, since, ttl),
            Self::Lost(stage) => {
                let kind =
                    Self::LOST.iter().find(|(_, one)| *one == stage).map_or(b'n', |one| one.0);
                (kind, Duration::ZERO, Duration::ZERO)
            }
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut bytes = [kind; Self::LENGTH];
        bytes[1..9].copy_from_slice(&micros(first).to_le_bytes());
        bytes[9..].copy_from_slice(&micros(second).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::LENGTH]) -> Option<Self> {
        let [kind, times @ ..] = bytes;
        let (first, second) = times.split_at(8);
        let time =
            |bytes: &[u8]| Some(Duration::from_micros(u64::from_le_bytes(bytes.try_into().ok()?)));
        let (first, second) = (time(first)?, time(second)?);
        match kind {
            Self::ENDLESS => Some(Self::Held(None)),
            Self::HELD => Some(Self::Held(Some((first, second)))),
            kind => {
                let lost = Self::LOST.iter().find(|(one, _)| *one == kind);
                lost.map(|(_, stage)| Self::Lost(*stage))
            }
        }
    }
}

/// The abstract name at which nested runs find the run that holds the permit. It has no file, so
/// nothing is left of it.
fn name(permit: Uuid) -> String {
    format!("semrun-{permit}")
}

/// The end of the run that holds the permit.
#[derive(Debug)]
pub(crate) struct NestingListener {
    /// None: nothing can be nested here.
    listener: Option<AsyncFd<OwnedFd>>,
    nested: Vec<AsyncFd<OwnedFd>>,
    news: OuterNews,
}

impl NestingListener {
    /// To be called within a runtime. If that fails, in a sandbox say, it does no harm: a nested
    /// run that finds no holder acquires as usual and says why.
    pub(crate) fn listen(permit: Uuid, news: OuterNews) -> Self {
        let listener = || {
            let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name(permit))?)?;
            listener.set_nonblocking(true)?;
            watch(listener.into(), Interest::READABLE)
        };
        Self { listener: listener().ok(), nested: Vec::new(), news }
    }

    /// For a run that is nested itself: what it starts finds the one that holds the permit.
    pub(crate) fn elsewhere() -> Self {
        Self { listener: None, nested: Vec::new(), news: OuterNews::Held(None) }
    }

    /// Passes on what is new about the permit.
    pub(crate) fn tell(&mut self, news: OuterNews) {
        self.news = news;
        for nested in &self.nested {
            // A nested run that does not read is frozen, and goes by what it heard last.
            say(nested.get_ref(), news);
        }
    }

    /// Whether any semrun goes on under the permit, which must not be given back then.
    pub(crate) fn is_needed(&mut self) -> bool {
        while let Some(listener) = &self.listener
            && let Ok(stream) =
                accept_with(listener.get_ref(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            self.admit(stream);
        }
        self.nested.retain(|nested| !has_ended(nested.get_ref()));
        !self.nested.is_empty()
    }

    fn admit(&mut self, stream: OwnedFd) {
        let below = socket_peercred(&stream).is_ok_and(|peer| is_below(peer.pid, getpid()));
        if below
            && matches!(self.news, OuterNews::Held(_))
            && say(&stream, self.news)
            && let Ok(stream) = watch(stream, Interest::READABLE)
        {
            self.nested.push(stream);
        }
    }

    /// Returns when the last nested run is gone. Cancel-safe.
    pub(crate) async fn all_closed(&mut self) {
        loop {
            let before = self.nested.len();
            if !self.is_needed() && before > 0 {
                return;
            }
            self.changed().await;
        }
    }

    async fn changed(&self) {
        std::future::poll_fn(|context| {
            let mut any = false;
            for fd in self.listener.iter().chain(&self.nested) {
                if let std::task::Poll::Ready(ready) = fd.poll_read_ready(context) {
                    any = true;
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                }
            }
            if any { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

/// At once or not at all: a run that is frozen may have more connections before it than it can take.
fn connect(permit: Uuid) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &SocketAddrUnix::new_abstract_name(name(permit).as_bytes())?)?;
    Ok(stream)
}

fn say(stream: &OwnedFd, news: OuterNews) -> bool {
    rustix::net::send(stream, &news.to_bytes(), SendFlags::NOSIGNAL)
        .is_ok_and(|length| length == OuterNews::LENGTH)
}

/// The nested run sends nothing, so its stream is readable only when it has closed its end.
fn has_ended(stream: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(stream, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
}

/// The end of a nested run.
#[derive(Debug)]
pub(crate) struct Nested {
    stream: Option<OwnedFd>,
    /// The same, once a runtime watches it.
    watched: Option<AsyncFd<OwnedFd>>,
    heard: Vec<u8>,
}

impl Nested {
    /// Joins the permit of the run around us. None: no run around us provably holds it.
    pub(crate) async fn join(permit: Uuid) -> io::Result<Option<(Self, OuterNews)>> {
        let Ok(stream) = connect(permit) else { return Ok(None) };
        let holder = socket_peercred(&stream).ok().map(|peer| peer.pid);
        if !holder.is_some_and(|holder| is_below(getpid(), holder)) {
            return Ok(None);
        }
        let mut nested = Self { stream: Some(stream), watched: None, heard: Vec::new() };
        match nested.next_news().await? {
            Some(news @ OuterNews::Held(_)) => {
                // Another runtime may read the next news.
                nested.stream = nested.watched.take().map(AsyncFd::into_inner);
                Ok(Some((nested, news)))
            }
            _ => Ok(None),
        }
    }

    /// The next news. None: the run around us is gone. Cancel-safe.
    pub(crate) async fn next_news(&mut self) -> io::Result<Option<OuterNews>> {
        if let Some(stream) = self.stream.take() {
            self.watched = Some(watch(stream, Interest::READABLE)?);
        }
        let Some(watched) = &self.watched else { return Ok(None) };
        loop {
            if let Some((first, rest)) = self.heard.split_first_chunk::<{ OuterNews::LENGTH }>() {
                let (news, rest) = (OuterNews::from_bytes(*first), rest.to_vec());
                self.heard = rest;
                return Ok(news);
            }
            let mut bytes = [0; 64];
            let mut ready = watched.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut bytes)?)) {
                Ok(Ok(0) | Err(_)) => return Ok(None),
                Ok(Ok(length)) => self.heard.extend_from_slice(&bytes[..length]),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_come_through_as_they_are() {
        let (since, ttl) = (Duration::from_micros(123_456_789), Duration::from_secs(30));
        for news in [
            OuterNews::Held(None),
            OuterNews::Held(Some((since, ttl))),
            OuterNews::Lost(LossStage::Now),
            OuterNews::Lost(LossStage::Before),
            OuterNews::Lost(LossStage::Revoking),
        ] {
            assert_eq!(OuterNews::from_bytes(news.to_bytes()), Some(news));
        }
        assert_eq!(OuterNews::from_bytes([0; OuterNews::LENGTH]), None);
    }

    #[test]
    fn a_process_that_is_not_below_the_holder_does_not_get_under_its_permit() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let permit = Uuid::new_v4();
            assert!(Nested::join(permit).await.unwrap().is_none(), "it is not held");
            let mut around = NestingListener::listen(permit, OuterNews::Held(None));
            // This very process: it is not below itself.
            assert!(Nested::join(permit).await.unwrap().is_none());
            assert!(!around.is_needed());
        });
    }
}
