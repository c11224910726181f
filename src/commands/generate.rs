//! Completions and man pages, from the definitions of the command line.

mod man;

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

/// The page of semrun itself, of a subcommand, or of the configuration files.
pub(super) fn man(name: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let mut all = cli::documented();
    all.build();
    let page = match name {
        None => man::command(&all, ""),
        Some("semrun.toml") => man::configuration(&all),
        Some(name) => match all.find_subcommand(name) {
            Some(found) => man::command(found, name),
            None => return Err(anyhow!(Misuse::new(Failure::Usage, no_subcommand(name)))),
        },
    };
    Ok(page.into_bytes())
}
