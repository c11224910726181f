//! What is wanted of a server, from flags, variables and files.

use std::path::{Path, PathBuf};

use super::location::{API_KEY, file, secret};
use super::{Misuse, Variables, from_variables, misuse};
use crate::backends::tls::Secret;
use crate::cli::{self, BackendOptions, ServeLayer, ServeOptions};
use crate::exit::Failure;
use crate::serve::keys::Keys;
use crate::serve::log::{Event, Format};

#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) listen: String,
    pub(crate) keys: Keys,
    /// The certificates and the key.
    pub(crate) tls: Option<(Vec<u8>, Secret)>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) log: Vec<Event>,
    pub(crate) log_format: Format,
}

/// The default of `--listen`: the port of the original's own example.
const LISTEN: &str = "127.0.0.1:3202";

/// What a server is to do. `before` are the options in front of the subcommand.
pub(super) fn settings(
    typed: cli::Serve,
    before: &BackendOptions,
    variables: Variables<'_>,
) -> Result<Serve, Misuse> {
    let only_key =
        BackendOptions { api_key_file: before.api_key_file.clone(), ..Default::default() };
    if *before != only_key {
        return Err(misuse("a server has no backend; of those options it takes --api-key-file"));
    }
    let mut flags = typed.options;
    flags.api_key_file = flags.api_key_file.or(only_key.api_key_file);
    let lower: ServeLayer = from_variables(variables, |long| !flags.silence(long))?;
    let typed_key_file = flags.api_key_file.clone();
    let options = flags.over(lower.options);
    let keys = api_keys(typed_key_file.as_deref(), options.api_key_file.as_deref(), variables)?;
    let tls = match (&options.tls_cert, &options.tls_key) {
        (Some(cert), Some(key)) => Some((file(cert)?, Secret(secret(key)?))),
        (None, None) => None,
        _ => return Err(misuse("--tls-cert and --tls-key go together")),
    };
    Ok(Serve {
        listen: options.listen.unwrap_or_else(|| LISTEN.into()),
        keys,
        tls,
        state_dir: options.state_dir,
        log: options.log,
        log_format: options.log_format.unwrap_or_default(),
    })
}

/// Those that a server accepts.
fn api_keys(
    flag: Option<&Path>,
    file: Option<&Path>,
    variables: Variables<'_>,
) -> Result<Keys, Misuse> {
    let bad = |source: String, problem: String| {
        Misuse::new(Failure::Unsupported, format!("{source}: {problem}"))
    };
    if flag.is_none()
        && let Some(keys) = variables(API_KEY).filter(|keys| !keys.is_empty())
    {
        let keys = keys.into_string().map_err(|_| misuse("SEMRUN_API_KEY is not UTF-8"))?;
        return Keys::of_words(&keys).map_err(|problem| bad(API_KEY.into(), problem));
    }
    let Some(path) = flag.or(file) else {
        return Err(misuse("no API key; give --api-key-file or SEMRUN_API_KEY"));
    };
    let shown = path.display().to_string();
    let text = String::from_utf8(secret(path)?);
    let text = text.map_err(|_| bad(shown.clone(), "is not UTF-8".into()))?;
    Keys::of_lines(&text).map_err(|problem| bad(shown, problem))
}

impl ServeOptions {
    /// As that of the options of a run.
    fn silence(&self, long: &str) -> bool {
        match long {
            "api-key-file" => self.api_key_file.is_some(),
            "listen" => self.listen.is_some(),
            "tls-cert" => self.tls_cert.is_some(),
            "tls-key" => self.tls_key.is_some(),
            "state-dir" => self.state_dir.is_some(),
            "log" => !self.log.is_empty(),
            "log-format" => self.log_format.is_some(),
            _ => false,
        }
    }

    fn over(self, lower: Self) -> Self {
        Self {
            api_key_file: self.api_key_file.or(lower.api_key_file),
            listen: self.listen.or(lower.listen),
            tls_cert: self.tls_cert.or(lower.tls_cert),
            tls_key: self.tls_key.or(lower.tls_key),
            state_dir: self.state_dir.or(lower.state_dir),
            log: if self.log.is_empty() { lower.log } else { self.log },
            log_format: self.log_format.or(lower.log_format),
        }
    }
}
