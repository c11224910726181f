//! Configuration files: TOML with the names of the options as keys. They are one more layer of
//! settings. Here they are read, and what cannot be meant is refused.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgAction, CommandFactory};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Mistake, SettingsError, misconfigured};
use super::location::unreadable;
use super::mistakes::nearest;
use crate::cli::{self, Cli, Merged, ServeArgs};
use crate::files::trusted::{self, TrustedContent, UntrustedFile};
use crate::permits::{BadName, Name};
use crate::printable::printable_os;
use crate::sys::keep_from_core_files;

/// The configuration of the whole machine.
pub(crate) const SYSTEM: &str = "/etc/semrun/config.toml";
/// That of a user, in their home.
const OF_USER: &str = ".config/semrun/config.toml";

/// What one semaphore may have of its own.
const OF_A_SEMAPHORE: [&str; 3] = ["backend", "limit", "ttl"];

/// One file.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) path: Arc<Path>,
    pub(super) top: Vec<ConfigEntry>,
    pub(super) serve: Vec<ConfigEntry>,
    semaphores: BTreeMap<Name, Vec<ConfigEntry>>,
}

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfigEntry {
    pub(super) key: String,
    pub(super) value: ConfigValue,
    pub(super) line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConfigValue {
    Text(String),
    Switch(bool),
}

/// What is wrong in a line of a file. Keys and names of sections may be quoted, values never.
#[derive(Debug)]
pub(crate) enum FileMistake {
    /// It is no TOML, in the words of its reader.
    Syntax(String),
    Unknown(UnknownWord),
    /// Not a value.
    IsASection(String),
    SemaphoreIsASection(String),
    /// A key that belongs into the section of the server.
    OfAServer(String),
    BadName(BadName),
    WrongValue {
        key: String,
        wanted: Wanted,
    },
    /// It holds a secret, and every user of the machine may read it.
    SecretShown,
}

/// What a key may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Switch,
    Words,
    TextOrNumber,
}

