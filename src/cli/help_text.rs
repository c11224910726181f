//! What help and man pages say beside the options: their headings, notes, exit codes and examples.

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::{Cli, variable};

/// What there is to say about a command.
#[derive(Debug)]
pub(crate) struct CommandHelp {
    /// The subcommand; empty for a run.
    pub(crate) name: &'static str,
    /// One paragraph.
    pub(crate) notes: &'static str,
    /// Exit codes, and when.
    pub(crate) exit: &'static [(&'static str, &'static str)],
    /// Command lines, and what they do.
    pub(crate) examples: &'static [(&'static str, &'static str)],
}

/// How to write durations, variables and files.
pub(crate) const SETTINGS: &str = "\
Durations (D) are 500ms, 30s, 1h 30m, or a plain number of seconds, with or without a fraction. Every \
option has the variable that is named in its brackets, and a key of its long name in the configuration \
files: that of --config or else ~/.config/semrun/config.toml, and below it /etc/semrun/config.toml. \
An option on the command line overrides a variable, and a variable overrides a file. Switches are 1, 0, \
true or false there.";

const REACHED: (&str, &str) = ("69", "the backend cannot be reached, or it refuses");
const USAGE: (&str, &str) = ("64", "the command line or a variable is wrong");
const CONFIG: (&str, &str) = ("78", "bad configuration, or not supported by the backend");

const RUN_CODES: &[(&str, &str)] = &[
    ("0-255", "the command's own"),
    ("64", "the command line or a variable is wrong"),
    ("69", "the backend cannot be reached, or it refuses; the command never started"),
    ("75", "no permit was free in time (or --conflict-exit-code)"),
    ("76", "the permit was lost (or --lost-exit-code)"),
    ("78", "bad configuration, or not supported by the backend"),
    ("124", "the command ran longer than --max-runtime"),
    ("125", "semrun itself failed"),
    ("126", "the command cannot be executed"),
    ("127", "the command was not found"),
    ("128+N", "signal N ended the command, or semrun while it waited"),
];

