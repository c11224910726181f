use std::ffi::OsString;
use std::path::Path;

use tempfile::TempDir;

use super::view::REDRAW;
use super::*;
use crate::backends::Standing;
use crate::backends::connect::Location;
use crate::settings::{self, Run, Surroundings, Task, Variables};

fn run(line: &str) -> Run {
    let around = Surroundings {
        variables: &Variables::default(),
        user_file: &|| Ok(None),
        system_file: Path::new("/nonexistent"),
    };
    let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    match settings::read(&line, &around).unwrap() {
        Task::Run(run) => *run,
        other => panic!("{other:?}"),
    }
}

/// tokio's clock jumps to the next timer.
#[tokio::test(start_paused = true)]
async fn a_log_hears_once_a_minute_that_it_still_waits() {
    let place = TempDir::new().unwrap();
    let account = Account::current();
    let backend = Location::Directory(place.path().into()).connect(&account).unwrap();
    let request = run("semrun --name x true").request;
    let ask = ask(&request, &account, false);
    let (visible, mut console) = (Visible::Itself, Console::new(Loudness::Normal));
    // A line on a terminal is brought up to date more often.
    let interval = if console.redraws() { REDRAW } else { Duration::from_mins(1) };
    let mut view = View::new(&*backend, &request, &ask, &visible, &mut console);
    let begin = Instant::now();
    view.on_notice(Notice::Queued(Standing { ahead: 1, held: 1, ..Standing::default() }));
    for line in 1..4 {
        let snapshot = view.looking().await;
        assert_eq!(begin.elapsed().as_secs(), interval.as_secs() * line);
        view.on_look(snapshot);
        assert!(view.announced || view.console.redraws(), "it is said again");
        // Notices in between are not repeated before the next minute.
        view.on_notice(Notice::Queued(Standing::default()));
        let next = view.next_look.unwrap() - begin;
        assert_eq!(next.as_secs(), interval.as_secs() * (line + 1));
    }
}

#[test]
fn a_random_time_is_at_most_the_longest_and_differs() {
    let longest = Duration::from_secs(100);
    let times: Vec<_> = (0..1_000).map(|_| chance(longest, Uuid::new_v4())).collect();
    assert!(times.iter().all(|time| *time <= longest));
    let average = times.iter().sum::<Duration>() / 1_000;
    assert!((45..=55).contains(&average.as_secs()), "{average:?}");
    assert_eq!(chance(Duration::ZERO, Uuid::new_v4()), Duration::ZERO);
}
