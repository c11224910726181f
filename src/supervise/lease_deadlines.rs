//! The arithmetic of leases: by when a command has to be told to end, and by when its whole tree
//! has to be dead, so that no other client can have its permit before. Pure: moments are passed in.
//!
//! ```text
//! since          renewal every TTL/3                          soft          hard    last    end
//!   |----------------|----------------|---------- … ------------|-------------|-------|-------|
//!   the request      tried again until it succeeds              signal        SIGKILL  guardian
//! ```

use std::time::Duration;

use crate::clock::Moment;
use crate::mutants::{self, Guard};
use crate::permits::Terms;

/// The shortest lease: below that the margins leave no time to renew.
pub(crate) const SHORTEST_TTL: Duration = Terms::SHORTEST_TTL;

/// The moments of one lease, each renewal moves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// The command is told to end.
    pub(crate) soft: Moment,
    /// Its whole tree is killed.
    pub(crate) hard: Moment,
    /// Another process kills the tree if it still lives.
    pub(crate) last: Moment,
}

impl Deadline {
    /// The deadlines of a lease that was asked for at `since`. A command has `kill_after` to end
    /// by itself, or as much of it as fits.
    pub(crate) fn of(since: Moment, ttl: Duration, kill_after: Option<Duration>) -> Self {
        // With this guard off, the lease seems to last for hours, so its end never comes.
        let ttl = if mutants::is_off(Guard::Deadline) { ttl * 1000 } else { ttl };
        let grace = kill_after.unwrap_or(default_kill_after(ttl)).min(longest_kill_after(ttl));
        let hard = since + ttl.saturating_sub(margin(ttl));
        Self { soft: hard.saturating_sub(grace), hard, last: hard + margin(ttl) / 2 }
    }

    /// The same, that much earlier.
    pub(crate) fn earlier(self, by: Duration) -> Self {
        let Self { soft, hard, last } = self;
        let [soft, hard, last] = [soft, hard, last].map(|moment| moment.saturating_sub(by));
        Self { soft, hard, last }
    }
}

/// For how long a server may be away until a command under such a lease is told to end, if it went just
/// before a renewal.
pub(crate) fn outage(ttl: Duration, kill_after: Option<Duration>) -> Duration {
    let begin = Moment::default();
    let soft = Deadline::of(begin, ttl, kill_after).soft;
    soft.saturating_sub(begin + ttl / 3)
}

/// The shortest TTL, in whole seconds, under which a command survives an outage of that length.
pub(crate) fn ttl_for_outage(length: Duration, kill_after: Option<Duration>) -> Duration {
    let long_enough = |ttl: &Duration| outage(*ttl, kill_after) >= length;
    // At least a quarter of a lease is room.
    let most = length.as_secs().saturating_mul(4) + 60;
    let mut ttls = (SHORTEST_TTL.as_secs()..most).map(Duration::from_secs);
    ttls.find(long_enough).unwrap_or(Duration::from_secs(most))
}

/// How long it takes to kill a tree of so many processes, beyond what every lease has room for: a
/// kernel ends several thousand in a second (`benches/killing`).
pub(crate) fn killing(processes: usize) -> Duration {
    const EACH: Duration = Duration::from_micros(300);
    let free = 500;
    EACH.saturating_mul(u32::try_from(processes.saturating_sub(free)).unwrap_or(u32::MAX))
}

/// The time kept free at the end of a lease: for clocks that do not run at one speed (a tenth of
/// the TTL: chrony corrects by 8.3 % at most, ntpd by 0.05 %), and for the killing.
fn margin(ttl: Duration) -> Duration {
    ttl / 10 + Duration::from_millis(500)
}

/// How long a command has by default between the signal and SIGKILL: less than CI runners give
/// before they kill.
pub(crate) fn default_kill_after(ttl: Duration) -> Duration {
    Duration::from_secs(5).min(ttl / 4)
}

/// The longest time between signal and SIGKILL that leaves half of the TTL for renewals: one at
/// a third, and half as much again to repeat it.
fn longest_kill_after(ttl: Duration) -> Duration {
    (ttl / 2).saturating_sub(margin(ttl))
}

/// The shortest TTL into which that much time fits, if `ttl` is shorter.
pub(crate) fn shortest_ttl(kill_after: Duration, ttl: Duration) -> Option<Duration> {
    // ttl/2 - margin(ttl) = 0.4 ttl - 0.5 s, in whole seconds.
    let seconds = (kill_after.as_secs_f64() * 2.5 + 1.25).ceil();
    let shortest = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    (kill_after > longest_kill_after(ttl)).then_some(shortest.max(SHORTEST_TTL))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_longer_lease_survives_a_longer_outage() {
        assert_eq!(outage(ms(30_000), None), ms(11_500));
        assert_eq!(outage(ms(5_000), None).as_millis(), 1_083);
        // A failover by sentinels that wait for 30 s.
        assert_eq!(ttl_for_outage(ms(31_200), None), ms(65_000));
        assert_eq!(ttl_for_outage(ms(0), None), SHORTEST_TTL);
        let day = Duration::from_hours(24);
        assert!(outage(ttl_for_outage(day, None), None) >= day);
    }

    #[test]
    fn the_moments_of_the_default_and_of_the_shortest_lease() {
        let at = |ttl| Deadline::of(ms(0), ms(ttl), None);
        let deadline = at(30_000);
        assert_eq!(
            (deadline.soft, deadline.hard, deadline.last),
            (ms(21_500), ms(26_500), ms(28_250))
        );
        let deadline = at(5_000);
        assert_eq!(
            (deadline.soft, deadline.hard, deadline.last),
            (ms(2_750), ms(4_000), ms(4_500))
        );
    }

    #[test]
    fn a_kill_after_that_does_not_fit_names_the_shortest_ttl_that_does() {
        assert_eq!(shortest_ttl(ms(5_000), ms(30_000)), None);
        assert_eq!(shortest_ttl(ms(20_000), ms(30_000)), Some(ms(52_000)));
        assert_eq!(shortest_ttl(ms(1_600), ms(5_000)), Some(ms(6_000)));
    }

    proptest! {
        #[test]
        fn a_lease_is_over_only_after_everything_is_dead(
            since in 0..1_000_000_u64,
            ttl in 5_000..10_000_000_u64,
            kill_after in prop::option::of(0..100_000_u64),
        ) {
            let kill_after = kill_after.map(ms);
            let (since, ttl) = (ms(since), ms(ttl));
            let deadline = Deadline::of(since, ttl, kill_after);
            prop_assert!(deadline.soft <= deadline.hard && deadline.hard < deadline.last);
            prop_assert!(deadline.last + ms(500) <= since + ttl);
            // A renewal at a third of the TTL can be repeated for half as long again.
            prop_assert!(deadline.soft >= since + ttl / 2);
            if let Some(shortest) = kill_after.and_then(|grace| shortest_ttl(grace, ttl)) {
                prop_assert!(shortest > ttl);
                prop_assert_eq!(shortest_ttl(kill_after.unwrap_or_default(), shortest), None);
            }
        }
    }
}
