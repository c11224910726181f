//! The server's log: the events of the cloud-semaphore protocol, which may be switched on and off
//! while it runs, as lines of text or of JSON on standard error.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};
use uuid::Uuid;

use super::bearer::Actor;
use super::notices::ServerFact;
use crate::printable::{Context, quoted, truncated};

/// What can be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogEvent {
    /// The start and the end.
    Info,
    /// Trouble that the operator should look at.
    Alert,
    /// Waits, grants and releases; and every request that comes or goes.
    SemEvents,
    /// Waits, grants and releases.
    SemTransition,
    /// Every request.
    Debug,
    /// A client's interventions with others, and with this log. They cannot be switched off.
    Intervention,
}

impl LogEvent {
    /// Every one that can be switched, in the order of the configuration.
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("info", Self::Info),
        ("alert", Self::Alert),
        ("sem_events", Self::SemEvents),
        ("sem_transition", Self::SemTransition),
        ("debug", Self::Debug),
    ];

    fn name(self) -> &'static str {
        let switched = Self::ALL.iter().find(|(_, event)| *event == self);
        switched.map_or("intervention", |(name, _)| name)
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// Where something happened, and whose API key caused it, from where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    /// None where it is about the semaphore.
    pub(crate) id: Option<Uuid>,
    pub(crate) actor: &'a Actor,
}

/// Where lines go, and the words for facts. Each of the first two returns whether it took the line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sink {
    /// Takes a line if that does not block.
    pub(crate) line: fn(&str) -> bool,
    /// The same for the last lines, which may block for a while.
    pub(crate) last: fn(&str) -> bool,
    pub(crate) words: fn(&ServerFact<'_>) -> String,
}

impl Sink {
    /// For tests, which print it where they fail.
    #[cfg(any(test, fuzzing))]
    pub(crate) const TEST: Self =
        Self { line: Self::print, last: Self::print, words: |fact| format!("{fact:?}") };

    #[cfg(any(test, fuzzing))]
    fn print(line: &str) -> bool {
        eprintln!("{line}");
        true
    }
}

/// What is logged, and how.
#[derive(Debug)]
pub(crate) struct Log {
    sink: Sink,
    switches: RefCell<LogSwitches>,
    format: Format,
    /// Lines that must be written, and are not yet.
    owed: RefCell<VecDeque<String>>,
}

/// How many such lines are kept.
const MOST_OWED: usize = 1_000;

impl Log {
    /// `more` is logged beside what is by default.
    pub(crate) fn new(more: &[LogEvent], format: Format, sink: Sink) -> Self {
        let mut switches = LogSwitches::default();
        for event in more {
            switches.0[SERVER].1.iter_mut().for_each(|(name, on)| *on |= *name == event.name());
        }
        Self { sink, switches: RefCell::new(switches), format, owed: RefCell::default() }
    }

