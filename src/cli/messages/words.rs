//! What sentences are made of: times, places and holders.

use std::fmt;
use std::time::Duration;

use crate::permits::Record;
use crate::printable::{Context, quoted};

/// What the system said, without the number that it has for that.
pub(crate) struct SystemErrorText<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for SystemErrorText<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.rsplit_once(" (os error ") {
            Some((words, number)) if number.ends_with(')') => f.write_str(words),
            _ => f.write_str(&text),
        }
    }
}

/// A length of time as people say it.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TENTHS_MATTER: Duration = Duration::from_secs(10);
        if self.0 < TENTHS_MATTER {
            // Tenths, rounded down, so that 9.96 does not become 10.0.
            return write!(f, "{}.{}s", self.0.as_secs(), self.0.subsec_millis() / 100);
        }
        let seconds = Duration::from_secs(self.0.as_secs());
        write!(f, "{}", humantime::format_duration(seconds))
    }
}

/// A length of time that is short.
pub(crate) struct Milliseconds(pub(crate) Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1000.0)
    }
}

/// A permit's holder.
pub(crate) struct HolderText<'a>(pub(crate) &'a Record);

impl fmt::Display for HolderText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = &self.0.who;
        let [label, user, host] =
            [&who.label, &who.user, &who.host].map(|text| quoted(text, Context::Words));
        // The process that acquired a detached permit has gone.
        if who.detached {
            return write!(f, "{label} ({user}@{host})");
        }
        write!(f, "{label} (pid {}, {user}@{host})", who.pid)
    }
}

/// A place in a line.
pub(super) struct Ordinal(pub(super) usize);

impl fmt::Display for Ordinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match (self.0 % 10, self.0 % 100) {
            (1, rest) if rest != 11 => "st",
            (2, rest) if rest != 12 => "nd",
            (3, rest) if rest != 13 => "rd",
            _ => "th",
        };
        write!(f, "{}{suffix}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_has_no_number() {
        let refused = std::io::Error::from(rustix::io::Errno::CONNREFUSED);
        assert_eq!(SystemErrorText(refused).to_string(), "Connection refused");
        assert_eq!(
            SystemErrorText("what (os error) is this").to_string(),
            "what (os error) is this"
        );
    }

    #[test]
    fn short_times_have_tenths_and_long_ones_have_units() {
        assert_eq!(Span(Duration::from_millis(249)).to_string(), "0.2s");
        assert_eq!(Span(Duration::from_millis(9_990)).to_string(), "9.9s");
        assert_eq!(Span(Duration::from_millis(65_400)).to_string(), "1m 5s");
    }
}
