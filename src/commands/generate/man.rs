//! Man pages in the macros of man(7), from the same definitions as the help.

use std::fmt::Write;

use clap::{Arg, Command};

use crate::cli::{self, help_text};

/// When the pages were last reviewed.
const DATE: &str = "2026-11-27";

/// The pages that there are beside semrun(1).
const OTHERS: [&str; 10] = [
    "status",
    "acquire",
    "renew",
    "release",
    "limit",
    "serve",
    "doctor",
    "help",
    "completions",
    "man",
];

/// Variables that no option has.
const VARIABLES: [(&str, &str); 7] = [
    (
        "SEMRUN_API_KEY",
        "The API key for a cloud-semaphore server; for `semrun serve` all keys it accepts.",
    ),
    ("SEMRUN_PASSWORD", "The password for Redis."),
    ("SEMRUN_PERMIT", "Set for the command: its permit, which renew and release take by default."),
    (
        "SEMRUN_FENCING_TOKEN",
        "Set for the command: a number that grows with every permit of the semaphore, for storage that \
         rejects older holders.",
    ),
    ("SEMRUN_HELD", "Set for the command: all permits that are held around it, outermost first."),
    ("SHELL", "The shell that runs the line of --command."),
    ("NO_COLOR", "If set, help has no colours."),
];

const FILES: [(&str, &str); 5] = [
    ("~/.config/semrun/config.toml", "The user's configuration, see semrun.toml(5)."),
    ("/etc/semrun/config.toml", "The configuration of the whole machine."),
    ("/run/semrun", "Permits of root, unless --backend says otherwise."),
    ("~/.local/state/semrun", "Permits of other users."),
    ("/var/tmp/semrun-UID", "Permits of users whose home cannot be used."),
];

/// The page of a command; `name` is empty for semrun itself.
pub(super) fn command(command: &Command, name: &str) -> String {
    let page = help_text::page(name);
    let title = if name.is_empty() { "semrun".into() } else { format!("semrun-{name}") };
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = head(&title, "1", "User Commands", &about);
    text.push_str(".SH SYNOPSIS\n");
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let lines: Vec<_> = usage.lines().map(|line| escaped(line.trim())).collect();
    let _ = writeln!(text, "{}", lines.join("\n.br\n").replace("semrun", "\\fBsemrun\\fR"));
    text.push_str(".SH DESCRIPTION\n");
    let _ = writeln!(text, "{}", filled(&format!("{about}.")));
    for paragraph in [page.notes, if name.is_empty() { help_text::SETTINGS } else { "" }] {
        if !paragraph.is_empty() {
            let _ = writeln!(text, ".PP\n{}", filled(paragraph));
        }
    }
    if name.is_empty() {
        text.push_str(".SH SUBCOMMANDS\n");
        for sub in command.get_subcommands() {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            item(&mut text, &bold(sub.get_name()), &format!("{about}."));
        }
    }
    options(&mut text, command);
    if !page.exit.is_empty() {
        text.push_str(".SH EXIT STATUS\n");
        for (code, when) in page.exit {
            item(&mut text, &bold(code), &sentence(when));
        }
    }
    text.push_str(".SH ENVIRONMENT\n");
    if name.is_empty() {
        text.push_str("Every option has the variable that is named in its brackets. Others are:\n");
        for (variable, what) in VARIABLES {
            item(&mut text, &bold(variable), what);
        }
    } else {
        let words = "Options have the variables that are named in their brackets. All others are in \
                     semrun(1).";
        let _ = writeln!(text, "{}", filled(words));
    }
    files(&mut text);
    if !page.examples.is_empty() {
        text.push_str(".SH EXAMPLES\n");
        for (line, what) in page.examples {
            example(&mut text, line, &sentence(what));
        }
    }
    see_also(&mut text, &title);
    text
}

/// The page of the configuration files.
pub(super) fn configuration(all: &Command) -> String {
    let mut text = head("semrun.toml", "5", "File Formats", "configuration files of semrun");
    let _ = writeln!(
        text,
        ".SH SYNOPSIS\n.I \\(ti/.config/semrun/config.toml\n.br\n.I /etc/semrun/config.toml\n.SH DESCRIPTION"
    );
    let about = "A configuration file is written in TOML. Its keys are the long names of options, without \
                 the dashes. Texts are quoted, numbers may be, and switches are true or false. The file \
                 of --config, or else that of the user, counts more than the one of the machine; \
                 variables count more than both, and options on the command line more than those. A file \
                 that others can write is refused, and so is one with a secret that others can read. An \
                 unknown key is an error that names its line.";
    let _ = writeln!(text, "{}\n.SH KEYS", filled(about));
    let mut seen = Vec::new();
    let runs = all.get_subcommands().filter(|sub| sub.get_name() != "serve");
    for command in [all].into_iter().chain(runs) {
        keys(&mut text, command, &mut seen);
    }
    item(&mut text, &bold("password"), "The password for Redis itself.");
    item(&mut text, &bold("api-key"), "The API key for a cloud-semaphore server itself.");
    let sections = ".SH SECTIONS\n.SS [semaphores.NAME]\n";
    text.push_str(sections);
    let of_one = "What applies to one semaphore alone: backend, limit and ttl.";
    let _ = writeln!(text, "{of_one}\n.SS [serve]\nThe keys of a server:");
    if let Some(serve) = all.find_subcommand("serve") {
        keys(&mut text, serve, &mut Vec::new());
    }
    files(&mut text);
    text.push_str(".SH EXAMPLES\n");
    let lines = "backend = \"redis://cache.example.org\"\nwait = \"10m\"\npassword-file = \
                 \"/etc/semrun/password\"\n\n[semaphores.encode]\nlimit = 4";
    example(&mut text, lines, "All semaphores in one Redis, and four permits for encode:");
    see_also(&mut text, "semrun.toml");
    text
}

