//! What goes wrong with a server, and trying again: the same for every backend that has one.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Ask, Error, ErrorKind, Withheld};

/// How long the start of something is tried while the server cannot be reached.
pub(super) const TRY_ON: Duration = Duration::from_secs(5);

/// How long connecting, or one attempt, may take.
pub(super) const CONNECTING: Duration = Duration::from_secs(2);

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) what: String,
    pub(super) kind: TroubleKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TroubleKind {
    /// Nobody answers, now.
    Away,
    /// It answers with an error that may pass.
    Refusing,
    /// It will not pass by itself.
    Lasting,
    /// There is no sense in asking again.
    Final,
    /// A server of this kind cannot do it.
    Unsupported,
    /// What stands there is not what was asked for.
    Differs,
    /// No permit is granted yet.
    Withheld(Withheld),
}

impl Trouble {
    pub(super) fn silence() -> Self {
        Self::away("the server does not answer")
    }

    pub(super) fn away(what: impl Into<String>) -> Self {
        Self { what: what.into(), kind: TroubleKind::Away }
    }

    pub(super) fn refusing(what: impl Into<String>) -> Self {
        Self { what: what.into(), kind: TroubleKind::Refusing }
    }

    pub(super) fn lasting(what: impl Into<String>) -> Self {
        Self { what: what.into(), kind: TroubleKind::Lasting }
    }

    /// Another limit or TTL stands than was asked for, and nothing else would do.
    pub(super) fn differs(ask: &Ask, limit: u32, pinned: bool, ttl: Duration) -> Self {
        let how = if pinned { "is pinned to" } else { "is in use with" };
        let what = format!(
            "'{}' {how} a limit of {limit} and a TTL of {ttl:?}, not {} and {:?}, and \
             --strict-limit allows no other",
            ask.name, ask.limit, ask.ttl
        );
        Self { what, kind: TroubleKind::Differs }
    }

    pub(super) fn closed() -> Self {
        Self::away("the server closed the connection")
    }

    pub(super) fn other_server() -> Self {
        Self::away("another server has taken its place")
    }

    /// No permit is granted yet, whatever is free.
    pub(super) fn withheld(why: Withheld) -> Self {
        Self { what: why.to_string(), kind: TroubleKind::Withheld(why) }
    }

    /// The permit, or the place in the queue, was given back by somebody else.
    pub(super) fn withdrawn() -> Self {
        Self { what: "it was withdrawn from outside".into(), kind: TroubleKind::Final }
    }

    pub(super) fn lasts(&self) -> bool {
        self.is_final() || self.kind == TroubleKind::Lasting
    }

    /// Whether it ends also the waiting of one who is in the queue.
    pub(super) fn is_final(&self) -> bool {
        use TroubleKind::{Differs, Final, Unsupported};
        let quarantined = matches!(self.kind, TroubleKind::Withheld(Withheld::Quarantine(_)));
        quarantined || matches!(self.kind, Final | Unsupported | Differs)
    }

    /// `backend` is a URL without secrets, `doing` fits "cannot …".
    pub(super) fn while_doing(self, backend: &str, doing: &str) -> Error {
        let what = match self.kind {
            TroubleKind::Away => {
                let hint = "is it running, and can it be reached from here?";
                format!("cannot {doing}: {}; {hint}", self.what)
            }
            TroubleKind::Differs => self.what,
            TroubleKind::Withheld(Withheld::Quarantine(_)) => {
                format!("cannot {doing}: {}; wait for it (--wait)", self.what)
            }
            _ => format!("cannot {doing}: {}", self.what),
        };
        let kind = match self.kind {
            TroubleKind::Unsupported => ErrorKind::Unsupported,
            TroubleKind::Differs => ErrorKind::Differs,
            TroubleKind::Withheld(_) => ErrorKind::Withheld,
            _ => ErrorKind::Unavailable,
        };
        Error { kind, backend: backend.into(), what, source: None }
    }
}

/// One attempt, which is dropped when its time is over.
pub(super) async fn within<T>(
    time: Duration,
    attempt: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    match timeout(time, attempt).await {
        Ok(done) => done,
        Err(_elapsed) => Err(Trouble::silence()),
    }
}

/// Tries something until it succeeds, fails for good, or has been tried for long enough.
pub(super) async fn patiently<T>(
    patience: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    let give_up = Instant::now() + patience;
    let mut pause = Pause::new();
    let mut before = Before::default();
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        let time = CONNECTING.min(left);
        let trouble = match within(time, attempt()).await {
            Ok(done) => return Ok(done),
            Err(trouble) => before.or(trouble, time),
        };
        if trouble.lasts() || !pause.sleep_before(give_up).await {
            return Err(trouble);
        }
    }
}

/// For one who asks many things one after the other: what is tried again, in all of them together, is
/// bounded, so that a server that answers every other time does not keep us for ever.
pub(super) struct Patience(Duration);

impl Patience {
    pub(super) fn new() -> Self {
        Self(TRY_ON)
    }

    /// As [`patiently`]; once the patience is used up, with one attempt.
    pub(super) async fn with<T>(
        &mut self,
        attempt: impl AsyncFnMut() -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        // What a first attempt may well take.
        const FREE: Duration = Duration::from_millis(50);
        let mut attempt = attempt;
        if self.0.is_zero() {
            return within(CONNECTING, attempt()).await;
        }
        let began = Instant::now();
        let done = patiently(self.0.max(CONNECTING), attempt).await;
        self.0 = self.0.saturating_sub(began.elapsed().saturating_sub(FREE));
        done
    }
}

/// What was wrong with the attempts before, since the last one that succeeded.
#[derive(Default)]
pub(super) struct Before(Option<Trouble>);

impl Before {
    /// Whether there were any. A connection that was cut and is back at once is no news.
    pub(super) fn any(&self) -> bool {
        self.0.is_some()
    }

    /// What is wrong now; an attempt that had no time to find that out has what was before.
    pub(super) fn or(&mut self, trouble: Trouble, time: Duration) -> Trouble {
        if time < CONNECTING
            && trouble == Trouble::silence()
            && let Some(before) = &self.0
        {
            return before.clone();
        }
        self.0 = Some(trouble.clone());
        trouble
    }
}

/// What lies between two attempts.
pub(super) struct Pause {
    next: Duration,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self { next: Duration::from_millis(100) }
    }

    pub(super) async fn sleep(&mut self) {
        sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_millis(800));
    }

    /// The same for one who is queued and so tries for ever, or is not yet and gives up then.
    pub(super) async fn sleep_while(&mut self, queued: bool, give_up: Instant) -> bool {
        if queued {
            self.sleep().await;
            return true;
        }
        self.sleep_before(give_up).await
    }

    /// The same where there is an end to it. False: it is not worth another attempt.
    pub(super) async fn sleep_before(&mut self, give_up: Instant) -> bool {
        const SHORTEST_ATTEMPT: Duration = Duration::from_millis(50);
        let left = give_up.saturating_duration_since(Instant::now());
        if left < SHORTEST_ATTEMPT {
            return false;
        }
        // Half of what is left, so that an attempt is made also near the end.
        self.next = self.next.min(left / 2);
        self.sleep().await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_tried_for_as_long_as_it_was_said() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let started = Instant::now();
            let mut last = Duration::ZERO;
            let failed: Result<(), _> = patiently(TRY_ON, async || {
                last = started.elapsed();
                Err(Trouble::silence())
            })
            .await;
            assert_eq!(failed, Err(Trouble::silence()));
            assert!(last > TRY_ON * 9 / 10 && started.elapsed() <= TRY_ON, "{last:?}");
        });
    }
}
