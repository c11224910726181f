//! Keys that were refused, for operators and programs that read the log: one line a minute and
//! address, however many they are.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::connections::group;
use super::log::{Log, LogEvent};
use super::notices::ServerFact;

/// How long until the next line about the same address.
const NOT_AGAIN: Duration = Duration::from_mins(1);

/// How many addresses are counted separately.
const MOST: usize = 1024;

#[derive(Default)]
pub(crate) struct RejectedKeys {
    recent: RefCell<RecentRejections>,
    first: Notify,
}

#[derive(Default)]
struct RecentRejections {
    /// In the order in which the lines are due.
    due: VecDeque<(Instant, Option<IpAddr>)>,
    /// None counts the addresses beyond [`MOST`].
    counts: HashMap<Option<IpAddr>, RejectionCount>,
}

struct RejectionCount {
    last: IpAddr,
    /// Failures that are not logged yet.
    more: u64,
}

impl RejectedKeys {
    /// An unknown key came from there.
    pub(crate) fn add(&self, address: IpAddr, log: &Log) {
        let RecentRejections { due, counts } = &mut *self.recent.borrow_mut();
        let mut from = Some(group(address));
        if !counts.contains_key(&from) && counts.len() >= MOST {
            from = None;
        }
        if let Some(count) = counts.get_mut(&from) {
            count.more += 1;
            count.last = address;
            return;
        }
        let more = u64::from(from.is_none());
        if more == 0 {
            say(log, from.map(|_| address), 1);
        }
        counts.insert(from, RejectionCount { last: address, more });
        due.push_back((Instant::now() + NOT_AGAIN, from));
        self.first.notify_one();
    }

    /// Logs repeated failures when due, for ever.
    pub(super) async fn tell(&self, log: &Log) {
        loop {
            let next = self.recent.borrow().due.front().copied();
            let Some((when, from)) = next else {
                self.first.notified().await;
                continue;
            };
            sleep_until(when).await;
            let RecentRejections { due, counts } = &mut *self.recent.borrow_mut();
            due.pop_front();
            match counts.get_mut(&from) {
                Some(RejectionCount { last, more }) if *more > 0 => {
                    say(log, from.map(|_| *last), *more);
                    *more = 0;
                    due.push_back((Instant::now() + NOT_AGAIN, from));
                }
                _ => drop(counts.remove(&from)),
            }
        }
    }
}

fn say(log: &Log, address: Option<IpAddr>, times: u64) {
    log.tell(LogEvent::Alert, &ServerFact::WrongKeys { address, times });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::log::{Format, Sink};

    /// How many lines each address has had, as far as they are to be seen in the table.
    fn pending(failures: &RejectedKeys) -> Vec<u64> {
        let recent = failures.recent.borrow();
        let mut all: Vec<_> = recent.counts.values().map(|count| count.more).collect();
        all.sort_unstable();
        all
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_told_of_once_a_minute_and_forgotten_when_it_stops() {
        let (failures, log) = (RejectedKeys::default(), Log::new(&[], Format::Text, Sink::TEST));
        let guesses = async {
            for _ in 0..3 {
                failures.add("2001:db8::1".parse().unwrap(), &log);
                failures.add("2001:db8::2".parse().unwrap(), &log);
            }
            assert_eq!(pending(&failures), [5], "the first was told of at once");
            tokio::time::sleep(NOT_AGAIN + Duration::from_secs(1)).await;
            assert_eq!(pending(&failures), [0], "the others after a minute");
            tokio::time::sleep(NOT_AGAIN).await;
            assert_eq!(pending(&failures), [0; 0]);
        };
        tokio::select! {
            () = guesses => {}
            () = failures.tell(&log) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_addresses_take_little_memory() {
        let (failures, log) = (RejectedKeys::default(), Log::silent());
        for number in 0..100_000_u32 {
            failures.add(std::net::Ipv4Addr::from_bits(number).into(), &log);
        }
        let recent = failures.recent.borrow();
        assert_eq!((recent.counts.len(), recent.due.len()), (MOST + 1, MOST + 1));
        assert_eq!(recent.counts[&None].more, 100_000 - MOST as u64);
    }
}
