//! Tests of our client with servers of either kind, without a command.

mod connections;

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::protocol::ID_HEADER;
use super::*;
use crate::backends::tls::{Secret, Tls};
use crate::permits::Terms;
use crate::permits::{ClientInfo, Grade};
use crate::serve::bounds::Bounds;
use crate::serve::connections::{ConnectionLimits, Connections};
use crate::serve::journal::{Journal, RestoredState};
use crate::serve::keys::ApiKeys;
use crate::serve::log::{Format, Log, Sink};
use crate::serve::routes::Routes;
use crate::serve::semaphores::Semaphores;

const KEY: &str = "a-key-for-tests";

/// A server of the original kind where `holder` has `x`, as far as it is asked here: it knows four
/// paths and no header of ours. Keeps the paths.
async fn original(listener: TcpListener, holder: Uuid, asked: Rc<RefCell<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let asked = Rc::clone(&asked);
        spawn_local(async move {
            let mut stream = BufReader::new(stream);
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let path = head.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
                let theirs = head.contains(&format!("{ID_HEADER}: {holder}"));
                let (status, body) = match path.as_str() {
                    OBSERVE if head.contains("name=x ") => {
                        ("200 OK", format!(r#"{{"nodes":{{}},"waiting":[],"running":"{holder}"}}"#))
                    }
                    OBSERVE => ("200 OK", String::new()),
                    SIGNAL if theirs => ("200 OK", String::new()),
                    SIGNAL => ("422 Unprocessable Entity", String::new()),
                    _ => ("404 Not Found", String::new()),
                };
                asked.borrow_mut().push(path);
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn client(listener: &TcpListener, key: &str) -> Cloud {
    let url =
        config::CloudUrl::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    Cloud::new(CloudConfig { url, key: Some(Secret(key.into())), tls: Tls::default() }).unwrap()
}

fn settle(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn request(name: &Name, detached: bool, min_hold: Duration) -> AcquireRequest {
    let (label, host, user) = ("l".into(), "h".into(), "u".into());
    let who = ClientInfo { label, host, pid: 1, user, detached };
    AcquireRequest::of(name.clone(), Terms { min_hold, ..Terms::default() }, who)
}

fn is_unsupported<T>(done: Result<T, BackendError>) -> bool {
    done.is_err_and(|error| matches!(error.cause, StoreError::Original(_)))
}

#[test]
fn what_a_server_of_the_original_kind_cannot_do_is_said_before_it_hears_of_us() {
    settle(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cloud = client(&listener, KEY);
        let asked = Rc::default();
        spawn_local(original(listener, Uuid::new_v4(), Rc::clone(&asked)));
        let (name, id): (Name, _) = ("free".parse().unwrap(), Uuid::new_v4());
        for request in [
            request(&name, true, Duration::ZERO),
            request(&name, false, Duration::from_secs(1)),
            request(&name, false, Duration::ZERO).with(|terms| terms.limit = 2),
        ] {
            let (_canceller, cancel) = CancelToken::pair();
            assert!(is_unsupported(
                cloud.acquire(&request, &ProgressSender::unheard(), cancel).await
            ));
        }
        assert!(is_unsupported(cloud.attach(&name, id).await));
        assert!(is_unsupported(cloud.release_detached(&name, id).await));
        assert!(is_unsupported(cloud.set_limit(&name, Some(3)).await));
        assert!(is_unsupported(cloud.set_limit(&name, None).await));
        let asked = asked.borrow();
        assert!(
            !asked.iter().any(|path| path.ends_with("register") || path == SIGNAL),
            "{asked:?}"
        );
    });
}

#[test]
fn a_permit_in_a_server_of_the_original_kind_is_left_alone_gently_and_signalled_at_once() {
    settle(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cloud = client(&listener, KEY);
        let (name, holder): (Name, _) = ("x".parse().unwrap(), Uuid::new_v4());
        let asked = Rc::default();
        spawn_local(original(listener, holder, Rc::clone(&asked)));
        let unknown = Uuid::new_v4();
        let revoke = async |id, how| cloud.revoke(&name, id, how).await.unwrap();
        assert!(revoke(holder, Revocation::Graceful).await);
        assert!(!revoke(unknown, Revocation::Graceful).await);
        assert!(!asked.borrow().iter().any(|path| path == SIGNAL));
        assert!(revoke(holder, Revocation::Forced).await);
        assert!(!revoke(unknown, Revocation::Forced).await);
        assert!(asked.borrow().iter().any(|path| path == SIGNAL));
    });
}

#[test]
fn an_examination_says_which_kind_of_server_it_is_and_what_is_to_be_done() {
    settle(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cloud = client(&listener, KEY);
        spawn_local(original(listener, Uuid::new_v4(), Rc::default()));
        let findings = cloud.diagnose().await.unwrap();
        let topics: Vec<_> = findings.iter().map(|one| (one.topic, one.grade)).collect();
        let expected = [("server", Grade::Ok), ("kind", Grade::Warning), ("network", Grade::Ok)];
        assert_eq!(topics, expected);

        let directory = tempfile::TempDir::new().unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        for (journal, state) in [(Journal::none(), Grade::Warning), (journal, Grade::Ok)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (cloud, stranger) = (client(&listener, KEY), client(&listener, "another-key"));
            let log = Log::new(&[], Format::Text, Sink::TEST);
            let semaphores =
                Semaphores::new(journal, RestoredState::default(), Bounds::default(), log);
            let routes = Routes::new(semaphores, ApiKeys::of_words(KEY).unwrap());
            let door = Connections::new(ConnectionLimits::within(1024, None, None));
            spawn_local(crate::serve::run(listener, None, routes, door, std::future::pending()));
            let findings = cloud.diagnose().await.unwrap();
            let topics: Vec<_> = findings.iter().map(|one| (one.topic, one.grade)).collect();
            let expected = [
                ("server", Grade::Ok),
                ("kind", Grade::Ok),
                ("state", state),
                ("clock", Grade::Ok),
                ("network", Grade::Ok),
            ];
            assert_eq!(topics, expected);
            let refused = stranger.diagnose().await.unwrap_err();
            assert_eq!(refused.cause, StoreError::ApiKeyRefused);
        }
    });
}
