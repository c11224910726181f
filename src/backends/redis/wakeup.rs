//! The list on which a client is told of its permits. What is put there stays for a while until it
//! is taken, so little is missed while there is no connection.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::client::{RedisClient, optional, will_pass};
use super::connection::ConnectionError;
use super::server_handle::ServerHandle;
use crate::engine::retry::{ATTEMPT_TIMEOUT, Backoff, with_timeout};
use crate::engine::{Wakeup, Wakeups};
use crate::permits::{Revocation, StoreError};

/// After how many refusals in a row listening is hopeless: one may be a change of roles.
const HOPELESS: u32 = 3;

/// How often it retries all the same.
const HOPING: Duration = Duration::from_mins(1);

/// Puts the words of a list where they are waited for, and that some may have been missed. Returns an
/// error that does not pass; a list that could not be read for a while is read again, because its
/// words do not stay for ever.
pub(super) async fn listen(
    server: Arc<ServerHandle>,
    list: String,
    wakeups: Wakeups,
) -> StoreError {
    let mut backoff = Backoff::new();
    let (mut refusals, mut interrupted) = (0, false);
    loop {
        let since = Instant::now();
        let heard = |word: &str| {
            // Connecting is a part of it, and so are the first answer and its way.
            let fresh = since.elapsed() > 2 * ATTEMPT_TIMEOUT;
            if let Some((id, wakeup)) = parse(word, fresh) {
                wakeups.send(id, wakeup);
            }
        };
        let connected = || {
            // Where there was none, words may have come and gone.
            if interrupted {
                wakeups.send_to_all(Wakeup::Missed);
            }
        };
        let end = take_all(&server.connection, &list, connected, heard).await;
        interrupted = true;
        if since.elapsed() > ATTEMPT_TIMEOUT {
            (backoff, refusals) = (Backoff::new(), 0);
        }
        let missed = match end {
            ListEnd::Refused => {
                refusals += 1;
                if refusals == HOPELESS { Wakeup::Deaf } else { Wakeup::Missed }
            }
            ListEnd::Failed(error) if error.is_permanent() => return error,
            ListEnd::Failed(_) => {
                refusals = 0;
                Wakeup::Missed
            }
        };
        wakeups.send_to_all(missed);
        if refusals >= HOPELESS {
            sleep(HOPING).await;
        } else {
            backoff.sleep().await;
        }
    }
}

/// Why no more words can be taken.
enum ListEnd {
    /// The server does not allow it.
    Refused,
    Failed(StoreError),
}

/// Takes what is put on a list, on a connection of its own, until that ends.
async fn take_all(
    client: &RedisClient,
    list: &str,
    connected: impl FnOnce(),
    mut heard: impl FnMut(&str),
) -> ListEnd {
    let connection = with_timeout(ATTEMPT_TIMEOUT, client.introduced_connection()).await;
    let mut connection = match connection {
        Ok(connection) => connection,
        Err(error) => return ListEnd::Failed(error),
    };
    connected();
    loop {
        match connection.request(cmd("BLPOP").arg(list).arg(0)).await {
            Ok(answer) => match optional::<(String, String)>(answer) {
                Some((_, word)) => heard(&word),
                None => return ListEnd::Refused,
            },
            Err(ConnectionError::Library(error))
                if error.code().is_some() && !will_pass(&error) =>
            {
                return ListEnd::Refused;
            }
            Err(error) => return ListEnd::Failed(error.into()),
        }
    }
}

/// A word reads ID WORD.
fn parse(word: &str, fresh: bool) -> Option<(Uuid, Wakeup)> {
    let (id, word) = word.split_once(' ')?;
    let wakeup = match word {
        "gently" => Wakeup::Revoked { how: Revocation::Graceful, fresh },
        "now" => Wakeup::Revoked { how: Revocation::Forced, fresh },
        _ => Wakeup::Ask,
    };
    Some((id.parse().ok()?, wakeup))
}
