use std::process::Command;
use std::time::Duration;

use rexpect::session::{PtySession, spawn_command};
use rustix::process::{Pid, Signal, kill_process};

use super::pids::{pids_of_children, state};
use super::support::{SEMRUN, World, pid_in, wait_until, worker_of};

/// The terminal after a death.
mod deserted;
/// What a person sees: pages, lines and colours.
mod seen;

/// An interactive shell on a terminal of its own.
struct Terminal<'a> {
    world: &'a World,
    shell: PtySession,
}

impl<'a> Terminal<'a> {
    fn open(world: &'a World) -> Self {
        let mut bash = Command::new("bash");
        bash.args(["--norc", "--noprofile", "-i"])
            .current_dir(world.path("."))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TERM", "xterm")
            .env("PS1", "ready> ")
            .env("HISTFILE", "")
            .env("INPUTRC", "/dev/null")
            .envs(world.environment())
            .env("semrun", SEMRUN);
        let mut shell = spawn_command(bash, Some(20_000)).unwrap();
        // An interactive shell ignores the signal that the end of a test sends it first.
        shell.process_mut().set_kill_timeout(Some(100));
        let mut terminal = Self { world, shell };
        terminal.shows("ready> ");
        // So that what is typed is not mistaken for what is shown.
        terminal.enters("bind 'set enable-bracketed-paste off'; stty cols 80; echo $$ > shell");
        terminal.shows("ready> ");
        terminal
    }

    /// Types a line. Its words must not be what is looked for later: `"o""k"` shows ok.
    fn enters(&mut self, line: &str) {
        self.shell.send_line(line).unwrap();
    }

    /// Writes the file `script`.
    fn script(&self, text: &str) {
        std::fs::write(self.world.path("script"), text).unwrap();
    }

    fn types(&mut self, key: char) {
        self.shell.send_control(key).unwrap();
    }

    /// Waits for a text, and returns what came before it.
    #[track_caller]
    fn shows(&mut self, text: &str) -> String {
        match self.shell.exp_string(text) {
            Ok(before) => before,
            Err(error) => panic!("{text:?}: {error}"),
        }
    }

    /// Continues the stopped job. A key that is typed before it goes on is the shell's still, or lost.
    #[track_caller]
    fn continues(&mut self) {
        self.enters("fg");
        let shell = pid_in(&self.world.path("shell"));
        wait_until("all of the job goes on", || !is_stopped_below(shell));
    }

    #[track_caller]
    fn holds(&self) {
        wait_until("the permit is held", || self.world.holders().len() == 1);
    }
}

fn is_stopped_below(parent: Pid) -> bool {
    let stopped = |child: &Pid| state(*child) == Some('T') || is_stopped_below(*child);
    pids_of_children(parent).iter().any(stopped)
}

#[test]
fn ctrl_c_ends_the_command_and_semrun_as_it_would_without_semrun() {
    let world = World::new();
    let mut terminal = Terminal::open(&world);
    // The permit is granted before there is a command; Ctrl-C in between ends a waiter.
    terminal.script("echo begun; exec sleep 1000");
    // The shell forgets the rest of a line of which a part died of Ctrl-C.
    terminal.enters("$semrun --name x -- sh script; echo \"wro\"\"ng\"");
    terminal.shows("begun");
    terminal.types('c');
    terminal.shows("ready> ");
    terminal.enters("echo \"co\"\"de=$?\"");
    let before = terminal.shows("code=130");
    assert!(!before.contains("wrong"), "{before}");
    assert_eq!(world.leftovers(), [""; 0]);
    // A script around it ends as well, and does not go on with its next line.
    terminal.enters("sh -c '$semrun --name x -- sh script; echo \"wro\"\"ng\"'");
    terminal.shows("begun");
    terminal.types('c');
    terminal.shows("ready> ");
    terminal.enters("echo \"co\"\"de=$?\"");
    let before = terminal.shows("code=130");
    assert!(!before.contains("wrong"), "{before}");
}

