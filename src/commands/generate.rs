//! Completions and man pages, from the definitions of the command line.

mod completions;
mod man;

use clap_complete::Shell;

use crate::cli;
use crate::exit::Failure;
use crate::settings::{SettingsError, no_subcommand};

/// A completion script for a shell.
pub(super) fn completions(shell: Shell) -> Vec<u8> {
    completions::script(shell)
}

/// The page of semrun itself, of a subcommand, or of the configuration files.
pub(super) fn man(name: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let mut all = cli::documented();
    all.build();
    let page = match name {
        None => man::command(&all, ""),
        Some("semrun.toml") => man::configuration(&all),
        Some(name) => {
            let found = all.find_subcommand(name).ok_or_else(|| {
                let settings_error = SettingsError::new(Failure::Usage, no_subcommand(name));
                settings_error.see_help_of(Some("man"))
            })?;
            man::command(found, name)
        }
    };
    Ok(page.into_bytes())
}