/// A word that is not known, and the nearest one that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownWord {
    pub(crate) kind: WordKind,
    pub(crate) word: String,
    pub(crate) nearest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WordKind {
    Key(Section),
    Section,
    Variable,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Section {
    Top,
    Serve,
    Semaphore(Name),
}

/// The keys that there are, and whether each is a switch.
type Known = BTreeMap<String, bool>;

impl Config {
    /// Reads a file. None: there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, SettingsError> {
        let TrustedContent { bytes, everybody_reads } = match trusted::read(path) {
            Ok(content) => content,
            // The home of a system account may be /dev/null.
            Err(UntrustedFile::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(UntrustedFile::Io(error))
                if error.kind() == io::ErrorKind::PermissionDenied && path.ends_with(OF_USER) =>
            {
                let why = UntrustedFile::Io(error);
                return Err(misconfigured(Mistake::Unreadable {
                    path: path.into(),
                    why,
                    optional: true,
                }));
            }
            Err(refused) => return Err(unreadable(path, refused)),
        };
        let text =
            String::from_utf8(bytes).map_err(|_| misconfigured(Mistake::NotUtf8(path.into())))?;
        let config = Self::parse(path.into(), &text)?;
        let secret = config.secret();
        if secret.is_some() {
            keep_from_core_files();
        }
        if everybody_reads && let Some(entry) = secret {
            let (line, what) = (entry.line, FileMistake::SecretShown);
            return Err(misconfigured(Mistake::InConfig { path: path.into(), line, what }));
        }
        Ok(Some(config))
    }

    pub(super) fn parse(path: Arc<Path>, text: &str) -> Result<Self, SettingsError> {
        let reader = Reader { path: &path, text };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            // Further lines of the message may quote the file, which may hold a secret.
            let what = error.message().lines().next().unwrap_or_default();
            reader.bad(at, FileMistake::Syntax(what.into()))
        })?;
        let (mut top, mut serve, mut semaphores) = (Vec::new(), Vec::new(), BTreeMap::new());
        let (everywhere, of_a_server) = (known_everywhere(), known_to_a_server());
        for (key, value) in in_order(table.get_ref()) {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            match (name, value.get_ref()) {
                ("serve", DeValue::Table(section)) => {
                    serve = reader.entries(section, &of_a_server, &Section::Serve)?;
                }
                ("semaphores", DeValue::Table(sections)) => {
                    semaphores = reader.semaphores(sections, &everywhere)?;
                }
                ("serve" | "semaphores", _) => {
                    return Err(reader.bad(at, FileMistake::IsASection(name.into())));
                }
                (name, DeValue::Table(_)) => {
                    let sections = ["semaphores.NAME".to_owned(), "serve".to_owned()];
                    let what = UnknownWord::of(WordKind::Section, name, sections.iter());
                    return Err(reader.bad(at, what.into()));
                }
                _ if !everywhere.contains_key(name) && of_a_server.contains_key(name) => {
                    return Err(reader.bad(at, FileMistake::OfAServer(name.into())));
                }
                _ => top.push(reader.entry(key, value, &everywhere, &Section::Top)?),
            }
        }
        Ok(Self { path, top, serve, semaphores })
    }

    /// Its entries for one semaphore alone.
    pub(super) fn of(&self, name: &Name) -> &[ConfigEntry] {
        self.semaphores.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn find(&self, key: &str) -> Option<&ConfigEntry> {
        self.top.iter().find(|entry| entry.key == key)
    }

    /// A secret in it. A password in a URL is one too.
    fn secret(&self) -> Option<&ConfigEntry> {
        let all = self.top.iter().chain(&self.serve).chain(self.semaphores.values().flatten());
        let mut all = all;
        all.find(|entry| match (entry.key.as_str(), &entry.value) {
            ("password" | "api-key", _) => true,
            ("backend", ConfigValue::Text(url)) => {
                let authority = url.split_once("://").map_or("", |(_, rest)| rest);
                let authority = authority.split('/').next().unwrap_or_default();
                authority.contains('@') || url.contains("pass=")
            }
            _ => false,
        })
    }
}

/// Where a file is being read.
struct Reader<'a> {
    path: &'a Arc<Path>,
    text: &'a str,
}

impl Reader<'_> {
    /// An error at this byte.
    fn bad(&self, at: usize, what: FileMistake) -> SettingsError {
        let (path, line) = (Arc::clone(self.path), self.line(at));
        misconfigured(Mistake::InConfig { path, line, what })
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
    }

    fn semaphores(
        &self,
        sections: &DeTable<'_>,
        known: &Known,
    ) -> Result<BTreeMap<Name, Vec<ConfigEntry>>, SettingsError> {
        let known: Known =
            OF_A_SEMAPHORE.iter().map(|key| ((*key).to_owned(), known[*key])).collect();
        let mut semaphores = BTreeMap::new();
        for (key, value) in in_order(sections) {
            let (text, at) = (key.get_ref().as_ref(), key.span().start);
            let name: Name =
                text.parse().map_err(|what: BadName| self.bad(at, FileMistake::BadName(what)))?;
            let DeValue::Table(section) = value.get_ref() else {
                return Err(self.bad(at, FileMistake::SemaphoreIsASection(text.into())));
            };
            let entries = self.entries(section, &known, &Section::Semaphore(name.clone()))?;
            semaphores.insert(name, entries);
        }
        Ok(semaphores)
    }

    fn entries(
        &self,
        table: &DeTable<'_>,
        known: &Known,
        section: &Section,
    ) -> Result<Vec<ConfigEntry>, SettingsError> {
        let entries = in_order(table).into_iter();
        entries.map(|(key, value)| self.entry(key, value, known, section)).collect()
    }

    fn entry(
        &self,
        key: &Spanned<impl AsRef<str>>,
        value: &Spanned<DeValue<'_>>,
        known: &Known,
        section: &Section,
    ) -> Result<ConfigEntry, SettingsError> {
        let (name, at) = (key.get_ref().as_ref(), key.span().start);
        let Some(switch) = known.get(name) else {
            let what = UnknownWord::of(WordKind::Key(section.clone()), name, known.keys());
            return Err(self.bad(at, what.into()));
        };
        let wrong = |wanted| self.bad(at, FileMistake::WrongValue { key: name.to_owned(), wanted });
        let value = match (value.get_ref(), switch) {
            (DeValue::Boolean(on), true) => ConfigValue::Switch(*on),
            (DeValue::Integer(number), true) if number.as_str() == "1" => ConfigValue::Switch(true),
            (DeValue::Integer(number), true) if number.as_str() == "0" => {
                ConfigValue::Switch(false)
            }
            (_, true) => return Err(wrong(Wanted::Switch)),
            (DeValue::String(text), false) => ConfigValue::Text(text.clone().into_owned()),
            (DeValue::Integer(number), false) if number.radix() == 10 => {
                ConfigValue::Text(number.as_str().replace('_', ""))
            }
            (DeValue::Float(number), false) => ConfigValue::Text(number.as_str().replace('_', "")),
            (DeValue::Array(all), false) if name == "log" => {
                let words = all
                    .iter()
                    .map(|one| one.get_ref().as_str().ok_or_else(|| wrong(Wanted::Words)));
                ConfigValue::Text(words.collect::<Result<Vec<_>, _>>()?.join(","))
            }
            (_, false) => return Err(wrong(Wanted::TextOrNumber)),
        };
        Ok(ConfigEntry { key: name.to_owned(), value, line: self.line(at) })
    }
}

