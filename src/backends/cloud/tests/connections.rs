//! Our client with a server of our own: how many connections it takes, and what a broken one costs.

use std::cell::Cell;
use std::future::pending;

use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::protocol::ExecuteAnswer;
use super::semrun_server::request_batching::Requests;
use super::*;
use crate::permits::{LossStage, Progress};

const PATIENCE: Duration = Duration::from_secs(20);

/// What stands between a client and its server: it counts, and cuts streams of events.
#[derive(Default)]
struct Relay {
    /// The connections that are open, and whether each is such a stream.
    open: RefCell<Vec<(bool, JoinHandle<()>)>>,
    cuts_events: Cell<bool>,
    /// Ends what passes, and lets no side know.
    held_up: Notify,
}

impl Relay {
    async fn run(self: Rc<Self>, listener: TcpListener, server: std::net::SocketAddr) {
        while let Ok((mut client, _)) = listener.accept().await {
            let this = Rc::clone(&self);
            spawn_local(async move {
                let mut first = vec![0; 4096];
                let Ok(length) = client.read(&mut first).await else { return };
                let hears = first.starts_with(b"GET /semrun/events");
                if hears && this.cuts_events.get() {
                    return;
                }
                let its = Rc::clone(&this);
                let passes = spawn_local(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    server.write_all(&first[..length]).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        () = its.held_up.notified() => pending().await,
                    }
                });
                this.open.borrow_mut().push((hears, passes));
            });
        }
    }

    fn count(&self) -> usize {
        self.open.borrow_mut().retain(|(_, passes)| !passes.is_finished());
        self.open.borrow().len()
    }

    fn hold_up(&self) {
        self.held_up.notify_waiters();
    }

    fn cut_events(&self) {
        self.cuts_events.set(true);
        self.open.borrow().iter().filter(|(hears, _)| *hears).for_each(|(_, one)| one.abort());
    }
}

/// A client of a server of ours, with a relay in between, and one without.
async fn world() -> (Rc<Cloud>, Rc<Relay>, Cloud) {
    let (server, before) = (TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0"));
    let (server, before) = (server.await.unwrap(), before.await.unwrap());
    let (cloud, direct, relay) =
        (client(&before, KEY), client(&server, KEY), Rc::<Relay>::default());
    spawn_local(Rc::clone(&relay).run(before, server.local_addr().unwrap()));
    let log = Log::new(&[], Format::Text, Sink::TEST);
    let semaphores =
        Semaphores::new(Journal::none(), RestoredState::default(), Bounds::default(), log);
    let routes = Routes::new(semaphores, ApiKeys::of_words(KEY).unwrap());
    let door = Connections::new(ConnectionLimits::within(1024, None, None));
    spawn_local(crate::serve::run(server, None, routes, door, pending()));
    (Rc::new(cloud), relay, direct)
}

type Acquiring = JoinHandle<Box<dyn Lease>>;

fn asks(cloud: &Rc<Cloud>, limit: u32) -> (Acquiring, UnboundedReceiver<Progress>) {
    let (progress, news) = ProgressSender::channel();
    let cloud = Rc::clone(cloud);
    let acquiring = spawn_local(async move {
        let wanted = request(&x(), false, Duration::ZERO).with(|terms| terms.limit = limit);
        let (_canceller, cancel) = CancelToken::pair();
        match cloud.acquire(&wanted, &progress, cancel).await {
            Ok(Acquisition::Granted(lease)) => lease,
            Ok(_) => panic!("not granted"),
            Err(error) => panic!("{error}"),
        }
    });
    (acquiring, news)
}

/// The same; returns once it is in the queue.
async fn waits(cloud: &Rc<Cloud>, limit: u32) -> Acquiring {
    let (acquiring, mut news) = asks(cloud, limit);
    while !matches!(within(news.recv()).await.unwrap(), Progress::Queued(_)) {}
    acquiring
}

fn x() -> Name {
    "x".parse().unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

async fn until(what: impl Fn() -> bool) {
    within(async {
        while !what() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[test]
fn one_process_with_many_permits_and_places_has_two_connections_and_is_served_in_order() {
    const EACH: u32 = 50;
    settle(async {
        let (cloud, relay, _) = world().await;
        let asking: Vec<_> = (0..EACH).map(|_| asks(&cloud, EACH)).collect();
        let mut leases = Vec::new();
        for (acquiring, _news) in asking {
            leases.push(within(acquiring).await.unwrap());
        }
        let mut waiters = Vec::new();
        for _ in 0..EACH {
            waiters.push(waits(&cloud, EACH).await);
        }
        until(|| relay.count() == 2).await;
        assert_eq!(relay.open.borrow().iter().filter(|(hears, _)| *hears).count(), 1);
        for (number, lease) in leases.into_iter().enumerate() {
            lease.release(PATIENCE).await.unwrap();
            until(|| waiters[number].is_finished()).await;
            let next = waiters.get(number + 1);
            assert!(next.is_none_or(|next| !next.is_finished()), "{number} is served first");
        }
        until(|| relay.count() == 2).await;
    });
}

#[test]
fn a_stream_of_events_that_breaks_costs_no_place_and_hides_no_revocation() {
    settle(async {
        let (cloud, relay, operator) = world().await;
        let mut held = within(asks(&cloud, 1).0).await.unwrap();
        let [first, second] = [waits(&cloud, 1).await, waits(&cloud, 1).await];
        let waiting = async || operator.observe(&x()).await.unwrap().waiters;
        let before = waiting().await;
        relay.cut_events();
        assert!(operator.revoke(&x(), held.permit().id, Revocation::Graceful).await.unwrap());
        assert_eq!(within(held.lost()).await.stage, LossStage::Revoking);
        assert_eq!(waiting().await, before);
        relay.cuts_events.set(false);
        until(|| relay.count() == 2).await;
        held.release(PATIENCE).await.unwrap();
        let held = within(first).await.unwrap();
        assert!(!second.is_finished());
        held.release(PATIENCE).await.unwrap();
        within(second).await.unwrap();
    });
}

#[test]
fn a_connection_that_hangs_holds_up_no_other_request_for_long() {
    settle(async {
        let (cloud, relay, _) = world().await;
        let requests = Requests::default();
        let ask = async || {
            let request = Request::of(Operation::Renew, Uuid::new_v4());
            requests.ask(&cloud.server, &x(), &request).await
        };
        ask().await.unwrap();
        assert_eq!(relay.count(), 1);
        relay.hold_up();
        let mut hangs = std::pin::pin!(ask());
        // It is sent before the next one is there; that one waits for the same connection first.
        let next = async {
            sleep(Duration::from_millis(20)).await;
            ask().await
        };
        tokio::select! {
            biased;
            answer = &mut hangs => panic!("it is answered: {answer:?}"),
            answer = next => assert!(matches!(answer, Ok(ExecuteAnswer::Reply(_))), "{answer:?}"),
        }
        assert_eq!(hangs.await.unwrap_err(), StoreError::Silent);
        ask().await.unwrap();
    });
}
