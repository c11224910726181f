//! What may have been meant by something that is no URL of a backend.

use super::words::{NEAR, nearest};
use crate::cli::messages::SCHEMES_KNOWN;

/// Fits after the name of the option. Only what cannot hold a secret is repeated.
pub(in crate::settings) fn url(text: &str) -> Option<String> {
    const SCHEMES: [&str; 8] = [
        "file",
        "redis",
        "rediss",
        "redis+unix",
        "redis+sentinel",
        "redis+cluster",
        "http",
        "https",
    ];
    let plain = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !text.is_empty() && text.bytes().all(fits)
    };
    let is_path = |text: &str| text.split('/').all(|part| part.is_empty() || plain(part));
    if text.starts_with('/') && is_path(text) {
        return Some(format!(", '{text}', is not one; did you mean file://{text}?"));
    }
    if text.starts_with('.') && is_path(text) {
        return Some(format!(
            ", '{text}', is not one; a directory is named with its whole path: file:///PATH"
        ));
    }
    if let Some(path) = text.strip_prefix("file:").filter(|path| !path.starts_with("//"))
        && path.starts_with('/')
        && is_path(path)
    {
        return Some(format!(", '{text}', has one slash; did you mean file://{path}?"));
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
        let near = match near {
            Some(near) => format!("; did you mean {near}://?"),
            None => format!("; {SCHEMES_KNOWN}"),
        };
        return Some(format!(" has the unknown scheme '{scheme}'{near}"));
    }
    let (text, database) = match text.split_once('/') {
        Some((text, number)) if !number.is_empty() && number.parse::<u16>().is_ok() => {
            (text, format!("/{number}"))
        }
        _ => (text, String::new()),
    };
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let port_fits =
        port.is_empty() != text.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(host) || !port_fits {
        return None;
    }
    if !database.is_empty() {
        return Some(format!(
            ", '{text}{database}', is not one; did you mean redis://{text}{database}?"
        ));
    }
    Some(match port {
        "80" | "443" | "3202" | "8080" => {
            format!(", '{text}', is not one; did you mean http://{text}?")
        }
        "" => format!(
            ", '{text}', is not one; did you mean redis://{text}, or http://{text} for a cloud-semaphore \
             server?"
        ),
        _ => format!(", '{text}', is not one; did you mean redis://{text}?"),
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
            assert!(url(secret).is_none_or(|text| !text.contains("geheim")), "{secret}");
        }
        let meant = |text: &str| url(text).unwrap_or_default();
        assert!(meant("/srv/x").contains("file:///srv/x"));
        assert!(meant("file:/srv/x").contains("file:///srv/x"));
        assert!(meant("h:6379/0").contains("redis://h:6379/0"));
        assert!(meant("localhost").contains("redis://localhost"));
        assert!(meant("127.0.0.1:6379").contains("redis://127.0.0.1:6379"));
        assert!(meant("cache:3202").contains("http://cache:3202"));
        assert!(meant("redi://:geheim@h").contains("did you mean redis://"));
    }
}
