//! What may have been meant by something that is no URL of a backend.

use super::words::{NEAR, nearest};

/// What may have been meant. Only what cannot hold a secret is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UrlMeant {
    /// The directory with this path.
    Path(String),
    /// One with this relative path.
    RelativePath(String),
    /// `file:` with this path, and one slash.
    OneSlash(String),
    /// A scheme that is unknown, and the nearest that there is.
    Scheme {
        scheme: String,
        near: Option<&'static str>,
    },
    /// A host, perhaps with a port, of one or the other kind.
    Redis(String),
    Http(String),
    RedisOrHttp(String),
}

const SCHEMES: [&str; 8] =
    ["file", "redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster", "http", "https"];

pub(in crate::settings) fn url(text: &str) -> Option<UrlMeant> {
    let plain = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !text.is_empty() && text.bytes().all(fits)
    };
    let is_path = |text: &str| text.split('/').all(|part| part.is_empty() || plain(part));
    if text.starts_with('/') && is_path(text) {
        return Some(UrlMeant::Path(text.into()));
    }
    if text.starts_with('.') && is_path(text) {
        return Some(UrlMeant::RelativePath(text.into()));
    }
    if let Some(path) = text.strip_prefix("file:").filter(|path| !path.starts_with("//"))
        && path.starts_with('/')
        && is_path(path)
    {
        return Some(UrlMeant::OneSlash(path.into()));
    }
    if let Some((scheme, _)) = text.split_once("://") {
        let named = scheme.len() <= 20 && plain(&scheme.replace('+', "-"));
        if !named || SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) {
            return None;
        }
        let near = match scheme.to_ascii_lowercase().as_str() {
            "unix" => Some("redis+unix"),
            "valkey" | "tcp" => Some("redis"),
            "valkeys" | "tls" => Some("rediss"),
            "path" | "dir" | "local" => Some("file"),
            _ => nearest(scheme, SCHEMES.into_iter(), NEAR),
        };
        return Some(UrlMeant::Scheme { scheme: scheme.into(), near });
    }
    let (address, database) = match text.split_once('/') {
        Some((address, number)) if !number.is_empty() && number.parse::<u16>().is_ok() => {
            (address, true)
        }
        _ => (text, false),
    };
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let port_fits =
        port.is_empty() != address.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(host) || !port_fits {
        return None;
    }
    let text = text.to_owned();
    Some(match port {
        _ if database => UrlMeant::Redis(text),
        "80" | "443" | "3202" | "8080" => UrlMeant::Http(text),
        "" => UrlMeant::RedisOrHttp(text),
        _ => UrlMeant::Redis(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_a_secret_is_not_repeated() {
        for secret in [
            "redis://:geheim@h:x",
            "user:geheim@host",
            "/srv?pass=geheim",
            "redis:geheim@h",
            "geheim@://h",
            "host:geheim",
        ] {
            assert!(
                url(secret).is_none_or(|meant| !meant.to_string().contains("geheim")),
                "{secret}"
            );
        }
        let meant = |text: &str| url(text).unwrap().to_string();
        assert!(meant("/srv/x").contains("file:///srv/x"));
        assert!(meant("file:/srv/x").contains("file:///srv/x"));
        assert!(meant("h:6379/0").contains("redis://h:6379/0"));
        assert!(meant("localhost").contains("redis://localhost"));
        assert!(meant("127.0.0.1:6379").contains("redis://127.0.0.1:6379"));
        assert!(meant("cache:3202").contains("http://cache:3202"));
        assert!(meant("redi://:geheim@h").contains("did you mean redis://"));
    }
}