/// All of them.
pub(crate) const PAGES: [CommandHelp; 11] = [
    CommandHelp {
        name: "",
        notes: "Options end at the first operand: everything after COMMAND belongs to the command.",
        exit: RUN_CODES,
        examples: &[
            ("semrun --name backup -n -- backup.sh", "run it, unless it runs already"),
            (
                "semrun --name encode -l 4 -c 'encode *.mov'",
                "at most four at once, the others wait",
            ),
            (
                "semrun --backend redis://cache --name deploy -w 10m -- ./deploy.sh",
                "one at a time on all hosts that use this Redis",
            ),
        ],
    },
    CommandHelp {
        name: "status",
        notes: "",
        exit: &[
            ("0", "every semaphore that is shown has a free permit"),
            USAGE,
            REACHED,
            ("75", "one of them has none"),
            CONFIG,
        ],
        examples: &[
            ("semrun status", "all semaphores"),
            ("semrun status --watch deploy", "one, as it changes"),
            ("semrun status -v deploy", "with leases, fencing tokens and permits"),
        ],
    },
    CommandHelp {
        name: "acquire",
        notes: "\
Prints the permit, UUID@NAME. It lasts for the TTL: extend it with `semrun renew`, and give it back with \
`semrun release`.",
        exit: &[
            ("0", "the permit was acquired"),
            USAGE,
            REACHED,
            ("75", "no permit was free in time (or --conflict-exit-code)"),
            CONFIG,
        ],
        examples: &[
            ("permit=$(semrun acquire --name deploy --ttl 1h)", "for release --permit \"$permit\""),
            (
                "eval \"$(semrun acquire --shell --name deploy)\"",
                "for release and renew in this shell",
            ),
        ],
    },
    CommandHelp {
        name: "renew",
        notes: "",
        exit: &[
            ("0", "the permit lasts for another TTL"),
            USAGE,
            REACHED,
            ("76", "the permit was lost"),
            CONFIG,
        ],
        examples: &[("semrun renew --while-pid $$ &", "renew it until this shell has ended")],
    },
    CommandHelp {
        name: "release",
        notes: "",
        exit: &[
            ("0", "the permit is given back, or was before, or is revoked"),
            USAGE,
            REACHED,
            ("76", "the permit was lost before"),
            CONFIG,
        ],
        examples: &[
            ("semrun release --permit \"$permit\"", "what `semrun acquire` printed"),
            ("semrun release --force deploy", "stop the one holder, and take its permit"),
        ],
    },
    CommandHelp {
        name: "limit",
        notes: "\
A pinned limit applies whatever the users of the semaphore ask for, until it is unpinned or the backend loses \
its data. When it is raised, waiters get their permits at once; when it is lowered, no holder is stopped.",
        exit: &[("0", "it is shown or changed"), USAGE, REACHED, CONFIG],
        examples: &[
            ("semrun limit encode", "show it"),
            ("semrun limit encode 8", "eight from now on"),
            ("semrun limit encode --unpin", "what its users ask for applies again"),
        ],
    },
    CommandHelp {
        name: "serve",
        notes: "\
SIGTERM stops the server in good order, and SIGHUP makes it read keys and certificates again. Without \
--state-dir a restart forgets all permits. In the configuration its keys are in the section [serve].",
        exit: &[
            ("0", "a signal ended it"),
            ("64", "the command line or a variable is wrong"),
            ("69", "it cannot listen at that address, or cannot use its state directory"),
            ("78", "the configuration, a key or a certificate is wrong"),
        ],
        examples: &[
            ("semrun serve --api-key-file keys", "for this machine, on port 3202"),
            (
                "semrun serve --api-key-file keys --listen 0.0.0.0:3202 \\\n    --tls-cert cert.pem --tls-key key.pem --state-dir /var/lib/semrun",
                "for others, with TLS, and with permits that outlive a restart",
            ),
        ],
    },
    CommandHelp {
        name: "doctor",
        notes: "Give it the options of a run: it checks what that run would use.",
        exit: &[("0", "all is well"), ("1", "something has to be mended"), USAGE],
        examples: &[(
            "semrun doctor --backend redis://cache",
            "try a Redis before jobs depend on it",
        )],
    },
    CommandHelp {
        name: "completions",
        notes: "",
        exit: &[("0", "it is printed"), USAGE],
        examples: &[
            (
                "semrun completions bash > ~/.local/share/bash-completion/completions/semrun",
                "for bash",
            ),
            ("semrun completions zsh > ~/.zfunc/_semrun", "for zsh, with ~/.zfunc in fpath"),
            ("semrun completions fish > ~/.config/fish/completions/semrun.fish", "for fish"),
        ],
    },
    CommandHelp {
        name: "man",
        notes: "",
        exit: &[("0", "it is printed"), USAGE],
        examples: &[("semrun man status | man -l -", "read a page that is not installed")],
    },
    CommandHelp {
        name: "help",
        notes: "",
        exit: &[("0", "it is printed"), USAGE],
        examples: &[
            ("semrun help status", "the same as semrun status --help"),
            ("semrun -h", "the options that most runs need, on one screen"),
        ],
    },
];

/// The page of a subcommand, or of a run for the empty name.
pub(crate) fn page(name: &str) -> &'static CommandHelp {
    PAGES.iter().find(|page| page.name == name).unwrap_or(&PAGES[0])
}

/// Which options are under which heading, those of all subcommands.
const HEADINGS: [(&str, &[&str]); 9] = [
    ("Semaphore", &["name", "limit", "strict-limit", "ttl", "min-hold", "label", "unpin"]),
    (
        "Waiting",
        &["wait", "nonblock", "max-attempts", "retry-interval", "conflict-exit-code", "jitter"],
    ),
    (
        "The command",
        &[
            "operands",
            "command",
            "max-runtime",
            "signal",
            "kill-after",
            "on-lost",
            "lost-exit-code",
            "orphans",
            "foreground",
            "clean-env",
        ],
    ),
    ("Permit", &["permit", "while-pid", "force", "now"]),
    ("Server", &["listen", "state-dir"]),
    ("Where permits live", &["backend", "config"]),
    ("Redis", &["prefix", "quarantine", "replicas", "allow-eviction", "password-file"]),
    (
        "TLS and keys",
        &[
            "api-key-file",
            "ca-file",
            "client-cert",
            "client-key",
            "tls-cert",
            "tls-key",
            "client-ca-file",
        ],
    ),
    (
        "Output",
        &["json", "shell", "watch", "log", "log-format", "verbose", "quiet", "help", "version"],
    ),
];

/// What the short help of a run shows.
const COMMON: [&str; 11] = [
    "name",
    "limit",
    "wait",
    "nonblock",
    "conflict-exit-code",
    "max-runtime",
    "command",
    "backend",
    "verbose",
    "quiet",
    "help",
];

