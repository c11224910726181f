//! The API keys that a server accepts, each with what it may do and the label that the log shows in its
//! place.

use std::rc::Rc;

use subtle::ConstantTimeEq;

use super::bearer::{Bearer, KeyFingerprint, Pattern, Role};

/// The protocol's own rule.
const SHORTEST: usize = 10;

/// The words that say what a key may do, before its label.
const ROLE: &str = "role=";
const NAMES: &str = "names=";

pub(crate) struct ApiKeys(Vec<(Vec<u8>, Rc<Bearer>)>);

/// Why keys cannot be used, without any key. `cli/messages/keys.rs` has the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadKeys {
    NotUtf8,
    None,
    /// Of a line, by its number from 1.
    RightBeforeKey(usize),
    Rights(usize, BadRights),
    Key(KeyPosition, BadKey),
}

/// Which key, by its number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyPosition {
    Line(usize),
    Word(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadKey {
    /// It has fewer characters than this.
    Short(usize),
    /// A header cannot carry it.
    Unfit,
    Twice,
}

/// What is wrong with that which a line has after its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadRights {
    UnknownRole,
    TwoRoles,
    NoPattern,
    TwoPatterns,
    /// Something that is nearly a right, or comes after the label.
    Misplaced,
}

// By hand: a key is never shown.
impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, bearer)| &bearer.label)).finish()
    }
}

/// A key's rights and label, as given.
struct KeyOptions<'a> {
    role: Role,
    names: Option<Pattern>,
    label: &'a str,
}

impl ApiKeys {
    /// From a file: one key a line, then what it may do and a label, if they are there. The error
    /// says what is wrong, without any key.
    pub(crate) fn of_lines(text: &str) -> Result<Self, BadKeys> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let keys = lines.filter(|(_, line)| !line.is_empty()).map(|(number, line)| {
            let (key, rest) = split(line);
            if is_meant_for_a_right(key) {
                return Err(BadKeys::RightBeforeKey(number));
            }
            let given = KeyOptions::read(rest).map_err(|bad| BadKeys::Rights(number, bad));
            Ok((key, given?, number))
        });
        Self::of(keys, KeyPosition::Line)
    }

    /// From a variable: several, separated by white space. They may do everything.
    pub(crate) fn of_words(text: &str) -> Result<Self, BadKeys> {
        let words = text.split_whitespace().enumerate();
        let given = || KeyOptions { role: Role::Admin, names: None, label: "" };
        Self::of(words.map(|(index, key)| Ok((key, given(), index + 1))), KeyPosition::Word)
    }

    fn of<'a>(
        keys: impl Iterator<Item = Result<(&'a str, KeyOptions<'a>, usize), BadKeys>>,
        which: fn(usize) -> KeyPosition,
    ) -> Result<Self, BadKeys> {
        let mut all: Vec<(Vec<u8>, Rc<Bearer>)> = Vec::new();
        for given in keys {
            let (key, KeyOptions { role, names, label }, number) = given?;
            let bad = |what| Err(BadKeys::Key(which(number), what));
            if key.len() < SHORTEST {
                return bad(BadKey::Short(SHORTEST));
            }
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return bad(BadKey::Unfit);
            }
            let print = Some(KeyFingerprint::of(key.as_bytes()));
            // It would be unclear which of them counts.
            if all.iter().any(|(_, bearer)| bearer.print == print) {
                return bad(BadKey::Twice);
            }
            let label = if label.is_empty() { format!("key {number}") } else { label.into() };
            let bearer = Bearer { label: label.into(), role, names, print };
            all.push((key.as_bytes().to_vec(), bearer.into()));
        }
        if all.is_empty() {
            return Err(BadKeys::None);
        }
        Ok(Self(all))
    }

    /// The bearer of a key. Takes the same time whichever key matches, and however much of it is
    /// right.
    pub(crate) fn bearer(&self, presented: &[u8]) -> Option<Rc<Bearer>> {
        let mut found = None;
        for (key, bearer) in &self.0 {
            if bool::from(key.ct_eq(presented)) {
                found = Some(bearer);
            }
        }
        found.cloned()
    }
}

