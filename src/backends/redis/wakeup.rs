//! The list on which a waiter or a holder is told something. What is put there stays until it is
//! taken, so nothing is missed while there is no connection.

use std::rc::Rc;
use std::time::Duration;

use redis::cmd;
use tokio::time::{Instant, sleep};

use super::server::ServerHandle;
use crate::backends::StoreError;
use crate::backends::retry::{ATTEMPT_TIMEOUT, Backoff};

/// What was found on a list.
pub(super) struct WakeupMessage {
    /// `gently` or `now` of a revocation; anything else is a reason to ask.
    pub(super) word: String,
    /// Whether it was certainly not there before we listened.
    pub(super) fresh: bool,
}

/// After how many refusals in a row listening is hopeless: one may be a change of roles.
const HOPELESS: u32 = 3;

/// How often it retries all the same.
const HOPING: Duration = Duration::from_mins(1);

/// Returns once something was put there. Only what will not pass is an error; after any other,
/// `missed` is called, because what is put there does not stay for ever. `deaf` is called where the
/// server lets no client listen.
pub(super) async fn listen(
    server: Rc<ServerHandle>,
    list: String,
    missed: impl Fn(),
    deaf: impl Fn(),
) -> Result<WakeupMessage, StoreError> {
    let mut backoff = Backoff::new();
    let mut refusals = 0;
    loop {
        let since = Instant::now();
        let taken: Result<Option<(String, String)>, StoreError> =
            server.connection.wait(cmd("BLPOP").arg(&list).arg(0)).await;
        match taken {
            // Connecting is a part of it, and so are the first answer and its way.
            Ok(Some((_, word))) => {
                return Ok(WakeupMessage { word, fresh: since.elapsed() > 2 * ATTEMPT_TIMEOUT });
            }
            Ok(None) => {
                refusals += 1;
                if refusals == HOPELESS {
                    deaf();
                }
            }
            Err(error) if error.is_permanent() => return Err(error),
            Err(_) => refusals = 0,
        }
        missed();
        if refusals >= HOPELESS {
            sleep(HOPING).await;
        } else {
            backoff.sleep().await;
        }
    }
}
