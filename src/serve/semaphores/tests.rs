//! The server's semaphores without a network: who is granted, who is told, and what a restart
//! brings back.

mod journals;
mod listeners;
mod places;

use super::*;
use crate::backends::cloud::protocol::{Event, EventKind, SemaphoreView};
use crate::permits::Terms;
use crate::permits::{ClientInfo, HolderState as Held, Revocation};
use crate::serve::log::{Format, Sink};

fn semaphores(journal: Journal, found: RestoredState) -> Rc<Semaphores> {
    Semaphores::new(journal, found, Bounds::default(), Log::new(&[], Format::Text, Sink::TEST))
}

/// A key that may do everything.
fn unrestricted() -> Rc<Bearer> {
    Actor::from("").bearer
}

fn asking(id: Uuid, ttl: Duration) -> Request {
    let (label, host, user) = ("l".into(), "h".into(), "u".into());
    let client = ClientInfo { label, host, pid: 1, user, detached: false };
    let request = Request::of(Operation::Acquire, id).with(|terms| terms.ttl = ttl);
    Request { client: Some(client.into()), ..request }
}

#[test]
fn idle_names_are_forgotten_with_all_that_was_due() {
    let semaphores = semaphores(Journal::none(), RestoredState::default());
    let register = |name: &str| semaphores.register(&name.into(), "actor".into()).unwrap();
    let client = register("victim");
    let mut both = [RequestKind::Monitor, RequestKind::Wait]
        .map(|which| semaphores.attach(&"victim".into(), client, which, &"".into()).ok().unwrap());
    semaphores.signal(&"victim".into(), client, "".into()).unwrap();
    for request in &mut both {
        let _ = request.verdict.try_recv();
    }
    for number in 0..=MOST_NAMES {
        let name: Rc<str> = number.to_string().into();
        let told = semaphores.execute(&name, &asking(Uuid::new_v4(), MINUTE), &"".into());
        assert_eq!(told.unwrap().outcome, Outcome::Holding);
    }
    assert!(!semaphores.all.borrow().contains_key("victim"), "no client used it");
    assert_eq!(semaphores.all.borrow().len(), MOST_NAMES + 1, "all others are held");
    // Otherwise the server would look after it for ever.
    assert!(semaphores.due.borrow().iter().all(|(_, name)| &**name != "victim"));
}

#[test]
fn a_client_that_asks_again_after_its_lease_has_ended_is_on_record_again() {
    let directory = tempfile::TempDir::new().unwrap();
    let (journal, found) = Journal::open(directory.path()).unwrap();
    let semaphores = semaphores(journal, found);
    let (name, id): (Rc<str>, _) = ("x".into(), Uuid::new_v4());
    for ttl in [Duration::from_millis(1), MINUTE] {
        let told = semaphores.execute(&name, &asking(id, ttl), &"".into()).unwrap();
        assert_eq!(told.outcome, Outcome::Holding);
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(semaphores.observe(&name, &unrestricted()).unwrap().contains(&format!("\"{id}\": {{")));
    drop(semaphores);
    let (_, found) = Journal::open(directory.path()).unwrap();
    assert_eq!(found.grants.iter().map(|grant| grant.id).collect::<Vec<_>>(), [id]);
}

#[test]
fn a_request_that_comes_after_its_client_has_given_back_takes_nothing() {
    let semaphores = semaphores(Journal::none(), RestoredState::default());
    let (name, id): (Rc<str>, _) = ("x".into(), Uuid::new_v4());
    semaphores.finish(id, &unrestricted());
    let told = semaphores.execute(&name, &asking(id, MINUTE), &"".into()).unwrap();
    assert_eq!(told.outcome, Outcome::Lost);
    assert!(semaphores.look(&name, &unrestricted()).holders.is_empty());
}

#[test]
fn a_client_that_registers_and_never_comes_back_is_forgotten_after_a_minute() {
    let semaphores = semaphores(Journal::none(), RestoredState::default());
    let name: Rc<str> = "x".into();
    let [stage, stays] = [(), ()].map(|()| semaphores.register(&name, "".into()).unwrap());
    let _wait = semaphores.attach(&name, stays, RequestKind::Wait, &"".into()).ok().unwrap();
    let known =
        |id: Uuid| semaphores.observe(&name, &unrestricted()).unwrap().contains(&id.to_string());
    for (seconds, is_known) in [(59, true), (60, false)] {
        let then = clock::now() + Duration::from_secs(seconds);
        semaphores.change_known(&name, |semaphore| due(&semaphores, semaphore, then));
        assert_eq!((known(stage), known(stays)), (is_known, true), "{seconds}");
    }
}

fn due(server: &Semaphores, semaphore: &mut ServerSemaphore, now: Moment) -> Vec<LedgerEvent> {
    semaphore.what_is_due(now, &mut server.listeners.borrow_mut())
}

/// A client of ours that asks for a semaphore called `x`.
fn request(semaphores: &Semaphores, request: &Request) -> Reply {
    semaphores.execute(&"x".into(), request, &"".into()).unwrap()
}

/// The same about a permit.
fn asks(semaphores: &Semaphores, operation: Operation, id: Uuid) -> Outcome {
    request(semaphores, &Request::of(operation, id)).outcome
}

fn hold(id: Uuid, min_hold: Duration) -> Request {
    asking(id, MINUTE).with(|terms| terms.min_hold = min_hold)
}

/// What a client has heard since it began to listen, or heard last.
fn heard(stream: &EventStream) -> Vec<EventKind> {
    let mut next = std::pin::pin!(stream.next());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match next.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Some(events)) => {
            events.into_iter().map(|Event { event, .. }| event).collect()
        }
        std::task::Poll::Ready(None) => panic!("it has ended"),
        std::task::Poll::Pending => Vec::new(),
    }
}

