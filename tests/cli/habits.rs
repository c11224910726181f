//! The tables of habits, in the README and in the pages for users of other tools: the command on
//! the right of each row does what it says.

use std::process::{Command, Stdio};
use std::thread;

use rustix::process::Signal;

use super::cloud_server::{CloudServer, KEY};
use super::support::{Running, SEMRUN, World, content};

/// What every command ends with that the rows leave open.
const CODE: i32 = 7;

/// A row that has a command.
struct Row {
    /// As printed.
    here: String,
    command: String,
}

impl Row {
    fn of(line: &str) -> Option<Self> {
        let here = line.trim_matches('|').rsplit_once(" | ").expect("two cells").1.trim();
        let command = here.split('`').skip(1).step_by(2).find(|code| code.contains("semrun "));
        assert_eq!(command.is_none(), here.starts_with("not there"), "{line}");
        command.map(|command| Self { here: here.into(), command: command.into() })
    }

    /// A place of its kind that is not used yet.
    fn world(&self) -> World {
        if self.command.contains("redis://") {
            World::in_redis()
        } else if self.command.contains("http://") {
            World::in_cloud(CloudServer::ours())
        } else {
            World::on_this_machine()
        }
    }

    /// The row with everything filled in.
    fn runs_in(&self, world: &World) -> Running {
        let script = self
            .command
            .replace("semrun ", &format!("{SEMRUN} "))
            .replace("NAME", "x")
            .replace("CMD", &format!("sh -c 'exit {CODE}'"))
            .replace("STR", &format!("exit {CODE}"))
            .replace("TEXT", "text")
            .replace("FILE", "keys")
            .replace("=key ", &format!("={KEY} "))
            .replace("redis://…", &world.backend())
            .replace("http://host:3202", &world.backend())
            .replace("0.0.0.0:3202", "127.0.0.1:0");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &script])
            .current_dir(world.path(""))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(world.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.command.contains("SEMRUN_API_KEY=") {
            shell.env_remove("SEMRUN_API_KEY");
        }
        if self.command.contains("--backend") {
            shell.env_remove("SEMRUN_BACKEND");
        }
        Running::start(&mut shell)
    }

    fn ends_with(&self, world: &World, code: i32) {
        let output = self.runs_in(world).finish();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{}: {stderr}", self.command);
    }

    /// The code when no other client holds a permit: the command's, if that is the end of the row.
    fn code(&self) -> i32 {
        let ends_with_it = self.command.ends_with("CMD") || self.command.ends_with("'STR'");
        if ends_with_it { CODE } else { 0 }
    }

    /// The code when all permits are taken, of a row that does not wait for ever.
    fn busy_code(&self) -> Option<i32> {
        let words: Vec<_> = self.command.split(' ').collect();
        let behind = |option| words.iter().skip_while(|word| **word != option).nth(1);
        if !words.contains(&"-n") && !words.contains(&"-w") {
            return None;
        }
        Some(behind("-E").map_or(75, |code| code.parse().unwrap()))
    }

    fn holds(&self) {
        if self.command.contains(" serve ") {
            return self.serves();
        }
        self.ends_with(&self.world(), self.code());
        if let Some(code) = self.busy_code() {
            let world = self.world();
            let _holder = world.holder(&[]);
            self.ends_with(&world, code);
            let told = !self.here.contains("(busy is") || self.here.contains(&code.to_string());
            assert!(told, "{}", self.here);
        }
    }

    fn serves(&self) {
        let world = self.world();
        let row = Self {
            here: self.here.clone(),
            command: format!("umask 077; echo {KEY} > keys; exec {} > log", self.command),
        };
        let server = row.runs_in(&world);
        assert!(content(&world.path("log")).contains("listening"), "{}", self.command);
        server.signal(Signal::TERM);
        assert_eq!(server.finish().status.code(), Some(0));
    }
}

/// The rows of all tables with this head.
fn table() -> Vec<String> {
    let pages = [
        include_str!("../../README.md"),
        include_str!("../../docs/operations/from-flock.md"),
        include_str!("../../docs/operations/from-consul-lock.md"),
        include_str!("../../docs/operations/from-cloud-semaphore.md"),
        include_str!("../../docs/operations/from-other-tools.md"),
    ];
    let rows = |page: &'static str| {
        let lines = page.lines().skip_while(|line| *line != "| you know | here |").skip(2);
        let rows: Vec<_> =
            lines.take_while(|line| line.starts_with('|')).map(String::from).collect();
        assert!(!rows.is_empty(), "no table: {page}");
        rows
    };
    pages.into_iter().flat_map(rows).collect()
}

#[test]
fn each_row_works_as_it_is_printed_free_and_busy() {
    let rows = table();
    assert!(rows.len() > 20, "the table is complete: {rows:#?}");
    thread::scope(|scope| {
        for line in &rows {
            scope.spawn(move || {
                if let Some(row) = Row::of(line) {
                    row.holds();
                }
            });
        }
    });
}

#[test]
fn what_the_rows_say_beside_their_commands_is_so() {
    let world = World::on_this_machine();
    let long = ["--max-runtime", "0.1", "-s", "INT", "-k", "5", "--", "sleep", "1000"];
    assert_eq!(world.run(long).output().unwrap().status.code(), Some(124));

    let script = "sleep 1000 > log 2>&1 & echo $! > daemon";
    assert_eq!(world.script(&[], script).output().unwrap().status.code(), Some(0));
    let _daemon = super::support::Leftover(super::support::pid_in(&world.path("daemon")));
    assert_eq!(
        world.run(["-n", "true"]).output().unwrap().status.code(),
        Some(0),
        "it keeps nothing"
    );

    let waits = Running::start(
        &mut world.script(&["--orphans", "wait"], "sleep 1000 > log 2>&1 & echo $! > other"),
    );
    let other = super::support::Leftover(super::support::pid_in(&world.path("other")));
    assert_eq!(world.run(["-n", "true"]).output().unwrap().status.code(), Some(75));
    drop(other);
    assert_eq!(waits.finish().status.code(), Some(0));
}
