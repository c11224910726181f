//! Tests of every option: its variable, its key, its default and its other names.

use rustix::process::Signal;

use super::*;
use crate::settings::files::Config;
use crate::settings::layers::Source;
use crate::settings::sources::ConfigFiles;
use crate::supervise::policy::OnLost;

/// Options that are meant for one call alone.
const ONE_CALL: [&str; 10] =
    ["command", "force", "help", "json", "now", "shell", "unpin", "version", "watch", "while-pid"];

/// A valid value of an option.
fn sample(option: &str) -> &'static str {
    match option {
        "limit"
        | "max-attempts"
        | "conflict-exit-code"
        | "lost-exit-code"
        | "replicas"
        | "while-pid"
        | "max-unauthenticated"
        | "max-unauthenticated-per-address"
        | "max-clients"
        | "max-waiters"
        | "max-names"
        | "max-pins" => "7",
        "ttl" | "wait" | "retry-interval" | "min-hold" | "jitter" | "kill-after"
        | "max-runtime" | "quarantine" => "20s",
        "signal" => "INT",
        "on-lost" => "continue",
        "orphans" => "wait",
        "log" => "debug",
        "log-format" => "json",
        "permit" => "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x",
        "backend" => "file:///a",
        "listen" => "127.0.0.1:0",
        "config" => "/dev/null",
        _ => "word",
    }
}

/// Where an option comes from that is in a variable, in a file, or in both.
fn sources<T: clap::Args>(option: &str, is_switch: bool, places: &[&str]) -> Option<Source> {
    let home = ConfigHome::new();
    let in_file = if is_switch { "true".into() } else { format!("\"{}\"", sample(option)) };
    let section =
        if T::augment_args(Command::new("")).get_arguments().any(|a| a.get_id() == "listen") {
            "[serve]\n"
        } else {
            ""
        };
    if places.contains(&"file") {
        home.write("user", &format!("{section}{option} = {in_file}\n"));
    }
    let name = format!("SEMRUN_{}", option.to_uppercase().replace('-', "_"));
    let value = if is_switch { "1" } else { sample(option) };
    let set = places.contains(&"variable").then(|| (OsStr::new(&name), OsStr::new(value)));
    let user_file = || Ok(Some(home.path("user")));
    let system_file = &home.path("system");
    let around =
        Environment { variables: &set.into_iter().collect(), user_file: &user_file, system_file };
    let mut all =
        CommandSources::of_line_and_variables::<T>(Vec::new(), Vec::new(), &around).unwrap();
    let files = ConfigFiles::read(&all.layers, &around).unwrap();
    all.add_files(&files, None).unwrap();
    for file in files.0 {
        all.layers.add_entries(&file.path, &file.serve).unwrap();
    }
    all.layers.find(option).map(|given| given.source.clone())
}

fn has_variables_and_keys<T: clap::Args>() {
    let command = T::augment_args(Command::new(""));
    for argument in command.get_arguments() {
        let Some(option) = argument.get_long() else { continue };
        let is_switch = matches!(argument.get_action(), clap::ArgAction::SetTrue);
        let found = |places: &[&str]| sources::<T>(option, is_switch, places);
        let variable = format!("SEMRUN_{}", option.to_uppercase().replace('-', "_"));
        let by_variable = Some(Source::Variable(variable));
        if ONE_CALL.contains(&option) {
            assert_eq!(found(&["variable"]), None, "{option}");
            continue;
        }
        assert_eq!(found(&["variable"]), by_variable);
        if option != "config" {
            let by_file = found(&["file"]);
            assert!(matches!(by_file, Some(Source::File { .. })), "{option}: {by_file:?}");
            assert_eq!(found(&["file", "variable"]), by_variable);
        }
    }
}

