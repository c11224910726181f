//! Tests that the parts of the source know only those below them (docs/ARCHITECTURE.md).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each part may use, and does use; each of these has to stand above it.
///
/// The messages are a part of their own: `cli` is what may be typed, which settings are made of,
/// and messages have words for what is wrong with settings.
const ARROWS: [(&str, &[&str]); 24] = [
    ("mutants", &[]),
    ("net", &[]),
    ("printable", &[]),
    ("proc", &[]),
    ("sys", &[]),
    ("clock", &["sys"]),
    ("console", &["printable", "sys"]),
    ("user", &["proc"]),
    ("files", &["user"]),
    ("permits", &["clock", "files", "net", "user"]),
    ("request", &["clock", "permits"]),
    ("engine", &["clock", "mutants", "permits", "request"]),
    (
        "backends",
        &[
            "clock", "engine", "files", "mutants", "net", "permits", "proc", "request", "sys",
            "user",
        ],
    ),
    ("custom_store", &["clock", "engine", "permits", "request"]),
    ("semaphore", &["backends", "clock", "engine", "permits", "custom_store", "user"]),
    (
        "serve",
        &[
            "backends",
            "clock",
            "files",
            "mutants",
            "net",
            "permits",
            "printable",
            "proc",
            "request",
            "sys",
        ],
    ),
    ("supervise", &["clock", "mutants", "permits", "proc", "sys"]),
    ("exit", &["supervise"]),
    ("cli", &["permits", "serve", "supervise"]),
    (
        "settings",
        &[
            "backends",
            "cli",
            "exit",
            "files",
            "permits",
            "printable",
            "serve",
            "supervise",
            "sys",
            "console",
            "user",
        ],
    ),
    (
        "messages",
        &[
            "backends",
            "cli",
            "files",
            "net",
            "permits",
            "printable",
            "serve",
            "settings",
            "supervise",
            "user",
        ],
    ),
    (
        "commands",
        &[
            "backends",
            "cli",
            "clock",
            "exit",
            "files",
            "messages",
            "mutants",
            "permits",
            "printable",
            "proc",
            "serve",
            "settings",
            "supervise",
            "sys",
            "console",
            "user",
        ],
    ),
    ("entry_point", &["commands", "exit", "messages", "supervise", "sys", "console"]),
    ("lib", &[]),
];

/// A file or a directory of the source.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)
}

/// All files that are compiled into the program.
pub(crate) fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if ["tests", "contract", "memory"].contains(&name) {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file without its tests.
pub(crate) fn code_of(path: &Path) -> String {
    let code = fs::read_to_string(path).unwrap();
    code.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
}

/// Where a path of modules belongs.
fn part(path: &str) -> &str {
    match path.split("::").next().unwrap() {
        "cli" if path.starts_with("cli::messages") => "messages",
        first => first,
    }
}

/// The parts that a piece of code names.
fn used(code: &str) -> BTreeSet<&str> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let after = lines.flat_map(|line| line.split("crate::").skip(1));
    let paths = after.flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split([',', '}']).map(str::trim).collect(),
        None => vec![rest],
    });
    let paths = paths.map(|path| path.split(|c| !is_path(c)).next().unwrap());
    paths.filter(|path| !path.is_empty()).map(part).collect()
}

#[test]
fn every_part_uses_only_those_below_it() {
    let root = source("");
    for (at, (name, allowed)) in ARROWS.iter().enumerate() {
        let above = |part: &&str| ARROWS[..at].iter().any(|(one, _)| one == part);
        assert!(allowed.iter().all(above), "{name} uses what is not above it");
    }
    let mut found = vec![BTreeSet::new(); ARROWS.len()];
    for path in sources(&root) {
        let file = path.strip_prefix(&root).unwrap().with_extension("");
        let module = file.to_str().unwrap().replace('/', "::");
        let name = part(&module);
        if ["fuzz", "architecture_tests", "main"].contains(&name) || module.ends_with("::fuzz") {
            continue;
        }
        let at = ARROWS.iter().position(|(one, _)| *one == name);
        let at = at.unwrap_or_else(|| panic!("{name} is in no row"));
        let code = code_of(&path);
        for part in used(&code).into_iter().filter(|part| *part != name) {
            assert!(ARROWS[at].1.contains(&part), "{module} uses {part}");
            found[at].insert(part.to_owned());
        }
    }
    for ((name, allowed), found) in ARROWS.iter().zip(found) {
        let allowed: BTreeSet<_> = allowed.iter().map(ToString::to_string).collect();
        assert_eq!(found, allowed, "{name} no longer uses one of these");
    }
}

#[test]
fn parts_are_found_in_code_and_not_in_comments() {
    let code = "
        use crate::cli::messages::Output;
        use crate::cli::{self, messages_of};
        // crate::exit
        use crate::{user, files::walk};
        let x = crate::sys::watch(crate::engine::retry::RETRY_FOR);
    ";
    let expected: BTreeSet<_> = ["messages", "cli", "sys", "engine", "user", "files"].into();
    assert_eq!(used(code), expected);
    assert_eq!(part("cli::messages"), "messages");
    assert_eq!(part("cli::help_text"), "cli");
}