    /// A log without alerts, for tests that cause many.
    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        let log = Self::new(&[], Format::Text, Sink::TEST);
        log.switches.borrow_mut().0[SERVER].1.clear();
        log
    }

    /// Logs what happened to one client.
    pub(crate) fn log(&self, event: LogEvent, subject: Subject<'_>, action: &str) {
        if !self.logs(event) {
            return;
        }
        let Subject { name, id, actor: Actor { bearer, from } } = subject;
        let (name, actor) = (truncated(name, MOST), truncated(&bearer.label, MOST));
        let line = match self.format {
            Format::Text => {
                let id = id.map_or_else(|| "-".into(), |id| id.to_string());
                let [name, actor] = [&name, &actor].map(|text| quoted(text, Context::Log));
                let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
                format!("server: [{name}:{id}:{actor}] {action}{from}")
            }
            Format::Json => {
                let mut what = json!({ "name": name, "id": id, "key": actor, "action": action });
                what["from"] = json!(from);
                line_of(event, what)
            }
        };
        self.write(event, line);
    }

    /// Logs what concerns the whole server.
    pub(crate) fn log_text(&self, event: LogEvent, text: &str) {
        if !self.logs(event) {
            return;
        }
        let text = truncated(text, MOST);
        let line = match self.format {
            Format::Text => format!("server: {text}"),
            Format::Json => line_of(event, json!({ "message": text })),
        };
        self.write(event, line);
    }

    /// Logs a fact about the whole server.
    pub(crate) fn tell(&self, event: LogEvent, fact: &ServerFact<'_>) {
        self.log_text(event, &self.words(fact));
    }

    /// A fact as people read it.
    pub(crate) fn words(&self, fact: &ServerFact<'_>) -> String {
        (self.sink.words)(fact)
    }

    /// Writes the owed lines, as many as can be written now.
    pub(crate) fn catch_up(&self) {
        self.write_dropped_count(self.sink.line);
    }

    /// The same for the last time.
    pub(crate) fn finish(&self) {
        self.write_dropped_count(self.sink.last);
    }

    fn write_dropped_count(&self, write: impl Fn(&str) -> bool) {
        let mut owed = self.owed.borrow_mut();
        while owed.front().is_some_and(|line| write(line)) {
            owed.pop_front();
        }
    }

    /// A reader that is slow misses lines, but never an intervention.
    fn write(&self, event: LogEvent, line: String) {
        self.catch_up();
        let mut owed = self.owed.borrow_mut();
        let written = owed.is_empty() && (self.sink.line)(&line);
        if !written && event == LogEvent::Intervention && owed.len() < MOST_OWED {
            owed.push_back(line);
        }
    }

    pub(crate) fn logs(&self, event: LogEvent) -> bool {
        if event == LogEvent::Intervention {
            return true;
        }
        let switches = self.switches.borrow();
        let on = |event: LogEvent| {
            switches.0[SERVER].1.iter().any(|(name, on)| *on && *name == event.name())
        };
        on(event) || (event == LogEvent::SemTransition && on(LogEvent::SemEvents))
    }

    /// The whole configuration, as the protocol wants it.
    pub(crate) fn configuration(&self) -> String {
        serde_json::to_string_pretty(&*self.switches.borrow()).expect("plain data")
    }

    /// Makes a client's change, and logs it.
    pub(crate) fn configure_for(
        &self,
        actor: &Actor,
        change: &Value,
    ) -> Result<(), LogConfigError> {
        let before = self.switches.borrow().clone();
        self.configure(change)?;
        let mut changes = self.switches.borrow().since(&before);
        if change[before.0[SERVER].0][LogEvent::Alert.name()] == json!(false) {
            changes.push("server.alert stays on".into());
        }
        if changes.is_empty() {
            return Ok(());
        }
        let Actor { bearer, from } = actor;
        let (label, changes) = (truncated(&bearer.label, MOST), changes.join(", "));
        let line = match self.format {
            Format::Text => {
                let from = from.map_or_else(|| "-".into(), |from| from.to_string());
                format!(
                    "server: the log is changed by {} from {from}: {changes}",
                    quoted(&label, Context::Log)
                )
            }
            Format::Json => line_of(
                LogEvent::Intervention,
                json!({ "key": label, "from": from, "message": format!("the log is changed: {changes}") }),
            ),
        };
        self.write(LogEvent::Intervention, line);
        Ok(())
    }

    /// Changes all that `change` names, or nothing. Trouble is always logged: the owner of a key
    /// for this could have caused it.
    pub(crate) fn configure(&self, change: &Value) -> Result<(), LogConfigError> {
        let mut switches = self.switches.borrow().clone();
        let Value::Object(components) = change else {
            // An array without members names nothing.
            let empty = matches!(change, Value::Array(members) if members.is_empty());
            return if empty { Ok(()) } else { Err(LogConfigError::Unknown) };
        };
        for (component, events) in components {
            let known = switches.0.iter_mut().find(|(name, _)| name == component);
            let (_, known) = known.ok_or(LogConfigError::Unknown)?;
            let Value::Object(events) = events else {
                return Err(if events.is_null() {
                    LogConfigError::Null
                } else {
                    LogConfigError::Unknown
                });
            };
            for (event, on) in events {
                let switch = known.iter_mut().find(|(name, _)| name == event);
                let (Some((_, switch)), Value::Bool(on)) = (switch, on) else {
                    return Err(LogConfigError::Unknown);
                };
                *switch = *on;
            }
        }
        switches.always_alerts();
        self.switches.replace(switches);
        Ok(())
    }
}

/// Why a change of the configuration was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogConfigError {
    /// There is no such component or event, or what it should be is neither on nor off.
    Unknown,
    /// A null, which crashes the original server.
    Null,
}

/// How many characters of a text are logged. A slow reader of a pipe must not hold the server up,
/// and a pipe that has room takes a line at once only if that has less than 4,096 bytes. Escaped, a
/// character may have six.
const MOST: usize = 250;

fn line_of(event: LogEvent, what: Value) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let mut line = json!({ "time": time, "component": "server", "event": event.name() });
    if let (Value::Object(line), Value::Object(what)) = (&mut line, what) {
        line.extend(what);
    }
    line.to_string()
}

