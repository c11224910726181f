//! The URL of a backend, and the backend that it names: the only place that knows the schemes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::cloud::{self, Cloud};
use super::local::Local;
use super::local::directory::LocalConfig;
use super::redis::{self, RedisStore};
use super::{Backend, BackendError};
use crate::engine::LeaseClient;
use crate::user::User;

/// Where permits live, checked as far as its text goes.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    /// The local directory of the user who runs this.
    Default,
    /// `file:///path`
    Directory(PathBuf),
    /// `redis://…`, `rediss://…`, `redis+unix://…`
    Redis(Box<redis::config::RedisConfig>),
    /// `http://…`, `https://…`
    Cloud(Box<cloud::config::CloudConfig>),
}

/// A URL by its kind.
#[derive(Debug, Clone)]
pub(crate) enum Url {
    Directory(PathBuf),
    Redis(Box<redis::config::RedisUrl>),
    Cloud(cloud::config::CloudUrl),
}

/// Why a text names no backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadLocation {
    /// A URL that cannot be understood.
    Malformed(BadUrl),
    /// A scheme that is understood, but this program cannot do it.
    Unsupported(String),
}

/// What is wrong with a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadUrl {
    NoUrl,
    ControlCharacter,
    UnknownScheme,
    File(BadFileUrl),
    Redis(BadRedisUrl),
    Http(BadHttpUrl),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadFileUrl {
    /// It has a '?' or a '#'.
    MoreThanAPath,
    Relative,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadRedisUrl {
    /// It names no Redis, with what the library says.
    Malformed(Option<String>),
    Fragment,
    /// A parameter that is not known, or is there twice.
    Parameter,
    /// The parameter for it is no number.
    DatabaseParameter,
    /// A socket has a path alone.
    MoreThanAPath,
    Query,
    NoPort,
    /// The host is followed by something else than a database.
    NotADatabase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHttpUrl {
    Malformed,
    NoServer,
    Credentials,
    MoreThanAHost,
    /// What is in the brackets is no IPv6 address.
    NotAnAddress,
    NoPort,
}

impl Url {
    /// Understands a `--backend`. The schemes `redis+sentinel` and `redis+cluster` are reserved.
    pub(crate) fn parse(url: &str) -> Result<Self, BadLocation> {
        // Text from a file, or from a store of secrets, may end with a line break.
        let url = url.strip_suffix('\n').map_or(url, |url| url.strip_suffix('\r').unwrap_or(url));
        // Some parsers drop line breaks wherever they are.
        if url.contains(char::is_control) {
            return Err(BadLocation::Malformed(BadUrl::ControlCharacter));
        }
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(BadLocation::Malformed(BadUrl::NoUrl));
        };
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "file" => {
                if rest.contains(['?', '#']) {
                    let what = BadUrl::File(BadFileUrl::MoreThanAPath);
                    return Err(BadLocation::Malformed(what));
                }
                let path = rest.strip_prefix("//localhost").or(rest.strip_prefix("//"));
                let path: Vec<u8> = percent_decode_str(path.unwrap_or_default()).collect();
                let path = PathBuf::from(OsString::from_vec(path));
                if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
                    return Err(BadLocation::Malformed(BadUrl::File(BadFileUrl::Relative)));
                }
                Ok(Self::Directory(path))
            }
            "redis" | "rediss" | "redis+unix" => {
                let url = redis::config::RedisUrl::parse(&format!("{scheme}:{rest}"));
                let url = url.map_err(|bad| BadLocation::Malformed(BadUrl::Redis(bad)))?;
                Ok(Self::Redis(Box::new(url)))
            }
            "http" | "https" => {
                let url = cloud::config::CloudUrl::parse(url);
                url.map(Self::Cloud).map_err(|bad| BadLocation::Malformed(BadUrl::Http(bad)))
            }
            "redis+sentinel" | "redis+cluster" => Err(BadLocation::Unsupported(scheme)),
            _ => Err(BadLocation::Malformed(BadUrl::UnknownScheme)),
        }
    }
}

impl Location {
    /// Whether permits there may expire unless they are renewed.
    pub(crate) fn expires(&self) -> bool {
        match self {
            Self::Default | Self::Directory(_) => false,
            Self::Redis(_) | Self::Cloud(_) => true,
        }
    }

    pub(crate) fn connect(&self, user: &User) -> Result<Box<dyn Backend>, BackendError> {
        Ok(match self {
            Self::Default => Box::new(Local::new(LocalConfig::default_for(user)?)),
            Self::Directory(path) => Box::new(Local::new(LocalConfig::named(Path::new(path)))),
            Self::Redis(config) => Box::new(LeaseClient::new(RedisStore::new((**config).clone())?)),
            Self::Cloud(config) => Box::new(Cloud::new((**config).clone())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_an_absolute_path() {
        let directory = |url: &str| match Url::parse(url) {
            Ok(Url::Directory(path)) => path,
            other => panic!("{url}: {other:?}"),
        };
        assert_eq!(directory("file:///srv/semrun"), Path::new("/srv/semrun"));
        assert_eq!(directory("FILE://localhost/srv"), Path::new("/srv"));
        assert_eq!(directory("file:///with%20space"), Path::new("/with space"));
        assert_eq!(directory("file:///a%3Fb%23c"), Path::new("/a?b#c"));
        assert_eq!(directory("file:///srv\r\n"), Path::new("/srv"));
        for bad in [
            "file:relative",
            "file://relative/path",
            "file://localhost",
            "file://user@localhost/path",
            "file://localhost:1/path",
            "file:",
            "file:///a%00b",
            "file:///a?b",
            "file:///a#b",
            "file:///a\nb",
        ] {
            assert!(matches!(Url::parse(bad), Err(BadLocation::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn unknown_schemes_are_errors_and_reserved_ones_are_refused() {
        for good in ["redis://h", "REDISS://h", "redis+unix:///run/redis.sock"] {
            assert!(matches!(Url::parse(good), Ok(Url::Redis(_))), "{good}");
        }
        for bad in [
            "",
            "/srv/semrun",
            "ftp://host/",
            "redi://host",
            "redis://",
            "redis://h/\n3",
            "http://h\t",
        ] {
            assert!(matches!(Url::parse(bad), Err(BadLocation::Malformed(_))), "{bad}");
        }
        for good in ["http://h", "HTTPS://h:1"] {
            assert!(matches!(Url::parse(good), Ok(Url::Cloud(_))), "{good}");
        }
        for reserved in ["redis+sentinel://h", "redis+cluster://h"] {
            let parsed = Url::parse(reserved);
            assert!(matches!(parsed, Err(BadLocation::Unsupported(_))), "{reserved}");
        }
    }
}
