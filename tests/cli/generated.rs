use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{World, fails, shows};

/// The committed files, and what prints them.
const GENERATED: [(&str, &[&str]); 17] = [
    ("completions/semrun.bash", &["completions", "bash"]),
    ("completions/_semrun", &["completions", "zsh"]),
    ("completions/semrun.fish", &["completions", "fish"]),
    ("completions/_semrun.ps1", &["completions", "powershell"]),
    ("completions/semrun.elv", &["completions", "elvish"]),
    ("man/semrun.1", &["man"]),
    ("man/semrun-status.1", &["man", "status"]),
    ("man/semrun-acquire.1", &["man", "acquire"]),
    ("man/semrun-renew.1", &["man", "renew"]),
    ("man/semrun-release.1", &["man", "release"]),
    ("man/semrun-limit.1", &["man", "limit"]),
    ("man/semrun-serve.1", &["man", "serve"]),
    ("man/semrun-doctor.1", &["man", "doctor"]),
    ("man/semrun-help.1", &["man", "help"]),
    ("man/semrun-completions.1", &["man", "completions"]),
    ("man/semrun-man.1", &["man", "man"]),
    ("man/semrun.toml.5", &["man", "semrun.toml"]),
];

fn committed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn output_of(program: &str, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/test installs it"));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn completions_and_man_pages_are_those_of_this_program() {
    let world = World::new();
    for (file, arguments) in GENERATED {
        let output = world.semrun(arguments).output().unwrap();
        let found = fs::read_to_string(committed(file)).unwrap_or_default();
        let same = String::from_utf8(output.stdout).unwrap() == found;
        assert!(same, "{file} has drifted; run scripts/generate");
    }
    // And there are no others.
    for directory in ["completions", "man"] {
        for file in fs::read_dir(committed(directory)).unwrap() {
            let file = file.unwrap().file_name().into_string().unwrap();
            let file = format!("{directory}/{file}");
            assert!(GENERATED.iter().any(|(known, _)| *known == file), "{file}");
        }
    }
}

#[test]
fn man_pages_are_readable_and_sound() {
    for (file, _) in GENERATED.iter().filter(|(file, _)| file.starts_with("man/")) {
        let path = committed(file);
        // Other pages are found by the system only where they are installed.
        let (_, lint, _) = output_of("mandoc", &["-T", "lint", path.to_str().unwrap()]);
        assert!(lint.is_empty(), "{file}: {lint}");
        let text = shown(file);
        let sections = if file.ends_with(".5") {
            ["SYNOPSIS", "KEYS", "[serve]", "FILES", "EXAMPLES"]
        } else {
            ["SYNOPSIS", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "EXAMPLES"]
        };
        for word in ["NAME", "DESCRIPTION", "SEE ALSO"].into_iter().chain(sections) {
            assert!(text.contains(word), "{file}: {word}");
        }
        let title = file.trim_start_matches("man/").replace(".5", "(5)").replace(".1", "(1)");
        let first = text.lines().next().unwrap();
        assert!(first.starts_with(&title.to_uppercase()), "{file}: {first}");
        let last = text.lines().last().unwrap();
        let version = concat!("semrun ", env!("CARGO_PKG_VERSION"));
        assert!(last.contains(version) && last.contains("2026-"), "{file}: {last}");
    }
    let text = shown("man/semrun.1");
    for word in ["SEMRUN_LIMIT", "124", "kill-after", "-j", "--timeout", "/etc/semrun/config.toml"]
    {
        assert!(text.contains(word), "{word}");
    }
}

/// A page as it is read.
fn shown(file: &str) -> String {
    let (_, text, _) = output_of("mandoc", &["-T", "ascii", committed(file).to_str().unwrap()]);
    // Bold letters are struck twice.
    let letters: Vec<char> = text.chars().collect();
    let struck = |i: usize| letters.get(i + 1) == Some(&'\x08') || letters[i] == '\x08';
    (0..letters.len()).filter(|i| !struck(*i)).map(|i| letters[i]).collect()
}

#[test]
fn help_and_version_work_whatever_else_is_wrong() {
    let world = World::new();
    for arguments in [&["--help"][..], &["-h"], &["status", "--help"], &["--limit", "5", "--help"]]
    {
        let mut command = world.semrun(arguments);
        let output =
            command.env("SEMRUN_BACKEND", "nonsense").env("SEMRUN_LIMIT", "0").output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Usage: semrun") && text.contains("--backend <URL>"), "{text}");
        let is_long = arguments.contains(&"--help");
        assert_eq!(text.contains("[env: SEMRUN_BACKEND]"), is_long, "{text}");
        assert!(!text.contains('\x1b'), "colour in a pipe");
    }
    let version = concat!("semrun ", env!("CARGO_PKG_VERSION"), "\n");
    shows(&world.semrun(["--version"]).output().unwrap(), 0, version, "");
    fails(&world.semrun(["man", "nope"]).output().unwrap(), 64, &["nope"]);
    fails(&world.semrun(["completions", "tcsh"]).output().unwrap(), 64, &["bash"]);
}

#[test]
fn the_readme_shows_the_help_as_it_is() {
    let world = World::new();
    let help = String::from_utf8(world.semrun(["--help"]).output().unwrap().stdout).unwrap();
    let readme = fs::read_to_string(committed("README.md")).unwrap();
    assert!(readme.contains(&help), "run scripts/generate");
}
