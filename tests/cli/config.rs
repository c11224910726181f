use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::support::{Running, World, fails, shows};

fn file(world: &World, text: &str) -> PathBuf {
    let path = world.path("config.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn a_file_says_what_no_flag_and_no_variable_says() {
    let world = World::on_this_machine();
    let permits = world.path("elsewhere");
    let text = format!(
        "backend = \"file://{}\"\nverbose = true\n\n[semaphores.x]\nlimit = 2\n",
        permits.display()
    );
    let config = file(&world, &text);
    let mut run = world.semrun(["--config", config.to_str().unwrap(), "--name", "x", "true"]);
    let output = run.env_remove("SEMRUN_BACKEND").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&format!("permits live in file://{}", permits.display())), "{stderr}");
    assert!(permits.join("x").exists());
    // Flags count more, and silence what conflicts with them.
    let mut run = world.semrun(["--name", "x", "-q", "true"]);
    shows(&run.env("SEMRUN_CONFIG", &config).output().unwrap(), 0, "", "");
    // Subcommands read it too, before their name or after.
    let mut limit = world.semrun(["--config", config.to_str().unwrap(), "limit", "x", "3"]);
    shows(&limit.env_remove("SEMRUN_BACKEND").output().unwrap(), 0, "x: limit 3, pinned\n", "");
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    let world = World::on_this_machine();
    for (text, line, words) in [
        ("limit = 1\nlimt = 3\n", 2, "did you mean 'limit'?"),
        ("limit = \n", 1, "string"),
        ("[semaphores.x]\nttl = true\n", 2, "wants a text or a number"),
        ("ttl = \"4s\"", 1, "shorter than 5s"),
    ] {
        let config = file(&world, text);
        let place = format!("{}:{line}: ", config.display());
        let mut run = world.semrun(["--name", "x", "true"]);
        fails(&run.env("SEMRUN_CONFIG", &config).output().unwrap(), 78, &[&place, words]);
    }
    let config = file(&world, "limit = 1\n");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o622)).unwrap();
    let mut run = world.semrun(["--name", "x", "true"]);
    let output = run.env("SEMRUN_CONFIG", &config).output().unwrap();
    fails(&output, 78, &["can be written by others", "chmod go-w"]);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o604)).unwrap();
    fs::write(&config, "password = \"geheim\"\n").unwrap();
    let mut run = world.semrun(["--name", "x", "true"]);
    let output = run.env("SEMRUN_CONFIG", &config).output().unwrap();
    fails(&output, 78, &[":1: holds a secret", "chmod o="]);
    let mut run = world.semrun(["--config", "/nonexistent", "--name", "x", "true"]);
    fails(&run.output().unwrap(), 78, &["/nonexistent"]);
    let mut help = world.semrun(["--help"]);
    assert!(help.env("SEMRUN_CONFIG", &config).output().unwrap().status.success());
}

#[test]
fn no_file_is_picked_up_from_where_one_happens_to_be() {
    let world = World::on_this_machine();
    for place in [".", ".config/semrun"] {
        fs::create_dir_all(world.path(place)).unwrap();
        for name in ["config.toml", "semrun.toml", ".semrun.toml"] {
            fs::write(world.path(place).join(name), "limit = broken").unwrap();
        }
    }
    // The home comes from the user database, and not from the variable that is set here.
    let mut run = world.run(["true"]);
    run.env_remove("SEMRUN_CONFIG").env("XDG_CONFIG_HOME", world.path(".config"));
    shows(&run.output().unwrap(), 0, "", "");
}

#[test]
fn the_users_file_is_above_the_systems() {
    let world = World::on_this_machine();
    let script = r#"
        cp -r /etc etc && mount --bind etc /etc
        mkdir -p /etc/semrun && mount -t tmpfs tmpfs /root
        mkdir -p /root/.config/semrun
        echo 'label = "system"
              limit = 7' > /etc/semrun/config.toml
        echo 'label = "user"' > /root/.config/semrun/config.toml
        unset SEMRUN_CONFIG
        $semrun --backend file://$PWD/permits --name x -- \
            $semrun --backend file://$PWD/permits status x
        echo '[semaphores.x]
              limt = 3' >> /etc/semrun/config.toml
        ! $semrun --name x true
        ! $semrun --config /dev/null --name x true
        "#;
    let output = world.with_mounts(script);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("x: 1 of 7 held") && stdout.contains(" user "), "{stdout}");
    let complaint = "/etc/semrun/config.toml:4: unknown key 'limt' in [semaphores.x]";
    assert_eq!(stderr.matches(complaint).count(), 2, "{stderr}");
}