/// The events of one component, and which are on.
type Component = Vec<(&'static str, bool)>;

/// Components and their events, in the order of the protocol. Those of the original's client and
/// tests can be switched, without effect.
#[derive(Debug, Clone)]
struct LogSwitches(Vec<(&'static str, Component)>);

const SERVER: usize = 0;

impl Default for LogSwitches {
    fn default() -> Self {
        let server = LogEvent::ALL
            .map(|(name, event)| (name, matches!(event, LogEvent::Info | LogEvent::Alert)));
        let client = [("network_status", false), ("network_errors", true), ("usage_errors", false)];
        let test = [
            ("harness_info", false),
            ("info", false),
            ("flaw", true),
            ("results", true),
            ("summary", true),
        ];
        Self(vec![("server", server.into()), ("client", client.into()), ("test", test.into())])
    }
}

impl LogSwitches {
    fn always_alerts(&mut self) {
        for (name, on) in &mut self.0[SERVER].1 {
            *on |= *name == LogEvent::Alert.name();
        }
    }

    /// The switches that have changed.
    fn since(&self, before: &Self) -> Vec<String> {
        let all = |switches: &Self| -> Vec<_> {
            let each = switches.0.iter().flat_map(|(component, events)| {
                events.iter().map(move |(event, on)| (*component, *event, *on))
            });
            each.collect()
        };
        let pairs = all(before).into_iter().zip(all(self));
        let changed = pairs.filter(|((_, _, was), (_, _, is))| was != is);
        changed
            .map(|(_, (component, event, on))| {
                format!("{component}.{event} {}", if on { "on" } else { "off" })
            })
            .collect()
    }
}

impl Serialize for LogSwitches {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        struct LogEvents<'a>(&'a Component);
        impl Serialize for LogEvents<'_> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_map(self.0.iter().copied())
            }
        }
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (component, events) in &self.0 {
            map.serialize_entry(component, &LogEvents(events))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_made_as_a_whole_or_not_at_all() {
        let log = Log::new(&[], Format::Text, Sink::TEST);
        assert!(log.logs(LogEvent::Info) && !log.logs(LogEvent::Debug));
        log.configure(&json!({ "server": { "info": false, "debug": true }, "test": {} })).unwrap();
        assert!(!log.logs(LogEvent::Info) && log.logs(LogEvent::Debug));
        let before = log.configuration();
        for (bad, why) in [
            (json!({ "server": { "info": true, "x": true } }), LogConfigError::Unknown),
            (json!({ "server": { "info": true }, "x": {} }), LogConfigError::Unknown),
            (json!({ "server": { "info": "true" } }), LogConfigError::Unknown),
            (json!({ "server": { "info": true }, "client": 5 }), LogConfigError::Unknown),
            (json!({ "__proto__": { "info": true } }), LogConfigError::Unknown),
            (json!([1]), LogConfigError::Unknown),
            (json!({ "server": null }), LogConfigError::Null),
        ] {
            assert_eq!(log.configure(&bad), Err(why), "{bad}");
        }
        assert_eq!(log.configuration(), before);
    }

    #[test]
    fn trouble_and_interventions_are_logged_whatever_a_client_says() {
        let log = Log::new(&[], Format::Text, Sink::TEST);
        let all_off = json!({ "server": {
            "info": false, "alert": false, "sem_events": false, "sem_transition": false, "debug": false
        } });
        log.configure(&all_off).unwrap();
        assert!(
            log.logs(LogEvent::Alert)
                && log.logs(LogEvent::Intervention)
                && !log.logs(LogEvent::Info)
        );
        for name in ["intervention", "audit"] {
            let change = json!({ "server": { name: false } });
            assert_eq!(log.configure(&change), Err(LogConfigError::Unknown));
        }
        assert!(log.configuration().contains("\"alert\": true"));
    }

    #[test]
    fn a_change_says_what_is_not_as_it_was() {
        let (before, mut now) = (LogSwitches::default(), LogSwitches::default());
        now.0[SERVER].1[0].1 = false;
        now.0[2].1[0].1 = true;
        assert_eq!(now.since(&before), ["server.info off", "test.harness_info on"]);
    }

    #[test]
    fn no_line_is_longer_than_what_a_pipe_takes_at_once() {
        for nasty in ["\u{1}", "\u{10FFFF}", "\"", "a"] {
            let text = nasty.repeat(5_000);
            let text = truncated(&text, MOST);
            let what = json!({ "name": text, "key": text, "action": "waiting" });
            assert!(line_of(LogEvent::SemTransition, what).len() < 4_000);
            assert!(quoted(&text, Context::Log).len() < 1_100);
        }
    }

    #[test]
    fn every_reference_change_is_more_than_every_transition() {
        let log = Log::new(&[LogEvent::SemEvents], Format::Json, Sink::TEST);
        assert!(log.logs(LogEvent::SemTransition) && log.logs(LogEvent::Alert));
        assert!(
            !Log::new(&[LogEvent::SemTransition], Format::Text, Sink::TEST)
                .logs(LogEvent::SemEvents)
        );
    }
}
