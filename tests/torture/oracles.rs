//! Judges that are shown a history: do they find what is wrong in it, and nothing in a sound one?

use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use super::check::{self, Invariant};
use super::history::{Ask, Event, History, Job, Judge, Kind, Moment, Pin, Run, Semaphore, What};
use super::passed_over::{STOP_IN_MUTEX, STOP_QUEUE};
use super::report;

type Change = fn(&mut History);

/// Each invariant with a history that breaks it, and some that break none.
pub(crate) fn trials() -> Vec<Trial> {
    let broken: [(&str, Invariant, Change); 21] = [
        ("two_at_once", Invariant::Limit, |history| move_entry(history, 1, 150)),
        ("no_free_lock_file", Invariant::Limit, |history| add(history, 210, What::Crowded(Run(1)))),
        ("a_stranger_too_many", Invariant::Limit, |history| {
            history.strangers_crowded.push("passbuddy 7".into());
        }),
        ("alive_behind_its_lease", Invariant::DeadBefore, |history| {
            history.kept.until.insert("0@one".into(), at(192));
            history.kept.looks.push(at(193));
        }),
        ("a_command_without_its_semrun", Invariant::DeadBefore, |history| {
            history.guarded = true;
            add(
                history,
                212,
                What::Struck { kind: "kill-guardian", runs: vec![Run(1)], detail: String::new() },
            );
            end_with(history, 1, -9, "");
            add(history, 7000, What::Dead(Run(1)));
        }),
        ("a_write_behind_the_next", Invariant::DeadBefore, |history| {
            let (run, token, newest, accepted) = (Run(0), 10, 11, false);
            add(history, 250, What::Wrote { run, token, newest, accepted });
        }),
        ("a_token_twice", Invariant::Tokens, |history| set_token(history, 1, 10)),
        ("a_token_that_is_older", Invariant::Tokens, |history| {
            set_token(history, 1, 9);
            start_later(history, 1, 150);
        }),
        ("an_old_write_taken", Invariant::Tokens, |history| {
            let (newest, accepted) = (0, true);
            add(history, 240, What::Wrote { run: Run(1), token: 11, newest, accepted });
            add(history, 250, What::Wrote { run: Run(0), token: 10, newest, accepted });
        }),
        ("an_older_token_next", Invariant::Tokens, |history| set_token(history, 1, 9)),
        ("served_before_another", Invariant::Order, |history| {
            let permits = vec!["1@one".into(), "0@one".into()];
            add(history, 20, What::Queue { semaphore: "one", permits });
        }),
        ("never_served", Invariant::Served, |history| history.unserved.push(Run(1))),
        ("something_left", Invariant::Served, |history| history.leftovers.push("a file".into())),
        ("costly_waiting", Invariant::Idle, |history| history.costly.push("1000 times".into())),
        ("waiting_behind_stopped_ones", Invariant::Prompt, behind_a_stopped_one),
        ("another_code", Invariant::Mirrored, |history| end_with(history, 1, 4, "")),
        ("a_failure_without_words", Invariant::Codes, |history| {
            history.events.retain(|event| !matches!(event.what, What::Left { run: Run(1), .. }));
            add(
                history,
                1,
                What::Struck { kind: "stop-server", runs: vec![], detail: String::new() },
            );
            end_with(history, 1, 76, "");
        }),
        ("not_held_for_long_enough", Invariant::Hold, |history| hold(history, 250)),
        ("not_held_behind_a_killed_command", Invariant::Hold, |history| {
            hold(history, 250);
            history.events.retain(|event| !matches!(event.what, What::Left { run: Run(0), .. }));
            let (kind, detail) = ("kill-both", String::new());
            add(history, 150, What::Struck { kind, runs: vec![Run(0)], detail });
            end_with(history, 0, -9, "");
        }),
        ("more_than_is_pinned", Invariant::Limit, |history| {
            for ask in &mut history.asks {
                ask.semaphore.limit = 2;
            }
            let semaphore = history.asks[0].semaphore;
            let (from, to) = (at(11), Some(at(300)));
            history.pins.push(Pin { semaphore, limit: 1, from, to });
            move_entry(history, 1, 150);
        }),
        ("started_twice", Invariant::Once, |history| {
            let permit = "1@one".into();
            add(history, 230, What::Entered { run: Run(1), token: Some(11), permit });
        }),
    ];
    let mut trials = sound();
    trials.push(Trial::test("oracle::late_hand_overs", late_hand_overs));
    trials.push(Trial::test("oracle::the_words_are_the_programs", || {
        let words = include_str!("../../src/cli/messages/stores.rs").contains(check::WITHHELD);
        words.then_some(()).ok_or_else(|| check::WITHHELD.into())
    }));
    for (name, invariant, break_it) in broken {
        trials.push(Trial::test(format!("oracle::{name}"), move || {
            let mut history = quiet();
            break_it(&mut history);
            expect_only(&history, invariant)
        }));
    }
    trials
}

