//! Tests that words for people stand here, and not where permits are handed out.

use std::fs;
use std::path::{Path, PathBuf};

/// The string literals in a piece of Rust, without comments.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let (what, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = match what {
            b'/' if after.starts_with('/') => after.split_once('\n').map_or("", |(_, rest)| rest),
            b'/' => after,
            // A quote as a character; anything else there is a lifetime, or does no harm.
            b'\'' => after.strip_prefix("\"'").unwrap_or(after),
            _ => {
                let mut escaped = false;
                let end = after.find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                let (literal, rest) = after.split_at(end.unwrap_or(after.len()));
                found.push(literal.to_owned());
                rest.get(1..).unwrap_or_default()
            }
        };
    }
    found
}

/// Whether a text names an option or a subcommand.
fn advises(text: &str) -> bool {
    let named = |word: &str| {
        let mut after = text.match_indices(word).map(|(at, _)| &text[at + word.len()..]);
        after.any(|after| after.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    named("--") || named("semrun ")
}

/// All files that are compiled into the program.
fn sources(directory: &Path) -> Vec<PathBuf> {
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

#[test]
fn no_backend_names_an_option_or_a_subcommand() {
    let backends = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backends");
    let sources = sources(&backends);
    assert!(sources.len() > 40, "{sources:?}");
    for path in sources {
        let code = fs::read_to_string(&path).unwrap();
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for literal in literals(code) {
            assert!(!advises(&literal), "{}: {literal:?}", path.display());
        }
    }
}

#[test]
fn advice_is_found_in_texts_and_not_in_comments() {
    let code = r#"
        /// Never --here, "nor --there".
        const QUOTE: char = '"';
        let a = "use --ca-file"; // or "--this"
        let b = "\"quoted\", and semrun release";
        let path = "/semrun/renew";
    "#;
    let found: Vec<_> = literals(code).into_iter().filter(|text| advises(text)).collect();
    assert_eq!(found, ["use --ca-file", "\\\"quoted\\\", and semrun release"]);
    assert!(!advises("-- x") && !advises("semrun") && !advises("x-semrun-how"));
}
