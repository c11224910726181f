//! What was typed and cannot be meant so, and what may have been meant instead.

use std::fmt;

use crate::settings::{Hint, Nameless, NearCommand, OtherCommand, OtherOption, Slip};

impl fmt::Display for Slip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneDash(option) => {
                write!(f, "unexpected argument '-{option}'; did you mean '--{option}'?")
            }
            Self::OtherDash { dash, option } => {
                let meant = if option.chars().nth(1).is_some() { "--" } else { "-" };
                write!(
                    f,
                    "'{dash}{option}' begins with a dash that is no hyphen (U+{:04X}); did you mean \
                     '{meant}{option}'?",
                    u32::from(*dash)
                )
            }
            Self::NoNameForLimit => {
                f.write_str("no semaphore named; the name is an operand: semrun limit NAME")
            }
            Self::NoShellNamed { shells } => {
                write!(f, "no shell named; it is one of {}", shells.join(", "))
            }
            Self::NowWithoutForce => {
                f.write_str("--now goes with --force: semrun release --force --now NAME")
            }
            Self::SwitchWithValue { switch, value, limit } => {
                let switch = switch.as_deref().unwrap_or("that option");
                write!(f, "{switch} takes no value, and '{value}' came with it")?;
                if *limit {
                    write!(
                        f,
                        "; {switch} is \"do not wait\", and a limit of {value} permits is -l {value}"
                    )?;
                }
                Ok(())
            }
            Self::ValueLikeOption { option, value } => write!(
                f,
                "'{value}' looks like an option; as a value it is written --{option}={value}"
            ),
            Self::LineInWords => {
                f.write_str("-c takes the whole line as one word: quote it, as in -c 'echo hi'")
            }
            Self::Unexpected { argument, hint } => {
                write!(f, "unexpected argument '{argument}'")?;
                hinted(f, hint, argument)
            }
            Self::BeforeServe => f.write_str(
                "a server has no backend; of those options it takes --api-key-file and --config",
            ),
            Self::BeforeSubcommand { subcommand, option, short, takes_it_after } => {
                f.write_str("'")?;
                if let Some(short) = short {
                    write!(f, "-{short}, ")?;
                }
                write!(f, "--{option}' ")?;
                if *takes_it_after {
                    return write!(
                        f,
                        "goes after '{subcommand}': semrun {subcommand} --{option} …; before \
                         '{subcommand}' it has no effect"
                    );
                }
                write!(
                    f,
                    "does nothing for '{subcommand}'; before '{subcommand}' only options that choose \
                     the backend count, such as --backend"
                )
            }
            Self::NearSubcommand { word, meant } => write!(
                f,
                "no subcommand '{word}', and no such program in PATH; did you mean 'semrun {meant}'? (a \
                 command of that name: semrun --name NAME -- {word})"
            ),
            Self::NoSubcommand { word, near: Some(near), .. } => {
                write!(f, "no subcommand '{word}'; did you mean '{near}'?")
            }
            Self::NoSubcommand { word, near: None, all } => {
                write!(f, "no subcommand '{word}'; there are {}", Listed(all, "and"))
            }
            Self::Nameless(nameless) => nameless.fmt(f),
        }
    }
}