fn keys(text: &mut String, command: &Command, seen: &mut Vec<String>) {
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long().filter(|long| *long != "config") else { continue };
        if cli::variable(argument).is_none() || seen.iter().any(|one| one == long) {
            continue;
        }
        seen.push(long.to_owned());
        let value = if argument.get_action().takes_values() {
            let names = argument.get_value_names().unwrap_or_default();
            names.iter().map(|name| italic(name)).collect()
        } else {
            italic("true|false")
        };
        item(text, &format!("{} = {value}", bold(long)), &help(argument, false));
    }
}

fn head(title: &str, section: &str, manual: &str, about: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut about = about.to_owned();
    if let Some(first) = about.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let name = filled(&format!("{title} - {about}"));
    let upper = escaped(&title.to_uppercase());
    format!(".TH {upper} {section} {DATE} \"semrun {version}\" \"{manual}\"\n.SH NAME\n{name}\n")
}

fn options(text: &mut String, command: &Command) {
    text.push_str(".SH OPTIONS\n");
    let mut headings = Vec::new();
    for argument in command.get_arguments() {
        if !headings.contains(&argument.get_help_heading()) {
            headings.push(argument.get_help_heading());
        }
    }
    // Options without a heading go first.
    headings.sort_by_key(Option::is_some);
    for heading in headings {
        if let Some(heading) = heading {
            let _ = writeln!(text, ".SS {heading}");
        }
        let here = command.get_arguments().filter(|one| one.get_help_heading() == heading);
        for argument in here {
            item(text, &names(argument), &help(argument, true));
        }
    }
}

/// All names of an option and its value, or the name of an operand.
fn names(argument: &Arg) -> String {
    let value_names = argument.get_value_names().unwrap_or_default();
    let value: Vec<_> = value_names.iter().map(|name| italic(name)).collect();
    let value = value.join(" ");
    if argument.is_positional() {
        return value;
    }
    let shorts = argument.get_short_and_visible_aliases().unwrap_or_default();
    let longs = argument.get_long_and_visible_aliases().unwrap_or_default();
    let shorts = shorts.into_iter().map(|short| bold(&format!("-{short}")));
    let longs = longs.into_iter().map(|long| bold(&format!("--{long}")));
    let all: Vec<_> = shorts.chain(longs).collect();
    let all = all.join(", ");
    if argument.get_action().takes_values() { format!("{all} {value}") } else { all }
}

fn help(argument: &Arg, with_variable: bool) -> String {
    let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let variable = help.find(" [env: ").map(|at| help.split_off(at)).unwrap_or_default();
    let values = argument.get_possible_values();
    let values: Vec<_> = values.iter().map(|value| value.get_name().to_owned()).collect();
    if !values.is_empty() && argument.get_action().takes_values() {
        let _ = write!(help, "; one of {}", values.join(", "));
    }
    if with_variable {
        help.push_str(&variable);
    }
    format!("{help}.")
}

fn files(text: &mut String) {
    text.push_str(".SH FILES\n");
    for (file, what) in FILES {
        item(text, &italic(file), what);
    }
}

fn see_also(text: &mut String, title: &str) {
    let others = OTHERS.iter().map(|name| (format!("semrun-{name}"), "1"));
    let all = [("semrun".to_owned(), "1")].into_iter().chain(others);
    let all = all.chain([("semrun.toml".to_owned(), "5")]);
    let mut all: Vec<_> = all.filter(|(name, _)| name != title).collect();
    all.extend([("flock".to_owned(), "1"), ("timeout".to_owned(), "1")]);
    all.sort_by_key(|(_, section)| *section);
    let all: Vec<_> =
        all.iter().map(|(name, section)| format!("{}({section})", bold(name))).collect();
    let _ = writeln!(text, ".SH SEE ALSO\n{}", all.join(",\n"));
}

fn example(text: &mut String, line: &str, what: &str) {
    let lines = escaped(line);
    if !text.ends_with(".SH EXAMPLES\n") {
        text.push_str(".PP\n");
    }
    let _ = writeln!(text, "{}\n.PP\n.RS 4\n.nf\n{lines}\n.fi\n.RE", filled(what));
}

fn item(text: &mut String, tag: &str, what: &str) {
    let _ = writeln!(text, ".TP\n{tag}\n{}", filled(what));
}

/// A paragraph wrapped to a usual width.
fn filled(text: &str) -> String {
    const LONGEST: usize = 76;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let word = escaped(word);
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(&word),
            Some(line) if line.len() + 1 + word.len() <= LONGEST => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines.join("\n")
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut text = format!("{text}.");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

fn italic(text: &str) -> String {
    format!("\\fI{}\\fR", escaped(text))
}

/// Text with roff's macros and escapes neutralised.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('~', "\\(ti");
    let text = text.replace('…', "...").replace('\'', "\\(aq").replace('`', "\\(ga");
    let guarded = |line: &str| {
        if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() }
    };
    text.lines().map(guarded).collect::<Vec<_>>().join("\n")
}
