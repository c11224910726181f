//! A limit on the size of files acts like a full disk for one process alone.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, prlimit};

use super::cloud_server::CloudServer;
use super::support::{Running, SEMRUN, World, content, fails, shows};

/// A run under such a limit, of a command that says which one it has.
fn within(world: &World, limit: &str) -> std::process::Output {
    let script = format!("ulimit {limit} 0; exec {SEMRUN} --name x -- sh -c 'ulimit -S -f'");
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).envs(world.environment());
    bash.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

#[test]
fn a_run_on_a_server_writes_no_file() {
    for world in [World::in_redis(), World::in_cloud(CloudServer::ours())] {
        shows(&within(&world, "-f"), 0, "0\n", "");
    }
}

#[test]
fn a_local_run_writes_its_small_files_if_the_limit_can_be_raised_and_says_so_if_not() {
    let world = World::on_this_machine();
    shows(&within(&world, "-S -f"), 0, "0\n", "");
    let output = within(&world, "-f");
    if output.status.code() == Some(0) {
        // A user who may raise the limit can.
        shows(&output, 0, "0\n", "");
    } else {
        fails(&output, 69, &["raise the limit of a file's size (ulimit -f)", "File too large"]);
    }
    assert_eq!(world.leftovers(), [""; 0]);
}

fn remembering() -> World {
    World::in_cloud(CloudServer::ours_with(&["--state-dir", "state"]))
}

/// Lets the journal of a server grow by so many bytes.
fn let_it_grow(server: &CloudServer, bytes: Option<u64>) {
    let size = fs::metadata(server.path("state/journal")).unwrap().len();
    let limit = Rlimit { current: bytes.map(|bytes| size + bytes), maximum: None };
    prlimit(Some(server.pid()), Resource::Fsize, limit).unwrap();
}

#[test]
fn a_server_whose_journal_may_not_grow_says_so_and_grants_nothing_until_it_may() {
    let mut world = remembering();
    let holder = Running::start(
        &mut world.script(&[], "echo > held; while [ ! -e end ]; do sleep 0.05; done; echo first"),
    );
    content(&world.path("held"));
    let_it_grow(world.cloud.as_ref().unwrap(), Some(0));
    let mut other = world.semrun(["--name", "y", "--", "echo", "second"]);
    let why = "it cannot record a grant: File too large";
    fails(&other.output().unwrap(), 69, &[why]);
    let server = world.cloud.as_mut().unwrap();
    assert!(server.is_running());
    assert!(server.log().contains("granting nothing: File too large"), "{}", server.log());
    let_it_grow(server, None);
    shows(&other.output().unwrap(), 0, "second\n", "");
    fs::write(world.path("end"), "").unwrap();
    shows(&holder.finish(), 0, "first\n", "");
}

#[test]
fn what_is_over_makes_room_in_a_journal_that_may_not_grow() {
    let world = remembering();
    shows(&world.run(["true"]).output().unwrap(), 0, "", "");
    let_it_grow(world.cloud.as_ref().unwrap(), Some(700));
    for _ in 0..20 {
        shows(&world.run(["true"]).output().unwrap(), 0, "", "");
    }
}
