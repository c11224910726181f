//! What the value of an option may look like.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use rustix::process::Pid;
use uuid::Uuid;

use super::Quarantine;
use crate::permits::Name;
use crate::permits::Terms;
use crate::serve::log::{Format, LogEvent};
use crate::supervise::lease_deadlines::SHORTEST_TTL;
use crate::supervise::policy::{OnLost, Orphans};

pub(super) fn limit(text: &str) -> Result<u32, String> {
    let limit = text.parse().ok().filter(|limit| Terms::LIMITS.contains(limit));
    limit.ok_or_else(|| "not a whole number from 1 to 10,000".into())
}

/// A maximum number of something.
pub(super) fn most(text: &str) -> Result<usize, String> {
    let most = text.parse().ok().filter(|most| (1..=1_000_000_000).contains(most));
    most.ok_or_else(|| "not a whole number from 1 on".into())
}

/// Where a server listens: a host, in brackets or not, and the number of a port.
pub(super) fn listen(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').unwrap_or(("", text));
    let number = |port: &str| port.parse::<u16>().is_ok();
    match parts {
        (host, port) if !host.is_empty() && number(port) => Ok(text.into()),
        (host, port) if !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err("the port is not a number from 0 to 65535".into())
        }
        ("", port) if number(port) => {
            Err(format!("not HOST:PORT; did you mean 127.0.0.1:{port}, or 0.0.0.0:{port} for all?"))
        }
        ("", host) if !host.is_empty() => Err(format!("not HOST:PORT; did you mean {host}:3202?")),
        _ => Err("not HOST:PORT, such as 127.0.0.1:3202".into()),
    }
}

pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        ttl if ttl < SHORTEST_TTL => Err(format!("shorter than {SHORTEST_TTL:?}")),
        ttl => Ok(ttl),
    }
}

/// `UUID@NAME`.
pub(super) fn permit(text: &str) -> Result<(Uuid, Name), String> {
    const FORM: &str = "not a permit, which is written UUID@NAME";
    let (id, name) = text.split_once('@').ok_or(FORM)?;
    let id = id.parse().map_err(|_| FORM)?;
    Ok((id, name.parse().map_err(|problem| format!("{FORM}: {problem}"))?))
}

pub(super) fn pid(text: &str) -> Result<Pid, String> {
    let pid = text.parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
    pid.ok_or_else(|| "not the number of a process".into())
}

pub(super) fn attempts(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "not a whole number".into())
}

pub(super) fn quarantine(text: &str) -> Result<Quarantine, String> {
    if text == "auto" {
        return Ok(Quarantine::Auto);
    }
    duration(text).map(Quarantine::For).map_err(|wrong| format!("not auto, and {wrong}"))
}

pub(super) fn on_lost() -> impl TypedValueParser<Value = OnLost> {
    PossibleValuesParser::new(["kill", "continue"]).map(|text| match text.as_str() {
        "continue" => OnLost::Continue,
        _ => OnLost::Kill,
    })
}

pub(super) fn event() -> impl TypedValueParser<Value = LogEvent> {
    let named = |text: String| LogEvent::ALL.into_iter().find(|(name, _)| *name == text);
    PossibleValuesParser::new(LogEvent::ALL.map(|(name, _)| name))
        .map(move |text| named(text).map_or(LogEvent::Info, |(_, event)| event))
}

pub(super) fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(["text", "json"]).map(|text| match text.as_str() {
        "json" => Format::Json,
        _ => Format::Text,
    })
}

pub(super) fn code(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| "not a whole number from 0 to 255".into())
}

pub(super) fn label(text: &str) -> Result<String, String> {
    // Long enough for the address of a CI job, and short enough for a table.
    const MOST: usize = 200;
    if text.is_empty() || text.len() > MOST || text.chars().any(char::is_control) {
        return Err(format!("not 1 to {MOST} bytes without control characters"));
    }
    Ok(text.into())
}

pub(super) fn orphans() -> impl TypedValueParser<Value = Orphans> {
    PossibleValuesParser::new(["leave", "wait", "kill"]).map(|text| match text.as_str() {
        "wait" => Orphans::Wait,
        "kill" => Orphans::Kill,
        _ => Orphans::Leave,
    })
}

pub(super) fn runtime(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it has to be longer than 0".into()),
        runtime => Ok(runtime),
    }
}

/// No run waits as long.
pub(crate) const LONGEST: Duration = Terms::LONGEST;

/// `500ms`, `30s`, `1h 30m`, or a number of seconds with or without a fraction.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('.').unwrap_or(text);
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let duration = if is_number && !number.is_empty() {
        number.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    } else {
        humantime::parse_duration(text).ok()
    };
    let duration = duration.map(|duration| duration.min(LONGEST));
    duration.ok_or_else(|| "not a duration such as 500ms, 30s, 1h 30m or 2.5 (seconds)".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_readable_words_or_plain_seconds() {
        let millis = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("30s"), Ok(30_000));
        assert_eq!(millis("1h 30m"), Ok(5_400_000));
        assert_eq!(millis("0.2"), Ok(200));
        assert_eq!(millis(".5"), Ok(500));
        assert_eq!(millis("0"), Ok(0));
        for bad in ["", ".", "-1", "1e3", "inf", "nan", "five", "1..2", "1x", " "] {
            assert!(millis(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_permit_is_an_identity_and_a_name() {
        let id = "1b4e28ba-2fa1-4d5e-883f-0016d3cca427";
        let (read, name) = permit(&format!("{id}@a@b")).unwrap();
        assert_eq!((read.to_string().as_str(), name.as_str()), (id, "a@b"));
        for bad in ["", "x", id, "x@y", "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@"] {
            assert!(permit(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_duration_text_panics(text in "\\PC{0,12}|[0-9.]{0,40}") {
            let _ = duration(&text);
        }
    }
}
