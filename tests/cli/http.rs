//! An HTTP client without a library, which sees the bytes and when a connection ends; and what the
//! Node client does with it.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};

use super::support::PATIENCE;

/// What our own client says in every request.
pub(crate) const OURS: (&str, &str) = ("x-semrun", "3");

/// A client that has a key for a server on this machine. Every request has a connection of its own.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) port: u16,
    pub(crate) key: String,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// A request that may be answered at once, later or never. Dropped, its connection is closed.
pub(crate) struct Pending {
    stream: BufReader<TcpStream>,
    is_head: bool,
}

/// A client with both its requests under way: it waits or holds.
pub(crate) struct Attached {
    pub(crate) id: String,
    pub(crate) monitor: Pending,
    pub(crate) wait: Pending,
}

/// A permit, as the Node library has it.
pub(crate) struct Semaphore {
    client: Client,
    name: String,
    pub(crate) id: String,
    pub(crate) monitor: Pending,
}

impl Client {
    pub(crate) fn new(port: u16, key: &str) -> Self {
        Self { port, key: key.into() }
    }

    /// A connection on which nothing has been said.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        // A server that has much to do on a busy machine answers later.
        stream.set_read_timeout(Some(3 * PATIENCE)).unwrap();
        stream.set_write_timeout(Some(3 * PATIENCE)).unwrap();
        stream
    }

    /// Sends a request, and leaves the connection open.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Pending {
        let mut pending = Pending::on(self.connect());
        pending.send(method, path, &[&[("x-api-key", &*self.key)], headers].concat(), body);
        pending
    }

    pub(crate) fn open(&self, path: &str, headers: &[(&str, &str)]) -> Pending {
        self.send("GET", path, headers, "")
    }

    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.send(method, path, headers, body).answer()
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", path, headers, "")
    }

    /// Requests as our own client makes them, each a name and what is asked about it.
    pub(crate) fn execute(&self, requests: &[(&str, Value)]) -> Answer {
        let named = |(name, request): &(&str, Value)| json!({ "name": name, "request": request });
        let body = requests.iter().map(named).collect::<Vec<_>>();
        self.request("POST", "/semrun/execute", &[OURS], &Value::from(body).to_string())
    }

    /// The answer to one of them.
    #[track_caller]
    pub(crate) fn ask(&self, name: &str, request: Value) -> Value {
        let answer = self.execute(&[(name, request)]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str::<Value>(&answer.body).unwrap()[0].take()
    }

    /// Changes the log configuration.
    pub(crate) fn patch(&self, body: &str) -> Answer {
        self.request("PATCH", "/logconfig", &[("Content-Type", "application/json")], body)
    }

    pub(crate) fn register(&self, name: &str) -> String {
        let answer = self.get(&path("register", name), &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    pub(crate) fn monitor(&self, name: &str, id: &str) -> Pending {
        self.open(&path("monitor", name), &[("x-client-uuid", id)])
    }

    pub(crate) fn wait(&self, name: &str, id: &str) -> Pending {
        self.open(&path("wait", name), &[("x-client-uuid", id)])
    }

    pub(crate) fn signal(&self, name: &str, id: &str) -> Answer {
        self.get(&path("signal", name), &[("x-client-uuid", id)])
    }

    /// What is known of a semaphore; null if it has never been heard of.
    pub(crate) fn observe(&self, name: &str) -> Value {
        let answer = self.get(&path("observe", name), &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        if answer.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Registers, and sends both requests.
    pub(crate) fn attach(&self, name: &str) -> Attached {
        let id = self.register(name);
        let (monitor, wait) = (self.monitor(name, &id), self.wait(name, &id));
        Attached { id, monitor, wait }
    }

    pub(crate) fn wait_on_semaphore(&self, name: &str) -> Semaphore {
        let mut attached = self.attach(name);
        let answer = attached.wait.answer();
        assert_eq!((answer.status, &*answer.body), (200, ""));
        let Attached { id, monitor, .. } = attached;
        Semaphore { client: self.clone(), name: name.into(), id, monitor }
    }
}

impl Semaphore {
    /// Releases it.
    pub(crate) fn signal(mut self) {
        assert_eq!(self.client.signal(&self.name, &self.id).status, 200);
        assert_eq!(self.monitor.answer().status, 200);
    }
}

/// What our own client asks about a permit; there may be more to be said.
pub(crate) fn about(operation: impl Into<Value>, id: &str) -> Value {
    json!({ "operation": operation.into(), "id": id })
}

/// What it says when it asks for one.
pub(crate) fn acquire(id: &str) -> Value {
    let client = json!({ "label": "l", "host": "h", "pid": 1, "user": "u" });
    json!({ "operation": "acquire", "id": id, "limit": 1, "ttl_ms": 60_000, "client": client })
}

/// The same with something else said.
pub(crate) fn with(mut request: Value, more: &[(&str, Value)]) -> Value {
    for (field, value) in more {
        request[*field] = value.clone();
    }
    request
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        header.map(|(_, value)| &**value)
    }
}

impl Pending {
    /// On a connection on which a request is to be sent, or has been.
    pub(crate) fn on(stream: TcpStream) -> Self {
        Self { stream: BufReader::new(stream), is_head: false }
    }

    /// Another request on the same connection, once the one before is answered.
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
        for (key, value) in headers {
            write!(head, "{key}: {value}\r\n").unwrap();
        }
        if !body.is_empty() {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        self.is_head = method == "HEAD";
        self.stream.get_mut().write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    }

    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// An error: the connection ended, or nothing came in time.
    pub(crate) fn try_answer(&mut self) -> io::Result<Answer> {
        let status_line = self.line()?;
        let mut words = status_line.splitn(3, ' ');
        let mut word = || words.next().ok_or_else(invalid);
        let (version, status, reason) = (word()?, word()?, word()?.to_owned());
        let status = status.parse().map_err(|_| invalid())?;
        if version != "HTTP/1.1" {
            return Err(invalid());
        }
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (key, value) = line.split_once(':').ok_or_else(invalid)?;
            headers.push((key.to_owned(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, reason, headers, body: String::new() };
        if !self.is_head {
            let body = self.body(&answer)?;
            answer.body = String::from_utf8(body).map_err(|_| invalid())?;
        }
        Ok(answer)
    }

    fn body(&mut self, answer: &Answer) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if let Some(length) = answer.header("Content-Length") {
            body.resize(length.parse().map_err(|_| invalid())?, 0);
            self.stream.read_exact(&mut body)?;
        } else if answer.header("Transfer-Encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).map_err(|_| invalid())?;
                let start = body.len();
                body.resize(start + size, 0);
                self.stream.read_exact(&mut body[start..])?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.stream.read_to_end(&mut body)?;
        }
        Ok(body)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        line.strip_suffix("\r\n")
            .map(str::to_owned)
            .ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))
    }

    /// Whether there is neither an answer nor an end so far.
    pub(crate) fn is_open(&self) -> bool {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true).unwrap();
        let found = stream.peek(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        let nothing = found.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        nothing && self.stream.buffer().is_empty()
    }

    /// Ends our half of the connection.
    pub(crate) fn close_write(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    }
}

fn invalid() -> Error {
    Error::from(ErrorKind::InvalidData)
}

/// Where to do something with a semaphore.
pub(crate) fn path(action: &str, name: &str) -> String {
    format!("/semaphore/{action}?name={}", encode(name))
}

fn encode(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").unwrap();
        }
    }
    encoded
}