/// Histories in which all is as it should be.
fn sound() -> Vec<Trial> {
    let sound: [(&str, Change); 9] = [
        ("a_quiet_history", |_| ()),
        ("a_turn_that_comes_while_a_connection_is_cut", |history| {
            let permits = vec!["1@one".into(), "0@one".into()];
            add(history, 20, What::Queue { semaphore: "one", permits });
            history.asks[1].by_proxy = true;
            during(history, 90, 91, "cut", &[]);
        }),
        ("an_order_that_the_next_primary_does_not_know", |history| {
            let permits = vec!["1@one".into(), "0@one".into()];
            add(history, 20, What::Queue { semaphore: "one", permits });
            during(history, 15, 90, "cut-off", &[]);
        }),
        ("an_order_that_nobody_remembers_after_a_long_outage", |history| {
            one(history, 2, 310, 9310);
            one(history, 3, 300, 9800);
            let permits = vec!["3@one".into(), "2@one".into()];
            add(history, 320, What::Queue { semaphore: "one", permits });
            during(history, 400, 3000, "stop-server", &[]);
            during(history, 4000, 6000, "kill-server", &[]);
        }),
        ("an_order_of_which_the_server_could_not_tell_any_more", |history| {
            one(history, 2, 310, 9310);
            one(history, 3, 300, 9800);
            let permits = vec!["3@one".into(), "2@one".into()];
            add(history, 320, What::Queue { semaphore: "one", permits });
            during(history, 400, 600, "restart-server", &[]);
        }),
        ("no_permit_in_a_quarantine", |history| {
            history.asks[1].gives_up = true;
            let of_it = |what: &What| {
                matches!(what, What::Entered { run: Run(1), .. } | What::Left { run: Run(1), .. })
                    || matches!(what, What::Dead(Run(1)))
            };
            history.events.retain(|event| !of_it(&event.what));
            end_with(history, 1, 69, &format!("semrun: {} for 2s yet", check::WITHHELD));
        }),
        ("a_waiter_that_had_its_permit_when_it_was_stopped", |history| {
            during(history, 215, 14_250, STOP_QUEUE, &[Run(1)]);
            end_with(history, 1, 76, "semrun: it was stopped for too long");
        }),
        ("waiting_for_one_that_is_stopped_in_the_mutex", |history| {
            behind_a_stopped_one(history);
            during(history, 311, 14_250, STOP_IN_MUTEX, &[Run(3)]);
        }),
        ("waiting_for_one_that_does_not_hear_of_its_permit", |history| {
            behind_a_stopped_one(history);
            history.asks[2].by_proxy = true;
            move_entry(history, 2, 13_000);
            one(history, 4, 302, 14_700);
            during(history, 5000, 12_000, "slow-then-lost", &[]);
        }),
    ];
    let trial = |(name, change): (&str, Change)| {
        Trial::test(format!("oracle::{name}_breaks_nothing"), move || {
            let mut history = quiet();
            change(&mut history);
            let breaches = check::all(&history);
            if breaches.is_empty() { Ok(()) } else { Err(format!("{breaches:?}").into()) }
        })
    };
    sound.into_iter().map(trial).collect()
}