#[test]
fn each_semaphore_is_looked_up_where_it_lives() {
    let world = World::on_this_machine();
    let place = |name: &str| format!("file://{}", world.path(name).display());
    let text = format!(
        "backend = \"{}\"\n[semaphores.far]\nbackend = \"{}\"\nlimit = 2\nttl = 60\n",
        place("here"),
        place("there")
    );
    let config = file(&world, &text);
    let semrun = |line: &[&str]| {
        let mut semrun = world.semrun(line);
        semrun.env_remove("SEMRUN_BACKEND").env("SEMRUN_CONFIG", &config);
        semrun
    };
    let acquired = semrun(&["acquire", "--name", "far"]).output().unwrap();
    let permit = String::from_utf8(acquired.stdout).unwrap();
    assert!(world.path("there/far").exists() && !world.path("here").exists());
    let status = semrun(&["status", "near", "far", "other"]).output().unwrap();
    let table = String::from_utf8(status.stdout).unwrap();
    let headings: Vec<_> = table.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        headings,
        [
            "near: free; this name has not been used",
            "far: 1 of 2 held, 0 waiting",
            "other: free; this name has not been used"
        ]
    );
    assert_eq!(status.status.code(), Some(0), "{table}");
    // Whatever is about it goes there, with nothing but the permit to know that from.
    let lines: [(&[&str], &str); 3] = [
        (&["renew"], ""),
        (&["limit", "far"], "far: limit 2, as long as it is in use\n"),
        (&["release"], ""),
    ];
    for (line, stdout) in lines {
        let output = semrun(line).env("SEMRUN_PERMIT", permit.trim_end()).output().unwrap();
        shows(&output, 0, stdout, "");
    }
    let doctor = semrun(&["doctor", "--name", "far", "--json"]).output().unwrap();
    let document = String::from_utf8(doctor.stdout).unwrap();
    assert!(document.contains(&place("there")) && document.contains(":3\""), "{document}");
    // A flag counts more than all of it.
    let near = place("here");
    let status = semrun(&["--backend", &near, "status", "far"]).output().unwrap();
    shows(&status, 0, "far: free; this name has not been used\n", "");
}

#[test]
fn a_server_has_a_section_of_its_own() {
    let world = World::on_this_machine();
    let text = "limit = 3\n[serve]\nlisten = \"127.0.0.1:0\"\nlog = [\"debug\"]\nlog-format = \"json\"\n\
                api-key = \"a-first-key-for-tests a-second-key-for-tests\"\n";
    let config = file(&world, text);
    let serve = |variable: (&str, &str)| {
        let mut serve = world.semrun(["serve", "--config", config.to_str().unwrap()]);
        serve.env_remove("SEMRUN_API_KEY").env(variable.0, variable.1);
        serve
    };
    let mut server = Running::start(&mut serve(("SEMRUN_LIMIT", "not its business")));
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim_end().rsplit_once(' ').unwrap().1.parse().unwrap();
    for (key, code) in [("a-second-key-for-tests", 0), ("another-key-for-tests", 69)] {
        let url = format!("http://127.0.0.1:{port}");
        let mut status = world.semrun(["status", "x", "--backend", &url]);
        let output = status.env("SEMRUN_API_KEY", key).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
    server.signal(rustix::process::Signal::TERM);
    let stderr = String::from_utf8(server.finish().stderr).unwrap();
    assert!(stderr.lines().all(|line| line.starts_with('{')), "{stderr}");
    // A variable counts more, and what is wrong is named where it is.
    fails(&serve(("SEMRUN_LISTEN", "192.0.2.1:1")).output().unwrap(), 69, &["192.0.2.1"]);
    for (text, line, words) in [
        ("[serve]\nlog = [\"all\"]\n", 2, "it is one of info"),
        ("[serve]\npassword = \"x\"\n", 2, "unknown key 'password' in [serve]"),
        ("serve = 3\n", 1, "is a section"),
        ("state-dir = \"/x\"\n", 1, "into the section [serve]"),
    ] {
        let config = file(&world, text);
        let place = format!("{}:{line}: ", config.display());
        fails(&serve(("X", "")).output().unwrap(), 78, &[&place, words]);
    }
}

#[test]
fn an_account_without_a_home_needs_no_configuration() {
    let world = World::on_this_machine();
    let script = r"
        chmod 755 . && cp $semrun semrun && mkdir -p home/locked/user && chmod 700 home/locked
        printf '%s\n' service:x:4711:4711::/dev/null:/bin/sh \
            user:x:4712:4712::$PWD/home/locked/user:/bin/sh >> passwd
        mount --bind passwd /etc/passwd
        unset SEMRUN_CONFIG
        export SEMRUN_BACKEND=file:///nonexistent
        for uid in 4711 4712; do
            setpriv --reuid $uid --regid $uid --clear-groups ./semrun status x 2>&1 || echo $?
        done
        ";
    let output = world.with_mounts(script);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[0], "x: free; this name has not been used", "{stdout}");
    assert!(
        lines[1].contains("Permission denied") && lines[1].contains("--config FILE"),
        "{stdout}"
    );
    assert_eq!(lines[2..], ["78"], "{stdout}");
}
