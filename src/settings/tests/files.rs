//! Tests of configuration files, beside variables and flags.

use super::*;

#[test]
fn files_are_below_variables_and_the_users_above_the_systems() {
    let home = ConfigHome::new();
    home.write("user", "limit = 3\nttl = 40\nwait = \"2s\"\n");
    home.write("system", "limit = 4\norphans = \"kill\"\nnonblock = true\nquiet = true\n");
    let run = home.run("semrun --name x true", &[]);
    assert_eq!((run.request.terms.limit, run.request.terms.ttl), (3, Duration::from_secs(40)));
    assert_eq!(run.supervision.rules.orphans, Orphans::Kill);
    // What conflicts with a higher layer is silenced.
    assert_eq!(run.request.wait, Wait::AtMost(Duration::from_secs(2)));
    let set = [("SEMRUN_LIMIT", "5"), ("SEMRUN_QUIET", "0")];
    let run = home.run("semrun --name x -n true", &set);
    assert_eq!((run.request.terms.limit, run.request.wait), (5, Wait::Not));
    assert_eq!(run.request.loudness, Loudness::Normal, "a variable turns off what a file turns on");
    let run = home.run("semrun --name x -l 6 true", &set);
    assert_eq!(run.request.terms.limit, 6);
}

#[test]
fn a_file_that_is_named_counts_instead_of_the_users() {
    let home = ConfigHome::new();
    home.write("user", "limit = 3\nlabel = \"user\"\n");
    home.write("system", "limit = 4\n");
    let other = home.write("other", "ttl = \"1m\"\n").display().to_string();
    let run = home.run(&format!("semrun --config {other} --name x true"), &[]);
    assert_eq!((run.request.terms.limit, run.request.label.as_str()), (4, "true"));
    let run = home.run("semrun --name x true", &[("SEMRUN_CONFIG", &other)]);
    assert_eq!(run.request.terms.ttl, Duration::from_mins(1));
    let run = home.run("semrun --config /dev/null --name x true", &[]);
    assert_eq!(run.request.terms.limit, 4);
    let settings_error = home.read("semrun --config /nonexistent --name x true", &[]).unwrap_err();
    assert_eq!(settings_error.failure, Failure::Unsupported);
    assert!(settings_error.to_string().contains("/nonexistent"), "{settings_error}");
}