fn look(semaphores: &Rc<Semaphores>) -> SemaphoreView {
    semaphores.look(&"x".into(), &unrestricted())
}

/// The server with what it remembers, each time it is started anew.
fn started(directory: &tempfile::TempDir) -> Rc<Semaphores> {
    let (journal, found) = Journal::open(directory.path()).unwrap();
    semaphores(journal, found)
}

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_limit_stays_pinned_through_a_restart_and_while_the_name_is_idle() {
    let directory = tempfile::TempDir::new().unwrap();
    let name: Rc<str> = "x".into();
    let server = started(&directory);
    server.pin(&name, Some(7), &"".into()).unwrap();
    server.pin(&"y".into(), Some(2), &"".into()).unwrap();
    server.pin(&"y".into(), None, &"".into()).unwrap();
    drop(server);
    let server = started(&directory);
    assert_eq!((look(&server).limit, look(&server).pinned), (Some(7), true));
    let page = server.page("", &unrestricted());
    assert_eq!(page.semaphores.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["x"]);
    // Idle names are forgotten, and what is written anew is all that counts.
    for number in 0..=MOST_NAMES {
        server.change(&number.to_string().into(), |_| Vec::new());
    }
    assert!(!server.all.borrow().contains_key("0") && server.all.borrow().contains_key("x"));
    server.rewrite();
    drop(server);
    assert_eq!(look(&started(&directory)).limit, Some(7));
}

#[test]
fn what_the_users_agreed_on_counts_again_after_a_restart_when_it_is_not_pinned_any_more() {
    let directory = tempfile::TempDir::new().unwrap();
    let server = started(&directory);
    server.pin(&"x".into(), Some(7), &"".into()).unwrap();
    request(&server, &asking(Uuid::new_v4(), MINUTE));
    drop(server);
    let server = started(&directory);
    assert_eq!(look(&server).limit, Some(7));
    server.pin(&"x".into(), None, &"".into()).unwrap();
    assert_eq!((look(&server).limit, look(&server).pinned), (Some(1), false));
}

#[test]
fn a_permit_that_is_kept_ends_at_its_moment_also_after_a_restart() {
    let directory = tempfile::TempDir::new().unwrap();
    let id = Uuid::new_v4();
    let server = started(&directory);
    request(&server, &hold(id, HOUR));
    server.signal(&"x".into(), id, "".into()).unwrap();
    let left = |server: &_| look(server).holders.first().map(|party| (party.phase, party.left_ms));
    let Some((Held::MinHold, Some(before))) = left(&server) else { panic!("{:?}", look(&server)) };
    std::thread::sleep(Duration::from_millis(20));
    drop(server);
    let server = started(&directory);
    let Some((Held::MinHold, Some(after))) = left(&server) else { panic!("{:?}", look(&server)) };
    assert!(after + 19 <= before, "{before} {after}");
    let held_until = clock::now() + Duration::from_millis(after + 1);
    server.change(&"x".into(), |semaphore| due(&server, semaphore, held_until));
    assert!(look(&server).holders.is_empty());
}

