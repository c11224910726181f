//! Until when any of several servers keeps each permit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::torture::arena::TTL;
use crate::torture::history::Moment;
use crate::torture::places::redis::look_at;
use crate::torture::places::watch::Seen;

/// The names that are in use.
pub(super) type Names = Arc<Mutex<Vec<&'static str>>>;

/// What looks at all servers.
pub(super) struct Sight {
    servers: Vec<Server>,
    names: Names,
}

struct Server {
    client: redis::Client,
    connection: Option<redis::Connection>,
    last: Vec<(String, Moment)>,
}

impl Sight {
    pub(super) fn of(ports: &[u16], names: Names) -> Self {
        let server = |port: &u16| {
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
            Server { client, connection: None, last: Vec::new() }
        };
        Self { servers: ports.iter().map(server).collect(), names }
    }

    /// None: one is there and does not answer, and may have extended anything.
    pub(super) fn look(&mut self) -> Seen {
        let names = self.names.lock().unwrap().clone();
        let mut all = Vec::new();
        for server in &mut self.servers {
            all.extend(server.look(&names)?);
        }
        Some(all)
    }
}

impl Server {
    const ANSWER: Duration = Duration::from_millis(300);

    fn look(&mut self, names: &[&str]) -> Seen {
        match self.ask(names) {
            Ok(seen) => {
                self.last.clone_from(&seen);
                Some(seen)
            }
            Err(error) => {
                self.connection = None;
                if error.is_timeout() || !error.is_io_error() {
                    return None;
                }
                // It was killed, and may have extended what it had just before that.
                let until = Moment::now().plus(TTL);
                Some(self.last.drain(..).map(|(permit, end)| (permit, end.max(until))).collect())
            }
        }
    }

    fn ask(&mut self, names: &[&str]) -> redis::RedisResult<Vec<(String, Moment)>> {
        if self.connection.is_none() {
            self.connection = Some(self.client.get_connection_with_timeout(Self::ANSWER)?);
        }
        look_at(self.connection.as_mut().unwrap(), names, Self::ANSWER)
    }
}
