//! Clients that listen, and what they are told.

use super::*;

/// A client asks for a permit of `x`, and names itself.
fn ask(server: &Semaphores, listener: Uuid, id: Uuid) -> Outcome {
    request(server, &Request { listener, ..asking(id, MINUTE) }).outcome
}

fn listen(server: &Rc<Semaphores>, listener: Uuid) -> (bool, EventStream) {
    let (greeting, stream) = server.listen(listener, &unrestricted());
    (greeting.missed, stream)
}

/// Lets so much time pass, for what is checked later.
fn after(server: &Semaphores, time: Duration) {
    let then = clock::now() + time;
    server.change_known(&"x".into(), |semaphore| due(server, semaphore, then));
}

#[test]
fn a_holder_hears_what_becomes_of_its_permit() {
    let server = semaphores(Journal::none(), RestoredState::default());
    let (name, listener): (Rc<str>, _) = ("x".into(), Uuid::new_v4());
    for (how, event) in [
        (Some(Revocation::Graceful), EventKind::Revoked),
        (Some(Revocation::Forced), EventKind::RevokedNow),
        (None, EventKind::Released),
    ] {
        let id = Uuid::new_v4();
        let held = request(&server, &Request { listener, ..hold(id, HOUR) });
        assert_eq!(held.outcome, Outcome::Holding);
        let (missed, stream) = listen(&server, listener);
        assert!(!missed && heard(&stream).is_empty());
        match how {
            Some(how) => assert!(server.revoke(&name, id, how, "".into())),
            None => server.signal(&name, id, "".into()).unwrap(),
        }
        assert_eq!(heard(&stream)[0], event, "{how:?}");
        server.revoke(&name, id, Revocation::Forced, "".into());
        assert_eq!(ask(&server, listener, id), Outcome::Lost, "it comes too late");
    }
    assert!(server.listeners.borrow().is_empty(), "nothing is kept of it");
}

#[test]
fn all_who_listen_to_a_permit_are_told_and_its_own_release_is_no_news() {
    let server = semaphores(Journal::none(), RestoredState::default());
    let [id, first, last] = [(); 3].map(|()| Uuid::new_v4());
    assert_eq!(ask(&server, first, id), Outcome::Holding);
    for _ in 0..20 {
        let renewal = Request { listener: Uuid::new_v4(), ..Request::of(Operation::Renew, id) };
        request(&server, &renewal);
    }
    let both = [first, last].map(|one| listen(&server, one).1);
    for listener in [first, last] {
        request(&server, &Request { listener, ..Request::of(Operation::Renew, id) });
    }
    assert!(server.revoke(&"x".into(), id, Revocation::Graceful, "".into()));
    for stream in &both {
        assert_eq!(heard(stream), [EventKind::Revoked]);
    }
    request(&server, &Request { listener: first, ..Request::of(Operation::Release, id) });
    assert_eq!(both.each_ref().map(heard), [vec![], vec![EventKind::Released]]);
    drop(both);
    assert!(server.listeners.borrow().is_empty(), "nothing is kept of those that never listened");
}

#[test]
fn a_waiter_is_there_while_its_client_listens_or_has_just_asked() {
    let server = semaphores(Journal::none(), RestoredState::default());
    let [holder, first, second, listener] = [(); 4].map(|()| Uuid::new_v4());
    let release = |id| asks(&server, Operation::Release, id);
    let holds = || look(&server).holders.first().map(|one| one.id);
    ask(&server, Uuid::nil(), holder);
    assert_eq!(ask(&server, listener, first), Outcome::Waiting);
    let (missed, stream) = listen(&server, listener);
    assert!(!missed, "it has only asked");
    after(&server, Duration::from_secs(3));
    assert_eq!(ask(&server, Uuid::nil(), second), Outcome::Waiting);
    release(holder);
    assert_eq!((holds(), heard(&stream)), (Some(first), vec![EventKind::Ask]));
    release(first);
    assert_eq!(holds(), Some(second), "it has just asked");
    assert_eq!(ask(&server, Uuid::nil(), second), Outcome::Holding);

    // Without an open answer it is passed over after two seconds, and has to ask.
    assert_eq!(ask(&server, Uuid::nil(), Uuid::new_v4()), Outcome::Waiting);
    after(&server, Duration::from_secs(3));
    let [third, fourth] = [(); 2].map(|()| Uuid::new_v4());
    assert_eq!(ask(&server, listener, third), Outcome::Waiting);
    drop(stream);
    assert_eq!(ask(&server, Uuid::nil(), fourth), Outcome::Waiting);
    release(second);
    assert_eq!(holds(), Some(fourth), "the others are away");
    let (missed, stream) = listen(&server, listener);
    assert!(missed, "it has to ask, to be there again");
    assert_eq!(ask(&server, listener, third), Outcome::Waiting);
    release(fourth);
    assert_eq!((holds(), heard(&stream)), (Some(third), vec![EventKind::Ask]));
}

#[test]
fn what_happens_while_no_answer_is_open_is_missed_and_said_so() {
    let server = semaphores(Journal::none(), RestoredState::default());
    let [id, listener] = [(); 2].map(|()| Uuid::new_v4());
    assert!(listen(&server, listener).0, "this server does not know it");
    assert_eq!(ask(&server, listener, id), Outcome::Holding);
    assert!(server.revoke(&"x".into(), id, Revocation::Graceful, "".into()));
    let (missed, first) = listen(&server, listener);
    assert!(missed && heard(&first).is_empty());
    let (missed, _second) = listen(&server, listener);
    assert!(missed, "the other answer may have had some that it did not get");
    drop(first);
    assert!(server.listeners.borrow().are_there(&server.all.borrow()["x"].clients[&id]));
    let (_, of_another_key) = server.listen(listener, &Actor::from("other").bearer);
    server.revoke(&"x".into(), id, Revocation::Forced, "".into());
    assert!(heard(&of_another_key).is_empty());
}
