//! A server of one stage alone: a fault strikes it, and it is started again.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use rustix::process::{Pid, Signal};

use super::cloud_server::{KEY, write_keys};
use super::stage::{Running, Stage};
use super::support::SEMRUN;

pub(super) struct Server {
    running: Running,
    port: u16,
    starts: usize,
}

impl Server {
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn pid(&self) -> Pid {
        self.running.pid()
    }
}

impl Stage<'_> {
    /// The victim is a server of this stage's own.
    pub(crate) fn serve(&self) {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        write_keys(&self.here, &format!("{KEY}\n"));
        let running = self.victim(&self.server_words(port));
        *self.server.borrow_mut() = Some(Server { running, port, starts: 1 });
    }

    fn server_words(&self, port: u16) -> Vec<String> {
        let at = |file| self.here.path().join(file).to_str().unwrap().to_owned();
        let listen = format!("127.0.0.1:{port}");
        let words = ["serve", "--listen", &listen, "--api-key-file", &at("keys"), "--state-dir"];
        words.into_iter().map(String::from).chain([at("state")]).collect()
    }

    /// Starts it again if it has ended.
    pub(super) fn tend(&self) {
        let mut server = self.server.borrow_mut();
        let Some(Server { running, port, starts }) = &mut *server else { return };
        if let Some(status) = running.poll(self) {
            let stderr = fs::read_to_string(&running.stderr).unwrap();
            if stderr.contains("panicked") || *starts > 1 {
                self.complain(format!("the server ended with {status}: {:?}", stderr.trim()));
            }
            let mut command = Command::new(SEMRUN);
            command.args(self.server_words(*port));
            self.backends.dress(self.kind, self.here.path(), &self.name, &mut command);
            *running = self.start(command, "serve".into(), None);
            *starts += 1;
        }
    }

    pub(crate) fn stop_serving(&self) {
        let Some(server) = self.server.take() else { return };
        server.running.signal(Signal::TERM);
        let ended = self.end(server.running);
        // One that was just started again may not have begun to listen.
        let own = if server.starts > 1 { &[0, -15][..] } else { &[0] };
        self.judge_end(&ended, own);
    }
}