#[test]
fn every_option_has_a_variable_and_below_it_a_key() {
    has_variables_and_keys::<cli::RunArgs>();
    has_variables_and_keys::<cli::StatusArgs>();
    has_variables_and_keys::<cli::AcquireArgs>();
    has_variables_and_keys::<cli::RenewArgs>();
    has_variables_and_keys::<cli::ReleaseArgs>();
    has_variables_and_keys::<cli::LimitArgs>();
    has_variables_and_keys::<cli::DoctorArgs>();
    has_variables_and_keys::<cli::ServeArgs>();
    for option in ONE_CALL {
        let complaint = ConfigHome::new().complains(&format!("{option} = true\n"));
        assert!(complaint.starts_with(&format!("1: unknown key '{option}'")), "{complaint}");
    }
}

#[test]
fn what_is_meant_for_one_call_is_typed_or_not_meant() {
    let permit = "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x";
    let set = ["COMMAND", "FORCE", "JSON", "NOW", "SHELL", "UNPIN", "WATCH", "WHILE_PID"]
        .map(|option| (format!("SEMRUN_{option}"), "1"));
    let set: Vec<_> = set.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let read =
        |line: &str| read_with(line, &[set.as_slice(), &[("SEMRUN_PERMIT", permit)]].concat());
    assert!(matches!(
        read("semrun limit x"),
        Ok(RequestedCommand::Limit(LimitSettings { change: None, .. }))
    ));
    let Ok(RequestedCommand::Release(release)) = read("semrun release") else { panic!() };
    assert!(!release.force && !release.now);
    assert!(matches!(
        read("semrun renew"),
        Ok(RequestedCommand::Renew(RenewSettings { while_pid: None, .. }))
    ));
    let Ok(RequestedCommand::Acquire(acquire)) = read("semrun acquire --name x") else { panic!() };
    assert_eq!(acquire.printed, AcquireOutput::Plain);
    let Ok(RequestedCommand::Status(status)) = read("semrun status") else { panic!() };
    assert!(!status.json && !status.watch);
    assert_eq!(command(&run_with("semrun --name x true", &set)), "true");
}

#[test]
fn defaults_are_as_documented() {
    let run = run_with("semrun --name x true", &[]);
    let RunSettings { request, lost_exit_code, supervision, .. } = run;
    assert_eq!(
        (request.terms.limit, request.terms.ttl, request.wait),
        (1, Duration::from_secs(30), Wait::ForEver)
    );
    assert_eq!((request.conflict_exit_code, lost_exit_code), (75, 76));
    assert_eq!((request.terms.min_hold, request.jitter), (Duration::ZERO, Duration::ZERO));
    assert!(!request.terms.strict && matches!(request.location, Location::Default));
    assert_eq!(request.loudness, Loudness::Normal);
    let rules = supervision.rules;
    assert_eq!((rules.stop_signal, rules.on_lost), (Signal::TERM, OnLost::Kill));
    assert_eq!((rules.orphans, rules.foreground), (Orphans::Leave, false));
    assert_eq!(
        (supervision.kill_after, supervision.max_runtime),
        (Some(Duration::from_secs(5)), None)
    );
    let run = run_with("semrun --name x --backend redis://h true", &[]);
    let Location::Redis(place) = run.request.location else { panic!() };
    assert_eq!((place.prefix.as_str(), place.quarantine), ("semrun", None));
    assert!(!place.allow_eviction);
}

#[test]
fn options_have_the_names_that_people_know_from_elsewhere() {
    let run = |options: &str| run_with(&format!("semrun --name x {options} true"), &[]);
    for limit in ["-l 3", "-l3", "-j 3", "--limit 3", "--limit=3"] {
        assert_eq!(run(limit).request.terms.limit, 3);
    }
    for wait in ["-w 3", "--wait 3", "--timeout 3"] {
        assert_eq!(run(wait).request.wait, Wait::AtMost(Duration::from_secs(3)));
    }
    for now in ["-n", "--nonblock", "--nb", "--no-wait", "-w 0"] {
        assert_eq!(run(now).request.wait, Wait::Not);
    }
    assert_eq!(run("-E 0").request.conflict_exit_code, 0);
    assert_eq!(run("--conflict-exit-code 255").request.conflict_exit_code, 255);
    for signal in ["-s INT", "--signal SIGINT", "--signal 2"] {
        assert_eq!(run(signal).supervision.rules.stop_signal, Signal::INT);
    }
    assert_eq!(run("-k 3").supervision.kill_after, Some(Duration::from_secs(3)));
    // Of options given twice the last counts.
    assert_eq!(run("-l 3 -l 4").request.terms.limit, 4);
}

