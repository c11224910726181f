//! Listing the semaphores: it scans all keys step by step, so no other client has to wait for that.

use std::collections::HashSet;

use redis::{Cmd, cmd};

use super::can_name;
use super::server_handle::ServerHandle;
use crate::engine::retry::RetryBudget;
use crate::permits::{Attempt, BackendError, Name, StoreError, sanitize};

/// What surrounds a name in the keys that show that a semaphore exists, and their types.
const SIGNS: [(&str, &str, &str); 3] =
    [("", "", "zset"), ("{", "}:queue", "zset"), ("{", "}:state", "hash")];

/// More steps than the largest server takes.
const MOST_STEPS: u32 = 1 << 20;

impl ServerHandle {
    /// In their order.
    pub(super) async fn names(&self) -> Result<Vec<Name>, BackendError> {
        let prefix = format!("{}-", self.config.prefix);
        let mut names = HashSet::new();
        let mut patience = RetryBudget::new();
        for (before, after, kind) in SIGNS {
            let pattern = format!("{before}{}*{after}", glob_escaped(&prefix));
            let name_in = |key: &[u8]| -> Option<Name> {
                let name = std::str::from_utf8(key).ok()?.strip_prefix(before)?;
                let name = name.strip_suffix(after)?.strip_prefix(&prefix)?;
                if can_name(name) { name.parse().ok() } else { None }
            };
            let (mut cursor, mut steps) = (0, 0_u32);
            loop {
                let step = || async {
                    let (next, mut keys) = self.step(cursor, &pattern).await?;
                    // Most of them are known by another sign.
                    keys.retain(|key| name_in(key).is_some_and(|name| !names.contains(&name)));
                    Ok((next, self.those_of_kind(kind, keys).await?))
                };
                let listed = patience.with(step).await;
                let (next, keys) = listed.map_err(|error| self.error(Attempt::List, error))?;
                names.extend(keys.iter().filter_map(|key| name_in(key)));
                sanitize::names(names.len()).map_err(|error| self.error(Attempt::List, error))?;
                steps += 1;
                if next == cursor && next != 0 || steps > MOST_STEPS {
                    return Err(self.error(Attempt::List, StoreError::EndlessKeys));
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn step(&self, cursor: u64, pattern: &str) -> Result<(u64, Vec<Vec<u8>>), StoreError> {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000);
        self.connection.request(&scan).await
    }

    /// Keeps the keys that have the right type. An idle semaphore's state does not count, unless
    /// its limit is pinned.
    async fn those_of_kind(
        &self,
        kind: &str,
        mut keys: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let of = |name: &str, key: &[u8]| -> Cmd {
            let mut question = cmd(name);
            question.arg(key);
            question
        };
        let questions: Vec<_> = keys.iter().map(|key| of("TYPE", key)).collect();
        let kinds: Vec<String> = self.connection.ask_all(&questions).await?;
        let mut kinds = kinds.iter();
        keys.retain(|_| kinds.next().is_some_and(|one| one == kind));
        if kind != "hash" {
            return Ok(keys);
        }
        let pin = |key: &Vec<u8>| of("HEXISTS", key).arg("pin").clone();
        let questions: Vec<_> = keys.iter().map(pin).collect();
        let pinned: Vec<bool> = self.connection.ask_all(&questions).await?;
        let mut pinned = pinned.into_iter();
        keys.retain(|_| pinned.next().unwrap_or(false));
        Ok(keys)
    }
}

fn glob_escaped(text: &str) -> String {
    let special = |c: char| "*?[]^\\".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
