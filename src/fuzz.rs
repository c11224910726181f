//! Every parser of foreign input, as a function of bytes. It must return whatever the bytes are,
//! and its result must keep its promises. `fuzz/` has the targets for cargo-fuzz and a corpus; the
//! tests here replay the corpus and change it at random.

use std::os::unix::ffi::OsStrExt;

use crate::backends::url::Url;
use crate::backends::{Name, PermitId, cloud, local, redis};
use crate::printable::{Context, pitfall, printable, quoted};
use crate::serve::{journal, routes};
use crate::settings;

type Target = fn(&[u8]);

/// By their names in `fuzz/`.
const TARGETS: [(&str, Target); 8] = [
    ("requests", routes::request::fuzz),
    ("journal", journal::fuzz),
    ("records", local::fuzz),
    ("redis", redis::fuzz),
    ("answers", cloud::fuzz),
    ("urls", urls),
    ("configuration", settings::fuzz),
    ("names", names),
];

/// Gives bytes to the target of this name.
#[cfg_attr(test, expect(dead_code, reason = "cargo-fuzz calls it"))]
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "the targets are crates of their own"))]
pub fn run(target: &str, bytes: &[u8]) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    run(bytes);
}

/// A shown URL never has its password, and means the same.
fn urls(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Url::parse(&text) {
        Ok(Url::Redis(url)) => {
            let shown = url.shown();
            // A password that is also elsewhere in the URL is no secret. The shown URL has stars
            // itself.
            let is_secret = |word: &&str| text.matches(*word).count() == 1 && !word.contains('*');
            if let Some(password) = url.secret().filter(is_secret) {
                assert!(password.len() < 4 || !shown.contains(password), "{shown}");
            }
            if !url.has_password() && shown.is_ascii() && !shown.starts_with("redis+unix") {
                let again = redis::config::RedisUrl::parse(&shown).expect("what is shown is a URL");
                assert_eq!(again.shown(), shown);
            }
        }
        Ok(Url::Cloud(url)) => assert!(Url::parse(&url.shown()).is_ok(), "{}", url.shown()),
        Ok(Url::Directory(path)) => assert!(!path.as_os_str().as_bytes().contains(&0)),
        Err(_) => {}
    }
}

/// Whatever is in a name, it is one line, one file and one word.
fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let shown = printable(&text);
    assert_eq!(printable(&shown), shown);
    for among in [Context::Words, Context::Columns, Context::Front, Context::Log] {
        let quoted = quoted(&text, among);
        assert!(!quoted.is_empty() && !quoted.contains(char::is_control), "{quoted:?}");
    }
    for (id, name) in PermitId::read_held(&text) {
        let permit = PermitId { id, name, token: None };
        let held = PermitId::read_held(&permit.with_backend("file:///x"));
        assert_eq!(held, [(permit.id, permit.name)]);
    }
    if let Ok(name) = text.parse::<Name>() {
        let _ = pitfall(name.as_str());
        local::fuzz_name(&name);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use semrun_testkit::mutate::{Dice, changed};

    use super::*;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{target}: {error}"));
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.sort_unstable();
        files.into_iter().map(|file| fs::read(file).unwrap()).collect()
    }

    /// `FUZZ_CHANGES=100000 FUZZ_SEED=3 cargo test fuzz::` runs for longer, with other changes.
    fn told<T: std::str::FromStr>(variable: &str, otherwise: T) -> T {
        std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    }

    #[test]
    fn no_target_fails_on_its_corpus_or_on_what_is_like_it() {
        let changes = told("FUZZ_CHANGES", 4_000);
        for (name, run) in TARGETS {
            let corpus = corpus(name);
            assert!(corpus.len() >= 3, "{name}: too little to begin with");
            for bytes in &corpus {
                run(bytes);
            }
            let mut dice = Dice::new(told("FUZZ_SEED", 7));
            for _ in 0..changes {
                run(&changed(&corpus, &mut dice));
            }
        }
    }

    #[test]
    fn each_target_is_one_of_cargo_fuzz_and_has_the_libraries_that_the_program_has() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
        let ours: toml::Table = read("Cargo.toml").parse().unwrap();
        let fuzz: toml::Table = read("fuzz/Cargo.toml").parse().unwrap();
        for (library, version) in ours["dependencies"].as_table().unwrap() {
            assert_eq!(fuzz["dependencies"].get(library), Some(version), "{library}");
        }
        let programs = fuzz["bin"].as_array().unwrap();
        let named = |program: &toml::Value| program["name"].as_str().unwrap().to_owned();
        assert_eq!(programs.iter().map(named).collect::<Vec<_>>(), TARGETS.map(|(name, _)| name));
        for (name, _) in TARGETS {
            assert!(read(&format!("fuzz/fuzz_targets/{name}.rs")).contains(&format!("\"{name}\"")));
        }
    }
}