/// The heading of an option, by its long name.
fn heading(option: &str) -> Option<&'static str> {
    HEADINGS.iter().find(|(_, options)| options.contains(&option)).map(|(heading, _)| *heading)
}

/// Whether the short help of a subcommand shows an option, by its long name.
fn is_common(option: &str, subcommand: &str) -> bool {
    let own = ["Permit", "Server", "Output"];
    let heading = heading(option);
    let keys = subcommand == "serve" && heading == Some("TLS and keys");
    COMMON.contains(&option)
        || !subcommand.is_empty()
            && option != "version"
            && heading.is_some_and(|heading| own.contains(&heading))
        || ["unpin", "ttl"].contains(&option) && !subcommand.is_empty()
        || keys
}

/// The text below the options.
fn foot(page: &CommandHelp) -> String {
    let mut paragraphs = Vec::new();
    if !page.notes.is_empty() {
        paragraphs.push(page.notes.to_owned());
    }
    if page.name.is_empty() {
        paragraphs.push(SETTINGS.to_owned());
    }
    let table = |title: &str, rows: &mut dyn Iterator<Item = String>| {
        let rows: Vec<_> = rows.collect();
        (!rows.is_empty()).then(|| format!("{title}:\n{}", rows.join("\n")))
    };
    let codes = page.exit.iter().map(|(code, when)| format!("  {code:<7}{when}"));
    paragraphs.extend(table("Exit codes", &mut codes.into_iter()));
    let examples = page.examples.iter().map(|(line, what)| format!("  {line}\n      {what}"));
    paragraphs.extend(table("Examples", &mut examples.into_iter()));
    paragraphs.join("\n\n")
}

/// The documented command line: every option under its heading, with its variable.
pub(crate) fn documented() -> Command {
    let mention = |argument: Arg| {
        let heading = heading(option_name(&argument));
        let argument = if heading.is_some() { argument.help_heading(heading) } else { argument };
        match variable(&argument) {
            Some(variable) => {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                argument.help(format!("{help} [env: {variable}]"))
            }
            None => argument,
        }
    };
    let complete = |command: Command, name: &str| {
        with_help_flag(command).mut_args(mention).after_help(foot(page(name)))
    };
    complete(Cli::command(), "").subcommand_help_heading("Subcommands").mut_subcommands(|sub| {
        let name = sub.get_name().to_owned();
        complete(sub, &name)
    })
}

/// The same on one screen: the common options, and where the rest is.
pub(crate) fn brief() -> Command {
    let short = |command: Command, name: &str| {
        let shortened = |argument: Arg| {
            let hide = !argument.is_positional() && !is_common(option_name(&argument), name)
                || argument.get_id() == "operands";
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let clause = help.split("; ").next().unwrap_or_default().to_owned();
            argument.hide(hide).help(clause).help_heading(None)
        };
        let more = if name.is_empty() {
            "All options, exit codes and examples: semrun --help".into()
        } else {
            format!("All options, exit codes and examples: semrun {name} --help")
        };
        with_help_flag(command).mut_args(shortened).after_help(more)
    };
    let mut all = short(Cli::command(), "").override_usage(BRIEF_USAGE);
    all = all.mut_subcommands(|sub| {
        let name = sub.get_name().to_owned();
        short(sub, &name)
    });
    let template =
        "{about-with-newline}\n{usage-heading} {usage}\n\nOptions:\n{options}{after-help}";
    all.help_template(template)
}

const BRIEF_USAGE: &str = "semrun [OPTIONS] --name NAME [--] COMMAND [ARG]...
       semrun status | acquire | renew | release | limit | serve | doctor
       semrun help [SUBCOMMAND]";

/// The name of an option here: its long name, or its identifier.
pub(super) fn option_name(argument: &Arg) -> &str {
    argument.get_long().unwrap_or_else(|| argument.get_id().as_str())
}

/// With flags for help and the version that have a heading like all others.
fn with_help_flag(command: Command) -> Command {
    let flag = |name: &'static str, short, help: &'static str| {
        Arg::new(name).long(name).short(short).help(help)
    };
    let help = flag("help", 'h', "Print help; -h prints less of it").action(ArgAction::Help);
    let version = flag("version", 'V', "Print the version").action(ArgAction::Version);
    let is_all = command.get_name() == "semrun";
    let command = command.disable_help_flag(true).disable_version_flag(true).arg(help);
    if is_all { command.arg(version) } else { command }
}

/// The lines that say how a command line looks.
pub(crate) fn usage() -> String {
    documented().render_usage().to_string()
}