fn expect_only(history: &History, invariant: Invariant) -> Result<(), Failed> {
    let breaches = check::all(history);
    let found = breaches.iter().any(|breach| breach.invariant == invariant);
    let others = breaches.iter().filter(|breach| breach.invariant != invariant).count();
    let report = report::tell("oracle", 0, history, &breaches);
    let told = report.contains(invariant.words()) && report.contains("seed 0");
    if found && told && others == 0 {
        Ok(())
    } else {
        Err(format!("{breaches:?}\n{report}").into())
    }
}

/// No client holds, one waits, and one after it is stopped.
fn behind_a_stopped_one(history: &mut History) {
    one(history, 2, 300, 14_300);
    one(history, 3, 301, 14_500);
    during(history, 310, 14_250, STOP_QUEUE, &[Run(3)]);
}

fn during(history: &mut History, from: u64, to: u64, kind: &'static str, runs: &[Run]) {
    let (runs, detail) = (runs.to_vec(), String::new());
    add(history, from, What::Struck { kind, runs: runs.clone(), detail });
    add(history, to, What::Mended { kind, runs });
}

fn late_hand_overs() -> Result<(), Failed> {
    let mut history = History::default();
    for run in 0..12 {
        one(
            &mut history,
            run,
            10 * u64::try_from(run).unwrap(),
            3000 * u64::try_from(run).unwrap(),
        );
    }
    history.events.sort_by_key(|event| event.at);
    expect_only(&history, Invariant::Prompt)
}

fn at(millis: u64) -> Moment {
    Moment(0).plus(Duration::from_millis(100_000 + millis))
}

fn add(history: &mut History, millis: u64, what: What) {
    history.events.push(Event { at: at(millis), what });
    history.events.sort_by_key(|event| event.at);
}

/// Two runs that both come early, and take turns.
fn quiet() -> History {
    let mut history = History::default();
    one(&mut history, 0, 10, 100);
    one(&mut history, 1, 12, 210);
    hold(&mut history, 195);
    history
}

/// One that comes then, enters then, and works for a tenth of a second.
fn one(history: &mut History, run: usize, started: u64, entered: u64) {
    let (work, hold) = (Duration::from_millis(100), Duration::ZERO);
    let job = Job { kind: Kind::Plain, work, code: 3, hold };
    let semaphore = Semaphore { name: "one", limit: 1, judge: Judge::Locks };
    let (gives_up, by_proxy, deprived) = (false, false, false);
    history.asks.push(Ask { semaphore, job, gives_up, by_proxy, deprived });
    let permit = format!("{run}@one");
    history.kept.until.insert(permit.clone(), at(entered + 5000));
    let (token, stderr) = (Some(10 + u64::try_from(run).unwrap()), String::new());
    let run = Run(run);
    add(history, started, What::Started(run));
    add(history, entered, What::Entered { run, token, permit });
    add(history, entered + 100, What::Left { run, code: 3 });
    add(history, entered + 105, What::Dead(run));
    add(history, entered + 106, What::Ended { run, code: 3, stderr });
}

/// The permit of the first is to stay taken for so long.
fn hold(history: &mut History, millis: u64) {
    history.asks[0].job.hold = Duration::from_millis(millis);
}

fn change(history: &mut History, run: usize, mut with: impl FnMut(&mut Event)) {
    for event in &mut history.events {
        let of = match &event.what {
            What::Started(of) | What::Entered { run: of, .. } | What::Ended { run: of, .. } => of.0,
            _ => continue,
        };
        if of == run {
            with(event);
        }
    }
    history.events.sort_by_key(|event| event.at);
}

fn move_entry(history: &mut History, run: usize, to: u64) {
    change(history, run, |event| {
        if matches!(event.what, What::Entered { .. }) {
            event.at = at(to);
        }
    });
}

fn start_later(history: &mut History, run: usize, to: u64) {
    change(history, run, |event| {
        if matches!(event.what, What::Started(_)) {
            event.at = at(to);
        }
    });
}

fn set_token(history: &mut History, run: usize, to: u64) {
    change(history, run, |event| {
        if let What::Entered { token, .. } = &mut event.what {
            *token = Some(to);
        }
    });
}

fn end_with(history: &mut History, run: usize, to: i32, words: &str) {
    change(history, run, |event| {
        if let What::Ended { code, stderr, .. } = &mut event.what {
            *code = to;
            words.clone_into(stderr);
        }
    });
}