#[test]
fn after_another_start_of_the_machine_a_permit_is_kept_from_the_start_of_the_server() {
    let grant = RecordedGrant::sample("x", 7, Terms { min_hold: HOUR, ..Terms::default() });
    let grant = RecordedGrant { since_ms: 1, phase: Held::MinHold, ..grant };
    for (rebooted, least) in [(Some(Duration::ZERO), HOUR), (None, Duration::ZERO)] {
        let mut found = RestoredState::default();
        (found.grants, found.rebooted) = (vec![grant.clone()], rebooted);
        let now = clock::now();
        let server = semaphores(Journal::none(), found);
        let expires = look(&server).holders.first().map_or(0, |party| party.left_ms.unwrap());
        let exactly = (HOUR + Duration::from_millis(1)).saturating_sub(now);
        let expected = if least.is_zero() { exactly } else { least };
        let left = Duration::from_millis(expires);
        assert!(left <= expected && left + Duration::from_secs(5) > expected, "{left:?}");
    }
}

#[test]
fn a_permit_that_was_taken_away_gently_is_not_renewed_after_a_restart() {
    let directory = tempfile::TempDir::new().unwrap();
    let id = Uuid::new_v4();
    let name: Rc<str> = "x".into();
    let server = started(&directory);
    request(&server, &hold(id, HOUR));
    assert!(server.revoke(&name, id, Revocation::Graceful, "".into()));
    drop(server);
    let server = started(&directory);
    assert_eq!(asks(&server, Operation::Renew, id), Outcome::Revoked);
    assert_eq!(request(&server, &hold(id, HOUR)).outcome, Outcome::Revoked);
    server.signal(&name, id, "".into()).unwrap();
    assert!(look(&server).holders.is_empty(), "it is not kept");
    drop(server);
    assert!(look(&started(&directory)).holders.is_empty());
}

#[test]
fn only_a_grant_that_was_claimed_is_kept_after_a_restart() {
    let directory = tempfile::TempDir::new().unwrap();
    let [first, second] = [(); 2].map(|()| Uuid::new_v4());
    let on_record = || Journal::open(directory.path()).unwrap().1.grants;
    let server = started(&directory);
    request(&server, &asking(first, MINUTE));
    request(&server, &hold(second, HOUR));
    server.signal(&"x".into(), first, "".into()).unwrap();
    assert_eq!(look(&server).holders[0].id, second);
    drop(server);
    let kept = |grant: &RecordedGrant| (grant.id, grant.terms.unwrap().min_hold);
    let kept = || on_record().iter().map(kept).collect::<Vec<_>>();
    assert_eq!(kept(), [(second, Duration::ZERO)]);
    let server = started(&directory);
    // It asks again because it was told, and knows nothing of the restart.
    request(&server, &hold(second, HOUR));
    drop(server);
    assert_eq!(kept(), [(second, HOUR)]);
}

#[test]
fn clients_of_the_original_are_left_alone_gently_and_alone_with_any_limit() {
    let server = semaphores(Journal::none(), RestoredState::default());
    let name: Rc<str> = "x".into();
    let id = server.register(&name, "".into()).unwrap();
    let _both = [RequestKind::Monitor, RequestKind::Wait]
        .map(|which| server.attach(&name, id, which, &"".into()).ok().unwrap());
    server.pin(&name, Some(9), &"".into()).unwrap();
    assert_eq!(request(&server, &asking(Uuid::new_v4(), MINUTE)).outcome, Outcome::Waiting);
    assert!(server.revoke(&name, id, Revocation::Graceful, "".into()));
    assert_eq!(look(&server).holders.len(), 1);
    assert_eq!(asks(&server, Operation::ReleaseDetached, id), Outcome::Lost);
    assert!(server.revoke(&name, id, Revocation::Forced, "".into()));
    assert_eq!(look(&server).waiters.len(), 0, "the one that waited has it");
}

#[test]
fn a_detached_permit_outlives_restarts_and_is_given_back_once() {
    let directory = tempfile::TempDir::new().unwrap();
    let id = Uuid::new_v4();
    let plain = hold(id, Duration::ZERO);
    let client = ClientInfo { detached: true, ..(**plain.client.as_ref().unwrap()).clone() };
    let server = started(&directory);
    request(&server, &Request { client: Some(client.into()), ..plain });
    drop(server);
    let server = started(&directory);
    assert_eq!(asks(&server, Operation::Attach, id), Outcome::Holding);
    assert_eq!(asks(&server, Operation::ReleaseDetached, id), Outcome::Released);
    assert_eq!(asks(&server, Operation::ReleaseDetached, id), Outcome::Done);
    drop(server);
    assert_eq!(asks(&started(&directory), Operation::ReleaseDetached, id), Outcome::Lost);
}
