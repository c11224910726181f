//! Where settings come from: the command line, variables and files, in their layers.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;

use super::error::{Mistake, misconfigured};
use super::files::{self, Config};
use super::layers::{GivenOption, GivenValue, Layers};
use super::{Environment, SettingsError};
use crate::permits::Name;

/// Everything that was given for one command, in its layers.
pub(super) struct CommandSources<'a> {
    pub(super) around: &'a Environment<'a>,
    pub(super) layers: Layers,
}

/// The configuration files that count, the highest first.
pub(super) struct ConfigFiles(pub(super) Vec<Config>);

impl ConfigFiles {
    pub(super) fn read(layers: &Layers, around: &Environment<'_>) -> Result<Self, SettingsError> {
        let named = layers.find("config");
        let mut files = Vec::new();
        if let Some(given) = named
            && let GivenValue::Text(path) = &given.value
        {
            let path = Path::new(path);
            let file = Config::read(path)?;
            let missing = || Mistake::NoConfig(given.source.clone(), path.into());
            files.push(file.ok_or_else(|| misconfigured(missing()))?);
        } else if let Some(path) = (around.user_file)()? {
            files.extend(Config::read(&path)?);
        }
        files.extend(Config::read(around.system_file)?);
        Ok(Self(files))
    }
}

impl<'a> CommandSources<'a> {
    /// For a command that names its semaphore with `--name`, if at all.
    pub(super) fn new<T: Args>(
        flags: Vec<(String, GivenValue)>,
        operands: Vec<OsString>,
        around: &'a Environment<'a>,
    ) -> Result<Self, SettingsError> {
        Self::of(Layers::new::<T>(flags, operands), around)
    }

    pub(super) fn of(
        mut layers: Layers,
        around: &'a Environment<'a>,
    ) -> Result<Self, SettingsError> {
        layers.add_variables(around.variables)?;
        let mut all = Self { around, layers };
        let files = ConfigFiles::read(&all.layers, around)?;
        all.add_files(&files, None)?;
        Ok(all)
    }

    pub(super) fn of_line_and_variables<T: Args>(
        flags: Vec<(String, GivenValue)>,
        operands: Vec<OsString>,
        around: &'a Environment<'a>,
    ) -> Result<Self, SettingsError> {
        let mut layers = Layers::new::<T>(flags, operands);
        layers.add_variables(around.variables)?;
        Ok(Self { around, layers })
    }

    /// Adds the files, with what they say of the semaphore that is meant.
    pub(super) fn add_files(
        &mut self,
        files: &ConfigFiles,
        name: Option<&Name>,
    ) -> Result<(), SettingsError> {
        let own = |given: &GivenOption| match &given.value {
            GivenValue::Text(text) => text.to_str()?.parse().ok(),
            _ => None,
        };
        let name = name.cloned().or_else(|| self.layers.find("name").and_then(own));
        for file in &files.0 {
            let named = file.find("name").and_then(|entry| match &entry.value {
                files::ConfigValue::Text(text) => text.parse().ok(),
                files::ConfigValue::Switch(_) => None,
            });
            if let Some(name) = name.clone().or(named) {
                self.layers.add_entries(&file.path, file.of(&name))?;
            }
            self.layers.add_entries(&file.path, &file.top)?;
        }
        Ok(())
    }
}
