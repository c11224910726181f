//! Which cloud-semaphore server: its URL, key and certificates.

use std::net::{IpAddr, Ipv6Addr};

use crate::backends::tls::{Secret, Tls};
use crate::backends::url::BadHttpUrl;

/// `http://host[:port]` or `https://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloudUrl {
    pub(super) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
}

/// How permits live in a cloud-semaphore server.
#[derive(Debug, Clone)]
pub(crate) struct CloudConfig {
    pub(crate) url: CloudUrl,
    pub(crate) key: Option<Secret>,
    pub(crate) tls: Tls,
}

impl CloudUrl {
    /// The error is without the URL, which may hold a secret.
    pub(crate) fn parse(url: &str) -> Result<Self, BadHttpUrl> {
        let uri: hyper::Uri = url.parse().map_err(|_| BadHttpUrl::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(BadHttpUrl::NoServer);
        };
        if authority.as_str().contains('@') {
            return Err(BadHttpUrl::Credentials);
        }
        if uri.path() != "/" || uri.query().is_some() || url.contains('#') {
            return Err(BadHttpUrl::MoreThanAHost);
        }
        let host = authority.host();
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<Ipv6Addr>().is_err() => {
                return Err(BadHttpUrl::NotAnAddress);
            }
            address => address.unwrap_or(host),
        };
        let port = authority.as_str().rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        let tls = scheme.eq_ignore_ascii_case("https");
        let port = match port {
            None => Ok(if tls { 443 } else { 80 }),
            Some((_, port)) => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|port| digits && *port > 0);
                port.ok_or(BadHttpUrl::NoPort)
            }
        };
        let port = port?;
        if host.is_empty() || host.contains(['[', ']']) {
            return Err(BadHttpUrl::NoServer);
        }
        Ok(Self { tls, host: host.into(), port })
    }

    /// The URL without defaults.
    pub(crate) fn shown(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// Whether what is sent stays on this machine.
    pub(super) fn is_here(&self) -> bool {
        let is_loopback = |address: IpAddr| address.is_loopback();
        self.host.eq_ignore_ascii_case("localhost") || self.host.parse().is_ok_and(is_loopback)
    }

    /// Whether a key is sent to another machine as it is.
    pub(crate) fn tells_the_network_its_key(&self) -> bool {
        !self.tls && !self.is_here()
    }

    /// What goes into the `Host` header.
    pub(super) fn authority(&self) -> String {
        let Self { tls, host, port } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == if *tls { 443 } else { 80 } { host } else { format!("{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_and_a_port() {
        for (url, shown) in [
            ("http://h", "http://h"),
            ("http://h:80/", "http://h"),
            ("https://h:3202", "https://h:3202"),
            ("HTTPS://h:443", "https://h"),
            ("http://[::1]:3202", "http://[::1]:3202"),
            ("http://[::1]", "http://[::1]"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ] {
            assert_eq!(CloudUrl::parse(url).unwrap().shown(), shown, "{url}");
        }
    }

    #[test]
    fn what_is_no_server_is_refused_without_repeating_it() {
        for url in [
            "http://",
            "http://user:geheim@h",
            "http://h/geheim",
            "http://h?geheim",
            "http://h?",
            "http://[geheim[:1",
            "http://[geheim]",
            "http://[%2Egeheim]:80",
            "http://h/?geheim",
            "http://h//",
            "http://h:+80",
            "http://h:",
            "http://h#geheim",
            "http://h:geheim",
            "http://h:0",
            "http://h:99999",
            "http://:80",
            "http:geheim",
        ] {
            let error = CloudUrl::parse(url).expect_err(url);
            assert!(!format!("{error:?}").contains("geheim"), "{url}: {error:?}");
        }
    }
}
