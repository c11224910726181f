//! The place where permits live, and what is needed to use it.

use std::time::Duration;

use super::error::{Cause, Error};
use super::{PREFIX, Semaphore};
use crate::backends::cloud::config::CloudConfig;
use crate::backends::redis::config::RedisConfig;
use crate::backends::tls::{Secret, Tls};
use crate::backends::url::{Location, Url};
use crate::user::User;

/// The place where permits live: a directory, a Redis or a `semrun serve`.
///
/// ```
/// # fn main() -> Result<(), semrun::Error> {
/// use semrun::Place;
///
/// let place = Place::new("https://permits.internal").api_key("the key, from a file");
/// let deploy = place.semaphore("deploy")?.limit(2);
/// let report = deploy.named("report")?.limit(1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Place {
    url: String,
    api_key: Option<Secret>,
    prefix: String,
    quarantine: Option<Duration>,
    replicas: u32,
}

impl Place {
    /// A place by its URL: `file:///path`, `redis://…`, `rediss://…`, `redis+unix://…`, `http://…`
    /// or `https://…`. The password of a Redis is a part of its URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        let (url, prefix) = (url.into(), PREFIX.into());
        Self { url, api_key: None, prefix, quarantine: None, replicas: 0 }
    }

    /// The API key that a cloud-semaphore server wants.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(Secret(key.into().into_bytes()));
        self
    }

    /// The prefix of the keys in a Redis, `semrun` unless it is set.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// For how long a Redis that has lost its data grants nothing: the larger of 30 s and the TTL,
    /// unless it is set.
    #[must_use]
    pub fn quarantine(mut self, time: Duration) -> Self {
        self.quarantine = Some(time);
        self
    }

    /// How many replicas of a Redis have to have a grant before it counts; none unless it is set.
    #[must_use]
    pub fn replicas(mut self, count: u32) -> Self {
        self.replicas = count;
        self
    }

    /// A semaphore there, by its name: 1 to 200 bytes of UTF-8 without control characters. Connects
    /// to nothing yet.
    ///
    /// # Errors
    ///
    /// If the URL, the prefix or the name cannot be understood, or the place cannot hold permits.
    pub fn semaphore(&self, name: &str) -> Result<Semaphore, Error> {
        let name = name.parse().map_err(|_| Error(Cause::Name))?;
        let location = match Url::parse(&self.url).map_err(|bad| Error(Cause::Url(bad)))? {
            Url::Directory(path) => Location::Directory(path),
            Url::Redis(url) => Location::Redis(Box::new(RedisConfig {
                url: *url,
                tls: Tls::default(),
                prefix: self.prefix.parse().map_err(|_| Error(Cause::Name))?,
                quarantine: self.quarantine,
                replicas: self.replicas,
                allow_eviction: false,
            })),
            Url::Cloud(url) => {
                let (key, tls) = (self.api_key.clone(), Tls::default());
                Location::Cloud(Box::new(CloudConfig { url, key, tls }))
            }
        };
        let backend = location.connect(&User::current()).map_err(Error::from)?;
        Ok(Semaphore::new(backend.into(), name))
    }
}
