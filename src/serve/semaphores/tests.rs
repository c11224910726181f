use super::*;
use crate::backends::Who;
use crate::serve::log::Format;

fn semaphores(journal: Journal, found: Found) -> Rc<Semaphores> {
    Semaphores::new(journal, found, Log::new(&[], Format::Text))
}

fn asking(id: Uuid, ttl_ms: u64) -> Asking {
    let who = Who { label: "l".into(), host: "h".into(), pid: 1, user: "u".into() };
    Asking { id, limit: 1, ttl_ms, ticket: 0, nonblock: false, strict: false, who }
}

#[test]
fn names_that_nobody_uses_are_forgotten_with_all_that_was_due() {
    let semaphores = semaphores(Journal::none(), Found::default());
    let register = |name: &str| semaphores.register(&name.into(), "actor".into()).unwrap();
    let client = register("victim");
    let mut both = [Which::Monitor, Which::Wait]
        .map(|which| semaphores.attach(&"victim".into(), client, which).ok().unwrap());
    semaphores.signal(&"victim".into(), client, "".into()).unwrap();
    for request in &mut both {
        let _ = request.verdict.try_recv();
    }
    for number in 0..=MOST_NAMES {
        let name: Rc<str> = number.to_string().into();
        let (_, waits) =
            semaphores.ask(&name, asking(Uuid::new_v4(), 60_000), &"".into()).ok().unwrap();
        assert!(waits.is_none());
    }
    assert!(!semaphores.all.borrow().contains_key("victim"), "nobody used it");
    assert_eq!(semaphores.all.borrow().len(), MOST_NAMES + 1, "all others are held");
    // Otherwise the server would look after it for ever.
    assert!(semaphores.due.borrow().iter().all(|(_, name)| &**name != "victim"));
}

#[test]
fn one_who_asks_again_after_its_lease_has_ended_is_on_record_again() {
    let directory = tempfile::TempDir::new().unwrap();
    let (journal, found) = Journal::open(directory.path()).unwrap();
    let semaphores = semaphores(journal, found);
    let (name, id): (Rc<str>, _) = ("x".into(), Uuid::new_v4());
    for ttl in [1, 60_000] {
        let (told, _) = semaphores.ask(&name, asking(id, ttl), &"".into()).ok().unwrap();
        assert_eq!(told.outcome, Outcome::Held);
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(semaphores.observe(&name).unwrap().contains(&format!("\"{id}\": {{")));
    drop(semaphores);
    let (_, found) = Journal::open(directory.path()).unwrap();
    assert_eq!(found.grants.iter().map(|grant| grant.id).collect::<Vec<_>>(), [id]);
}

#[test]
fn a_request_that_comes_after_its_client_has_given_back_takes_nothing() {
    let semaphores = semaphores(Journal::none(), Found::default());
    let (name, id): (Rc<str>, _) = ("x".into(), Uuid::new_v4());
    semaphores.finish(id);
    let (told, _) = semaphores.ask(&name, asking(id, 60_000), &"".into()).ok().unwrap();
    assert_eq!(told.outcome, Outcome::Lost);
    assert!(semaphores.look(&name).holders.is_empty());
}

#[test]
fn one_who_registers_and_never_comes_back_is_forgotten_after_a_minute() {
    let semaphores = semaphores(Journal::none(), Found::default());
    let name: Rc<str> = "x".into();
    let [gone, stays] = [(), ()].map(|()| semaphores.register(&name, "".into()).unwrap());
    let _wait = semaphores.attach(&name, stays, Which::Wait).ok().unwrap();
    let known = |id: Uuid| semaphores.observe(&name).unwrap().contains(&id.to_string());
    for (seconds, is_known) in [(59, true), (60, false)] {
        let then = clock::now() + Duration::from_secs(seconds);
        semaphores.change_known(&name, |semaphore| semaphore.what_is_due(then));
        assert_eq!((known(gone), known(stays)), (is_known, true), "{seconds}");
    }
}
