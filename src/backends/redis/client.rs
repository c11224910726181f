//! Questions to a Redis, and what their answers mean. After an error of the server no more is asked
//! on that connection: another server may be there by now.

use std::borrow::Cow;
use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value, cmd, from_redis_value,
};
use tokio::time::sleep;

use super::connection::{
    Connection, ConnectionError, HANDSHAKE, PrefetchedRequest, RedisDialer, handshake, is_refusal,
};
use super::pipeline::{Pipeline, answer_of};
use crate::backends::take_cell::TakeCell;
use crate::backends::tls::refusal;
use crate::clock::{self, Moment};
use crate::engine::retry::{ATTEMPT_TIMEOUT, with_timeout};
use crate::permits::Withheld;
use crate::permits::error::{Protocol, StoreError};

/// How long replicas have to confirm a write. They are asked at once.
const CONFIRMING: Duration = Duration::from_millis(500);

/// The time from one dialling to the next.
const DIAL_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct RedisClient {
    dialler: RedisDialer,
    current: Mutex<Option<Arc<Pipeline>>>,
    /// When a connection was last dialled. Locked while one is: requests that find no connection
    /// wait for the same new one.
    dialling: tokio::sync::Mutex<Option<Moment>>,
    begun: TakeCell<(Vec<Cmd>, Moment, PrefetchedRequest)>,
    /// Whether a request may have reached the server.
    reached: AtomicBool,
    /// Whether it has answered any.
    answered: AtomicBool,
}

/// A script.
pub(super) struct Script {
    source: &'static str,
    /// Its SHA-1, by which the server knows it.
    hash: Cow<'static, str>,
}

/// What a script said.
pub(super) struct ScriptAnswer<T> {
    pub(super) answer: T,
    /// A moment before the call was sent.
    pub(super) since: Moment,
    /// The answer to the command sent with it.
    pub(super) beside: Option<Value>,
    /// How many replicas have confirmed its write.
    pub(super) confirmed: u32,
}

/// A call of a script.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScriptCall<'a> {
    pub(super) keys: &'a [String],
    pub(super) arguments: &'a [String],
    /// A command sent together with it, before it.
    pub(super) beside: Option<&'a Cmd>,
    /// How many replicas are to have what it writes before there is an answer, or after a while.
    pub(super) replicas: u32,
}

impl ScriptCall<'_> {
    fn whole(&self, call: Cmd) -> Vec<Cmd> {
        let confirmed = (self.replicas > 0).then(|| {
            let mut wait = cmd("WAIT");
            wait.arg(self.replicas).arg(CONFIRMING.as_millis().to_string());
            wait
        });
        self.beside.cloned().into_iter().chain([call]).chain(confirmed).collect()
    }
}

impl Script {
    /// What `semaphore.lua` decides.
    pub(super) fn decide() -> Self {
        let (source, hash) = decide();
        Self { source, hash }
    }

    /// How one stands.
    pub(super) fn look() -> Self {
        Self { source: LOOK, hash: Cow::Borrowed(LOOK_HASH) }
    }