#[test]
fn a_semaphore_may_have_settings_of_its_own() {
    let home = ConfigHome::new();
    let text = "
        limit = 2
        backend = \"file:///all\"
        [semaphores.deploy]
        limit = 3
        backend = \"file:///deploys\"
        [semaphores.\"a b\"]
        ttl = \"5m\"
        [serve]
        listen = \"127.0.0.1:1\"
        log = [\"debug\", \"sem_events\"]
        api-key = \"a-key-for-tests another-for-tests\"
        ";
    home.write("user", text);
    home.write("system", "[semaphores.deploy]\nlimit = 9\nttl = 50\n");
    let path = |location: &Location| match location {
        Location::Directory(path) => path.display().to_string(),
        other => panic!("{other:?}"),
    };
    let run = home.run("semrun --name deploy true", &[]);
    assert_eq!((run.request.terms.limit, run.request.terms.ttl), (3, Duration::from_secs(50)));
    assert_eq!(path(&run.request.location), "/deploys");
    let run = home.run("semrun --name other true", &[]);
    assert_eq!((run.request.terms.limit, path(&run.request.location).as_str()), (2, "/all"));
    let run = home.run("semrun true", &[("SEMRUN_NAME", "a b")]);
    assert_eq!(run.request.terms.ttl, Duration::from_mins(5));
    let permit = "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@deploy";
    let Ok(RequestedCommand::Renew(renew)) =
        home.read("semrun renew", &[("SEMRUN_PERMIT", permit)])
    else {
        panic!()
    };
    assert_eq!(path(&renew.location), "/deploys");
    let Ok(RequestedCommand::Limit(limit)) = home.read("semrun limit deploy", &[]) else {
        panic!()
    };
    assert_eq!(path(&limit.location), "/deploys");
    // Each name is looked up where it lives.
    let Ok(RequestedCommand::Status(status)) = home.read("semrun status a deploy b c", &[]) else {
        panic!()
    };
    let places: Vec<_> =
        status.places.iter().map(|(place, names)| (path(place), names.len())).collect();
    let expected = [("/all".into(), 1), ("/deploys".into(), 1), ("/all".into(), 2)];
    assert_eq!(places, expected);
    let Ok(RequestedCommand::Serve(serve)) = home.read("semrun serve", &[]) else { panic!() };
    assert_eq!((serve.listen.as_str(), serve.log.len()), ("127.0.0.1:1", 2));
}

#[test]
fn a_mistake_in_a_file_has_its_line_and_the_nearest_word() {
    let home = ConfigHome::new();
    let cases = [
        ("limit = 1\nlimt = 3\n", "2: unknown key 'limt'; did you mean 'limit'?"),
        ("kill_after = 3", "1: unknown key 'kill_after'; did you mean 'kill-after'?"),
        ("zzz = 3", "1: unknown key 'zzz'"),
        ("\n[semaphore.x]\n", "2: unknown section 'semaphore'; did you mean"),
        ("[semaphores.x]\nwait = 3\n", "2: unknown key 'wait' in [semaphores.x]"),
        ("[semaphores]\nx = 3\n", "2: each semaphore has a section of its own, [semaphores.x]"),
        (
            "[serve]\nlisten = 3\nlist = 4",
            "3: unknown key 'list' in [serve]; did you mean 'listen'?",
        ),
        (
            "listen = \"x\"",
            "1: 'listen' is an option of the server; move it into the section [serve]",
        ),
        ("limit = true", "1: 'limit' wants a text or a number"),
        ("limit = [1]", "1: 'limit' wants a text or a number"),
        ("nonblock = \"maybe\"", "1: 'nonblock' wants true or false"),
        ("limit = 0", "1: invalid value '0' for '--limit <N>': not a whole number"),
        ("ttl = \"1s\"", "1: invalid value '1s' for '--ttl <D>': shorter than 5s"),
        ("\n\nlimit = \n", "3: "),
        ("limit = 1\nlimit = 2", "2: duplicate key"),
        ("backend = \"ftp://u:geheim@h\"", "1"),
        ("config = \"x\"", "1: unknown key 'config'"),
        ("watch = true", "1: unknown key 'watch'"),
    ];
    for (text, message) in cases {
        let complaint = home.complains(text);
        let rest = complaint.strip_prefix(message);
        assert!(rest.is_some() && !complaint.contains("geheim"), "{text:?}: {complaint}");
    }
    let both = home.write("user", "wait = 1\nnonblock = true\n");
    let settings_error = home.read("semrun --name x true", &[]).unwrap_err().to_string();
    assert!(
        settings_error.starts_with(&format!("the keys in {} conflict", both.display())),
        "{settings_error}"
    );
    // Help works all the same.
    assert!(matches!(home.read("semrun --help", &[]), Ok(RequestedCommand::Print(_))));
}

#[test]
fn a_file_that_others_can_write_or_that_shows_a_secret_is_refused() {
    let home = ConfigHome::new();
    let set_mode = |mode| {
        fs::set_permissions(home.path("user"), fs::Permissions::from_mode(mode)).unwrap();
        home.read("semrun --name x true", &[])
            .map(drop)
            .map_err(|settings_error| settings_error.to_string())
    };
    home.write("user", "limit = 3\n");
    assert_eq!(set_mode(0o644), Ok(()));
    for mode in [0o664, 0o646, 0o666] {
        let refused = set_mode(mode).unwrap_err();
        assert!(refused.contains("written by others") && refused.contains("chmod"), "{refused}");
    }
    let url = "backend = \"redis://:geheim@h\"\n";
    for text in ["password = \"geheim\"\n", "[serve]\napi-key = \"geheim\"\n", url] {
        home.write("user", text);
        assert_eq!(set_mode(0o640), Ok(()), "{text}");
        let refused = set_mode(0o644).unwrap_err();
        assert!(refused.contains("secret") && !refused.contains("geheim"), "{refused}");
    }
}

#[test]
fn a_password_counts_by_its_layer() {
    let home = ConfigHome::new();
    home.write("user", "password = \"from-file\"\nbackend = \"redis://:in-url@h\"\n");
    let password = |line: &str, set: &[(&str, &str)]| match home.run(line, set).request.location {
        Location::Redis(place) => place.url.password(),
        other => panic!("{other:?}"),
    };
    // Of one layer, the separate secret counts.
    assert_eq!(password("semrun --name x true", &[]).as_deref(), Some("from-file"));
    let url = [("SEMRUN_BACKEND", "redis://:in-variable@h")];
    assert_eq!(password("semrun --name x true", &url).as_deref(), Some("in-variable"));
    let set = [("SEMRUN_PASSWORD", "variable")];
    assert_eq!(password("semrun --name x true", &set).as_deref(), Some("variable"));
    let line = "semrun --backend redis://:typed@h --name x true";
    assert_eq!(password(line, &set).as_deref(), Some("typed"));
}
