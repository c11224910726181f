//! What goes wrong around a command, and commands that make it hard.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Pid;

use super::support::{Running, World, children, pid_in};

/// The shortest lease, which makes tests short.
pub(crate) const TTL: &str = "5s";
pub(crate) const OPTIONS: [&str; 2] = ["--ttl", TTL];

/// A command whose tree is hard to get rid of: a child, one in another session, and a daemon that
/// forked twice. All note their pids and ignore SIGTERM.
pub(crate) fn stubborn_family() -> String {
    let member = |name: &str| {
        format!("sh -c \"trap '' TERM HUP; echo \\$\\$ > {name}; while :; do sleep 0.05; done\"")
    };
    format!(
        "trap '' TERM HUP; {} & setsid {} & (setsid {} &) ; echo $$ > command; while :; do sleep 0.05; done",
        member("child"),
        member("session"),
        member("daemon"),
    )
}

pub(crate) fn family(world: &World) -> Vec<Pid> {
    ["command", "child", "session", "daemon"].map(|file| pid_in(&world.path(file))).into()
}

/// The second of the two processes of a semrun.
pub(crate) fn worker(semrun: &Running) -> Pid {
    let found = children(semrun.pid());
    let [(worker, name)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(name, "semrun");
    *worker
}

/// Passes everything on to a server and back, until it is told to swallow it.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    swallows: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let swallows = Arc::new(AtomicBool::new(false));
        let swallowing = Arc::clone(&swallows);
        let open = Arc::new(Mutex::new(Vec::new()));
        let opened = Arc::clone(&open);
        // These threads end with the process that the test runs in.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let both = [&client, &server].map(|stream| stream.try_clone().unwrap());
                opened.lock().unwrap().extend(both);
                for (mut from, mut to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    let swallowing = Arc::clone(&swallowing);
                    std::thread::spawn(move || {
                        let mut bytes = [0; 4096];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            if !swallowing.load(Ordering::Relaxed)
                                && to.write_all(&bytes[..count]).is_err()
                            {
                                break;
                            }
                        }
                        if !swallowing.load(Ordering::Relaxed) {
                            let _ = to.shutdown(Shutdown::Write);
                        }
                    });
                }
            }
        });
        Self { port, swallows, open }
    }

    pub(crate) fn swallow(&self) {
        self.swallows.store(true, Ordering::Relaxed);
    }

    /// Cuts every connection there is. New ones can be made.
    pub(crate) fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