    /// The call for a server that has the script already.
    pub(super) fn known(&self, keys: &[String], arguments: &[String]) -> Cmd {
        Self::call("EVALSHA", &self.hash, keys, arguments)
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

impl RedisClient {
    pub(super) fn new(dialler: RedisDialer) -> Self {
        Self {
            dialler,
            current: Mutex::new(None),
            dialling: tokio::sync::Mutex::default(),
            begun: TakeCell::empty(),
            reached: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        }
    }

    /// Sends a call of the script that decides, with something asked before it. [`RedisClient::script`]
    /// waits for the answer when it is called in the same way. Needs no runtime.
    pub(super) fn begin(&self, question: ScriptCall<'_>) {
        let questions = question.whole(Script::decide().known(question.keys, question.arguments));
        let since = clock::now();
        let begun = self.dialler.begin(&questions);
        self.reached.store(begun.as_ref().is_some_and(PrefetchedRequest::is_sent), Relaxed);
        if let Some(begun) = begun {
            self.begun.put((questions, since, begun));
        }
    }

    /// Calls a script.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        program: &Script,
        question: ScriptCall<'_>,
    ) -> Result<ScriptAnswer<T>, StoreError> {
        let ScriptCall { keys, arguments, replicas, .. } = question;
        let questions = question.whole(program.known(keys, arguments));
        let mut since = clock::now();
        let begun = self.begun.take().filter(|(begun, ..)| are_equal(begun, &questions));
        let answers = match begun {
            Some((_, moment, begun)) => {
                since = moment;
                self.proceed(begun, moment, &questions).await
            }
            None => self.query(&questions).await,
        };
        let mut answers = answers?;
        let mut confirmed = confirmation(&mut answers, replicas);
        let answer = match answers.pop().map(Value::extract_error).transpose() {
            // EVAL instead of SCRIPT LOAD: one request less, one permission less, and no moment
            // in between in which another server takes over.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let again = ScriptCall { beside: None, ..question };
                let mut answers = self.query(&again.whole(program.whole(keys, arguments))).await?;
                confirmed = confirmation(&mut answers, replicas);
                answers.pop().unwrap_or(Value::Nil).extract_error()?
            }
            answer => answer?.unwrap_or(Value::Nil),
        };
        let confirmed = confirmed.map(parsed).transpose()?.unwrap_or(0);
        let answer = from_redis_value(answer).map_err(|error| {
            // The answer may belong to another question, and so may the next one.
            self.put_current(None);
            RedisError::from(error)
        })?;
        Ok(ScriptAnswer { answer, since, beside: answers.pop(), confirmed })
    }

    /// Whether there may be anything to take back.
    pub(super) fn has_reached(&self) -> bool {
        self.reached.load(Relaxed)
    }

    /// Asks for something else than the script does.
    pub(super) async fn request<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, StoreError> {
        parsed(self.ask(question.clone()).await?)
    }

    /// The same for an optional answer, with a short wait. None: the server does not allow it.
    pub(super) async fn ask_if_granted<T: FromRedisValue>(
        &self,
        question: &Cmd,
    ) -> Result<Option<T>, StoreError> {
        let asking = async { Ok(self.query(std::slice::from_ref(question)).await?) };
        let answers = with_timeout(ATTEMPT_TIMEOUT, asking).await?;
        Ok(answers.into_iter().next().and_then(optional))
    }

