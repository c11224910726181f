//! What command lines, variables and configuration files mean together, and which of them counts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::backends::url::Location;
use crate::console::Loudness;
use crate::exit::Failure;
use crate::supervise::policy::Orphans;

mod files;
mod options;

/// The user's file and the system's, neither of which there is at first.
struct ConfigHome(TempDir);

impl ConfigHome {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.path(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn read(&self, line: &str, set: &[(&str, &str)]) -> Result<RequestedCommand, SettingsError> {
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let set = set.iter().map(|(name, value)| (OsStr::new(*name), OsStr::new(*value)));
        let user_file = || Ok(Some(self.path("user")));
        let around = Environment {
            variables: &set.collect(),
            user_file: &user_file,
            system_file: &self.path("system"),
        };
        read(&line, &around)
    }

    fn run(&self, line: &str, set: &[(&str, &str)]) -> RunSettings {
        match self.read(line, set) {
            Ok(RequestedCommand::Run(run)) => *run,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// What is wrong with a file of the user.
    fn complains(&self, text: &str) -> String {
        let path = self.write("user", text);
        let settings_error = self.read("semrun --name x true", &[]).expect_err(text);
        assert_eq!(settings_error.failure, Failure::Unsupported, "{settings_error}");
        let message = settings_error.to_string();
        assert!(!message.contains('\n'), "{message}");
        let place = format!("{}:", path.display());
        message.strip_prefix(&place).unwrap_or_else(|| panic!("{message}")).to_owned()
    }
}

fn read_with(line: &str, set: &[(&str, &str)]) -> Result<RequestedCommand, SettingsError> {
    ConfigHome::new().read(line, set)
}

fn run_with(line: &str, set: &[(&str, &str)]) -> RunSettings {
    ConfigHome::new().run(line, set)
}

fn command(run: &RunSettings) -> String {
    let words = [&run.program].into_iter().chain(&run.arguments);
    words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn options_end_at_the_first_operand() {
    let run = run_with("semrun --name x sh -c exit -n --name y", &[]);
    assert_eq!(command(&run), "sh -c exit -n --name y");
    assert_eq!((run.request.name.as_str(), run.request.wait), ("x", Wait::ForEver));
    assert_eq!(command(&run_with("semrun --name x -- -n", &[])), "-n");
}

#[test]
fn of_variables_with_one_name_the_first_counts_as_it_does_elsewhere() {
    let set =
        [("SHELL", "/bin/bash"), ("SHELL", "/bin/no"), ("SEMRUN_LIMIT", ""), ("SEMRUN_LIMIT", "5")];
    let run = run_with("semrun --name x -c secret", &set);
    assert_eq!((command(&run).as_str(), run.request.terms.limit), ("/bin/bash -c secret", 1));
}

#[test]
fn a_flag_counts_more_than_a_variable_and_silences_what_conflicts_with_it() {
    let set = [("SEMRUN_LIMIT", "3"), ("SEMRUN_NONBLOCK", "1"), ("SEMRUN_QUIET", "true")];
    let run = run_with("semrun --name x true", &set);
    assert_eq!(
        (run.request.terms.limit, run.request.wait, run.request.loudness),
        (3, Wait::Not, Loudness::Quiet)
    );
    let run = run_with("semrun --name x -l 5 -w 2 -v true", &set);
    let wait = Wait::AtMost(Duration::from_secs(2));
    assert_eq!(
        (run.request.terms.limit, run.request.wait, run.request.loudness),
        (5, wait, Loudness::Verbose)
    );
    let run = run_with("semrun --name x -n true", &[("SEMRUN_WAIT", "5s")]);
    assert_eq!(run.request.wait, Wait::Not);
    // Also mistakes in them.
    let set = [("SEMRUN_LIMIT", "many"), ("SEMRUN_NONBLOCK", "1"), ("SEMRUN_WAIT", "5")];
    assert_eq!(run_with("semrun --name x -l 5 -w 2 true", &set).request.wait, wait);
}

#[test]
fn attempts_bound_the_waiting_and_conflict_with_other_bounds() {
    let wait = |line: &str, set| run_with(line, set).request.wait;
    let at_most = |millis| Wait::AtMost(Duration::from_millis(millis));
    assert_eq!(wait("semrun --name x --max-attempts 5 true", &[]), at_most(2_500));
    let set = [("SEMRUN_MAX_ATTEMPTS", "5"), ("SEMRUN_RETRY_INTERVAL", "100ms")];
    assert_eq!(wait("semrun --name x true", &set), at_most(500));
    assert_eq!(wait("semrun --name x --max-attempts 3 true", &set), at_most(300));
    assert_eq!(wait("semrun --name x --retry-interval 1 true", &set), at_most(5_000));
    assert_eq!(wait("semrun --name x -w 7 true", &set), at_most(7_000));
    assert_eq!(wait("semrun --name x -n true", &set), Wait::Not);
    assert_eq!(wait("semrun --name x --max-attempts 0 true", &[]), Wait::Not);
    let for_ever = "semrun --name x --max-attempts 4294967295 --retry-interval 1000000h true";
    assert_eq!(wait(for_ever, &[]), Wait::AtMost(cli::LONGEST));
}

#[test]
fn a_short_lease_shortens_the_time_between_signal_and_kill() {
    let after = |line: &str| run_with(line, &[]).supervision.kill_after;
    let redis = "semrun --name x --backend redis://h";
    assert_eq!(after("semrun --name x true"), Some(Duration::from_secs(5)));
    assert_eq!(after(&format!("{redis} true")), Some(Duration::from_secs(5)));
    assert_eq!(after(&format!("{redis} --ttl 6s true")), Some(Duration::from_millis(1_500)));
    assert_eq!(after(&format!("{redis} -k 0 true")), None);
    // Where permits do not expire there is no limit.
    assert_eq!(after("semrun --name x -k 1h true"), Some(Duration::from_hours(1)));
}

#[test]
fn a_variable_can_be_false_or_empty() {
    let set = [("SEMRUN_NONBLOCK", "0"), ("SEMRUN_LIMIT", ""), ("SEMRUN_FOREGROUND", "false")];
    let run = run_with("semrun --name x true", &set);
    assert_eq!(
        (run.request.wait, run.request.terms.limit, run.supervision.rules.foreground),
        (Wait::ForEver, 1, false)
    );
}

#[test]
fn subcommand_names_are_commands_behind_a_name_on_the_command_line() {
    assert!(matches!(read_with("semrun status x", &[]), Ok(RequestedCommand::Status(_))));
    assert_eq!(command(&run_with("semrun --name x status x", &[])), "status x");
    let set = [("SEMRUN_NAME", "x")];
    assert!(matches!(read_with("semrun status", &set), Ok(RequestedCommand::Status(_))));
    assert_eq!(command(&run_with("semrun -- status", &set)), "status");
    assert_eq!(command(&run_with("semrun ls", &set)), "ls");
}

#[test]
fn the_backend_may_be_chosen_before_or_behind_a_subcommand() {
    for line in ["semrun --backend file:///a status", "semrun status --backend file:///a"] {
        let Ok(RequestedCommand::Status(status)) = read_with(line, &[]) else { panic!("{line}") };
        let (Location::Directory(path), _) = &status.places[0] else { panic!("{line}") };
        assert_eq!(path, Path::new("/a"));
    }
    assert!(read_with("semrun -n status", &[]).is_err(), "an option that would be ignored");
}

#[test]
fn the_label_never_shows_an_argument() {
    assert_eq!(run_with("semrun --name x /opt/bin/job --token secret", &[]).request.label, "job");
    let run = run_with("semrun --name x -c secret", &[("SHELL", "/bin/bash")]);
    let shown = (run.request.label.as_str(), command(&run));
    assert_eq!(shown, ("bash", "/bin/bash -c secret".into()));
}

#[test]
fn a_mistake_is_one_line_with_the_right_code_and_no_secret() {
    type Mistake = (&'static str, &'static [(&'static str, &'static str)], Failure, &'static str);
    let mistakes: [Mistake; 25] = [
        ("semrun true", &[], Failure::Usage, "--name"),
        ("semrun --name x", &[], Failure::Usage, "no command"),
        ("semrun --name  true", &[], Failure::Usage, "cannot be empty"),
        ("semrun --name a\nb true", &[], Failure::Usage, "control characters"),
        ("semrun --name x -l 0 true", &[], Failure::Usage, "1 to 10,000"),
        ("semrun --name x -w soon true", &[], Failure::Usage, "duration"),
        ("semrun --name x -n -w 5 true", &[], Failure::Usage, "cannot be used with"),
        ("semrun --name x --limt 5 true", &[], Failure::Usage, "--limit"),
        (
            "semrun release --backend redis://h --permit 1b4e28ba-2fa1-4d5e-883f-0016d3cca427@{x}",
            &[],
            Failure::Usage,
            "braces",
        ),
        ("semrun --name x --password geheim true", &[], Failure::Usage, "--password-file"),
        ("semrun --name x --api-key=geheim true", &[], Failure::Usage, "--api-key-file"),
        ("semrun --name x true", &[("SEMRUN_LIMIT", "many")], Failure::Usage, "SEMRUN_LIMIT"),
        ("semrun --name x true", &[("SEMRUN_QUIET", "yes")], Failure::Usage, "SEMRUN_QUIET"),
        ("semrun --name x --backend ftp://u:geheim@h true", &[], Failure::Usage, "unknown scheme"),
        (
            "semrun --name x --backend redis+cluster://u:geheim@h true",
            &[],
            Failure::Unsupported,
            "redis+cluster",
        ),
        ("semrun --name x --backend redis://u:geheim@ true", &[], Failure::Usage, "redis://["),
        ("semrun --name x{ --backend redis://h true", &[], Failure::Usage, "braces"),
        ("semrun --name x --backend redis://h --prefix {a} true", &[], Failure::Usage, "braces"),
        (
            "semrun --name x --backend redis://h -k 20 true",
            &[],
            Failure::Usage,
            "smallest --ttl that it fits into is 52s",
        ),
        ("semrun --name x --ttl 4s true", &[], Failure::Usage, "shorter than 5s"),
        ("semrun --name x --retry-interval 1 true", &[], Failure::Usage, "--max-attempts"),
        ("semrun --name x --max-attempts 1 -n true", &[], Failure::Usage, "cannot be used"),
        (
            "semrun --name x --backend redis://h --client-cert /c true",
            &[],
            Failure::Usage,
            "--client-key",
        ),
        (
            "semrun --name x --backend redis://h --password-file /nonexistent true",
            &[],
            Failure::Unsupported,
            "/nonexistent",
        ),
        (
            "semrun --name x true",
            &[("SEMRUN_BACKEND", "ftp://u:geheim@h")],
            Failure::Usage,
            "SEMRUN_BACKEND",
        ),
    ];
    for (line, set, failure, text) in mistakes {
        let settings_error = read_with(line, set).expect_err(line);
        assert_eq!(settings_error.failure, failure, "{line}");
        let message = settings_error.to_string();
        assert!(message.contains(text), "{line}: {message}");
        assert!(!message.contains('\n') && !message.contains("geheim"), "{line}: {message}");
    }
}

#[test]
fn subcommands_know_what_they_are_about() {
    let permit = "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x";
    let set = [("SEMRUN_PERMIT", permit)];
    let Ok(RequestedCommand::Release(release)) = read_with("semrun release", &set) else {
        panic!()
    };
    assert_eq!((release.name.as_str(), release.force, release.now), ("x", false, false));
    let line = format!("semrun release --permit {permit} --force --now");
    assert!(matches!(
        read_with(&line, &[]),
        Ok(RequestedCommand::Release(ReleaseSettings { now: true, .. }))
    ));
    let Ok(RequestedCommand::Acquire(acquire)) =
        read_with("semrun acquire --name x -l 3 -n --shell", &[("SEMRUN_JSON", "1")])
    else {
        panic!()
    };
    assert_eq!((acquire.request.terms.limit, acquire.printed), (3, AcquireOutput::Shell));
    // The label is the name of whatever runs these tests.
    assert!(acquire.request.wait == Wait::Not && !acquire.request.label.is_empty());
    let limit = |line: &str| match read_with(line, &[("SEMRUN_LIMIT", "7")]) {
        Ok(RequestedCommand::Limit(limit)) => limit.change,
        other => panic!("{other:?}"),
    };
    assert_eq!(limit("semrun limit x"), None);
    assert_eq!(limit("semrun limit x 5"), Some(LimitChange::Pin(5)));
    assert_eq!(limit("semrun limit x --unpin"), Some(LimitChange::Unpin));
    for (line, text) in [
        ("semrun renew", "--permit"),
        ("semrun --name x --name y true", "--name is given twice"),
        ("semrun --name x --name x true", "--name is given twice"),
        ("semrun acquire --name x --name=x", "--name is given twice"),
        ("semrun doctor --name x --name y", "--name is given twice"),
        (
            "semrun release --permit 1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x --permit 1b4e28ba-2fa1-4d5e-883f-0016d3cca427@y",
            "--permit is given twice",
        ),
        ("semrun renew --permit x", "UUID@NAME"),
        ("semrun release --now", "--force"),
        ("semrun limit", "NAME"),
        ("semrun limit x 0", "1 to 10,000"),
        ("semrun limit x 3 --unpin", "cannot be used with"),
        ("semrun acquire", "--name"),
        ("semrun acquire --name x --json --shell", "cannot be used with"),
        ("semrun acquire --name x true", "unexpected"),
        ("semrun renew --while-pid 0", "number of a process"),
        ("semrun --name x --max-runtime 0 true", "longer than 0"),
        ("semrun -n acquire --name x", "before 'acquire'"),
    ] {
        let settings_error = read_with(line, &[]).expect_err(line);
        assert_eq!(settings_error.failure, Failure::Usage, "{line}");
        assert!(settings_error.to_string().contains(text), "{line}: {settings_error}");
    }
}

proptest! {
    #[test]
    fn no_file_panics(text in "\\PC{0,40}|[a-z]{1,8} = [0-9\\[\\]{}\"=., ]{0,20}\n") {
        let home = ConfigHome::new();
        home.write("user", &text);
        let _ = home.read("semrun --name x true", &[]);
    }
}
