//! What a log hears of a waiter, and how long a random time may be.

use std::ffi::OsString;
use std::path::Path;

use tempfile::TempDir;

use super::display::REDRAW;
use super::*;
use crate::backends::url::Location;
use crate::permits::QueueStatus;
use crate::settings::{self, Environment, RequestedCommand, RunSettings, Variables};

fn run(line: &str) -> RunSettings {
    let around = Environment {
        variables: &Variables::default(),
        user_file: &|| Ok(None),
        system_file: Path::new("/nonexistent"),
    };
    let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    match settings::read(&line, &around).unwrap() {
        RequestedCommand::Run(run) => *run,
        other => panic!("{other:?}"),
    }
}

/// tokio's clock jumps to the next timer.
#[tokio::test(start_paused = true)]
async fn a_log_hears_once_a_minute_that_it_still_waits() {
    let place = TempDir::new().unwrap();
    let user = User::current();
    let backend = Location::Directory(place.path().into()).connect(&user).unwrap();
    let request = run("semrun --name x true").request;
    let acquire_request = acquire_request(&request, &user, false);
    let (front_process, mut console) = (FrontProcess::Itself, Console::new(Loudness::Normal));
    // A line on a terminal is brought up to date more often.
    let interval = if console.redraws() { REDRAW } else { Duration::from_mins(1) };
    let mut display =
        WaitingDisplay::new(&*backend, &request, &acquire_request, &front_process, &mut console);
    let begin = Instant::now();
    display.on_notice(Progress::Queued(QueueStatus {
        ahead: 1,
        held: 1,
        ..QueueStatus::default()
    }));
    for line in 1..4 {
        let snapshot = display.looking().await;
        assert_eq!(begin.elapsed().as_secs(), interval.as_secs() * line);
        display.on_look(snapshot);
        assert!(display.announced || display.console.redraws(), "it is said again");
        // Notices in between are not repeated before the next minute.
        display.on_notice(Progress::Queued(QueueStatus::default()));
        let next = display.next_look.unwrap() - begin;
        assert_eq!(next.as_secs(), interval.as_secs() * (line + 1));
    }
}

#[test]
fn a_random_time_is_at_most_the_longest_and_differs() {
    let longest = Duration::from_secs(100);
    let times: Vec<_> = (0..1_000).map(|_| jitter(longest, Uuid::new_v4())).collect();
    assert!(times.iter().all(|time| *time <= longest));
    let average = times.iter().sum::<Duration>() / 1_000;
    assert!((45..=55).contains(&average.as_secs()), "{average:?}");
    assert_eq!(jitter(Duration::ZERO, Uuid::new_v4()), Duration::ZERO);
}
