//! Which semaphores there are: all keys are gone through step by step, and no other client has to
//! wait for that.

use redis::cmd;

use super::{Shared, can_name};
use crate::backends::trouble::{TRY_ON, Trouble, patiently};
use crate::backends::{Error, Name};

/// What surrounds a name in the keys that say that there is something, and what they are.
const SIGNS: [(&str, &str, &str); 3] =
    [("", "", "zset"), ("{", "}:queue", "zset"), ("{", "}:state", "hash")];

impl Shared {
    /// In the order of their names.
    pub(super) async fn list(&self) -> Result<Vec<Name>, Error> {
        let prefix = format!("{}-", self.place.prefix);
        let mut names = Vec::new();
        for (before, after, kind) in SIGNS {
            let pattern = format!("{before}{}*{after}", glob_escaped(&prefix));
            let mut cursor = 0;
            loop {
                let step = async || self.step(cursor, &pattern, kind).await;
                let listed = patiently(TRY_ON, step).await;
                let (next, keys) =
                    listed.map_err(|trouble| self.error("list the semaphores", trouble))?;
                names.extend(keys.into_iter().filter_map(|key| {
                    let key = String::from_utf8(key).ok()?;
                    let name = key.strip_prefix(before)?.strip_suffix(after)?;
                    let name = name.strip_prefix(&prefix)?;
                    if can_name(name) { name.parse().ok() } else { None }
                }));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn step(
        &self,
        cursor: u64,
        pattern: &str,
        kind: &str,
    ) -> Result<(u64, Vec<Vec<u8>>), Trouble> {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<Vec<u8>>) = self.connection.ask(&scan).await?;
        let mut found = Vec::new();
        for key in keys {
            if self.is_one(&key, kind).await? {
                found.push(key);
            }
        }
        Ok((next, found))
    }

    /// What is remembered of an idle semaphore makes it none, unless its limit is pinned.
    async fn is_one(&self, key: &[u8], kind: &str) -> Result<bool, Trouble> {
        let is: String = self.connection.ask(cmd("TYPE").arg(key)).await?;
        if is != kind || kind != "hash" {
            return Ok(is == kind);
        }
        self.connection.ask(cmd("HEXISTS").arg(key).arg("pin")).await
    }
}

fn glob_escaped(text: &str) -> String {
    let special = |c: char| "*?[]^\\".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
