use super::support::{Running, World, shows, wait_until};

#[test]
fn an_idle_name_is_free_and_asking_makes_nothing() {
    let world = World::with_details();
    shows(
        &world.semrun(["status", "x"]).output().unwrap(),
        0,
        "x: free; this name has not been used\n",
        "",
    );
    let nothing = format!("no semaphores in {}\n", world.backend());
    shows(&world.semrun(["status"]).output().unwrap(), 0, &nothing, "");
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
    assert_eq!(lines[1], ["STATE", "AGE", "LABEL", "USER@HOST", "PID"]);
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    // Of an age there may be one word or two.
    let row = |line: usize, state: &str, label: &str, pid: u32| {
        let (person, pid) = (format!("@{host}"), pid.to_string());
        let words = &lines[line];
        assert!(words.join(" ").starts_with(state), "{table}");
        assert!(words.join(" ").contains(label), "{table}");
        let [.., last, number] = words[..] else { panic!("{table}") };
        assert!(last.ends_with(&person) && number == pid, "{table}");
    };
    row(2, "holding", "first job", first.id());
    row(3, "holding", " sh ", second.id());
    row(4, "waiting, 1", "third", third.id());
    row(5, "waiting, 2", " sh ", fourth.id());
    assert_eq!(lines.len(), 6);
    assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    let more = world.semrun(["status", "-v", "x"]).output().unwrap();
    let more = String::from_utf8(more.stdout).unwrap();
    let lease = world.permits_expire();
    let headings = more.lines().nth(1).unwrap();
    assert!(headings.contains("TOKEN") && headings.ends_with("PERMIT"), "{more}");
    assert_eq!(headings.contains("LEASE LEFT"), lease, "{more}");

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
    let free = ": free; this name has not been used";
    assert_eq!(status(&["free"]), (Some(0), vec![format!("free{free}")]));
    let taken = "x: 1 of 1 held, 0 waiting".to_string();
    assert_eq!(status(&["free", "x"]), (Some(75), vec![format!("free{free}"), taken.clone()]));
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
fn watching_ends_when_its_output_is_not_read_any_more_even_if_nothing_changes() {
    let world = World::with_details();
    let script = format!("set -o pipefail; {} status --watch x | head -2", super::support::SEMRUN);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &script]).envs(world.environment()).stdout(std::process::Stdio::piped());
    let output = Running::start(&mut shell).finish();
    assert!(
        output.status.success()
            && output.stdout.ends_with(b"\nx: free; this name has not been used\n"),
        "{output:?}"
    );
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
    // The state while it leaves is seen only by a look at that moment.
    drop(waiter);
    let mut seen = counts.next();
    if seen == Some((1, 1)) {
        seen = counts.next();
    }
    assert_eq!(seen, Some((1, 0)));
    drop(holder);
    assert_eq!(counts.next(), Some((0, 0)));
}

#[test]
fn a_name_that_was_never_used_is_told_from_a_free_one() {
    let world = World::with_details();
    assert!(world.run(["true"]).status().unwrap().success());
    let known = |name: &str| {
        let output = world.semrun(["status", "--json", name]).output().unwrap();
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        document["semaphores"][0]["known"].clone()
    };
    assert_eq!((known("x"), known("y")), (true.into(), false.into()));
    shows(&world.semrun(["status", "x"]).output().unwrap(), 0, "x: free\n", "");
    let unknown = "y: free; this name has not been used\n";
    shows(&world.semrun(["status", "y"]).output().unwrap(), 0, unknown, "");
}

#[test]
fn a_job_that_is_stopped_is_told_from_one_that_runs() {
    let world = World::with_details();
    let holder = world.holder(&[]);
    let stopped = || world.status()["semaphores"][0]["holders"][0]["stopped"].clone();
    assert_eq!(stopped(), false);
    holder.signal(rustix::process::Signal::STOP);
    wait_until("it is seen to be stopped", || stopped() == true);
    let output = world.semrun(["status", "x"]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("  holding, stopped  "), "{table}");
    holder.signal(rustix::process::Signal::CONT);
    wait_until("it runs again", || stopped() == false);
}