/// A table in the order of its lines, so that the first mistake is the one that is named.
fn in_order<'a, 'i>(
    table: &'a DeTable<'i>,
) -> Vec<(&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut all: Vec<_> = table.iter().collect();
    all.sort_unstable_by_key(|(key, _)| key.span().start);
    all
}

/// Every option but those of a server.
fn known_everywhere() -> Known {
    let all = Cli::command();
    let subcommands = all.get_subcommands().filter(|sub| sub.get_name() != "serve");
    let commands = subcommands.chain([&all]);
    let mut known: Known = commands.flat_map(options).collect();
    known.extend([("password".into(), false), ("api-key".into(), false)]);
    known
}

fn known_to_a_server() -> Known {
    let mut known: Known = options(&Merged::<ServeArgs>::command()).into_iter().collect();
    known.remove("password");
    known
}

fn options(command: &clap::Command) -> Vec<(String, bool)> {
    let option = |argument: &clap::Arg| {
        cli::variable(argument)?;
        // A file cannot name the configuration file.
        let long = argument.get_long().filter(|long| *long != "config")?;
        Some((long.to_owned(), matches!(argument.get_action(), ArgAction::SetTrue)))
    };
    command.get_arguments().filter_map(option).collect()
}

impl UnknownWord {
    /// Looks for the nearest word that there is.
    pub(super) fn of<'a>(
        kind: WordKind,
        word: &str,
        known: impl Iterator<Item = &'a String>,
    ) -> Self {
        const NEAR: f64 = 0.7;
        let nearest = nearest(word, known.map(String::as_str), NEAR).map(str::to_owned);
        Self { kind, word: printable_os(word.as_ref()), nearest }
    }

    /// Whether a slip or two made it of the nearest, and it is hardly meant for something else.
    pub(super) fn is_slip(&self) -> bool {
        const LONG: usize = "SEMRUN_".len() + 6;
        let slips = if self.word.len() < LONG { 1 } else { 2 };
        let near = |nearest: &String| strsim::osa_distance(&self.word, nearest) <= slips;
        self.nearest.as_ref().is_some_and(near)
    }
}

impl From<UnknownWord> for FileMistake {
    fn from(word: UnknownWord) -> Self {
        Self::Unknown(word)
    }
}

/// The file of a user with this home.
pub(crate) fn of_user(home: &Path) -> PathBuf {
    home.join(OF_USER)
}
