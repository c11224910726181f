use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::cloud_server::KEY;
use super::support::World;

/// The document, and the exit code.
fn examined(world: &World, options: &[&str]) -> (Value, i32) {
    let output = world.semrun(["doctor", "--json"]).args(options).output().unwrap();
    assert_eq!(output.stderr, b"");
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code().unwrap())
}

fn check<'a>(document: &'a Value, topic: &str) -> &'a Value {
    let checks = document["checks"].as_array().unwrap();
    checks.iter().find(|check| check["topic"] == topic).unwrap_or_else(|| panic!("{document:#}"))
}

#[test]
fn a_backend_that_works_is_good_and_leaves_no_permit_behind() {
    World::everywhere(|world| {
        let (document, code) = examined(world, &[]);
        assert_eq!((code, &document["version"]), (0, &1.into()), "{document:#}");
        let trial = check(&document, "trial");
        assert_eq!(trial["grade"], "ok", "{document:#}");
        assert!(trial["text"].as_str().unwrap().contains(" ms"), "{trial}");
        assert_eq!(check(&document, "backend")["grade"], "ok");
        assert!(!document.to_string().contains(KEY), "{document:#}");
        let held = world.semrun(["status", "semrun doctor"]).output().unwrap();
        assert_eq!(held.stdout, b"semrun doctor: free\n");
        let text = world.semrun(["doctor"]).output().unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("  SEMRUN_BACKEND\n") && text.contains("ok       trial"), "{text}");
    });
}

#[test]
fn it_says_where_each_setting_comes_from_and_shows_no_secret() {
    let world = World::in_redis();
    let config = world.path("config.toml");
    fs::write(&config, "limit = 3\nttl = 40\npassword = \"geheim\"\n").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let url = world.backend().replace("://", "://:geheim@");
    let options = ["--config", config.to_str().unwrap(), "--backend", &url, "--ttl", "50"];
    let (document, code) = examined(&world, &options);
    // This server wants no password, and says so.
    assert_eq!((code, &document["grade"]), (1, &"error".into()), "{document:#}");
    let source = |option: &str| {
        let settings = document["settings"].as_array().unwrap();
        let setting = settings.iter().find(|one| one["option"] == option).unwrap();
        (
            setting["value"].as_str().unwrap().to_owned(),
            setting["source"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(source("ttl"), ("50".into(), "the command line".into()));
    assert_eq!(source("password"), ("***".into(), format!("{}:3", config.display())));
    assert_eq!(source("limit"), ("3".into(), format!("{}:1", config.display())));
    assert_eq!(source("kill-after").1, "default");
    assert_eq!(source("quarantine"), ("0".into(), "SEMRUN_QUARANTINE".into()));
    assert!(source("backend").0.contains(":***@"), "{document:#}");
    assert!(!document.to_string().contains("geheim"), "{document:#}");
    assert_eq!(check(&document, "password")["grade"], "warning");
}

#[test]
fn what_has_to_be_mended_is_1_and_named() {
    let world = World::in_redis();
    let _: String = world.server().ask(&["CONFIG", "SET", "maxmemory", "100mb"]);
    let _: String = world.server().ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let (document, code) = examined(&world, &[]);
    assert_eq!(code, 1);
    let checks = document["checks"].as_array().unwrap();
    let evicts = |check: &Value| check["text"].as_str().unwrap().contains("allkeys-lru");
    assert!(checks.iter().any(|check| check["grade"] == "error" && evicts(check)), "{document:#}");
    let (document, code) = examined(&world, &["--allow-eviction"]);
    assert_eq!((code, &document["grade"]), (0, &"warning".into()), "{document:#}");

    let (document, code) = examined(&world, &["--ttl", "10", "-k", "9", "--allow-eviction"]);
    let text = check(&document, "configuration")["text"].as_str().unwrap();
    assert!(code == 1 && text.contains("smallest --ttl"), "{text}");
    // Where they come from is what one wants to know then.
    let settings = document["settings"].as_array().unwrap();
    assert!(settings.iter().any(|one| one["option"] == "kill-after"), "{document:#}");
    let (document, code) = examined(&world, &["--backend", "redis://127.0.0.1:1"]);
    assert_eq!((code, &check(&document, "backend")["grade"]), (1, &"error".into()));

    let config = world.path("config.toml");
    fs::write(&config, "limt = 3\n").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let (document, code) = examined(&world, &["--config", config.to_str().unwrap()]);
    let text = check(&document, "configuration")["text"].as_str().unwrap();
    assert!(code == 1 && text.contains("config.toml:1: unknown key 'limt'"), "{text}");
}

#[test]
fn a_variable_that_nothing_knows_is_mentioned_and_the_last_line_counts() {
    let world = World::on_this_machine();
    let mut doctor = world.semrun(["doctor"]);
    let output = doctor.env("SEMRUN_LIMITS", "3").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let warning = "unknown variable 'SEMRUN_LIMITS'; did you mean 'SEMRUN_LIMIT'?";
    assert!(
        text.lines().any(|line| line.starts_with("warning  variables") && line.ends_with(warning)),
        "{text}"
    );
    let count = text.lines().filter(|line| line.starts_with("warning ")).count();
    let last = text.lines().last().unwrap();
    let plural = if count == 1 { "" } else { "s" };
    assert_eq!(last, format!("nothing to mend, {count} warning{plural}"), "{text}");
    let output = world.semrun(["doctor", "--backend", "redis://127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.ends_with(b"\n1 thing to mend\n"), "{output:?}");
}
