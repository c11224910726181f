//! Text from elsewhere: names, labels, messages of servers. None of it may disturb a terminal, hide
//! in a line, or be taken for words of this program.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write;

use icu_normalizer::ComposingNormalizerBorrowed;

/// Characters that move a cursor, turn the direction of writing, or are invisible: the categories
/// Cc, Cf, Zl and Zp of Unicode 16, and what it calls default ignorable.
const HIDDEN: [(u32, u32); 27] = [
    (0x0000, 0x001F),
    (0x007F, 0x009F),
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x0600, 0x0605),
    (0x061C, 0x061C),
    (0x06DD, 0x06DD),
    (0x070F, 0x070F),
    (0x0890, 0x0891),
    (0x08E2, 0x08E2),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
    (0x1_10BD, 0x1_10BD),
    (0x1_10CD, 0x1_10CD),
    (0x1_3430, 0x1_343F),
    (0x1_BCA0, 0x1_BCA3),
    (0x1_D173, 0x1_D17A),
    (0xE_0000, 0xE_0FFF),
];

fn is_hidden(c: char) -> bool {
    let c = u32::from(c);
    let at = HIDDEN.partition_point(|(_, last)| *last < c);
    HIDDEN.get(at).is_some_and(|(first, _)| *first <= c)
}

/// Nearly all text is plain ASCII, which is quick to check.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The same text with U+FFFD for each character that is hidden.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if is_plain(text) || !text.contains(is_hidden) {
        text.into()
    } else {
        text.replace(is_hidden, "\u{FFFD}").into()
    }
}

/// The same for a word as it was typed.
pub(crate) fn printable_os(word: &OsStr) -> String {
    printable(&word.to_string_lossy()).into_owned()
}

/// Equivalent JSON that has such characters only as escapes. Line breaks and blanks between its
/// parts are left.
pub(crate) fn printable_json(json: String) -> String {
    let escapes = |c: char| is_hidden(c) && c != '\n';
    if !json.contains(escapes) {
        return json;
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if escapes(c) {
            for half in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{half:04x}");
            }
        } else {
            text.push(c);
        }
    }
    text
}

/// Where foreign text stands among words of ours, for which it could be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    /// A sentence: `job (pid 7, ci@web1) and by 2 others`.
    Words,
    /// The columns of a table, in which some words are ours.
    Columns,
    /// The front of a line: `deploy: free`.
    Front,
    /// The server's log: `[deploy:UUID:key] acquired`.
    Log,
}

/// The text as it is, if it cannot be mistaken; otherwise in quotation marks, and those in it with
/// a backslash before them.
pub(crate) fn quoted(text: &str, among: Context) -> Cow<'_, str> {
    let blanks = |c: char| c.is_whitespace();
    let doubled = || text.chars().zip(text.chars().skip(1)).any(|(a, b)| blanks(a) && blanks(b));
    let means_more = match among {
        Context::Words => text.contains(|c| blanks(c) || "\"'()[];,".contains(c)),
        Context::Columns => text.contains(['"', '(', ')']) || matches!(text, "foreign" | "?" | "-"),
        Context::Front => text.contains('"') || text.contains(": ") || text.ends_with(':'),
        Context::Log => text.contains(|c| "\"[]:".contains(c)),
    };
    let text = printable(text);
    if means_more || text.is_empty() || text.trim() != text || doubled() {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")).into()
    } else {
        text
    }
}

/// Why people may take a name for another one when they read or type it. Programs tell them apart.
pub(crate) fn pitfall(name: &str) -> Option<Pitfall> {
    if name.trim() != name {
        Some(Pitfall::Blank)
    } else if name.contains(is_hidden) {
        Some(Pitfall::Hidden)
    } else if !name.is_ascii() && !ComposingNormalizerBorrowed::new_nfc().is_normalized(name) {
        Some(Pitfall::NotNormal)
    } else {
        None
    }
}

/// Why a name may be taken for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pitfall {
    /// It begins or ends with one.
    Blank,
    Hidden,
    /// It is not in the form NFC of Unicode.
    NotNormal,
}

/// At most so many characters of a text.
pub(crate) fn truncated(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_moves_or_turns_or_hides() {
        assert!(HIDDEN.is_sorted());
        for c in [
            '\0',
            '\t',
            '\n',
            '\r',
            '\x1b',
            '\x7f',
            '\u{85}',
            '\u{9b}',
            '\u{ad}',
            '\u{200b}',
            '\u{200d}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{e0001}',
            '\u{e0041}',
        ] {
            assert_eq!(printable(&format!("a{c}b")), "a\u{FFFD}b", "{c:?}");
            let json = serde_json::to_string(&format!("a{c}b")).unwrap();
            let escaped = printable_json(json);
            assert!(!escaped.contains(is_hidden), "{escaped:?}");
            assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), format!("a{c}b"));
        }
        for good in ["", "deploy", "bücher v1.2", "日本語", "עברית", "العربية", "🚀", "a\u{a0}b"]
        {
            assert_eq!(printable(good), good);
        }
    }

    #[test]
    fn a_name_that_looks_like_another_is_noticed() {
        for (name, word) in [
            (" deploy", "blank"),
            ("deploy ", "blank"),
            ("deploy\u{3000}", "blank"),
            ("de\u{200b}ploy", "not seen"),
            ("bu\u{308}cher", "NFC"),
            ("\u{212b}", "NFC"),
        ] {
            assert!(pitfall(name).is_some_and(|why| why.to_string().contains(word)), "{name:?}");
        }
        for name in ["deploy", "b\u{fc}cher", "日本語", "a b", "🚀"] {
            assert_eq!(pitfall(name), None, "{name}");
        }
    }

    #[test]
    fn what_could_be_words_of_ours_is_in_quotation_marks() {
        use Context::{Columns, Front, Log, Words};
        for (text, among, shown) in [
            ("migrate.sh", Words, "migrate.sh"),
            ("backup (pid 1, root@vm)", Words, "\"backup (pid 1, root@vm)\""),
            ("job and by 9 others", Words, "\"job and by 9 others\""),
            ("", Words, "\"\""),
            ("a\\\"b", Words, "\"a\\\\\\\"b\""),
            ("nightly backup", Columns, "nightly backup"),
            ("job  root", Columns, "\"job  root\""),
            (" job", Columns, "\" job\""),
            ("?", Columns, "\"?\""),
            ("app:deploy", Front, "app:deploy"),
            ("deploy: free", Front, "\"deploy: free\""),
            ("a\u{2028}b", Front, "a\u{FFFD}b"),
            ("deploy", Log, "deploy"),
            ("deploy:-:root] acquired", Log, "\"deploy:-:root] acquired\""),
        ] {
            assert_eq!(quoted(text, among), shown);
        }
    }
}
