//! The examples of a store: does it refuse a holder whose token is older than one it has seen?

use std::path::Path;

use super::support::{SEMRUN, World};

/// A whole client is frozen until another one has its permit, and goes on: the database refuses it.
#[test]
fn the_example_refuses_a_stale_holder() {
    let world = World::on_this_machine();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let path = std::env::var("PATH").unwrap();
    let output = std::process::Command::new(examples.join("stale-holder.sh"))
        .arg(examples.join("fenced-sql.sh"))
        .arg(world.path("report.db"))
        .env("PATH", format!("{}:{path}", Path::new(SEMRUN).parent().unwrap().display()))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}{stderr}");
    let [begins, refused] = ["first: begins with token ", "first: refused, token "].map(|words| {
        let line = shown.lines().find_map(|line| line.strip_prefix(words));
        line.unwrap_or_else(|| panic!("no {words:?} in {shown}")).split(' ').next().unwrap()
    });
    assert_eq!(begins, refused);
    assert!(shown.contains("second: written"), "{shown}");
    assert!(shown.ends_with("-- semrun ended with 76\n"), "{shown}");
}
