//! Where a Redis is and how to get in: the URL, the secrets, TLS. It connects to nothing.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use redis::{ConnectionAddr, ConnectionInfo, RedisError};

use crate::backends::Name;
use crate::backends::tls::Tls;

/// The URL of a Redis, understood: `redis://[user[:password]@]host[:port][/db]`, the same with
/// `rediss` for TLS, or `redis+unix:///path[?db=N&user=U&pass=P]`.
#[derive(Debug, Clone)]
pub(crate) struct Url(ConnectionInfo);

/// How permits live in a Redis.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) url: Url,
    pub(crate) tls: Tls,
    /// The namespace of the keys.
    pub(crate) prefix: Name,
    /// How long a server that remembers nothing has to be up before it grants anything; none:
    /// the larger of 30 s and the TTL.
    pub(crate) quarantine: Option<Duration>,
    pub(crate) allow_eviction: bool,
}

impl Url {
    /// The error says what is wrong, without the URL, which may hold a password.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        const FORM: &str = "write redis://[USER[:PASSWORD]@]HOST[:PORT][/DB], rediss:// for TLS, \
                            or redis+unix:///PATH";
        let unix = url.starts_with("redis+unix:");
        if url.contains('#') || (url.contains('?') && !unix) {
            return Err(format!("has parts that mean nothing here ('?' or '#'); {FORM}"));
        }
        let info: ConnectionInfo = url.parse().map_err(|error: RedisError| {
            let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
            format!("is not that of a Redis{detail}; {FORM}")
        })?;
        Ok(Self(info))
    }

    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.0
    }

    /// Whether a password is part of it.
    pub(crate) fn has_password(&self) -> bool {
        self.0.redis_settings().password().is_some()
    }

    #[cfg(test)]
    pub(crate) fn password(&self) -> Option<String> {
        self.0.redis_settings().password().map(ToString::to_string)
    }

    /// Whether a password is sent to another machine as it is.
    pub(super) fn tells_the_network_its_password(&self) -> bool {
        let ConnectionAddr::Tcp(host, _) = self.0.addr() else { return false };
        let is_loopback = |address: IpAddr| address.is_loopback();
        let here = host == "localhost" || host.parse().is_ok_and(is_loopback);
        self.has_password() && !here
    }

    pub(crate) fn with_password(self, password: &str) -> Self {
        let settings = self.0.redis_settings().clone().set_password(password);
        Self(self.0.set_redis_settings(settings))
    }

    /// The URL with the password masked, and without what goes without saying.
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
        let mask = settings.password().map_or("", |_| ":***");
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
            assert_eq!(Url::parse(url).unwrap().shown(), shown, "{url}");
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
            assert_eq!(Url::parse(url).unwrap().tells_the_network_its_password(), told, "{url}");
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
        ] {
            let error = Url::parse(url).expect_err(url);
            assert!(!error.contains("geheim") && error.contains("redis://["), "{url}: {error}");
        }
    }

    #[test]
    fn nothing_that_is_printed_for_debugging_has_a_secret() {
        let url = Url::parse("redis://u@h").unwrap().with_password("geheim");
        let tls = Tls { authority: None, client: Some((vec![], Secret(b"geheim".to_vec()))) };
        let text = format!("{url:?} {tls:?} {}", url.shown());
        assert!(!text.contains("geheim") && !text.contains("103, 101"), "{text}");
    }
}
