//! An address that moves from one server to another, as a virtual IP or a name does at a failover: a
//! forwarder on loopback whose port stays the same.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// What becomes of the connections that are open when the address moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// They are closed.
    Cut,
    /// They go on to the old server.
    Kept,
    /// Nothing passes on them any more, and neither side is told.
    Silent,
}

/// The port on which clients find whichever server it is.
pub struct Address {
    port: u16,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    target: u16,
    over: bool,
    next: u64,
    links: HashMap<u64, Arc<Link>>,
}

/// One connection of a client, and the one that was made for it.
struct Link {
    client: TcpStream,
    server: TcpStream,
    silent: AtomicBool,
}

impl Address {
    pub fn of(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { target, over: false, next: 0, links: HashMap::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let thread = Some(std::thread::spawn(move || accept(&listener, &shared)));
        Self { port, state, thread }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections go there from now on.
    pub fn move_to(&self, target: u16, old: Old) {
        let mut state = locked(&self.state);
        state.target = target;
        match old {
            Old::Kept => {}
            Old::Cut => state.links.drain().for_each(|(_, link)| link.close()),
            Old::Silent => state.links.values().for_each(|link| link.silence()),
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        locked(&self.state).links.len()
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        state.over = true;
        state.links.drain().for_each(|(_, link)| link.close());
        drop(state);
        // It is waiting for a connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

fn accept(listener: &TcpListener, state: &Arc<Mutex<State>>) {
    for client in listener.incoming() {
        let mut open = locked(state);
        if open.over {
            return;
        }
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, open.target));
        // Where nothing listens the client's connection is closed at once.
        let Ok(client) = client else { continue };
        let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) else {
            continue;
        };
        for end in [&client, &server] {
            let _ = end.set_nodelay(true);
        }
        let link = Arc::new(Link { client, server, silent: AtomicBool::new(false) });
        let number = open.next;
        open.next += 1;
        open.links.insert(number, Arc::clone(&link));
        for request in [true, false] {
            let (link, state) = (Arc::clone(&link), Arc::clone(state));
            std::thread::spawn(move || {
                if request {
                    link.pump(&link.client, &link.server);
                } else {
                    link.pump(&link.server, &link.client);
                }
                // A silent one is only over when its client has given it up.
                if request || !link.is_silent() {
                    link.close();
                    locked(&state).links.remove(&number);
                }
            });
        }
    }
}

impl Link {
    /// Passes on what one end says until it has said all.
    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut chunk = [0; 16_384];
        loop {
            let Ok(length @ 1..) = from.read(&mut chunk) else { return };
            if !self.is_silent() && to.write_all(&chunk[..length]).is_err() {
                return;
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::SeqCst)
    }

    fn silence(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    fn close(&self) {
        for end in [&self.client, &self.server] {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}
