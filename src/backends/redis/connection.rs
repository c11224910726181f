//! One conversation with a Redis at a time. Whatever goes wrong in it, the connection is thrown
//! away: what a late answer would belong to is unknown, and another server may be there by now.

use std::cell::RefCell;
use std::error::Error as _;
use std::io;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, Script,
    ServerErrorKind, cmd,
};

use crate::backends::trouble::{CONNECTING, Trouble};

pub(super) struct Connection {
    client: Client,
    /// While nobody uses it.
    idle: RefCell<Option<MultiplexedConnection>>,
    pub(super) decide: Program,
    pub(super) look: Program,
}

/// A script.
pub(super) struct Program {
    source: &'static str,
    /// By what the server knows it.
    script: Script,
}

impl Program {
    fn new(source: &'static str) -> Self {
        Self { source, script: Script::new(source) }
    }

    /// What calls it where the server has it already.
    pub(super) fn known(&self, keys: &[String], arguments: &[String]) -> Cmd {
        Self::call("EVALSHA", self.script.get_hash(), keys, arguments)
    }

    fn whole(&self, keys: &[String], arguments: &[String]) -> Cmd {
        Self::call("EVAL", self.source, keys, arguments)
    }

    fn call(how: &str, script: &str, keys: &[String], arguments: &[String]) -> Cmd {
        let mut call = cmd(how);
        call.arg(script).arg(keys.len()).arg(keys).arg(arguments);
        call
    }
}

impl Connection {
    pub(super) fn new(client: Client) -> Self {
        let (decide, look) = (Program::new(source()), Program::new(include_str!("look.lua")));
        Self { client, idle: RefCell::new(None), decide, look }
    }

    /// Calls a script.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        program: &Program,
        keys: &[String],
        arguments: &[String],
    ) -> Result<T, Trouble> {
        match self.query(&program.known(keys, arguments)).await {
            // EVAL instead of SCRIPT LOAD: one request less, one permission less, and no moment
            // in between in which another server takes over.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                Ok(self.query(&program.whole(keys, arguments)).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// Asks for something else than the script does.
    pub(super) async fn ask<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, Trouble> {
        Ok(self.query(question).await?)
    }

    /// Asks several things at once, if there are any.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &self,
        questions: &Pipeline,
    ) -> Result<Vec<T>, Trouble> {
        Ok(if questions.is_empty() { Vec::new() } else { self.query(questions).await? })
    }

    /// Waits on a connection of its own, for as long as the answer takes.
    pub(super) async fn wait<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, Trouble> {
        let mut connection = tokio::time::timeout(CONNECTING, self.connect())
            .await
            .map_err(|_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut)))??;
        Ok(question.query_async(&mut connection).await?)
    }

    /// Dropping this drops the connection.
    async fn query<T: FromRedisValue>(&self, question: &impl Question) -> Result<T, RedisError> {
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
        question: &impl Question,
    ) -> Result<T, RedisError> {
        let answer = question.put(&mut connection).await;
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

/// What is sent at once, and answered.
trait Question {
    async fn put<T: FromRedisValue>(&self, to: &mut MultiplexedConnection)
    -> Result<T, RedisError>;
}

impl Question for Cmd {
    async fn put<T: FromRedisValue>(
        &self,
        to: &mut MultiplexedConnection,
    ) -> Result<T, RedisError> {
        self.query_async(to).await
    }
}

/// One error among the answers is the answer to all.
impl Question for Pipeline {
    async fn put<T: FromRedisValue>(
        &self,
        to: &mut MultiplexedConnection,
    ) -> Result<T, RedisError> {
        self.query_async(to).await
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