/// What may have been meant by an argument.
fn hinted(f: &mut fmt::Formatter<'_>, hint: &Hint, argument: &str) -> fmt::Result {
    match hint {
        Hint::None => Ok(()),
        Hint::Command => {
            write!(f, ": acquire runs no command; semrun --name NAME -- {argument} does")
        }
        Hint::NameOfOption(subcommand) => {
            write!(f, "; the semaphore is named with --name: semrun {subcommand} --name {argument}")
        }
        Hint::PermitOfOption(subcommand) => {
            write!(f, "; the permit goes with --permit: semrun {subcommand} --permit UUID@NAME")
        }
        Hint::OperandsOfLimit => f.write_str(": limit takes a NAME and at most one number"),
        Hint::NoOperandsOfServe => f.write_str(": serve takes no operands"),
        Hint::NoMoreOperands(subcommand) => write!(f, ": {subcommand} takes no more operands"),
        Hint::NameAsOperand { subcommand, name } => {
            write!(f, "; the name is an operand: semrun {subcommand} {name}")
        }
        Hint::NameInPermit { subcommand, name } => {
            write!(f, "; the name is part of the permit: semrun {subcommand} --permit UUID@{name}")
        }
        Hint::NoNameFor(subcommand) => write!(f, ": {subcommand} is not about one semaphore"),
        Hint::Version => f.write_str("; that is semrun --version"),
        Hint::OtherWord(option) => write!(f, "; that is {option}"),
        Hint::Long(option) => write!(f, "; did you mean '--{option}'?"),
        Hint::Short(option) => write!(f, "; did you mean '-{option}'?"),
        Hint::OfARun(subcommand) => write!(
            f,
            ": that is an option of a run (semrun --name NAME -- COMMAND), not of {subcommand}"
        ),
        Hint::OfOthers { those, not_of: Some(subcommand) } => {
            write!(f, ": that is an option of {}, not of {subcommand}", Listed(those, "or"))
        }
        Hint::OfOthers { those, not_of: None } => {
            write!(f, ": that is an option of {}, and goes after it", Listed(those, "or"))
        }
        Hint::GoesAfter(subcommand) => write!(
            f,
            "; it goes after '{subcommand}': semrun {subcommand} {argument}; try 'semrun {subcommand} \
             --help'"
        ),
    }
}

impl fmt::Display for OtherOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { option, part } = self;
        write!(f, "--{option}")?;
        f.write_str(match (*option, part) {
            ("backend", true) => " URL, such as redis://USER@HOST:PORT/DB",
            ("backend", false) => " URL",
            ("command", _) => " STR, or the command after the options",
            ("jitter" | "kill-after" | "ttl", _) => " D",
            ("label", _) => " TEXT",
            ("limit" | "max-attempts", _) => " N",
            ("listen", _) => " HOST:PORT, such as 127.0.0.1:3202",
            ("name", _) => " NAME",
            ("permit", _) => " PERMIT",
            _ => "",
        })
    }
}

/// Fits after "semrun".
impl fmt::Display for NearCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(other) => other.fmt(f),
            Self::Near(subcommand) => f.write_str(subcommand),
        }
    }
}

/// Fits after "semrun".
impl fmt::Display for OtherCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::Watch => "status --watch",
            Self::Revoke => "release --force NAME",
            Self::Limit => "limit NAME",
            Self::Version => "--version",
            Self::Release => "release",
            Self::Acquire => "acquire --name NAME",
            Self::Doctor => "doctor",
        })
    }
}

impl fmt::Display for Nameless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no semaphore named")?;
        match self {
            Self::All => f.write_str("; give --name NAME"),
            Self::NamedLater(command) => write!(
                f,
                ": '--name' came after '{command}', which is the command, and everything after the \
                 command is its own; put --name before it"
            ),
            Self::Program(command, other) => {
                write!(f, "; give --name NAME: semrun --name NAME -- {command}")?;
                match other {
                    Some(other) => write!(f, "; did you mean 'semrun {other}'?"),
                    None => Ok(()),
                }
            }
            Self::Run(word) => write!(
                f,
                ", and no program or subcommand '{word}'; a run is semrun --name NAME -- COMMAND"
            ),
            Self::Word { word, name, command } => write!(
                f,
                ", and no program or subcommand '{word}'; the name goes with --name: semrun --name {} -- \
                 {}",
                name.as_deref().unwrap_or("NAME"),
                command.as_deref().unwrap_or("COMMAND")
            ),
        }
    }
}

/// `a, b or c`, with this word before the last.
struct Listed<'a>(&'a [String], &'a str);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            [one] => f.write_str(one),
            [all @ .., last] => write!(f, "{} {} {last}", all.join(", "), self.1),
        }
    }
}