#[test]
fn what_was_typed_silences_what_conflicts_with_it_below() {
    let home = ConfigHome::new();
    home.write("user", "retry-interval = \"1s\"\n");
    // An interval for runs that count attempts is no mistake for one that does not.
    assert_eq!(home.run("semrun --name x true", &[]).request.wait, Wait::ForEver);
    let attempts = home.run("semrun --name x --max-attempts 3 true", &[]).request.wait;
    assert_eq!(attempts, Wait::AtMost(Duration::from_secs(3)));
}

#[test]
fn what_does_not_fit_together_is_named_where_it_was_said() {
    let redis = "backend = \"redis://h\"\n";
    for (text, message) in [
        ("ttl = 10\nkill-after = 9\n", "3: --kill-after 9s does not fit into a TTL of 10s"),
        ("client-key = \"/k\"\n", "2: --client-cert and --client-key go together"),
        ("prefix = \"{a}\"\n", "2: the prefix '{a}' has braces"),
    ] {
        let complaint = ConfigHome::new().complains(&format!("{redis}{text}"));
        assert!(complaint.starts_with(message), "{complaint}");
    }
    let home = ConfigHome::new();
    home.write("user", "[serve]\ntls-cert = \"/c\"\n");
    let set = [("SEMRUN_API_KEY", "a-key-for-tests")];
    let settings_error = home.read("semrun serve", &set).unwrap_err();
    let text = settings_error.to_string();
    assert_eq!(settings_error.failure, Failure::Unsupported, "{text}");
    assert!(text.ends_with("user:2: --tls-cert and --tls-key go together"), "{text}");
    let set = [("SEMRUN_CLIENT_CERT", "/c"), ("SEMRUN_BACKEND", "redis://h")];
    let settings_error = read_with("semrun --name x true", &set).unwrap_err();
    assert_eq!(settings_error.failure, Failure::Usage);
    assert!(settings_error.to_string().starts_with("SEMRUN_CLIENT_CERT: "), "{settings_error}");
}

#[test]
fn a_home_that_is_no_directory_has_no_file() {
    let home = ConfigHome::new();
    home.write("null", "");
    assert!(Config::read(&home.path("null/.config/semrun/config.toml")).unwrap().is_none());
}

#[test]
fn help_is_there_whatever_the_surroundings_are() {
    let home = ConfigHome::new();
    home.write("user", "broken");
    let set = [("SEMRUN_LIMIT", "broken"), ("SEMRUN_CONFIG", "/nonexistent")];
    for sub in ["", "status ", "acquire ", "renew ", "release ", "limit ", "serve ", "doctor "] {
        for flag in ["--help", "-h"] {
            let line = format!("semrun {sub}{flag}");
            assert!(matches!(home.read(&line, &set), Ok(RequestedCommand::Print(_))), "{line}");
        }
    }
    assert!(matches!(home.read("semrun --version", &set), Ok(RequestedCommand::Print(_))));
    assert!(matches!(home.read("semrun man", &set), Ok(RequestedCommand::Man(None))));
    assert!(matches!(
        home.read("semrun completions zsh", &set),
        Ok(RequestedCommand::Completions(_))
    ));
}

