//! The bearer of an API key: what the key may do, and what tells its permits from those of others.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::rc::Rc;

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256 as WITH_SHA256;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a key may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Look.
    View,
    /// Acquire permits, renew them, and give back what was acquired with the same key.
    Use,
    /// Revoke permits, pin limits, and change what is logged.
    Admin,
}

impl Role {
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("view", Self::View), ("use", Self::Use), ("admin", Self::Admin)];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(_, role)| role == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

/// Names, with `*` for any characters, none too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Box<str>);

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut next) = (0, 0);
        // The last `*`, and the rest of the name that it does not match yet.
        let mut star = None;
        while next < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, next));
                    at += 1;
                }
                Some(byte) if *byte == name[next] => {
                    at += 1;
                    next += 1;
                }
                _ => {
                    let Some((place, end)) = star else { return false };
                    star = Some((place, end + 1));
                    (at, next) = (place + 1, end + 1);
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

/// The beginning of a key's SHA-256, which tells keys apart but is no key: so a permit's key is
/// known after a restart too.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyFingerprint(NonZeroU64);

impl KeyFingerprint {
    pub(crate) fn of(key: &[u8]) -> Self {
        let sha256 = WITH_SHA256.tls13().map(|suite| suite.common.hash_provider);
        let digest = sha256.expect("a suite of TLS 1.3").hash(&[b"semrun key\0", key].concat());
        let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
        Self(NonZeroU64::new(u64::from_be_bytes(first)).unwrap_or(NonZeroU64::MIN))
    }
}

impl fmt::Debug for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for KeyFingerprint {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for KeyFingerprint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let number = u64::from_str_radix(&text, 16).ok().and_then(NonZeroU64::new);
        number.map(Self).ok_or_else(|| D::Error::custom("not what is kept of a key"))
    }
}

/// What is known of a key, without the key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    /// What the log shows in its place.
    pub(crate) label: Box<str>,
    pub(crate) role: Role,
    /// The semaphores that it is for; none: all of them.
    pub(crate) names: Option<Pattern>,
    /// None where a permit is on record without it.
    pub(crate) print: Option<KeyFingerprint>,
}

impl Bearer {
    /// For a permit on record. No request carries it.
    pub(crate) fn on_record(print: Option<KeyFingerprint>) -> Rc<Self> {
        Rc::new(Self { label: "".into(), role: Role::View, names: None, print })
    }

    pub(crate) fn is_for(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.matches(name))
    }

    /// Whether what was taken with that key was taken with this one.
    pub(crate) fn owns(&self, taker: &Self) -> bool {
        self.print.is_some() && self.print == taker.print
    }

    /// Whether it may see that client's identity.
    pub(crate) fn sees(&self, taker: &Self) -> bool {
        self.role == Role::Admin || self.owns(taker)
    }
}

/// Whose key caused something, and from where, if that is known.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) bearer: Rc<Bearer>,
    pub(crate) from: Option<IpAddr>,
}

/// A key that may do everything.
#[cfg(test)]
impl From<&str> for Actor {
    fn from(label: &str) -> Self {
        let print = Some(KeyFingerprint::of(label.as_bytes()));
        let bearer = Bearer { label: label.into(), role: Role::Admin, names: None, print };
        Self { bearer: bearer.into(), from: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_does() {
        for (pattern, matching, other) in [
            (
                "deploy-*",
                &["deploy-", "deploy-a", "deploy-*", "deploy-日"][..],
                &["deploy", "xdeploy-a", "Deploy-a", ""][..],
            ),
            ("*", &["", "a", "a\nb"], &[]),
            ("**", &["", "a"], &[]),
            ("a*b*c", &["abc", "axbxc", "abcbc", "aabbcc"], &["ab", "abcd", "acb", "xabc"]),
            ("*a", &["a", "aa", "baa"], &["ab", ""]),
            ("a?[b]", &["a?[b]"], &["axb", "ab"]),
            ("x", &["x"], &["xx", ""]),
        ] {
            let pattern = Pattern::new(pattern);
            assert!(matching.iter().all(|name| pattern.matches(name)), "{pattern:?}");
            assert!(!other.iter().any(|name| pattern.matches(name)), "{pattern:?}");
        }
        // Matching does not backtrack through all divisions.
        assert!(!Pattern::new(&"a*".repeat(2_000)).matches(&"ab".repeat(1_999)));
    }

    #[test]
    fn what_is_kept_of_a_key_is_always_the_same_and_is_not_the_key() {
        let print = KeyFingerprint::of(b"a-key-for-tests");
        // SHA-256 of `semrun key\0a-key-for-tests`.
        let json = serde_json::to_string(&print).unwrap();
        assert_eq!(json, "\"e3ba2065d3947b84\"");
        assert_eq!(serde_json::from_str::<KeyFingerprint>(&json).unwrap(), print);
        assert_ne!(KeyFingerprint::of(b"a-key-for-testt"), print);
        for bad in ["\"\"", "\"0\"", "\"x\"", "\"11112222333344445\"", "7"] {
            assert!(serde_json::from_str::<KeyFingerprint>(bad).is_err(), "{bad}");
        }
    }
}
