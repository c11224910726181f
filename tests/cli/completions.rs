//! Keys typed in real shells: what completion inserts or offers.

use std::process::Command;

use rexpect::session::{PtySession, spawn_command};

use super::support::World;

/// What is typed before the key, and either the line after it or the words that are offered.
type Row = (&'static str, Then);

#[derive(Debug, Clone, Copy)]
enum Then {
    Line(&'static str),
    Offers(&'static [&'static str]),
    /// The line stays, and nothing is offered.
    Nothing,
}

use Then::{Line, Nothing, Offers};

/// The same in every shell. Lines have no space at their end, for shells differ about it.
const ROWS: [Row; 29] = [
    ("semrun status --wa", Line("semrun status --watch")),
    ("semrun status --js", Line("semrun status --json")),
    ("semrun status --max-r", Nothing),
    ("semrun limit x --unp", Line("semrun limit x --unpin")),
    ("semrun acquire --sh", Line("semrun acquire --shell")),
    ("semrun renew --wh", Line("semrun renew --while-pid")),
    ("semrun release --for", Line("semrun release --force")),
    ("semrun serve --lis", Line("semrun serve --listen")),
    ("semrun doctor --js", Line("semrun doctor --json")),
    ("semrun --max-r", Line("semrun --max-runtime")),
    ("semrun stat", Line("semrun status")),
    ("semrun ", Offers(&["status", "acquire", "renew", "release", "limit", "serve", "doctor"])),
    ("semrun help sta", Line("semrun help status")),
    ("semrun man semrun", Line("semrun man semrun.toml")),
    ("semrun completions ", Offers(&["bash", "elvish", "fish", "powershell", "zsh"])),
    ("semrun completions z", Line("semrun completions zsh")),
    ("semrun --orphans ", Offers(&["leave", "wait", "kill"])),
    ("semrun --orphans=k", Line("semrun --orphans=kill")),
    ("semrun doctor --on-lost con", Line("semrun doctor --on-lost continue")),
    ("semrun serve --log-format j", Line("semrun serve --log-format json")),
    ("semrun --ca-file auth", Line("semrun --ca-file authority.pem")),
    ("semrun --name night", Line("semrun --name nightly")),
    ("semrun --name=night", Line("semrun --name=nightly")),
    ("semrun status dep", Line("semrun status deploy")),
    ("semrun limit dep", Line("semrun limit deploy")),
    ("semrun release --force dep", Line("semrun release --force deploy")),
    ("semrun --name x -- only-th", Line("semrun --name x -- only-there")),
    ("semrun --name x -nw 5 only-th", Line("semrun --name x -nw 5 only-there")),
    ("semrun --backend file:///dev/null/none status dep", Nothing),
];

fn world() -> World {
    let world = World::on_this_machine();
    for name in ["deploy", "nightly"] {
        assert!(world.semrun(["--name", name, "true"]).status().unwrap().success());
    }
    std::fs::write(world.path("authority.pem"), "").unwrap();
    std::fs::create_dir(world.path("bin")).unwrap();
    std::os::unix::fs::symlink("/bin/true", world.path("bin/only-there")).unwrap();
    std::os::unix::fs::symlink(super::support::SEMRUN, world.path("bin/semrun")).unwrap();
    world
}

fn shell(world: &World, program: &str, arguments: &[&str]) -> Command {
    let mut shell = Command::new(program);
    let path = std::env::var("PATH").unwrap();
    shell
        .args(arguments)
        .current_dir(world.path("."))
        .env_clear()
        .env("PATH", format!("{}:{path}", world.path("bin").display()))
        .env("HOME", world.path("."))
        .env("TERM", "dumb")
        .env("LINES", "100")
        .env("COLUMNS", "200")
        .envs(world.environment())
        .env("completions", concat!(env!("CARGO_MANIFEST_DIR"), "/completions"));
    shell
}

/// Starts an interactive shell on a terminal, in which control-G completes and control-P prints the line
/// between `<<` and `>>`, and empties it.
fn interactive(world: &World, program: &str, arguments: &[&str], setup: &str) -> PtySession {
    let mut shell = spawn_command(shell(world, program, arguments), Some(20_000)).unwrap();
    // An interactive shell ignores the signal that the end of a test sends it first.
    shell.process_mut().set_kill_timeout(Some(100));
    shell.send_line(&format!("{setup}; echo rea''dy")).unwrap();
    shell.exp_string("ready\r\n").unwrap();
    shell
}

/// Presses the keys, and compares what is on the screen afterwards.
fn press(shell: &mut PtySession, rows: &[Row]) {
    for (typed, then) in rows {
        shell.send(typed).unwrap();
        shell.send_control('g').unwrap();
        shell.send_control('p').unwrap();
        let offered = shell.exp_string("<<").unwrap();
        let line = shell.exp_string(">>").unwrap();
        let line = line.trim_end_matches([' ', '=']);
        match then {
            Line(expected) => assert_eq!(line, *expected),
            Offers(words) => {
                for word in *words {
                    let there = offered.contains(word) || line.contains(word);
                    assert!(there, "{typed}: no {word:?} in {offered:?} {line:?}");
                }
            }
            Nothing => assert_eq!(line, *typed),
        }
    }
    shell.send_control('d').unwrap();
    shell.exp_eof().unwrap();
}

#[test]
fn bash_completes_what_can_be_typed() {
    let world = world();
    let setup = "PS1=; . $completions/semrun.bash; bind 'set enable-bracketed-paste off'; \
                 bind '\"\\C-g\": insert-completions'; \
                 bind -x '\"\\C-p\": printf \"<<%s>>\" \"$READLINE_LINE\"; READLINE_LINE='";
    let mut bash = interactive(&world, "bash", &["--norc", "--noprofile", "-i"], setup);
    press(&mut bash, &ROWS);
}

#[test]
fn zsh_completes_what_can_be_typed() {
    let world = world();
    let setup = "PS1=; PROMPT_EOL_MARK=; fpath=($completions $fpath); autoload -Uz compinit; \
                 compinit -D -u; bindkey '^G' complete-word; \
                 show() { print -rn -- \"<<$BUFFER>>\"; BUFFER= }; zle -N show; bindkey '^P' show";
    let mut zsh = interactive(&world, "zsh", &["-f", "-i"], setup);
    press(&mut zsh, &ROWS);
}

#[test]
fn fish_completes_what_can_be_typed() {
    let world = world();
    for (typed, then) in ROWS {
        let script = format!("source $completions/semrun.fish; complete -C '{typed}'");
        let output = shell(&world, "fish", &["--no-config", "-c", &script]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.is_empty(), "{typed}: {said}");
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<_> = text.lines().filter_map(|line| line.split('\t').next()).collect();
        match then {
            Line(line) => assert_eq!(words, [line.rsplit(' ').next().unwrap()], "{typed}"),
            Offers(expected) => {
                for word in expected {
                    assert!(words.contains(word), "{typed}: {words:?}");
                }
                // Nothing else, such as files.
                let known = ["help", "completions", "man"];
                let strange = |word: &&&str| !expected.contains(*word) && !known.contains(*word);
                assert_eq!(words.iter().find(strange), None, "{typed}");
            }
            Nothing => assert!(words.is_empty(), "{typed}: {words:?}"),
        }
    }
}

#[test]
fn arguments_of_the_command_complete_as_they_do_without_semrun() {
    let world = world();
    let own = "complete -c only-there -l of-its-own";
    let script = format!(
        "source $completions/semrun.fish; {own}; complete -C 'semrun --name x -- only-there --of'"
    );
    let output = shell(&world, "fish", &["--no-config", "-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "--of-its-own");
    let setup = "PS1=; PROMPT_EOL_MARK=; fpath=($completions $fpath); autoload -Uz compinit; \
                 compinit -D -u; bindkey '^G' complete-word; \
                 only() { _arguments --of-its-own }; compdef only only-there; \
                 show() { print -rn -- \"<<$BUFFER>>\"; BUFFER= }; zle -N show; bindkey '^P' show";
    let mut zsh = interactive(&world, "zsh", &["-f", "-i"], setup);
    let line = "semrun --name x -- only-there --of-its-own";
    press(
        &mut zsh,
        &[
            ("semrun --name x -- only-there --of", Line(line)),
            (
                "semrun --name status only-there --of",
                Line("semrun --name status only-there --of-its-own"),
            ),
        ],
    );
}