impl<'a> KeyOptions<'a> {
    /// What a line has after its key.
    fn read(mut rest: &'a str) -> Result<Self, BadRights> {
        let (mut role, mut names) = (None, None);
        loop {
            let (word, behind) = split(rest);
            if let Some(text) = word.strip_prefix(ROLE) {
                let known = Role::ALL.iter().find(|(name, _)| *name == text);
                let (_, known) = known.ok_or(BadRights::UnknownRole)?;
                if role.replace(*known).is_some() {
                    return Err(BadRights::TwoRoles);
                }
            } else if let Some(text) = word.strip_prefix(NAMES) {
                if text.is_empty() {
                    return Err(BadRights::NoPattern);
                }
                if names.replace(Pattern::new(text)).is_some() {
                    return Err(BadRights::TwoPatterns);
                }
            } else {
                break;
            }
            rest = behind;
        }
        // If it were taken for a label, the key would keep all rights.
        if rest.split_whitespace().any(is_meant_for_a_right) {
            return Err(BadRights::Misplaced);
        }
        Ok(Self { role: role.unwrap_or(Role::Admin), names, label: rest })
    }
}

/// The first word, and the rest.
fn split(line: &str) -> (&str, &str) {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (word, rest.trim())
}

/// Whether a word says a right, or nearly.
fn is_meant_for_a_right(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name.to_ascii_lowercase());
    name.is_some_and(|name| ["role", "roles", "name", "names"].contains(&&*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_labels_and_nothing_else_has() {
        let keys =
            ApiKeys::of_lines("first-key-of-all web1 and web2\n\n  second-key-of-all\r\n").unwrap();
        let label = |key: &str| keys.bearer(key.as_bytes()).map(|bearer| bearer.label.to_string());
        assert_eq!(label("first-key-of-all").as_deref(), Some("web1 and web2"));
        assert_eq!(label("second-key-of-all").as_deref(), Some("key 3"));
        for wrong in ["", "first-key-of-al", "first-key-of-all ", "web1"] {
            assert_eq!(label(wrong), None, "{wrong}");
        }
        assert!(!format!("{keys:?}").contains("first"));
    }

    #[test]
    fn short_and_missing_keys_are_refused_without_being_repeated() {
        for bad in ["geheim", "long-enough-key\ngeheim x", "gehei\u{e4}m-gehei\u{e4}m"] {
            let error = ApiKeys::of_lines(bad).expect_err(bad).to_string();
            assert!(!error.contains("gehei"), "{error}");
        }
        assert!(ApiKeys::of_lines(" \n").is_err() && ApiKeys::of_words("").is_err());
        assert!(ApiKeys::of_words("a-first-long-key a-second-long-key").is_ok());
    }

    #[test]
    fn a_key_may_do_what_its_line_says_and_everything_where_that_says_nothing() {
        for (line, role, names, label) in [
            ("", Role::Admin, None, "key 1"),
            (" web1 of role", Role::Admin, None, "web1 of role"),
            (" role=view", Role::View, None, "key 1"),
            (" role=use web1", Role::Use, None, "web1"),
            ("\trole=admin  names=a*\t web1  x", Role::Admin, Some("a*"), "web1  x"),
            (" names=deploy-* role=use web1", Role::Use, Some("deploy-*"), "web1"),
            (" names=* host=web1", Role::Admin, Some("*"), "host=web1"),
            (" names=a=b roles", Role::Admin, Some("a=b"), "roles"),
        ] {
            let keys = ApiKeys::of_lines(&format!("a-key-for-tests{line}")).unwrap();
            let bearer = keys.bearer(b"a-key-for-tests").unwrap();
            let names = names.map(Pattern::new);
            assert_eq!(
                (bearer.role, &bearer.names, &*bearer.label),
                (role, &names, label),
                "{line}"
            );
        }
    }

    #[test]
    fn a_right_that_is_not_understood_is_refused_with_its_line_and_without_the_key() {
        for (line, words) in [
            ("geheim-geheim role=root x", "line 2: the role"),
            ("geheim-geheim role= x", "line 2: the role"),
            ("geheim-geheim role=View x", "line 2: the role"),
            ("geheim-geheim names= x", "line 2: names= has no pattern"),
            ("geheim-geheim role=use role=view", "line 2: it has two roles"),
            ("geheim-geheim names=a names=b", "line 2: it has two patterns"),
            ("geheim-geheim web1 role=view", "line 2: write role="),
            ("geheim-geheim Role=view", "line 2: write role="),
            ("geheim-geheim name=deploy-*", "line 2: write role="),
            ("role=admin geheim-geheim", "line 2 begins with a right"),
            ("names=geheim geheim-geheim", "line 2 begins with a right"),
            ("a-key-for-tests role=use geheim", "the key in line 2 is there twice"),
        ] {
            let error = ApiKeys::of_lines(&format!("a-key-for-tests\n{line}")).expect_err(line);
            let error = error.to_string();
            assert!(error.contains(words) && !error.contains("geheim"), "{error}");
        }
        assert!(ApiKeys::of_words("a-first-long-key a-first-long-key").is_err());
    }
}
