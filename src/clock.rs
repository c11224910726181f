//! Time that goes on while the machine sleeps: a lease does. Rust's and tokio's own clocks stop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::watch;

/// A moment on this clock: the time since the machine was started.
pub(crate) type Moment = Duration;

pub(crate) fn now() -> Moment {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Waits for something; if there is nothing to wait for, for ever.
pub(crate) async fn if_any<T: Future>(awaited: Option<T>) -> T::Output {
    match awaited {
        Some(awaited) => awaited.await,
        None => std::future::pending().await,
    }
}

/// A moment to wait for, which several processes can share.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Boottime, flags)?))
    }

    /// Replaces the moment; the descriptor is readable once it has come. None: never.
    pub(crate) fn set(&self, moment: Option<Moment>) -> io::Result<()> {
        set(self.0.as_fd(), moment)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A moment that a task waits for.
#[derive(Debug)]
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let Timer(fd) = Timer::new()?;
        Ok(Self(watch(fd, Interest::READABLE)?))
    }

    pub(crate) fn set(&self, moment: Option<Moment>) -> io::Result<()> {
        set(self.0.as_fd(), moment)
    }

    /// Returns once the moment has come; a moment that was reached is forgotten.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd, &mut [0; 8])?));
            if let Ok(read) = read {
                return read.map(|_| ());
            }
        }
    }
}

fn set(timer: BorrowedFd<'_>, moment: Option<Moment>) -> io::Result<()> {
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let it_value = match moment {
        Some(moment) => {
            // A moment of zero would mean never.
            let moment = moment.max(Duration::from_nanos(1));
            let tv_sec = i64::try_from(moment.as_secs()).unwrap_or(i64::MAX);
            Timespec { tv_sec, tv_nsec: moment.subsec_nanos().into() }
        }
        None => never,
    };
    let when = Itimerspec { it_interval: never, it_value };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &when)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_at_its_moment_and_not_before() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let alarm = Alarm::new().unwrap();
            alarm.set(Some(now() + Duration::from_hours(1))).unwrap();
            let moment = now() + Duration::from_millis(20);
            alarm.set(Some(moment)).unwrap();
            alarm.wait().await.unwrap();
            assert!(now() >= moment);
            alarm.set(Some(Duration::ZERO)).unwrap();
            alarm.wait().await.unwrap();
        });
    }
}
