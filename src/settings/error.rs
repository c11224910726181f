//! What is wrong with settings, in one line that says what to change, without control characters and
//! without a secret.

use std::ffi::OsStr;
use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::exit::Failure;

/// Something about the options is wrong; the text says what to change.
#[derive(Debug)]
pub(crate) struct SettingsError {
    pub(crate) failure: Failure,
    text: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SettingsError {}

impl SettingsError {
    pub(crate) fn new(failure: Failure, text: impl Into<String>) -> Self {
        Self { failure, text: text.into() }
    }

    /// The same, and where to read more if it is the command line that is wrong.
    pub(crate) fn see_help_of(mut self, subcommand: Option<&str>) -> Self {
        if self.failure == Failure::Usage && !self.text.contains("--help'") {
            let subcommand = subcommand.map(|name| format!(" {name}")).unwrap_or_default();
            let text = self.text;
            self.text = if text.ends_with('?') {
                format!("{text} (or try 'semrun{subcommand} --help')")
            } else {
                format!("{text}; try 'semrun{subcommand} --help'")
            };
        }
        self
    }
}

/// The command line cannot be meant so.
pub(super) fn settings_error(text: impl Into<String>) -> SettingsError {
    SettingsError::new(Failure::Usage, text)
}

/// A file, or a demand on a backend, is wrong.
pub(super) fn misconfigured(text: impl Into<String>) -> SettingsError {
    SettingsError::new(Failure::Unsupported, text)
}

/// clap's message, in one line without control characters.
pub(super) fn one_line(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if let (ErrorKind::ValueValidation, Some(value), Some(argument)) =
        (error.kind(), context(ContextKind::InvalidValue), context(ContextKind::InvalidArg))
    {
        let reason = std::error::Error::source(error).map(ToString::to_string);
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        return format!("invalid value '{}' for '{argument}'{reason}", shortened(value));
    }
    if let (ErrorKind::InvalidValue, Some(value), Some(argument), Some(ContextValue::Strings(all))) = (
        error.kind(),
        context(ContextKind::InvalidValue),
        context(ContextKind::InvalidArg),
        error.get(ContextKind::ValidValue),
    ) && !value.is_empty()
    {
        let (value, all) = (shortened(value), all.join(", "));
        return format!("invalid value '{value}' for '{argument}'; it is one of {all}");
    }
    let text = error.to_string();
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
    // Its tips say how to pass an option as an operand, which no user wants.
    let told = paragraphs.filter(|paragraph| {
        !["Usage:", "For more", "tip:"]
            .iter()
            .any(|start| paragraph.trim_start().starts_with(start))
    });
    let text = told.collect::<Vec<_>>().join("; ");
    let text = text.trim().trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>();
    printable(OsStr::new(&text.join(" ")))
}

fn shortened(value: &str) -> String {
    const SHOWN: usize = 60;
    let mut text: String = printable(OsStr::new(value)).chars().take(SHOWN).collect();
    if text.len() < value.len() && text.chars().count() == SHOWN {
        text.push('…');
    }
    text
}

/// Text that cannot disturb a terminal.
pub(super) fn printable(text: &OsStr) -> String {
    text.to_string_lossy().chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}
