//! A place in the queue belongs to the client that it was given to, and to no other.

use tempfile::TempDir;

use super::*;

/// A server that remembers what is in a directory, with a permit of `x` and one of `y` held.
fn remembering(directory: &TempDir, holders: [Uuid; 2]) -> Rc<Semaphores> {
    let (journal, found) = Journal::open(directory.path()).unwrap();
    let semaphores = semaphores(journal, found);
    for (name, holder) in ["x", "y"].into_iter().zip(holders) {
        let told = request(&semaphores, name, &asking(holder, MINUTE), "web");
        assert_eq!(told.outcome, Outcome::Holding);
    }
    semaphores
}

fn request(semaphores: &Semaphores, name: &str, request: &Request, actor: &str) -> Reply {
    semaphores.execute(&name.into(), request, &actor.into()).unwrap()
}

fn with_place(id: Uuid, ticket: u64, seal: &str) -> Request {
    Request { ticket, seal: seal.into(), ..asking(id, MINUTE) }
}

#[test]
fn after_a_restart_a_place_is_had_again_with_its_seal_and_not_with_its_number() {
    let directory = TempDir::new().unwrap();
    let [holder, other, first, second] = [(); 4].map(|()| Uuid::new_v4());
    let before = remembering(&directory, [holder, other]);
    let places = [first, second].map(|id| request(&before, "x", &asking(id, MINUTE), "web"));
    let elsewhere = request(&before, "y", &asking(second, MINUTE), "web");
    before.close();
    let [first_place, second_place] = places;
    assert_eq!((first_place.ahead, second_place.ahead), (0, 1));
    drop(before);

    let after = remembering(&directory, [holder, other]);
    assert_eq!(first_place.server, Some(after.seals.server()), "it has not forgotten");
    let (ticket, its) = (first_place.ticket, &*first_place.seal);
    let lie = |seal: &str| request(&after, "x", &with_place(second, ticket, seal), "web");
    for seal in ["0", its, &second_place.seal, &elsewhere.seal] {
        let told = lie(seal);
        assert!(told.outcome == Outcome::Waiting && told.ticket > second_place.ticket, "{seal}");
        let _ = after.signal(&"x".into(), second, "web".into());
    }
    lie("");
    let told = request(&after, "x", &with_place(first, ticket, its), "web");
    assert_eq!((told.ticket, told.ahead, &*told.seal), (ticket, 0, its));
    assert_eq!(lie("").ahead, 1, "it is behind");
}

#[test]
fn a_server_that_forgets_all_honours_no_place_of_before() {
    let [holder, first] = [(); 2].map(|()| Uuid::new_v4());
    let start = || {
        let semaphores = semaphores(Journal::none(), RestoredState::default());
        assert_eq!(
            request(&semaphores, "x", &asking(holder, MINUTE), "web").outcome,
            Outcome::Holding
        );
        semaphores
    };
    let (before, after) = (start(), start());
    let told = request(&before, "x", &asking(first, MINUTE), "web");
    let again = request(&after, "x", &with_place(first, told.ticket, &told.seal), "web");
    assert!(again.outcome == Outcome::Waiting && again.ticket != told.ticket);
    assert!(told.server.is_some() && told.server != again.server, "it says that it is another one");
}

#[test]
fn an_identity_that_a_client_with_another_key_has_learnt_gives_it_neither_place_nor_permit() {
    let semaphores = semaphores(Journal::none(), RestoredState::default());
    let [holder, first] = [(); 2].map(|()| Uuid::new_v4());
    let held = request(&semaphores, "x", &asking(holder, MINUTE), "web");
    let place = request(&semaphores, "x", &asking(first, MINUTE), "web");
    for id in [holder, first] {
        for seal in ["", &semaphores.seals.of("x", holder, place.ticket)] {
            let asking = with_place(id, place.ticket, seal);
            let told = request(&semaphores, "x", &asking, "thief");
            assert!(told.outcome == Outcome::Lost && told.token == 0);
        }
    }
    // The answer may have been lost on its way, and its key may have another label since.
    let again = request(&semaphores, "x", &asking(holder, MINUTE), "web");
    assert_eq!((again.outcome, again.token), (Outcome::Holding, held.token));
    let asking = with_place(first, place.ticket, &place.seal);
    let told = request(&semaphores, "x", &asking, "relabelled");
    assert_eq!((told.outcome, told.ticket), (Outcome::Waiting, place.ticket));
}
