//! Where a Redis is and how to get in: the URL, the secrets, TLS. It connects to nothing.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError};

use crate::backends::tls::Tls;
use crate::backends::url::BadRedisUrl;
use crate::permits::Name;

/// The URL of a Redis, understood: `redis://[user[:password]@]host[:port][/db]`, the same with
/// `rediss` for TLS, or `redis+unix:///path[?db=N&user=U&pass=P]`.
#[derive(Debug, Clone)]
pub(crate) struct RedisUrl(ConnectionInfo);

/// How permits live in a Redis.
#[derive(Debug, Clone)]
pub(crate) struct RedisConfig {
    pub(crate) url: RedisUrl,
    pub(crate) tls: Tls,
    /// The namespace of the keys.
    pub(crate) prefix: Name,
    /// How long a server that remembers nothing has to be up before it grants anything; none:
    /// the larger of 30 s and the TTL.
    pub(crate) quarantine: Option<Duration>,
    /// How many replicas must be in step before anything is granted or renewed.
    pub(crate) replicas: u32,
    pub(crate) allow_eviction: bool,
}

impl RedisUrl {
    /// The error is without the URL, which may hold a password. The URL decides which semaphore is
    /// meant, so nothing in it is ignored.
    pub(crate) fn parse(text: &str) -> Result<Self, BadRedisUrl> {
        let url = url::Url::parse(text)
            .map_err(|error| BadRedisUrl::Malformed(Some(error.to_string())))?;
        if url.fragment().is_some() {
            return Err(BadRedisUrl::Fragment);
        }
        let unix = url.scheme() == "redis+unix";
        let mut parameters = if unix { vec!["db", "user", "pass"] } else { Vec::new() };
        for (name, value) in url.query_pairs() {
            let known = parameters.iter().position(|known| *known == name);
            let at = known.ok_or(BadRedisUrl::Parameter)?;
            if parameters.swap_remove(at) == "db" && !is_number(&value) {
                return Err(BadRedisUrl::DatabaseParameter);
            }
        }
        if unix {
            let elsewhere =
                url.host_str().is_some_and(|host| !host.is_empty() && host != "localhost");
            if elsewhere
                || url.port().is_some()
                || !url.username().is_empty()
                || url.password().is_some()
            {
                return Err(BadRedisUrl::MoreThanAPath);
            }
        } else {
            if url.query().is_some() {
                return Err(BadRedisUrl::Query);
            }
            if url.port() == Some(0) {
                return Err(BadRedisUrl::NoPort);
            }
            let path = url.path();
            if !matches!(path, "" | "/") && !path.strip_prefix('/').is_some_and(is_number) {
                return Err(BadRedisUrl::NotADatabase);
            }
        }
        let info = url.into_connection_info().map_err(|error: RedisError| {
            BadRedisUrl::Malformed(error.detail().map(ToString::to_string))
        })?;
        Ok(Self(info))
    }

    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.0
    }

    /// Whether a password is part of it.
    pub(crate) fn has_password(&self) -> bool {
        self.secret().is_some()
    }

    /// The password, if there is one. An empty one is none, wherever it is from.
    pub(crate) fn secret(&self) -> Option<&str> {
        self.0.redis_settings().password().filter(|password| !password.is_empty())
    }

    #[cfg(test)]
    pub(crate) fn password(&self) -> Option<String> {
        self.secret().map(ToString::to_string)
    }

    /// Whether a password is sent to another machine as it is.
    pub(crate) fn tells_the_network_its_password(&self) -> bool {
        let ConnectionAddr::Tcp(host, _) = self.0.addr() else { return false };
        let is_loopback = |address: IpAddr| address.is_loopback();
        let here = host == "localhost" || host.parse().is_ok_and(is_loopback);
        self.has_password() && !here
    }

    pub(crate) fn with_password(self, password: &str) -> Self {
        let settings = self.0.redis_settings().clone().set_password(password);
        Self(self.0.set_redis_settings(settings))
    }

    /// The URL with the password masked, and without defaults.
    pub(crate) fn shown(&self) -> String {
        let settings = self.0.redis_settings();
        let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let user = settings.username().map(encoded);
        let (mut text, unix) = match self.0.addr() {
            ConnectionAddr::Unix(path) => (format!("redis+unix://{}", path.display()), true),
            ConnectionAddr::TcpTls { host, port, .. } => (shown_host("rediss", host, *port), false),
            ConnectionAddr::Tcp(host, port) => (shown_host("redis", host, *port), false),
            _ => ("redis://".into(), false),
        };
        let mask = self.secret().map_or("", |_| ":***");
        if !unix && (user.is_some() || !mask.is_empty()) {
            let user = user.map(|user| user.to_string()).unwrap_or_default();
            text = text.replacen("://", &format!("://{user}{mask}@"), 1);
        }
        match settings.db() {
            0 => {}
            db if unix => drop(write!(text, "?db={db}")),
            db => drop(write!(text, "/{db}")),
        }
        text
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn shown_host(scheme: &str, host: &str, port: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.into() };
    let port = if port == 6379 { String::new() } else { format!(":{port}") };
    format!("{scheme}://{host}{port}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::tls::Secret;

    #[test]
    fn a_url_is_shown_without_its_password_and_what_goes_without_saying() {
        for (url, shown) in [
            ("redis://h", "redis://h"),
            ("redis://h:6379/0", "redis://h"),
            ("redis://u:geheim@h:7/3", "redis://u:***@h:7/3"),
            ("redis://:geheim@h", "redis://:***@h"),
            ("redis://u@h", "redis://u@h"),
            ("rediss://a%40b:x@[::1]:1", "rediss://a%40b:***@[::1]:1"),
            ("redis+unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
            ("redis+unix:///r.sock?db=2&pass=geheim", "redis+unix:///r.sock?db=2"),
        ] {
            assert_eq!(RedisUrl::parse(url).unwrap().shown(), shown, "{url}");
        }
    }

    #[test]
    fn a_password_is_told_to_the_network_only_without_tls() {
        for (url, told) in [
            ("redis://:geheim@h", true),
            ("redis://h", false),
            ("rediss://:geheim@h", false),
            ("redis://:geheim@localhost", false),
            ("redis://:geheim@127.0.0.9:7", false),
            ("redis://:geheim@[::1]", false),
            ("redis+unix:///r.sock?pass=geheim", false),
        ] {
            assert_eq!(
                RedisUrl::parse(url).unwrap().tells_the_network_its_password(),
                told,
                "{url}"
            );
        }
    }

    #[test]
    fn what_is_no_redis_is_refused_without_repeating_it() {
        for url in [
            "redis://",
            "redis://h/notanumber",
            "redis://h:notaport",
            "rediss://geheim@h#insecure",
            "redis://geheim@h?protocol=resp3",
            "redis:geheim",
            "redis://h?db=3",
            "redis://h?",
            "redis://h#3",
            "redis://h:0",
            "redis://h/0/geheim",
            "redis://h//3",
            "redis://h/+3",
            "redis://h/-1",
            "redis+unix:///geheim?database=3",
            "redis+unix:///geheim?DB=3",
            "redis+unix:///geheim?virtual_host=3",
            "redis+unix:///geheim?password=geheim",
            "redis+unix:///geheim?protocol=resp3",
            "redis+unix:///geheim?db=3&db=3",
            "redis+unix:///geheim?db=3&d%62=2",
            "redis+unix:///geheim?pass=a&pass=geheim",
            "redis+unix:///geheim?db=",
            "redis+unix:///geheim?db",
            "redis+unix:///geheim?db=+3",
            "redis+unix:///geheim#3",
            "redis+unix://geheim/r.sock",
            "redis+unix://localhost:1/geheim",
            "redis+unix://u:geheim@localhost/r.sock",
            "redis+unix:geheim",
            "redis+unix://",
        ] {
            let error = RedisUrl::parse(url).expect_err(url);
            assert!(!format!("{error:?}").contains("geheim"), "{url}: {error:?}");
        }
    }

    #[test]
    fn nothing_that_is_printed_for_debugging_has_a_secret() {
        let url = RedisUrl::parse("redis://u@h").unwrap().with_password("geheim");
        let tls = Tls { authority: None, client: Some((vec![], Secret(b"geheim".to_vec()))) };
        let text = format!("{url:?} {tls:?} {}", url.shown());
        assert!(!text.contains("geheim") && !text.contains("103, 101"), "{text}");
    }
}
