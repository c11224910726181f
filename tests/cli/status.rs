use super::support::{Running, World, shows, wait_until};

#[test]
fn a_name_that_nobody_uses_is_free_and_asking_makes_nothing() {
    let world = World::with_details();
    shows(&world.semrun(["status", "x"]).output().unwrap(), 0, "x: free\n", "");
    shows(&world.semrun(["status"]).output().unwrap(), 0, "", "");
    let document = "{\n  \"version\": 1,\n  \"semaphores\": []\n}\n";
    shows(&world.semrun(["status", "--json"]).output().unwrap(), 0, document, "");
    assert!(!world.path("permits").exists());
}

#[test]
fn holders_and_waiters_are_shown_in_order_and_the_code_says_whether_one_is_free() {
    let world = World::with_details();
    let first = world.holder(&["-l", "2", "--label", "first job"]);
    let status = world.semrun(["status", "x"]).output().unwrap();
    assert_eq!(status.status.code(), Some(0), "one of two is free");
    let second = world.holder(&["-l", "2"]);
    let third = world.waiter(&["-l", "2", "--label", "third"], "");
    let fourth = world.waiter(&["-l", "2"], "");

    let status = world.semrun(["status", "x"]).output().unwrap();
    assert_eq!(status.status.code(), Some(75));
    let table = String::from_utf8(status.stdout).unwrap();
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["x:", "2", "of", "2", "held,", "2", "waiting"]);
    let lease = if world.permits_expire() { &["LEASE", "LEFT"][..] } else { &[] };
    assert_eq!(
        lines[1],
        [&["TOKEN"], lease, &["LABEL", "HOST", "PID", "USER", "SINCE", "PERMIT"]].concat()
    );
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let (first_id, second_id) = (first.id().to_string(), second.id().to_string());
    let at = 2 + lease.len() / 2;
    assert_eq!(lines[2][at..at + 4], ["first", "job", &host, &first_id]);
    assert_eq!(lines[3][at..at + 3], ["sh", &host, &second_id]);
    assert!(lines[2][1].parse::<u64>().unwrap() < lines[3][1].parse().unwrap());
    assert_eq!(lines[4][..5], ["waits,", "1", "third", &host, &third.id().to_string()]);
    assert_eq!(lines[5][..5], ["waits,", "2", "sh", &host, &fourth.id().to_string()]);
    assert_eq!(lines.len(), 6);

    let document = world.status();
    assert_eq!(document["version"], 1);
    let semaphore = &document["semaphores"][0];
    assert_eq!((&semaphore["name"], &semaphore["limit"]), (&"x".into(), &2.into()));
    let holder = &semaphore["holders"][0];
    assert_eq!(holder["label"], "first job");
    assert_eq!(holder["host"], host);
    assert_eq!(holder["pid"], first.id());
    assert!(holder["permit"].as_str().unwrap().ends_with("@x"));
    assert!(holder["fencing_token"].as_u64() < semaphore["holders"][1]["fencing_token"].as_u64());
    assert!(holder["since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(semaphore["waiters"][1]["place"], 2);
}

#[test]
fn several_names_are_taken_if_one_is_and_no_name_means_all() {
    let world = World::with_details();
    let _holder = world.holder(&[]);
    let _other =
        Running::start(&mut world.semrun(["--name", "a/../b", "-l", "2", "sleep", "1000"]));
    wait_until("both are held", || {
        let status = world.semrun(["status"]).output().unwrap();
        String::from_utf8_lossy(&status.stdout).contains("a/../b: 1 of 2 held")
    });
    let status = |names: &[&str]| {
        let output = world.semrun(["status"]).args(names).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let headings = stdout.lines().filter(|line| !line.starts_with(' ')).map(String::from);
        (output.status.code(), headings.collect::<Vec<_>>())
    };
    assert_eq!(status(&["free"]), (Some(0), vec!["free: free".into()]));
    let taken = "x: 1 of 1 held, 0 waiting".to_string();
    assert_eq!(status(&["free", "x"]), (Some(75), vec!["free: free".into(), taken.clone()]));
    let other = "a/../b: 1 of 2 held, 0 waiting".to_string();
    assert_eq!(status(&[]), (Some(75), vec![other, taken]));
}

#[test]
fn no_argument_of_a_command_is_published() {
    let world = World::with_details();
    let run = Running::start(&mut world.run(["--", "sleep", "1000.4711"]));
    super::support::wait_until("it holds", || world.holders() == [run.id()]);
    let published = std::process::Command::new("grep")
        .args(["-r", "4711"])
        .arg(world.path("permits"))
        .output()
        .unwrap();
    assert_eq!(published.stdout, b"");
    assert!(!world.status().to_string().contains("4711"));
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let world = World::with_details();
    let script = format!("set -o pipefail; {} status | true", super::support::SEMRUN);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &script]).envs(world.environment());
    shows(&shell.output().unwrap(), 0, "", "");
    let script = format!("{} status y > /dev/full", super::support::SEMRUN);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &script]).envs(world.environment());
    super::support::fails(&shell.output().unwrap(), 125, &["cannot write", "No space left"]);
}

#[test]
fn watching_ends_when_nobody_reads_any_more_even_if_nothing_changes() {
    let world = World::with_details();
    let script = format!("set -o pipefail; {} status --watch x | head -2", super::support::SEMRUN);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &script]).envs(world.environment()).stdout(std::process::Stdio::piped());
    let output = Running::start(&mut shell).finish();
    assert!(output.status.success() && output.stdout.ends_with(b"\nx: free\n"), "{output:?}");
}

#[test]
fn watching_shows_every_change_once() {
    use std::io::{BufRead, BufReader};

    let world = World::with_details();
    let mut watching = Running::start(&mut world.semrun(["status", "--watch", "--json", "x"]));
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut counts = lines.map(|line| {
        let document: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        let count = |of: &str| document["semaphores"][0][of].as_array().unwrap().len();
        (count("holders"), count("waiters"))
    });
    assert_eq!(counts.next(), Some((0, 0)));
    let holder = world.holder(&[]);
    assert_eq!(counts.next(), Some((1, 0)));
    let waiter = world.waiter(&[], "exec sleep 1000");
    assert_eq!(counts.next(), Some((1, 1)));
    // Leaving is in between only if somebody looks just then.
    drop(waiter);
    let mut seen = counts.next();
    if seen == Some((1, 1)) {
        seen = counts.next();
    }
    assert_eq!(seen, Some((1, 0)));
    drop(holder);
    assert_eq!(counts.next(), Some((0, 0)));
}
