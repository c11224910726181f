//! The list on which a waiter or a holder is told something. What is put there stays until it is
//! taken, so nothing is missed while there is no connection.

use std::rc::Rc;
use std::time::Duration;

use redis::cmd;
use tokio::time::{Instant, sleep};

use super::client::Shared;
use crate::backends::StoreError;
use crate::backends::retry::{CONNECTING, Pause};

/// What was found on a list.
pub(super) struct Heard {
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
pub(super) async fn hear(
    shared: Rc<Shared>,
    list: String,
    missed: impl Fn(),
    deaf: impl Fn(),
) -> Result<Heard, StoreError> {
    let mut pause = Pause::new();
    let mut refusals = 0;
    loop {
        let since = Instant::now();
        let taken: Result<Option<(String, String)>, StoreError> =
            shared.connection.wait(cmd("BLPOP").arg(&list).arg(0)).await;
        match taken {
            // Connecting is a part of it, and so are the first answer and its way.
            Ok(Some((_, word))) => {
                return Ok(Heard { word, fresh: since.elapsed() > 2 * CONNECTING });
            }
            Ok(None) => {
                refusals += 1;
                if refusals == HOPELESS {
                    deaf();
                }
            }
            Err(trouble) if trouble.lasts() => return Err(trouble),
            Err(_) => refusals = 0,
        }
        missed();
        if refusals >= HOPELESS {
            sleep(HOPING).await;
        } else {
            pause.sleep().await;
        }
    }
}