    /// Asks several things at once, if there are any. One error among the answers is the answer to all.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &self,
        questions: &[Cmd],
    ) -> Result<Vec<T>, StoreError> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        self.query(questions).await?.into_iter().map(parsed).collect()
    }

    /// A connection beside the one for requests, on which it was said who we are.
    pub(super) async fn introduced_connection(&self) -> Result<Connection, StoreError> {
        let mut connection = self.dialler.dial().await?;
        connection.say(&handshake()).await.map_err(StoreError::from)?;
        for _ in 0..HANDSHAKE {
            // An error as the answer does not matter.
            connection.read_reply().await.map_err(StoreError::from)?;
        }
        Ok(connection)
    }

    /// What the server says on a channel first.
    pub(super) async fn listen(&self, channel: &str) -> Result<Value, StoreError> {
        let mut conversation = self.dialler.dial().await?;
        conversation.request(cmd("SUBSCRIBE").arg(channel)).await?;
        Ok(conversation.read_reply().await?)
    }

    async fn ask(&self, question: Cmd) -> Result<Value, ConnectionError> {
        let answers = self.query(&[question]).await?;
        Ok(answers.into_iter().next().unwrap_or(Value::Nil).extract_error()?)
    }

    async fn query(&self, questions: &[Cmd]) -> Result<Vec<Value>, ConnectionError> {
        // A connection that was idle for a while may have been closed for that.
        if let Some(pipeline) = self.usable() {
            match self.query_on(&pipeline, questions).await {
                Err(error) if error.is_io() => {}
                answers => return answers,
            }
        }
        let answers = async {
            let pipeline = self.dialled().await?;
            self.reached.store(true, Relaxed);
            self.query_on(&pipeline, questions).await
        };
        match answers.await {
            Err(error) if error.is_io() && !self.answered.load(Relaxed) => {
                Err(if self.dialler.meets_tls().await { StoreError::OnlyTls.into() } else { error })
            }
            answers => answers,
        }
    }

    async fn query_on(
        &self,
        pipeline: &Pipeline,
        questions: &[Cmd],
    ) -> Result<Vec<Value>, ConnectionError> {
        let answers = pipeline.request(questions).await?;
        self.judge(pipeline, &answers);
        Ok(answers)
    }

    async fn proceed(
        &self,
        begun: PrefetchedRequest,
        since: Moment,
        questions: &[Cmd],
    ) -> Result<Vec<Value>, ConnectionError> {
        let connection = begun.proceed(questions).await?;
        self.reached.store(true, Relaxed);
        let (pipeline, answers) = Pipeline::proceed(connection, since, questions.len());
        self.put_current(Some(Arc::clone(&pipeline)));
        let answers = answer_of(answers).await?;
        self.judge(&pipeline, &answers);
        Ok(answers)
    }

    fn usable(&self) -> Option<Arc<Pipeline>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|pipeline| pipeline.is_usable()).cloned()
    }

    fn put_current(&self, pipeline: Option<Arc<Pipeline>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = pipeline;
    }

    async fn dialled(&self) -> Result<Arc<Pipeline>, ConnectionError> {
        let mut dialled = self.dialling.lock().await;
        if let Some(pipeline) = self.usable() {
            return Ok(pipeline);
        }
        // A server that has an error for each request of thousands gets no connection for each.
        let next = dialled.map_or(Moment::ZERO, |dialled| dialled + DIAL_AGAIN);
        sleep(next.saturating_sub(clock::now())).await;
        *dialled = Some(clock::now());
        let pipeline = Pipeline::start(self.dialler.dial().await?);
        self.put_current(Some(Arc::clone(&pipeline)));
        Ok(pipeline)
    }

    /// After an error of the server the next request asks on a new connection: another server may be
    /// there by now.
    fn judge(&self, pipeline: &Pipeline, answers: &[Value]) {
        self.answered.store(true, Relaxed);
        let fine = |answer: &Value| match answer {
            Value::ServerError(error) => error.kind() == Some(ServerErrorKind::NoScript),
            _ => true,
        };
        if !answers.iter().all(fine) {
            pipeline.retire();
        }
    }
}

/// Takes what the replicas confirmed off the answers, where that was asked for and the script did anything.
fn confirmation(answers: &mut Vec<Value>, replicas: u32) -> Option<Value> {
    if replicas == 0 || answers.last().is_some_and(is_refusal) { None } else { answers.pop() }
}

/// The answer to an optional question, or None: an ACL may forbid the command, it may have been
/// renamed, or another make of server may not know it.
pub(super) fn optional<T: FromRedisValue>(answer: Value) -> Option<T> {
    from_redis_value(answer.extract_error().ok()?).ok()
}

