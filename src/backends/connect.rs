//! From a URL to a backend: the only place that knows the schemes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::local::Local;
use super::local::place::Place;
use super::{Backend, Error};
use crate::account::Account;

/// Where permits live, checked as far as its text goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// The local directory of the user who runs this.
    Default,
    /// `file:///path`
    Directory(PathBuf),
}

/// Why a text names no backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadLocation {
    /// Not one that could be meant.
    Malformed(String),
    /// Understood, but this program cannot do it.
    Unsupported(String),
}

impl Location {
    /// Understands a `--backend`: `file:///path`. The schemes `redis`, `rediss`, `redis+unix`,
    /// `redis+sentinel`, `redis+cluster`, `http` and `https` are reserved.
    pub(crate) fn parse(url: &str) -> Result<Self, BadLocation> {
        const KNOWN: &str = "write file:///PATH for a directory on this machine";
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(BadLocation::Malformed(format!("is not a URL; {KNOWN}")));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => {
                let path = rest.strip_prefix("//localhost").or(rest.strip_prefix("//"));
                let path: Vec<u8> = percent_decode_str(path.unwrap_or_default()).collect();
                let path = PathBuf::from(OsString::from_vec(path));
                if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
                    let what = "needs an absolute path, as in file:///srv/semrun";
                    return Err(BadLocation::Malformed(what.into()));
                }
                Ok(Self::Directory(path))
            }
            "redis" | "rediss" | "redis+unix" | "redis+sentinel" | "redis+cluster" | "http"
            | "https" => {
                let scheme = scheme.to_ascii_lowercase();
                let what =
                    format!("the scheme '{scheme}' is not supported by this version; {KNOWN}");
                Err(BadLocation::Unsupported(what))
            }
            _ => Err(BadLocation::Malformed(format!("has an unknown scheme; {KNOWN}"))),
        }
    }

    pub(crate) fn connect(&self, account: &Account) -> Result<Box<dyn Backend>, Error> {
        let place = match self {
            Self::Default => Place::default_for(account)?,
            Self::Directory(path) => Place::named(Path::new(path)),
        };
        Ok(Box::new(Local::new(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_an_absolute_path() {
        let directory = |path: &str| Ok(Location::Directory(path.into()));
        assert_eq!(Location::parse("file:///srv/semrun"), directory("/srv/semrun"));
        assert_eq!(Location::parse("FILE://localhost/srv"), directory("/srv"));
        assert_eq!(Location::parse("file:///with%20space"), directory("/with space"));
        for bad in ["file:relative", "file://relative/path", "file:", "file:///a%00b"] {
            assert!(matches!(Location::parse(bad), Err(BadLocation::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn unknown_schemes_are_errors_and_reserved_ones_are_refused() {
        for bad in ["", "/srv/semrun", "ftp://host/", "redi://host"] {
            assert!(matches!(Location::parse(bad), Err(BadLocation::Malformed(_))), "{bad}");
        }
        for reserved in ["redis://h", "rediss://h", "redis+sentinel://h", "http://h", "HTTPS://h"] {
            let parsed = Location::parse(reserved);
            assert!(matches!(parsed, Err(BadLocation::Unsupported(_))), "{reserved}");
        }
    }
}
