//! What the reader of options refuses, in one line without control characters.

use std::ffi::OsStr;
use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::printable::printable_os;

pub(super) struct RejectedText<'a>(pub(super) &'a clap::Error);

impl fmt::Display for RejectedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let value = context(ContextKind::InvalidValue);
        let argument = context(ContextKind::InvalidArg);
        match (error.kind(), value, argument, error.get(ContextKind::ValidValue)) {
            (ErrorKind::ValueValidation, Some(value), Some(argument), _) => {
                write!(f, "invalid value '{}' for '{argument}'", shortened(value))?;
                match std::error::Error::source(error) {
                    Some(reason) => write!(f, ": {reason}"),
                    None => Ok(()),
                }
            }
            (
                ErrorKind::InvalidValue,
                Some(value),
                Some(argument),
                Some(ContextValue::Strings(all)),
            ) if !value.is_empty() => write!(
                f,
                "invalid value '{}' for '{argument}'; it is one of {}",
                shortened(value),
                all.join(", ")
            ),
            _ => f.write_str(&in_one_line(&error.to_string())),
        }
    }
}

/// Several paragraphs as one line, without those that no user wants.
fn in_one_line(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
    // Its tips say how to pass an option as an operand.
    let told = paragraphs.filter(|paragraph| {
        !["Usage:", "For more", "tip:"]
            .iter()
            .any(|start| paragraph.trim_start().starts_with(start))
    });
    let text = told.collect::<Vec<_>>().join("; ");
    let text = text.trim().trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>();
    printable_os(OsStr::new(&text.join(" ")))
}

fn shortened(value: &str) -> String {
    const SHOWN: usize = 60;
    let mut text: String = printable_os(OsStr::new(value)).chars().take(SHOWN).collect();
    if text.len() < value.len() && text.chars().count() == SHOWN {
        text.push('…');
    }
    text
}
