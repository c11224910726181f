//! The API keys that a server accepts, each with the label that the log shows in its place.

use std::rc::Rc;

use subtle::ConstantTimeEq;

/// The protocol's own rule.
const SHORTEST: usize = 10;

pub(crate) struct Keys(Vec<(Vec<u8>, Rc<str>)>);

// By hand: a key is never shown.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, label)| label)).finish()
    }
}

impl Keys {
    /// From a file: one key a line, with an optional label behind a space. The error says what is
    /// wrong, without any key.
    pub(crate) fn of_lines(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let keys = lines.filter(|(_, line)| !line.is_empty()).map(|(number, line)| {
            let (key, label) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            (key, Some(label.trim()).filter(|label| !label.is_empty()), number)
        });
        Self::of(keys, "the key in line")
    }

    /// From a variable: several, separated by white space.
    pub(crate) fn of_words(text: &str) -> Result<Self, String> {
        let words = text.split_whitespace().enumerate();
        Self::of(words.map(|(index, key)| (key, None, index + 1)), "key")
    }

    fn of<'a>(
        keys: impl Iterator<Item = (&'a str, Option<&'a str>, usize)>,
        which: &str,
    ) -> Result<Self, String> {
        let mut all = Vec::new();
        for (key, label, number) in keys {
            if key.len() < SHORTEST {
                return Err(format!(
                    "{which} {number} is shorter than {SHORTEST} characters; make it longer"
                ));
            }
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("{which} {number} has characters that no header can carry"));
            }
            let label = label.map_or_else(|| format!("key {number}"), String::from);
            all.push((key.as_bytes().to_vec(), label.into()));
        }
        if all.is_empty() {
            return Err("there is no API key; write one a line".into());
        }
        Ok(Self(all))
    }

    /// The label of a key. Takes the same time whichever of them it is, and however much of it
    /// is right.
    pub(crate) fn label(&self, presented: &[u8]) -> Option<Rc<str>> {
        let mut found = None;
        for (key, label) in &self.0 {
            if bool::from(key.ct_eq(presented)) {
                found = Some(label);
            }
        }
        found.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_labels_and_nothing_else_has() {
        let keys =
            Keys::of_lines("first-key-of-all web1 and web2\n\n  second-key-of-all\r\n").unwrap();
        let label = |key: &str| keys.label(key.as_bytes()).map(|label| label.to_string());
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
            let error = Keys::of_lines(bad).expect_err(bad);
            assert!(!error.contains("gehei"), "{error}");
        }
        assert!(Keys::of_lines(" \n").is_err() && Keys::of_words("").is_err());
        assert!(Keys::of_words("a-first-long-key a-second-long-key").is_ok());
    }
}