#[test]
fn a_command_that_handles_ctrl_c_goes_on() {
    let world = World::new();
    for option in ["", "--foreground"] {
        let mut terminal = Terminal::open(&world);
        let script = "trap 'echo interrupted' INT; echo started; while [ ! -e go ]; do sleep 0.05; done; true";
        terminal.script(script);
        terminal.enters(&format!("$semrun --name x {option} -- bash script; echo \"co\"\"de=$?\""));
        terminal.shows("started");
        terminal.types('c');
        terminal.shows("interrupted");
        std::fs::write(world.path("go"), "").unwrap();
        let before = terminal.shows("code=0");
        assert!(!before.contains("interrupted"), "it came twice: {before}");
        std::fs::remove_file(world.path("go")).unwrap();
    }
}

#[test]
fn ctrl_z_stops_the_job_which_keeps_its_permit_and_fg_continues_it() {
    let world = World::new();
    for option in ["", "--foreground"] {
        let mut terminal = Terminal::open(&world);
        terminal.script("echo started; read line; echo got=$line");
        terminal.enters(&format!("$semrun --name x {option} -- bash script"));
        terminal.shows("started");
        for _ in 0..3 {
            terminal.types('z');
            terminal.shows("Stopped");
            terminal.shows("ready> ");
            assert_eq!(world.holders().len(), 1, "a stopped job keeps its permit");
            terminal.continues();
            terminal.shows("bash script");
        }
        terminal.enters("hello");
        terminal.shows("got=hello");
        terminal.shows("ready> ");
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

#[test]
fn ctrl_z_before_semrun_knows_that_it_was_continued_stops_the_job_again() {
    let world = World::with_details();
    for option in ["", "--foreground"] {
        let mut terminal = Terminal::open(&world);
        terminal.script("echo started; exec sleep 1000");
        terminal.enters(&format!("$semrun --name x {option} -- sh script"));
        terminal.shows("started");
        let semrun = Pid::from_raw(world.holders()[0].cast_signed()).unwrap();
        let worker = worker_of(semrun);
        let command = pids_of_children(worker)[0];
        terminal.types('z');
        terminal.shows("Stopped");
        terminal.shows("ready> ");
        kill_process(worker, Signal::STOP).unwrap();
        wait_until("the worker hears nothing", || state(worker) == Some('T'));
        terminal.enters("fg");
        wait_until("the job was continued", || {
            let continued = |pid| state(pid) != Some('T');
            continued(semrun) && (option.is_empty() || continued(command))
        });
        terminal.types('z');
        std::thread::sleep(Duration::from_millis(100));
        kill_process(worker, Signal::CONT).unwrap();
        terminal.shows("Stopped");
        terminal.shows("ready> ");
        assert_eq!(state(command), Some('T'), "{option}");
        terminal.continues();
        terminal.types('c');
        terminal.shows("ready> ");
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

#[test]
fn a_command_that_sets_up_the_terminal_like_an_editor_gets_it() {
    let world = World::new();
    let mut terminal = Terminal::open(&world);
    // Without echo and line by line input, as editors do; typed keys arrive one by one.
    terminal.script(
        "stty -echo -icanon; echo started; dd bs=1 count=1 2>/dev/null | od -An -c; stty sane",
    );
    terminal.enters("$semrun --name x -- bash script; echo \"co\"\"de=$?\"");
    terminal.shows("started");
    terminal.shell.send("k").unwrap();
    terminal.shell.flush().unwrap();
    terminal.shows("k");
    terminal.shows("code=0");
    // Also where its output goes elsewhere, so that it starts without the terminal.
    terminal.enters("$semrun --name x -- bash script | cat; echo \"co\"\"de=$?\"");
    terminal.shows("started");
    terminal.shell.send("k").unwrap();
    terminal.shell.flush().unwrap();
    terminal.shows("k");
    terminal.shows("code=0");
}

#[test]
fn a_job_that_was_put_in_the_background_before_its_turn_came_asks_for_the_terminal() {
    let world = World::with_details();
    let holder = world.holder(&[]);
    let mut terminal = Terminal::open(&world);
    terminal.enters("$semrun --name x -- bash -c 'read line; echo \"got=$line\"'");
    terminal.shows(" for 'x', ");
    terminal.types('z');
    terminal.shows("Stopped");
    terminal.shows("ready> ");
    terminal.enters("bg");
    terminal.shows("ready> ");
    let waiting = world.waiters();
    drop(holder);
    wait_until("its turn came", || world.holders() == waiting);
    // It reads from the terminal that it does not have; the shell has to learn of that.
    wait_until("semrun is stopped", || {
        let pid = rustix::process::Pid::from_raw(waiting[0].cast_signed()).unwrap();
        super::support::state(pid) == Some('T')
    });
    terminal.enters("");
    terminal.shows("Stopped");
    terminal.enters("fg");
    terminal.shows("read line");
    terminal.enters("hello");
    terminal.shows("got=hello");
}

#[test]
fn a_pipelines_other_commands_keep_the_terminal() {
    let world = World::new();
    let mut terminal = Terminal::open(&world);
    let pager = "bash -c 'cat; read line < /dev/tty; echo \"got=$line\"'";
    terminal.enters(&format!("$semrun --name x -- echo from\"\"-command | {pager}"));
    terminal.shows("from-command");
    terminal.enters("hello");
    terminal.shows("got=hello");
    terminal.shows("ready> ");
    // Ctrl-C and Ctrl-Z reach all parts, although the command is in another group.
    terminal.script("echo begun; exec sleep 1000");
    terminal.enters("$semrun --name x -- sh script | cat; echo \"co\"\"des=${PIPESTATUS[*]}\"");
    terminal.shows("begun");
    terminal.types('z');
    terminal.shows("Stopped");
    terminal.shows("ready> ");
    terminal.continues();
    terminal.shows("cat");
    terminal.types('c');
    terminal.shows("ready> ");
    wait_until("the permit is free", || world.leftovers().is_empty());
}

#[test]
fn the_waiting_line_is_redrawn_in_place_and_cleared_before_the_commands_output() {
    let world = World::with_details();
    let holder = world.holder(&[
        "--label",
        "a-job-with-a-name-that-makes-the-line-much-longer-than-eighty-columns-are",
    ]);
    let mut terminal = Terminal::open(&world);
    // Where the terminal has no other characters, what is left out is marked with these.
    terminal.enters("LC_ALL=C $semrun --name x -- true");
    terminal.shows(" for 'x', 1st in line; held for ");
    terminal.shows("...\x1b[K");
    terminal.types('c');
    terminal.shows("ready> ");
    terminal.enters("LC_ALL=C.UTF-8 $semrun --name x -- echo out\"\"put");
    terminal.shows(" for 'x', 1st in line; held for ");
    drop(holder);
    let line = terminal.shows("output\r\n");
    let (first, cleared) = line.split_once("\x1b[K").unwrap();
    // The terminal's bytes come as characters of Latin-1.
    let ellipsis: String = "…".bytes().map(char::from).collect();
    assert!(first.ends_with(&ellipsis) && !first.contains('\n'), "{first:?}");
    assert!(cleared.ends_with("\r\x1b[K") && !cleared.contains('\n'), "{line:?}");
    terminal.shows("ready> ");
}

#[test]
fn ctrl_c_while_it_waits_gives_up_the_place() {
    let world = World::new();
    let _holder = world.holder(&[]);
    let mut terminal = Terminal::open(&world);
    terminal.enters("$semrun --name x -- echo no; echo \"co\"\"de=$?\"");
    terminal.shows(" for 'x', ");
    terminal.types('c');
    terminal.shows("\r\x1b[K");
    terminal.shows("code=130");
    assert_eq!(world.waiters(), [0; 0]);
}

#[test]
fn a_waiter_stopped_with_ctrl_z_is_passed_over_and_fg_brings_it_back() {
    let world = World::with_details();
    let mut holder = world.holder(&[]);
    let mut terminal = Terminal::open(&world);
    terminal.enters("$semrun --name x -- echo my\"\"turn");
    terminal.shows(" for 'x', ");
    terminal.types('z');
    terminal.shows("Stopped");
    let other = world.waiter(&[], "echo other");
    holder.signal(Signal::TERM);
    holder.wait().unwrap();
    assert_eq!(other.finish().stdout, b"other\n");
    terminal.enters("fg");
    terminal.shows("myturn");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn nothing_hangs_where_no_shell_controls_the_job() {
    // As the only program of a terminal (`docker run -t`): Ctrl-Z has no shell to return to.
    let world = World::new();
    let mut semrun = Command::new(SEMRUN);
    semrun
        .args(["--name", "x", "--", "bash", "-c", "echo started; read line; echo got=$line"])
        .envs(world.environment());
    let mut terminal = spawn_command(semrun, Some(20_000)).unwrap();
    terminal.exp_string("started").unwrap();
    terminal.send_control('z').unwrap();
    terminal.send_line("hello").unwrap();
    terminal.exp_string("got=hello").unwrap();
    terminal.exp_eof().unwrap();
}

#[test]
fn a_pipeline_that_was_stopped_goes_on_as_a_whole() {
    let world = World::new();
    let mut terminal = Terminal::open(&world);
    terminal.script("i=0; while sleep 0.05; do i=$((i+1)); echo line-$i; done");
    // The last part reads the terminal, as a pager does, and must be able to after `fg`.
    let pager = "bash -c 'head -3; read key < /dev/tty; echo got=$key; cat > /dev/null'";
    terminal.enters(&format!("$semrun --name x -- bash script | {pager}"));
    terminal.shows("line-3");
    terminal.types('z');
    terminal.shows("Stopped");
    terminal.shows("ready> ");
    terminal.continues();
    terminal.shows("head -3");
    terminal.enters("hello");
    terminal.shows("got=hello");
    terminal.types('c');
    terminal.shows("ready> ");
    wait_until("the permit is free", || world.leftovers().is_empty());
}

#[test]
fn a_command_in_a_pipeline_can_borrow_the_terminal() {
    let world = World::new();
    let mut terminal = Terminal::open(&world);
    // As sudo does for its password, before the pager wants the terminal again.
    terminal.script("read word < /dev/tty; echo word=$word; sleep 1000");
    let pager = "bash -c 'head -1; read key < /dev/tty; echo got=$key'";
    terminal.enters(&format!("$semrun --name x -- bash script | {pager}"));
    terminal.holds();
    terminal.enters("secret");
    terminal.shows("word=secret");
    terminal.enters("key");
    terminal.shows("got=key");
}

#[test]
fn a_background_job_that_no_shell_controls_does_not_spin() {
    let world = World::with_details();
    let mut terminal = Terminal::open(&world);
    terminal.enters("($semrun --name x -- cat /dev/tty &)");
    terminal.holds();
    let semrun = rustix::process::Pid::from_raw(world.holders()[0].cast_signed()).unwrap();
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", semrun.as_raw_nonzero()));
        let stat = stat.unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    std::thread::sleep(Duration::from_millis(200));
    let before = used();
    std::thread::sleep(Duration::from_secs(1));
    assert!(used() - before < 10, "of a hundred: {before}, {}", used());
    rustix::process::kill_process(semrun, Signal::TERM).unwrap();
    wait_until("it ends", || world.leftovers().is_empty());
}

#[test]
fn a_terminal_that_is_not_the_controlling_one_gets_plain_lines() {
    let world = World::new();
    let holder = world.holder(&[]);
    let mut setsid = Command::new("setsid");
    setsid.args(["-w", SEMRUN, "--name", "x", "--", "echo", "ran"]);
    setsid.env("TERM", "xterm").envs(world.environment());
    let mut terminal = spawn_command(setsid, Some(20_000)).unwrap();
    terminal.exp_string(" for 'x', ").unwrap();
    drop(holder);
    terminal.exp_string("semrun: got 'x' after").unwrap();
    terminal.exp_string("ran").unwrap();
}
