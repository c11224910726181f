//! One conversation with a Redis at a time. Whatever goes wrong in it, the connection is thrown
//! away: what a late answer would belong to is unknown, and another server may be there by now.

use std::cell::RefCell;
use std::error::Error as _;
use std::io;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, Script,
    ServerErrorKind, cmd,
};

use crate::backends::trouble::{CONNECTING, Trouble};

pub(super) struct Connection {
    client: Client,
    /// While nobody uses it.
    idle: RefCell<Option<MultiplexedConnection>>,
    script: Script,
}

impl Connection {
    pub(super) fn new(client: Client) -> Self {
        Self { client, idle: RefCell::new(None), script: Script::new(source()) }
    }

    /// Calls the script.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        keys: &[String],
        arguments: &[String],
    ) -> Result<T, Trouble> {
        let call = |name: &str, script: &str| {
            let mut call = cmd(name);
            call.arg(script).arg(keys.len()).arg(keys).arg(arguments);
            call
        };
        match self.query(&call("EVALSHA", self.script.get_hash())).await {
            // EVAL instead of SCRIPT LOAD: one request less, one permission less, and no moment
            // in between in which another server takes over.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                Ok(self.query(&call("EVAL", source())).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// Asks for something else than the script does.
    pub(super) async fn ask<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, Trouble> {
        Ok(self.query(question).await?)
    }

    /// Waits on a connection of its own, for as long as the answer takes.
    pub(super) async fn wait<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, Trouble> {
        let mut connection = tokio::time::timeout(CONNECTING, self.connect())
            .await
            .map_err(|_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut)))??;
        Ok(question.query_async(&mut connection).await?)
    }

    /// Dropping this drops the connection.
    async fn query<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, RedisError> {
        // One that was not used for a while may have been closed for that.
        if let Some(connection) = self.idle.take() {
            match self.query_on(connection, question).await {
                Err(error) if error.is_io_error() => {}
                answer => return answer,
            }
        }
        let connection = self.connect().await?;
        self.query_on(connection, question).await
    }

    async fn query_on<T: FromRedisValue>(
        &self,
        mut connection: MultiplexedConnection,
        question: &Cmd,
    ) -> Result<T, RedisError> {
        let answer = question.query_async(&mut connection).await;
        let keep = match &answer {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::Server(ServerErrorKind::NoScript),
        };
        if keep {
            self.idle.replace(Some(connection));
        }
        answer
    }

    /// Who calls bounds the time.
    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let patient =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        self.client.get_multiplexed_async_connection_with_config(&patient).await
    }
}

const SOURCE: &str = include_str!("semaphore.lua");

#[cfg(not(feature = "mutants"))]
const fn source() -> &'static str {
    SOURCE
}

#[cfg(feature = "mutants")]
fn source() -> &'static str {
    super::mutants::script(SOURCE)
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        const WHO: &str = "check the user and password in the URL, --password-file and \
                           SEMRUN_PASSWORD";
        let text = one_line(&error);
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if let Some(tls) = tls_error(&error) {
            let hint = "name the authority that signed its certificate with --ca-file, and the \
                        server as its certificate does; --client-cert and --client-key if it asks \
                        for ours";
            return Self::lasting(format!("no TLS connection to the server: {tls}; {hint}"));
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => {
                Self::lasting(format!("the server refused the user or password; {WHO}"))
            }
            _ if says(&["NOAUTH"]) => Self::lasting(format!("the server wants a password; {WHO}")),
            _ if says(&["WRONGPASS", "invalid password", "without any password"]) => {
                Self::lasting(format!("the server refused the user or password; {WHO}"))
            }
            // Scripts name the error in their own before Redis 7.
            _ if says(&["WRONGTYPE"]) => Self::lasting(
                "a key of that name holds something that is not a semaphore; choose another \
                 --name or --prefix",
            ),
            _ if says(&["NOPERM", "no permissions", "can't run this command"]) => {
                Self::lasting(format!(
                    "this user may not do what is needed ({text}); docs/redis.md has the rules for \
                 an ACL"
                ))
            }
            _ if says(&["refused to switch database", "DB index is out of range"]) => {
                Self::lasting("the server has no database of that number; check the URL")
            }
            ErrorKind::InvalidClientConfig => Self::lasting(text),
            ErrorKind::Io if error.is_timeout() => Self::silence(),
            ErrorKind::Io => Self::away(format!("no connection to the server: {text}")),
            _ => Self::refusing(format!("the server answers with an error: {text}")),
        }
    }
}

/// What a server said, or what the system said of it.
pub(super) fn one_line(error: &RedisError) -> String {
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) if !detail.starts_with(code) => format!("{code} {detail}"),
        (Some(_), Some(detail)) => detail.to_owned(),
        (Some(code), None) => code.to_owned(),
        // Behind that the library names its own kind of error.
        _ => error.to_string().split(" - ").next().unwrap_or_default().to_owned(),
    };
    let line = text.lines().next().unwrap_or_default();
    // Redis adds where in the script it was.
    let line = line.split(" script: ").next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).collect()
}

fn tls_error(error: &RedisError) -> Option<String> {
    // The library shares the causes of its errors.
    let cause = error.source()?.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?;
    let tls = cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(tls.to_string())
}
