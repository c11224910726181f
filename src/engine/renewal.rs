//! When to renew, and when to retry: for all backends whose permits expire. It never gives up by
//! itself; the deadline does, which knows nothing of the network.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::clock::{self, Moment};
use crate::mutants::{self, Guard};
use crate::permits::{BoxFuture, Loss, StoreError, Validity};

/// The result of an attempt.
pub(crate) enum Renewed {
    /// The lease runs for this long again, from the moment before it was asked for.
    For(Duration),
    Lost(Loss),
}

/// Renews at a third of the TTL, for ever, or at once when there is reason to `hurry`. Returns once
/// the permit is known to be lost. Each attempt is dropped when its time is over.
pub(crate) async fn renew_loop<'a>(
    id: Uuid,
    validity: watch::Sender<Validity>,
    renew_now: &Notify,
    mut attempt: impl FnMut() -> BoxFuture<'a, Result<Renewed, StoreError>>,
) -> Loss {
    loop {
        let Validity { since, ttl, .. } = *validity.borrow();
        let next = together(since + jittered(ttl / 3, id), ttl);
        tokio::select! {
            () = sleep(next.saturating_sub(clock::now())) => {}
            () = renew_now.notified() => {}
        }
        let mut pause = first_pause(ttl);
        loop {
            let (since, answer) = hedged(ttl, &mut attempt).await;
            let error = match answer {
                Ok(Renewed::For(ttl)) => {
                    let off = mutants::is_off(Guard::DeadlineFromRequest);
                    let since = if off { clock::now() } else { since };
                    validity.send_replace(Validity { since, ttl, error: None });
                    break;
                }
                Ok(Renewed::Lost(lost)) => return lost,
                Err(error) => error,
            };
            validity.send_modify(|validity| validity.error = Some(error));
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// One attempt, and another beside it if that is not answered soon: the first may go over a
/// connection that was cut silently. Returns also the moment before the successful one.
async fn hedged<'a>(
    ttl: Duration,
    attempt: &mut impl FnMut() -> BoxFuture<'a, Result<Renewed, StoreError>>,
) -> (Moment, Result<Renewed, StoreError>) {
    let half = patience(ttl) / 2;
    let since = clock::now();
    let mut first = attempt();
    if let Ok(answer) = timeout(half, &mut first).await {
        return (since, answer);
    }
    let again = clock::now();
    let mut second = attempt();
    let either = async {
        tokio::select! {
            answer = &mut first => match answer {
                Err(_) => (again, second.await),
                answer => (since, answer),
            },
            answer = &mut second => match answer {
                Err(_) => (since, first.await),
                answer => (again, answer),
            },
        }
    };
    let answer = timeout(half, either).await;
    answer.unwrap_or_else(|_| (since, Err(StoreError::SilentFor(half * 2))))
}

const LONGEST_PAUSE: Duration = Duration::from_secs(1);

fn first_pause(ttl: Duration) -> Duration {
    (ttl / 100).min(Duration::from_millis(250))
}

/// How long one attempt may take, with a new connection over a slow network: several fit before
/// the command is told to end, at the shortest TTL one.
pub(crate) fn patience(ttl: Duration) -> Duration {
    (ttl / 5).min(Duration::from_secs(2))
}

/// Up to a tenth earlier, so that a fleet that was started at once does not renew at once.
fn jittered(interval: Duration, id: Uuid) -> Duration {
    interval.saturating_sub(interval / 10 * u32::from(id.as_bytes()[15]) / 255)
}

/// A little earlier, at a moment that the other permits of this process have as well: their
/// renewals are sent together.
fn together(moment: Moment, ttl: Duration) -> Moment {
    let grid = (ttl / 300).as_nanos().max(1);
    let early = u64::try_from(moment.as_nanos() % grid).unwrap_or(0);
    moment.saturating_sub(Duration::from_nanos(early))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// An attempt that is never answered.
    fn hang() -> StoreError {
        StoreError::Silent
    }

    /// tokio's clock is stopped here and jumps, ours does not: what is left of an interval is
    /// the whole interval.
    fn run(answers: Vec<Result<Renewed, StoreError>>) -> (Loss, Vec<u128>, Validity) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let ttl = Duration::from_secs(30);
            let (sender, receiver) =
                watch::channel(Validity { since: clock::now(), ttl, error: None });
            let answers = RefCell::new(answers.into_iter());
            let started = tokio::time::Instant::now();
            let asked = RefCell::new(Vec::new());
            let lost = renew_loop(Uuid::nil(), sender, &Notify::new(), || {
                asked.borrow_mut().push(started.elapsed().as_millis());
                let answer = answers.borrow_mut().next();
                let hangs = matches!(&answer, Some(Err(error)) if *error == hang());
                Box::pin(async move {
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    answer.unwrap()
                })
            })
            .await;
            let validity = receiver.borrow().clone();
            (lost, asked.into_inner(), validity)
        })
    }

    #[test]
    fn it_renews_at_a_third_and_ends_when_the_permit_is_lost() {
        let ttl = Duration::from_secs(30);
        let (lost, asked, validity) =
            run(vec![Ok(Renewed::For(ttl)), Ok(Renewed::Lost(Loss::unknown_to_server()))]);
        assert_eq!(lost, Loss::unknown_to_server());
        assert!((9_900..=10_000).contains(&asked[0]), "{asked:?}");
        assert!((19_800..=20_001).contains(&asked[1]), "{asked:?}");
        assert_eq!(validity.error, None);
    }

    #[test]
    fn permits_of_a_process_are_renewed_together_and_not_all_at_once() {
        let ttl = Duration::from_secs(30);
        let moments = |id| {
            (0..100).map(move |at| {
                let since = Duration::from_millis(123_456 + at);
                let next = together(since + jittered(ttl / 3, id), ttl);
                assert!(next <= since + ttl / 3 && next >= since + ttl / 4);
                next
            })
        };
        let of_one: std::collections::BTreeSet<_> = moments(Uuid::nil()).collect();
        assert!(of_one.len() <= 2, "{of_one:?}");
        let all = (0..=255).flat_map(|last| moments(Uuid::from_bytes([last; 16])));
        assert!(all.collect::<std::collections::BTreeSet<_>>().len() >= 10);
    }

    #[test]
    fn an_attempt_that_is_swallowed_costs_nothing_and_a_slow_one_counts() {
        let ttl = Duration::from_secs(30);
        let (lost, asked, _) = run(vec![
            Err(hang()),
            Ok(Renewed::For(ttl)),
            Ok(Renewed::Lost(Loss::unknown_to_server())),
        ]);
        assert_eq!(lost, Loss::unknown_to_server());
        let pauses: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((1_000..1_010).contains(&pauses[0]) && pauses[1] > 9_000, "{pauses:?}");
        // Of the shortest lease a command is told to end after 2.75 s.
        let ttl = Duration::from_secs(5);
        assert!(ttl / 3 + patience(ttl) < Duration::from_millis(2_750));
    }

    #[test]
    fn what_fails_or_hangs_is_tried_again_soon() {
        let (_, asked, validity) = run(vec![
            Err(StoreError::Closed),
            Err(hang()),
            Err(StoreError::Closed),
            Ok(Renewed::Lost(Loss::unknown_to_server())),
        ]);
        let pauses: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // 250 ms; 1 s until the second beside it; 1 s for the first, and then 500 ms. tokio rounds up
        // to milliseconds.
        for (pause, expected) in pauses.iter().zip([250, 1_000, 1_500]) {
            assert!((expected..expected + 10).contains(pause), "{pauses:?}");
        }
        assert_eq!(validity.error, Some(StoreError::SilentFor(Duration::from_secs(2))));
    }
}
