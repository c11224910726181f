use std::process::Command;

use super::super::support::{World, children, content, pid_in, wait_until};
use super::Terminal;

#[test]
fn watching_redraws_what_fits_and_leaves_the_terminal_as_it_was() {
    let world = World::on_this_machine();
    let _holders: Vec<_> = (0..6).map(|_| world.holder(&["-l", "6"])).collect();
    let mut terminal = Terminal::open(&world);
    terminal.enters("stty cols 40 rows 6; tty > tty; stty -a > before; $semrun status --watch x");
    terminal.shows("\x1b[2J\x1b[H");
    let page = terminal.shows("\x1b[J");
    let lines: Vec<_> = page.split_terminator("\x1b[K\r\r\n").collect();
    assert!(lines.len() == 5 && lines[1] == "x: 6 of 6 held, 0 waiting", "{page:?}");
    for line in lines {
        // The terminal's bytes come as characters of Latin-1.
        let bytes: Vec<u8> = line.chars().map(|c| u8::try_from(c).unwrap()).collect();
        let columns = String::from_utf8(bytes).unwrap().chars().count();
        assert!(columns <= 40 && !line.contains('\x1b'), "{line:?}");
    }
    // Over the page before it, and in the size of now.
    let resized = format!("stty -F {} cols 80 rows 30", content(&world.path("tty")));
    assert!(Command::new("sh").args(["-c", &resized]).status().unwrap().success());
    let rest = terminal.shows("\x1b[J");
    assert!(rest.starts_with("\x1b[H") && !rest.contains("\x1b[2J"), "{rest:?}");
    wait_until("all of it is shown", || terminal.shows("\x1b[J").matches("holding").count() == 6);
    terminal.types('c');
    terminal.shows("ready> ");
    terminal.enters(
        "echo \"co\"\"de=$?\"; stty cols 40 rows 6; stty -a | cmp - before && echo sa\"\"me",
    );
    terminal.shows("code=130");
    terminal.shows("same");
}

#[test]
fn watching_where_nothing_can_be_redrawn_or_no_size_is_known_shows_it_all() {
    let world = World::on_this_machine();
    let _holder = world.holder(&[]);
    let mut terminal = Terminal::open(&world);
    terminal.enters("stty cols 0 rows 0; $semrun status --watch x");
    terminal.shows("x: 1 of 1 held");
    terminal.shows("holding");
    terminal.types('c');
    terminal.shows("ready> ");
    terminal.enters("stty cols 80 rows 24; TERM=dumb $semrun status --watch x");
    terminal.shows("\r\n");
    let page = terminal.shows("holding");
    assert!(!page.contains('\x1b'), "{page:?}");
    terminal.types('c');
    terminal.shows("ready> ");
    terminal.enters("$semrun status --watch x > page");
    let page = content(&world.path("page"));
    assert!(page.contains("holding") && !page.contains('\x1b'), "{page:?}");
    terminal.types('c');
    terminal.shows("ready> ");
}

#[test]
fn acquiring_waits_in_one_line_that_is_gone_when_the_permit_is_printed() {
    let world = World::with_details();
    let holder = world.holder(&[]);
    let mut terminal = Terminal::open(&world);
    // Its output goes to a script, as in `permit=$(…)`, and the line to the terminal.
    terminal.enters("$semrun acquire --name x > permit; echo \"co\"\"de=$?\"");
    terminal.shows(" for 'x', 1st in line; held for ");
    terminal.types('c');
    terminal.shows("\r\x1b[K");
    terminal.shows("code=130");
    assert_eq!(world.waiters(), [0; 0]);
    terminal.enters("$semrun acquire --name x | tee permit");
    terminal.shows(" for 'x', 1st in line; held for ");
    terminal.types('z');
    terminal.shows("Stopped");
    terminal.shows("ready> ");
    terminal.enters("fg");
    terminal.shows(" for 'x', 1st in line; held for ");
    drop(holder);
    let line = terminal.shows("@x\r\n");
    let (_, cleared) = line.rsplit_once("\x1b[K").unwrap();
    assert_eq!(cleared.len(), 36, "{line:?}");
    // The renewing process goes when the terminal says so, and the permit stays.
    terminal.shows("ready> ");
    terminal.enters("echo $$ > shell; $semrun renew --permit $(cat permit) --while-pid $$");
    let shell = pid_in(&world.path("shell"));
    wait_until("it renews", || children(shell).iter().any(|(_, name)| name == "semrun"));
    terminal.types('c');
    terminal.shows("ready> ");
    terminal.enters("echo \"co\"\"de=$?\"");
    terminal.shows("code=130");
    assert_eq!(world.holders().len(), 1);
}

#[test]
fn a_random_time_can_be_stopped_and_ended() {
    let world = World::on_this_machine();
    let mut terminal = Terminal::open(&world);
    terminal.enters("$semrun --name x -v --jitter 10h -- echo no");
    terminal.shows("asking in ");
    terminal.types('z');
    terminal.shows("Stopped");
    terminal.shows("ready> ");
    terminal.continues();
    terminal.shows("echo no");
    terminal.types('c');
    terminal.shows("ready> ");
    terminal.enters("echo \"co\"\"de=$?\"");
    terminal.shows("code=130");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn colours_are_for_terminals_and_not_for_users_who_want_none() {
    let world = World::on_this_machine();
    let mut terminal = Terminal::open(&world);
    for (line, coloured) in [
        ("$semrun --help", true),
        ("NO_COLOR=1 $semrun --help", false),
        ("$semrun --help | cat", false),
        ("NO_COLOR=1 $semrun limit --help", false),
        ("$semrun --limit 0 --name x true", false),
        ("$semrun doctor", true),
        ("NO_COLOR=1 $semrun doctor", false),
        ("TERM=dumb $semrun doctor", false),
        ("$semrun status x", false),
    ] {
        terminal.enters(&format!("{line}; echo \"that-is\"\"-all\""));
        let text = terminal.shows("that-is-all");
        assert_eq!(text.contains("\x1b["), coloured, "{line}: {text:?}");
    }
}

#[test]
fn the_waiting_line_goes_on_and_says_what_matters_in_few_columns() {
    let world = World::on_this_machine();
    let _holder = world.holder(&[]);
    let mut terminal = Terminal::open(&world);
    terminal.enters("stty cols 40; $semrun --name x -- true");
    // Nothing happens, and it is drawn again, with other times.
    let mut times = std::collections::HashSet::new();
    while times.len() < 3 {
        let text = terminal.shows("s, 1st in line; held for ");
        times.insert(text.rsplit('\r').next().unwrap().to_owned());
    }
    terminal.types('c');
    terminal.shows("ready> ");
    terminal.enters("stty cols 200; $semrun --name x -- true");
    terminal.shows("semrun: waiting ");
    terminal.shows(" for 'x', 1st in line; held for ");
    terminal.shows(" by sh (pid ");
    terminal.types('c');
    terminal.shows("ready> ");
}
