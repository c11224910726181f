//! Keys and certificates that are read again while the server runs.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::cli::messages::{CannotReload, ServerNews};
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
            match self.read().await {
                Ok(()) => {
                    let (options, keys) = (&*self.files.options(), self.files.has_keys());
                    self.log(LogEvent::Info, &ServerNews::ReadAgain { options, keys });
                }
                Err(why) => self.log(LogEvent::Alert, &ServerNews::NotReadAgain(&why)),
            }
        }
    }

    /// Replaces all of them, or none. The error says which file is bad, and why.
    async fn read(&self) -> Result<(), CannotReload> {
        let files = self.files.clone();
        // Not in this thread: a disk that does not answer must not keep holders from renewing.
        let mut reading = spawn_blocking(move || files.read());
        let read = match timeout(SLOW, &mut reading).await {
            Ok(read) => read,
            Err(_elapsed) => {
                self.log(LogEvent::Alert, &ServerNews::NotReadYet);
                reading.await
            }
        };
        let credentials = read.map_err(CannotReload::Task)?.map_err(CannotReload::Settings)?;
        let keys = credentials.keys().map_err(CannotReload::Settings)?;
        let tls = credentials.tls().map_err(CannotReload::Settings)?;
        if let Some(keys) = keys {
            self.routes.keys.replace(Rc::new(keys));
        }
        if let (Some(greeting), Some(tls)) = (&self.tls, tls) {
            greeting.replace(tls);
        }
        Ok(())
    }

    fn log(&self, event: LogEvent, news: &ServerNews<'_>) {
        self.routes.semaphores.log.log_text(event, &news.to_string());
    }
}
