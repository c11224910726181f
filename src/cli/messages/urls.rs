//! What is wrong with the URL of a backend, and how to write it. Never the URL itself, which may hold a
//! password.

use std::fmt;

use crate::backends::url::{BadFileUrl, BadHttpUrl, BadRedisUrl, BadUrl};
use crate::settings::UrlMeant;

const SCHEMES_KNOWN: &str = "write file:///PATH for a directory on this machine, redis://HOST, or \
                                     http://HOST for a cloud-semaphore server";
const REDIS: &str = "write redis://[USER[:PASSWORD]@]HOST[:PORT][/DB], rediss:// for TLS, or \
                     redis+unix:///PATH[?db=N&user=U&pass=P]";
const HTTP: &str = "write http://HOST[:PORT] or https://HOST[:PORT]";

/// Fits after "the URL".
pub(crate) struct BadUrlText<'a>(pub(crate) &'a BadUrl);

impl fmt::Display for BadUrlText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            BadUrl::NoUrl => write!(f, "is not a URL; {SCHEMES_KNOWN}"),
            BadUrl::ControlCharacter => {
                f.write_str("has a line break or another control character")
            }
            BadUrl::UnknownScheme => write!(f, "has an unknown scheme; {SCHEMES_KNOWN}"),
            BadUrl::File(BadFileUrl::MoreThanAPath) => f.write_str(
                "has a '?' or '#', which mean nothing here; write %3F or %23 for one in the path",
            ),
            BadUrl::File(BadFileUrl::Relative) => {
                f.write_str("needs an absolute path, as in file:///srv/semrun")
            }
            BadUrl::Redis(bad) => of_a_redis(f, bad),
            BadUrl::Http(bad) => of_a_server(f, *bad),
        }
    }
}

/// Fits after "the URL in --backend".
impl fmt::Display for UrlMeant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, ", '{path}', is not one; did you mean file://{path}?"),
            Self::RelativePath(path) => write!(
                f,
                ", '{path}', is not one; a directory is named with its whole path: file:///PATH"
            ),
            Self::OneSlash(path) => {
                write!(f, ", 'file:{path}', has one slash; did you mean file://{path}?")
            }
            Self::Scheme { scheme, near: Some(near) } => {
                write!(f, " has the unknown scheme '{scheme}'; did you mean {near}://?")
            }
            Self::Scheme { scheme, near: None } => {
                write!(f, " has the unknown scheme '{scheme}'; {SCHEMES_KNOWN}")
            }
            Self::Redis(text) => {
                write!(f, ", '{text}', is not one; did you mean redis://{text}?")
            }
            Self::Http(text) => write!(f, ", '{text}', is not one; did you mean http://{text}?"),
            Self::RedisOrHttp(text) => write!(
                f,
                ", '{text}', is not one; did you mean redis://{text}, or http://{text} for a \
                 cloud-semaphore server?"
            ),
        }
    }
}

fn of_a_redis(f: &mut fmt::Formatter<'_>, bad: &BadRedisUrl) -> fmt::Result {
    let what = match bad {
        BadRedisUrl::Malformed(Some(text)) => {
            return write!(f, "is not that of a Redis: {text}; {REDIS}");
        }
        BadRedisUrl::Malformed(None) => "is not that of a Redis",
        BadRedisUrl::Fragment => "has a '#', which means nothing here",
        BadRedisUrl::Parameter => "has a parameter that is not known here, or is there twice",
        BadRedisUrl::DatabaseParameter => "has no number as its database",
        BadRedisUrl::MoreThanAPath => "has more than a path after its '//'",
        BadRedisUrl::Query => "has a '?', which means nothing here",
        BadRedisUrl::NoPort => "has no port there",
        BadRedisUrl::NotADatabase => "has something else than a database after its host",
    };
    write!(f, "{what}; {REDIS}")
}

fn of_a_server(f: &mut fmt::Formatter<'_>, bad: BadHttpUrl) -> fmt::Result {
    let what = match bad {
        BadHttpUrl::Malformed => "is malformed",
        BadHttpUrl::NoServer => "names no server",
        BadHttpUrl::Credentials => {
            return write!(
                f,
                "has a user or password; such a server wants an API key, from --api-key-file or \
                 SEMRUN_API_KEY. {HTTP}"
            );
        }
        BadHttpUrl::MoreThanAHost => "has more than a host and a port",
        BadHttpUrl::NotAnAddress => "has no IPv6 address in its brackets",
        BadHttpUrl::NoPort => "has no port there",
    };
    write!(f, "{what}; {HTTP}")
}

/// A scheme that is known but not supported.
pub(crate) struct UnsupportedText<'a>(pub(crate) &'a str);

impl fmt::Display for UnsupportedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the scheme '{}' is not supported by this version; {SCHEMES_KNOWN}", self.0)
    }
}
