//! Holders and waiters of the library when something comes between: a server that stalls, a runtime
//! that ends, a caller that does not wait, a store with locks of its own.

#[cfg(test)]
mod disturbed {
    use std::io;
    use std::process::Command;
    use std::sync::{Arc, Mutex};
    use std::task::Poll;
    use std::time::Duration;

    use rustix::process::Signal;
    use semrun::custom_store::{
        BoxFuture, CustomStore, Operation, Outcome, Reply, Request, Standing, Wakeup, Wakeups,
    };
    use semrun::{Lost, Place, Semaphore};
    use semrun_testkit::cloud_server::{CloudServer, KEY};
    use tokio::runtime::Runtime;
    use tokio::task::JoinSet;
    use tokio::time::{sleep, timeout};
    use uuid::Uuid;

    const HOUR: Duration = Duration::from_hours(1);
    /// Much less than a lease, and enough for a busy machine.
    const SOON: Duration = Duration::from_secs(30);

    fn runtime() -> Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    }

    /// A client of its own.
    fn client(server: &CloudServer) -> Semaphore {
        Place::new(server.url()).api_key(KEY).semaphore("x").unwrap().ttl(HOUR)
    }

    async fn waiters(semaphore: &Semaphore, count: usize) {
        let seen = async {
            while semaphore.snapshot().await.unwrap().waiters.len() != count {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, seen).await.expect("as many waiters as there should be");
    }

    #[test]
    fn a_release_goes_on_when_its_caller_does_not_wait_for_it() {
        let server = CloudServer::ours();
        // With one thread nothing is sent before the caller has gone.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let permit = client(&server).acquire().await.unwrap();
            {
                let mut released = Box::pin(permit.release());
                let begun = std::future::poll_fn(|context| {
                    Poll::Ready(released.as_mut().poll(context).is_pending())
                });
                assert!(begun.await);
            }
            let next = client(&server).acquire_timeout(SOON).await.unwrap();
            assert!(next.is_some());
        });
    }

    #[test]
    fn a_holder_that_goes_on_after_its_permit_was_revoked_sleeps() {
        const TIME: Duration = Duration::from_millis(500);
        let server = CloudServer::ours();
        runtime().block_on(async {
            let mut permit = client(&server).acquire().await.unwrap();
            let mut revoke = Command::new(env!("CARGO_BIN_EXE_semrun"));
            revoke.args(["release", "--force", "x"]).env("SEMRUN_BACKEND", server.url());
            let mut revoke = revoke.env("SEMRUN_API_KEY", KEY).spawn().unwrap();
            assert_eq!(permit.lost().await, Lost::Revoking);
            let mut polls = 0;
            {
                let mut lost = Box::pin(permit.lost());
                let counted = std::future::poll_fn(|context| {
                    polls += 1;
                    lost.as_mut().poll(context)
                });
                assert!(timeout(TIME, counted).await.is_err());
            }
            assert!(polls < 20, "polled {polls} times");
            permit.release().await.unwrap();
            assert!(revoke.wait().unwrap().success());
        });
    }

    #[test]
    fn waiters_that_could_not_leave_while_the_server_stalled_leave_later() {
        const MANY: usize = 1_000;
        let server = CloudServer::ours();
        runtime().block_on(async {
            let semaphore = client(&server);
            // A holder that has waited listens from the first moment on, and the client is there.
            let before = client(&server).acquire().await.unwrap();
            let waits = semaphore.clone();
            let permit = tokio::spawn(async move { waits.acquire().await.unwrap() });
            waiters(&semaphore, 1).await;
            before.release().await.unwrap();
            let permit = permit.await.unwrap();
            let mut waiting = JoinSet::new();
            for _ in 0..MANY {
                let semaphore = semaphore.clone();
                waiting.spawn(async move { semaphore.acquire().await.map(drop) });
            }
            waiters(&semaphore, MANY).await;
            server.signal(Signal::STOP);
            waiting.shutdown().await;
            // Longer than it is waited for that a client leaves, and too short for all of them.
            sleep(Duration::from_millis(1_200)).await;
            server.signal(Signal::CONT);
            waiters(&semaphore, 0).await;
            permit.release().await.unwrap();
        });
    }

    #[test]
    fn a_waiter_is_served_after_the_runtime_that_listened_has_ended() {
        let server = CloudServer::ours();
        let (first, second) = (runtime(), runtime());
        let holder = second.block_on(client(&server).acquire()).unwrap();
        let semaphore = client(&server);
        let waits = semaphore.clone();
        first.spawn(async move { waits.acquire().await.map(drop) });
        second.block_on(waiters(&semaphore, 1));
        let waits = semaphore.clone();
        let waiter = second.spawn(async move { waits.acquire().await });
        second.block_on(waiters(&semaphore, 2));
        first.shutdown_timeout(SOON);
        second.block_on(async {
            holder.release().await.unwrap();
            timeout(SOON, waiter)
                .await
                .expect("its turn")
                .unwrap()
                .unwrap()
                .release()
                .await
                .unwrap();
        });
    }

    /// A store with one lock for everything, which tells its listeners under it.
    #[derive(Default)]
    struct Locked(Arc<Mutex<Vec<Wakeups>>>);

    impl CustomStore for Locked {
        fn execute<'a>(
            &'a self,
            _: &'a str,
            request: &'a Request,
        ) -> BoxFuture<'a, io::Result<Reply>> {
            Box::pin(async move {
                let listeners = self.0.lock().unwrap();
                for listener in &*listeners {
                    listener.send(request.id, Wakeup::Ask);
                }
                let waits = request.operation == Operation::Acquire && listeners.is_empty();
                let mut reply = Reply::new(if waits { Outcome::Waiting } else { Outcome::Holding });
                reply.terms = request.terms;
                reply.token = 1;
                Ok(reply)
            })
        }

        fn listen(&self, _: Uuid, wakeups: Wakeups) -> BoxFuture<'static, io::Error> {
            let mut listeners = self.0.lock().unwrap();
            wakeups.send_to_all(Wakeup::Ask);
            listeners.push(wakeups);
            Box::pin(std::future::pending())
        }

        fn standings<'a>(&'a self, _: Option<&'a str>) -> BoxFuture<'a, io::Result<Vec<Standing>>> {
            Box::pin(std::future::ready(Ok(Vec::new())))
        }

        fn url(&self) -> &'static str {
            "locked:"
        }
    }

    #[test]
    fn a_store_may_tell_its_listeners_under_a_lock_that_listening_takes_too() {
        let (done, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = runtime();
            runtime.block_on(async {
                let semaphore = Semaphore::over(Locked::default(), "x").unwrap();
                semaphore.acquire().await.unwrap().release().await.unwrap();
            });
            done.send(()).unwrap();
        });
        heard.recv_timeout(SOON).expect("no deadlock");
    }
}
