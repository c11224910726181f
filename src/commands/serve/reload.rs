//! Keys and certificates that are read again while the server runs.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::serve::Greeting;
use crate::serve::log::LogEvent;
use crate::serve::routes::Routes;
use crate::settings::CredentialFiles;

/// How long the disk may take before that is logged.
const SLOW: Duration = Duration::from_secs(5);

pub(super) struct Reload {
    files: CredentialFiles,
    routes: Rc<Routes>,
    tls: Option<Rc<Greeting>>,
}

impl Reload {
    pub(super) fn new(
        files: CredentialFiles,
        routes: Rc<Routes>,
        tls: Option<Rc<Greeting>>,
    ) -> Self {
        Self { files, routes, tls }
    }

    /// Reads them whenever it is told to, for ever. Any number of requests during a reading cause
    /// one more.
    pub(super) async fn reload_on(&self, told: &Notify) {
        loop {
            told.notified().await;
            let (event, text) = match self.read().await {
                Ok(()) => (LogEvent::Info, self.done()),
                Err(why) => (LogEvent::Alert, format!("SIGHUP: all stays as it was: {why}")),
            };
            self.routes.semaphores.log.log_text(event, &text);
        }
    }

    /// Replaces all of them, or none. The error says which file is bad, and why.
    async fn read(&self) -> Result<(), String> {
        let files = self.files.clone();
        // Not in this thread: a disk that does not answer must not keep holders from renewing.
        let mut reading = spawn_blocking(move || files.read());
        let read = match timeout(SLOW, &mut reading).await {
            Ok(read) => read,
            Err(_elapsed) => {
                let text = "SIGHUP: the files are not read yet, and all stays as it was until they \
                            are";
                self.routes.semaphores.log.log_text(LogEvent::Alert, text);
                reading.await
            }
        };
        let credentials =
            read.map_err(|error| error.to_string())?.map_err(|bad| bad.to_string())?;
        let keys = credentials.keys().map_err(|bad| bad.to_string())?;
        let tls = credentials.tls().map_err(|bad| bad.to_string())?;
        if let Some(keys) = keys {
            self.routes.keys.replace(Rc::new(keys));
        }
        if let (Some(greeting), Some(tls)) = (&self.tls, tls) {
            greeting.replace(tls);
        }
        Ok(())
    }

    fn done(&self) -> String {
        let options = self.files.options();
        let mut text = match &options[..] {
            [] => "SIGHUP: there is nothing to read again".into(),
            options => format!("SIGHUP: read again: {}", options.join(", ")),
        };
        if !self.files.has_keys() {
            text += "; the API keys come from a variable, and stay";
        }
        text
    }
}
