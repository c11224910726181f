//! Which key may do what: every request is checked here, before anything is done for it.

use crate::request::Operation;
use crate::serve::bearer::{Bearer, Role};

/// Whose permit, or place in the queue, a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// A client that is not known there.
    Nobodys,
    /// It was taken with the same key.
    Own,
    Anothers,
}

/// What a key may not do. `cli/messages/refusals.rs` has the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It takes another role than this one.
    Role(Role, DeniedAction),
    /// Its names are others.
    Name,
    /// It is for some names, and this is about all of them.
    AllNames,
    /// It was taken with another key.
    Anothers,
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeniedAction {
    Look,
    Take,
    Wait,
    Renew,
    GiveBack,
    Revoke,
    Pin,
    ChangeLog,
}

impl DeniedAction {
    fn role(self) -> Role {
        match self {
            Self::Look => Role::View,
            Self::Take | Self::Wait | Self::Renew | Self::GiveBack => Role::Use,
            Self::Revoke | Self::Pin | Self::ChangeLog => Role::Admin,
        }
    }
}

impl From<Operation> for DeniedAction {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Acquire => Self::Take,
            Operation::Renew | Operation::Attach => Self::Renew,
            Operation::Release | Operation::Leave | Operation::ReleaseDetached => Self::GiveBack,
            Operation::Revoke(_) => Self::Revoke,
            Operation::Pin | Operation::Unpin => Self::Pin,
        }
    }
}

/// Whether a key may do something with a name, or with what is under no name.
pub(super) fn authorize(
    bearer: &Bearer,
    what: DeniedAction,
    name: Option<&str>,
    whose: Ownership,
) -> Result<(), Denied> {
    let needed = what.role();
    if bearer.role < needed {
        return Err(Denied::Role(bearer.role, what));
    }
    if what == DeniedAction::ChangeLog && bearer.names.is_some() {
        return Err(Denied::AllNames);
    }
    if name.is_some_and(|name| !bearer.is_for(name)) {
        return Err(Denied::Name);
    }
    if needed == Role::Use && bearer.role == Role::Use && whose == Ownership::Anothers {
        return Err(Denied::Anothers);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::bearer::Pattern;

    #[test]
    fn each_role_may_do_what_its_row_says() {
        const WHOSE: [Ownership; 3] = [Ownership::Nobodys, Ownership::Own, Ownership::Anothers];
        let uses = ["use admin", "use admin", "admin"];
        let rows = [
            (DeniedAction::Look, ["view use admin"; 3]),
            (DeniedAction::Take, uses),
            (DeniedAction::Wait, uses),
            (DeniedAction::Renew, uses),
            (DeniedAction::GiveBack, uses),
            (DeniedAction::Revoke, ["admin"; 3]),
            (DeniedAction::Pin, ["admin"; 3]),
            (DeniedAction::ChangeLog, ["admin"; 3]),
        ];
        for (what, allowed) in rows {
            for (whose, allowed) in WHOSE.into_iter().zip(allowed) {
                for (word, role) in Role::ALL {
                    for names in [None, Some(Pattern::new("a*"))] {
                        let bounded = names.is_some();
                        let bearer = Bearer { label: "".into(), role, names, print: None };
                        let is_allowed = allowed.split(' ').any(|one| one == word);
                        let of_all = what == DeniedAction::ChangeLog;
                        for (name, is_its) in
                            [(None, true), (Some("a1"), true), (Some("b1"), !bounded)]
                        {
                            let expected = is_allowed && is_its && !(of_all && bounded);
                            let decided = authorize(&bearer, what, name, whose);
                            let case = format!("{what:?} {whose:?} {word} {bounded} {name:?}");
                            assert_eq!(decided.is_ok(), expected, "{case}: {decided:?}");
                        }
                    }
                }
            }
        }
    }
}
