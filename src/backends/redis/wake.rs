//! The list on which one who waits or holds is told something. What is put there stays until it is
//! taken, so nothing is missed while there is no connection.

use std::rc::Rc;

use redis::cmd;
use tokio::time::Instant;

use super::Shared;
use crate::backends::trouble::{CONNECTING, Pause, Trouble};

/// What was found on a list.
pub(super) struct Heard {
    /// `gently` or `now` of an eviction; anything else is a reason to ask.
    pub(super) word: String,
    /// Whether it was certainly not there before we listened.
    pub(super) fresh: bool,
}

/// Returns once something was put there. Only what will not pass is an error; whoever was not heard for
/// a while is told of the others, because what is put there does not stay for ever.
pub(super) async fn hear(
    shared: Rc<Shared>,
    list: String,
    missed: impl Fn(),
) -> Result<Heard, Trouble> {
    let mut pause = Pause::new();
    loop {
        let since = Instant::now();
        let taken: Result<(String, String), Trouble> =
            shared.connection.wait(cmd("BLPOP").arg(&list).arg(0)).await;
        match taken {
            // Connecting is a part of it, and so are the first answer and its way.
            Ok((_, word)) => return Ok(Heard { word, fresh: since.elapsed() > 2 * CONNECTING }),
            Err(trouble) if trouble.lasts() => return Err(trouble),
            Err(_) => {
                missed();
                pause.sleep().await;
            }
        }
    }
}
