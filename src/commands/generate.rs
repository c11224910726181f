//! Completions and man pages, from the definitions of the command line.

use anyhow::anyhow;
use clap_complete::Shell;

use crate::cli;
use crate::exit::Failure;
use crate::settings::{Misuse, no_subcommand};

pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::documented(), "semrun", &mut script);
    script
}

/// The page of semrun itself, or of a subcommand.
pub(super) fn man(subcommand: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut command = cli::documented();
    command.build();
    let command = match subcommand {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name);
            let Some(found) = found else {
                return Err(anyhow!(Misuse::new(Failure::Usage, no_subcommand(name))));
            };
            found.clone()
        }
    };
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}
