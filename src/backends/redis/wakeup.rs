//! The list on which a waiter or a holder is told something. What is put there stays until it is
//! taken, so nothing is missed while there is no connection.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep};

use super::server::ServerHandle;
use crate::backends::{Revocation, StoreError};
use crate::engine::Wakeup;
use crate::engine::retry::{ATTEMPT_TIMEOUT, Backoff};

/// After how many refusals in a row listening is hopeless: one may be a change of roles.
const HOPELESS: u32 = 3;

/// How often it retries all the same.
const HOPING: Duration = Duration::from_mins(1);

/// Sends the words that are put on a list, and that some may have been missed. Returns an error that
/// does not pass; a list that could not be read for a while is read again, because its words do not
/// stay for ever.
pub(super) async fn listen(
    server: Arc<ServerHandle>,
    list: String,
    wakeups: UnboundedSender<Wakeup>,
) -> StoreError {
    let mut backoff = Backoff::new();
    let mut refusals = 0;
    loop {
        let since = Instant::now();
        let taken: Result<Option<(String, String)>, StoreError> =
            server.connection.wait(cmd("BLPOP").arg(&list).arg(0)).await;
        let missed = match taken {
            Ok(Some((_, word))) => {
                (backoff, refusals) = (Backoff::new(), 0);
                // Connecting is a part of it, and so are the first answer and its way.
                let fresh = since.elapsed() > 2 * ATTEMPT_TIMEOUT;
                let wakeup = match word.as_str() {
                    "gently" => Wakeup::Revoked { how: Revocation::Graceful, fresh },
                    "now" => Wakeup::Revoked { how: Revocation::Forced, fresh },
                    _ => Wakeup::Ask,
                };
                let _ = wakeups.send(wakeup);
                continue;
            }
            Ok(None) => {
                refusals += 1;
                if refusals == HOPELESS { Wakeup::Deaf } else { Wakeup::Missed }
            }
            Err(error) if error.is_permanent() => return error,
            Err(_) => {
                refusals = 0;
                Wakeup::Missed
            }
        };
        let _ = wakeups.send(missed);
        if refusals >= HOPELESS {
            sleep(HOPING).await;
        } else {
            backoff.sleep().await;
        }
    }
}
