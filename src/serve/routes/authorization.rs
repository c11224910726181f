//! Which key may do what: every request is checked here, before anything is done for it.

use super::request::Route;
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

/// Whether a key may make a request.
pub(super) fn authorize(
    bearer: &Bearer,
    route: Route,
    name: &str,
    whose: Ownership,
) -> Result<(), Denied> {
    let (needed, what) = match route {
        // Names that the key is not for are left out of the list.
        Route::About | Route::List => return Ok(()),
        Route::Observe => (Role::View, DeniedAction::Look),
        Route::Register => (Role::Use, DeniedAction::Take),
        Route::Attach(_) => (Role::Use, DeniedAction::Wait),
        Route::Renew => (Role::Use, DeniedAction::Renew),
        Route::Signal | Route::Return => (Role::Use, DeniedAction::GiveBack),
        Route::Revoke => (Role::Admin, DeniedAction::Revoke),
        Route::Limit => (Role::Admin, DeniedAction::Pin),
        Route::LogConfig => (Role::Admin, DeniedAction::ChangeLog),
    };
    if bearer.role < needed {
        return Err(Denied::Role(bearer.role, what));
    }
    if route == Route::LogConfig {
        return if bearer.names.is_none() { Ok(()) } else { Err(Denied::AllNames) };
    }
    if !bearer.is_for(name) {
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
    use crate::serve::semaphores::RequestKind;

    #[test]
    fn each_role_may_do_what_its_row_says() {
        const WHOSE: [Ownership; 3] = [Ownership::Nobodys, Ownership::Own, Ownership::Anothers];
        let view = "view use admin";
        let uses = ["use admin", "use admin", "admin"];
        let rows = [
            (Route::About, [view; 3]),
            (Route::List, [view; 3]),
            (Route::Observe, [view; 3]),
            (Route::Register, uses),
            (Route::Attach(RequestKind::Monitor), uses),
            (Route::Attach(RequestKind::Wait), uses),
            (Route::Renew, uses),
            (Route::Return, uses),
            (Route::Signal, uses),
            (Route::Revoke, ["admin"; 3]),
            (Route::Limit, ["admin"; 3]),
            (Route::LogConfig, ["admin"; 3]),
        ];
        for (route, allowed) in rows {
            for (whose, allowed) in WHOSE.into_iter().zip(allowed) {
                for (word, role) in Role::ALL {
                    for names in [None, Some(Pattern::new("a*"))] {
                        let bounded = names.is_some();
                        let bearer = Bearer { label: "".into(), role, names, print: None };
                        let is_allowed = allowed.split(' ').any(|one| one == word);
                        let for_all = matches!(route, Route::About | Route::List);
                        let of_all = route == Route::LogConfig;
                        for (name, is_its) in [("a1", true), ("b1", !bounded)] {
                            let expected =
                                is_allowed && (for_all || if of_all { !bounded } else { is_its });
                            let decided = authorize(&bearer, route, name, whose);
                            let case = format!("{route:?} {whose:?} {word} {bounded} {name}");
                            assert_eq!(decided.is_ok(), expected, "{case}: {decided:?}");
                        }
                    }
                }
            }
        }
    }
}