#[test]
fn the_backend_may_be_chosen_on_both_sides_of_every_subcommand() {
    let permit = [("SEMRUN_PERMIT", "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x")];
    for sub in ["status", "acquire --name x", "renew", "release", "limit x", "doctor"] {
        let (word, rest) = sub.split_once(' ').unwrap_or((sub, ""));
        for line in [
            format!("semrun --backend redis://h --prefix p {sub}"),
            format!("semrun --backend redis://h {word} --prefix p {rest}"),
            format!("semrun {word} --backend redis://h --prefix p {rest}"),
            // The later of two options counts.
            format!("semrun --backend file:///a {word} --backend redis://h --prefix p {rest}"),
        ] {
            let location = match read_with(line.trim(), &permit) {
                Ok(RequestedCommand::Status(status)) => status.places.into_iter().next().unwrap().0,
                Ok(RequestedCommand::Acquire(acquire)) => acquire.request.location,
                Ok(RequestedCommand::Renew(renew)) => renew.location,
                Ok(RequestedCommand::Release(release)) => release.location,
                Ok(RequestedCommand::Limit(limit)) => limit.location,
                Ok(RequestedCommand::Doctor(doctor)) => doctor.examined.unwrap().location,
                other => panic!("{line}: {other:?}"),
            };
            let Location::Redis(place) = location else { panic!("{line}") };
            assert_eq!(place.prefix.as_str(), "p", "{line}");
        }
    }
}

#[test]
fn a_file_with_a_secret_is_refused_if_everybody_can_read_it() {
    let home = ConfigHome::new();
    let secret = home.write("secret", "a-key-for-tests label\n");
    let secret = secret.display();
    let redis = "semrun --name x --backend rediss://h";
    let lines = [
        format!("{redis} --password-file {secret} true"),
        format!("{redis} --client-cert /dev/null --client-key {secret} true"),
        format!("semrun --api-key-file {secret} status --backend http://h:1"),
        format!("semrun limit x --backend https://h --api-key-file {secret}"),
        format!("semrun serve --api-key-file {secret}"),
        format!("semrun serve --tls-cert /dev/null --tls-key {secret}"),
    ];
    let key = [("SEMRUN_API_KEY", "another-key-for-tests")];
    for line in &lines {
        for (mode, private) in [(0o600, true), (0o440, true), (0o604, false), (0o602, false)] {
            fs::set_permissions(home.path("secret"), fs::Permissions::from_mode(mode)).unwrap();
            match home.read(line, if line.contains("tls-key") { &key } else { &[] }) {
                Ok(_) => assert!(private, "{line}"),
                Err(settings_error) => {
                    assert!(
                        !private && settings_error.failure == Failure::Unsupported,
                        "{line}: {settings_error}"
                    );
                    let text = settings_error.to_string();
                    assert!(text.contains("secret") && text.contains("chmod o="), "{text}");
                    assert!(!text.contains("a-key"), "{text}");
                }
            }
        }
    }
}

#[test]
fn an_api_key_counts_by_its_layer() {
    let home = ConfigHome::new();
    let typed = home.write("typed", "a-typed-key label\nanother-key\n").display().to_string();
    let by_file = home.write("by-file", "a-key-by-file\n").display().to_string();
    home.write("user", &format!("backend = \"http://h:1\"\napi-key-file = \"{by_file}\"\n"));
    let key = |line: &str, set: &[(&str, &str)]| match home.run(line, set).request.location {
        Location::Cloud(place) => String::from_utf8(place.key.unwrap().0).unwrap(),
        other => panic!("{other:?}"),
    };
    let set = [("SEMRUN_API_KEY", "a-key-in-a-variable a-second-one")];
    assert_eq!(key("semrun --name x true", &[]), "a-key-by-file");
    assert_eq!(key("semrun --name x true", &set), "a-key-in-a-variable");
    // The first word of the first line: a server's file will do.
    let line = format!("semrun --api-key-file {typed} --name x true");
    assert_eq!(key(&line, &set), "a-typed-key");
    let set = [("SEMRUN_API_KEY_FILE", typed.as_str())];
    assert_eq!(key("semrun --name x true", &set), "a-typed-key");
}
