//! Tests that words for people stand here, and not where something fails.

use std::path::{Path, PathBuf};

use crate::architecture_tests::{code_of, source, sources};

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

/// Whether a text has words one after the other, as a sentence has.
fn is_sentence(text: &str) -> bool {
    let letters = |pair: &[u8]| pair[0].is_ascii_alphabetic() && pair[2].is_ascii_alphabetic();
    text.as_bytes().windows(3).any(|three| three[1] == b' ' && letters(three))
}

/// The string literals in files that are compiled into the program, beside those in their tests.
fn all_literals(paths: &[PathBuf]) -> Vec<(&Path, String)> {
    let of = |path: &PathBuf| literals(&code_of(path));
    paths.iter().flat_map(|path| of(path).into_iter().map(|text| (&**path, text))).collect()
}

#[test]
fn no_backend_server_or_subcommand_names_an_option_or_a_subcommand() {
    // The semaphore of a trial, and what a key's fingerprint is made of.
    const NAMES: [&str; 2] = ["semrun doctor", "semrun key\\0"];
    for (folder, least) in [("backends", 40), ("serve", 15), ("commands", 15)] {
        let mut sources = sources(&source(folder));
        // What is printed for shells and man pages.
        let generated = source("commands/generate");
        sources.retain(|path| !path.with_extension("").starts_with(&generated));
        assert!(sources.len() > least, "{sources:?}");
        for (path, literal) in all_literals(&sources) {
            let is_name = NAMES.contains(&&*literal);
            assert!(is_name || !advises(&literal), "{}: {literal:?}", path.display());
        }
    }
}

#[test]
fn settings_have_words_of_options_and_no_sentences() {
    let mut sources = sources(&source("settings"));
    sources.push(source("settings.rs"));
    // So has what a server refuses.
    sources.extend(
        ["keys.rs", "bounds.rs", "routes/authorization.rs"].map(|file| source("serve").join(file)),
    );
    assert!(sources.len() > 15, "{sources:?}");
    for (path, literal) in all_literals(&sources) {
        // That is what a developer would see.
        let is_expected = literal == "a good name";
        assert!(is_expected || !is_sentence(&literal), "{}: {literal:?}", path.display());
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
    assert!(
        is_sentence("no name") && is_sentence("'x' is '{y}'; try it") && !is_sentence("--a-b, c")
    );
    assert!(!advises("-- x") && !advises("semrun") && !advises("x-semrun-how"));
}