/// Whether the error will pass: the server has just changed its role, or is about to.
pub(super) fn will_pass(error: &RedisError) -> bool {
    let words = ["UNBLOCKED", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"];
    error.code().is_some_and(|code| words.contains(&code))
}

/// What an answer says, unless it is an error.
pub(super) fn parsed<T: FromRedisValue>(answer: Value) -> Result<T, StoreError> {
    Ok(from_redis_value(answer.extract_error()?).map_err(RedisError::from)?)
}

fn are_equal(one: &[Cmd], other: &[Cmd]) -> bool {
    one.iter().map(Cmd::get_packed_command).eq(other.iter().map(Cmd::get_packed_command))
}

pub(super) const DECIDE: &str = concat!(include_str!("server.lua"), include_str!("semaphore.lua"));
const LOOK: &str = concat!(include_str!("server.lua"), include_str!("snapshot.lua"));

/// Their SHA-1, which would take as long to compute as the server takes for a call; a test says what
/// they have to be.
#[cfg(any(test, not(feature = "mutants")))]
const DECIDE_HASH: &str = "870ea06c8490e837bbecc4832fd56af9caab0f53";
const LOOK_HASH: &str = "bdd1de5df0de7bfc256cf4e1b41aab018f736bfa";

#[cfg(not(feature = "mutants"))]
fn decide() -> (&'static str, Cow<'static, str>) {
    (DECIDE, Cow::Borrowed(DECIDE_HASH))
}

#[cfg(feature = "mutants")]
fn decide() -> (&'static str, Cow<'static, str>) {
    let source = super::mutants::script(DECIDE);
    (source, Cow::Owned(redis::Script::new(source).get_hash().to_owned()))
}

impl From<ConnectionError> for StoreError {
    fn from(interruption: ConnectionError) -> Self {
        match interruption {
            ConnectionError::Known(error) => error,
            ConnectionError::Library(error) => error.into(),
        }
    }
}

/// The only place that interprets a server's own error messages.
impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        let text = one_line(&error);
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match tls_error(&error) {
            Some(rustls::Error::InvalidMessage(_)) => return Self::NoTls(Protocol::Redis),
            Some(error) => return refusal(error),
            None => {}
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::CredentialsRefused,
            // A call of the script is longer than what a server reads of a client that has not
            // logged in.
            _ if says(&["NOAUTH", "unauthenticated"]) => Self::PasswordWanted,
            _ if says(&["WRONGPASS", "invalid password", "without any password"]) => {
                Self::CredentialsRefused
            }
            // Scripts name the error in their own before Redis 7.
            _ if says(&["WRONGTYPE"]) => Self::NotASemaphore,
            _ if says(&["NOPERM", "no permissions", "can't run this command"]) => {
                Self::NoPermission(text)
            }
            _ if error.code() == Some("ALONE") => {
                let mut numbers = error.detail().unwrap_or_default().split(' ').map(str::parse);
                let (Some(Ok(in_step)), Some(Ok(needed))) = (numbers.next(), numbers.next()) else {
                    return Self::Senseless { foreign: false };
                };
                Self::Withheld(Withheld::Replicas { in_step, needed })
            }
            _ if error.code() == Some("UNCOUNTED") => Self::Uncounted,
            _ if says(&["refused to switch database", "DB index is out of range"]) => {
                Self::NoDatabase
            }
            ErrorKind::InvalidClientConfig => Self::Configuration(text),
            ErrorKind::Parse => Self::NotRedis(None),
            ErrorKind::UnexpectedReturnType => Self::Senseless { foreign: true },
            ErrorKind::Io if error.is_timeout() => Self::Silent,
            ErrorKind::Io => Self::Unreachable(text),
            _ => Self::Refused(text),
        }
    }
}

/// What a server said, or what the system said of it.
fn one_line(error: &RedisError) -> String {
    const SHOWN: usize = 300;
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) if !detail.starts_with(code) => format!("{code} {detail}"),
        (Some(_), Some(detail)) => detail.to_owned(),
        (Some(code), None) => code.to_owned(),
        // After that the library names its own kind of error.
        _ => error.to_string().split(" - ").next().unwrap_or_default().to_owned(),
    };
    let line = text.lines().next().unwrap_or_default();
    // Redis adds where in the script it was.
    let line = line.split(" script: ").next().unwrap_or_default();
    line.chars().take(SHOWN).collect()
}

fn tls_error(error: &RedisError) -> Option<&rustls::Error> {
    // The library shares the causes of its errors.
    let cause = error.source()?.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?;
    cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_those_of_the_scripts() {
        assert_eq!(redis::Script::new(DECIDE).get_hash(), DECIDE_HASH);
        assert_eq!(redis::Script::new(LOOK).get_hash(), LOOK_HASH);
    }
}
