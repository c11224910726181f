//! Invalid requests, and requests that come slowly or not at all.

use super::*;

#[test]
fn requests_that_wait_outlive_the_keep_alive_and_idle_connections_do_not() {
    on_a_server(|_, client| {
        let holder = client.wait_on_semaphore("x");
        let mut next = waiter(client, "x");
        let lone = client.register("x");
        let lone = client.monitor("x", &lone);
        let mut idle = client.open("/semaphore/observe?name=y", &[]);
        succeeds(&mut idle);
        sleep(Duration::from_millis(500));
        // In use again within that time.
        idle.send("GET", "/semaphore/observe?name=y", &[("x-api-key", KEY)], "");
        succeeds(&mut idle);
        let answered = Instant::now();
        wait_until("the server closes it", || !idle.is_open());
        assert!(idle.try_answer().is_err());
        let lasted = answered.elapsed().as_secs_f32();
        assert!((4.8..=12.0).contains(&lasted), "{lasted}");
        sleep(Duration::from_millis(6500).saturating_sub(answered.elapsed()));
        assert!(holder.monitor.is_open() && next.monitor.is_open() && next.wait.is_open());
        assert!(lone.is_open());
        holder.signal();
        succeeds(&mut next.wait);
    });
}

#[test]
fn odd_names_are_answered() {
    on_a_server(|_, client| {
        let long = ["x".repeat(10_000), "日".repeat(1_100), "/".repeat(3_000)];
        let control = ["\0", "a\r\nb", "\u{1b}[2J", "\u{7f}", "\u{202e}"].map(String::from);
        for name in long.iter().chain(&control) {
            for action in ["register", "observe", "signal"] {
                let status = client.get(&path(action, name), &[]).status;
                assert!((200..500).contains(&status), "{action} of {name:?}: {status}");
            }
        }
        for query in
            ["name=%", "name=%zz", "name=%ff%fe", "name=%C3", "name[]=x", "name[x]=y", "&&=&"]
        {
            let status = client.get(&format!("/semaphore/register?{query}"), &[]).status;
            assert!((200..500).contains(&status), "{query}: {status}");
        }
        client.wait_on_semaphore("x").signal();
    });
}

/// Whether something that a server need not understand ends in an answer of this kind, or in
/// none.
#[track_caller]
fn is_turned_away(client: &Client, bytes: &[u8], statuses: std::ops::Range<u16>) {
    let mut stream = client.connect();
    // It may close before it has read all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    if let Ok(answer) = Pending::on(stream).try_answer() {
        assert!(statuses.contains(&answer.status), "{}", answer.status);
    }
    client.wait_on_semaphore("x").signal();
}

#[test]
fn what_is_not_http_is_turned_away() {
    on_a_server(|_, client| {
        for bytes in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
            b"nonsense\r\n\r\n",
            b"\r\n\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /semaphore/observe?name=x\r\n\r\n",
            b"GET /semaphore/observe?name=\x00\x01 HTTP/1.1\r\n\r\n",
            b"GET /semaphore/observe HTTP/1.1\r\nno colon\r\n\r\n",
            b"PATCH /logconfig HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"PATCH /logconfig HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
            b"PATCH /logconfig HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
            &[0xff; 3000],
        ] {
            is_turned_away(client, bytes, 400..402);
        }
    });
}

#[test]
fn what_is_too_large_keeps_no_client_from_being_served() {
    on_a_server(|_, client| {
        let line = format!("x-padding: {}\r\n", "x".repeat(1000));
        let head = format!(
            "GET /semaphore/observe?name=x HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\n{}\r\n",
            line.repeat(100)
        );
        is_turned_away(client, head.as_bytes(), 200..500);
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nx-padding: {}", "x".repeat(100_000));
        is_turned_away(client, head.as_bytes(), 200..500);
        let body = format!(r#"{{"server":"{}"}}"#, "x".repeat(10_000_000));
        let head = format!(
            "PATCH /logconfig HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        is_turned_away(client, head.as_bytes(), 200..500);
        assert_eq!(client.patch("{}").body, LOG_CONFIGURATION);
    });
}

#[test]
fn a_client_that_says_nothing_or_little_keeps_no_other_from_being_served() {
    on_a_server(|_, client| {
        let silent: Vec<TcpStream> = (0..200).map(|_| client.connect()).collect();
        let slow = ["G", "GET /semaphore/observe?name=x HTTP/1.1\r\nHost"].map(|start| {
            let mut stream = client.connect();
            stream.write_all(start.as_bytes()).unwrap();
            stream
        });
        let headers = [JSON, ("Content-Length", "100")];
        let unfinished = client.send("PATCH", "/logconfig", &headers, "");
        let begun = Instant::now();
        client.wait_on_semaphore("x").signal();
        assert!(begun.elapsed() < AT_ONCE);
        assert!(unfinished.is_open());
        drop((silent, slow));
        client.wait_on_semaphore("x").signal();
    });
}

#[test]
fn requests_may_come_in_pieces_and_bodies_in_chunks() {
    on_a_server(|_, client| {
        let mut stream = client.connect();
        let request = format!(
            "PATCH /logconfig HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
             3\r\n{{\"s\r\n16\r\nerver\":{{\"info\":false}}}}\r\n0\r\n\r\n"
        );
        for piece in request.as_bytes().chunks(40) {
            stream.write_all(piece).unwrap();
            sleep(Duration::from_millis(5));
        }
        let answer = Pending::on(stream).answer();
        let silent = LOG_CONFIGURATION.replacen("\"info\": true", "\"info\": false", 1);
        assert_eq!(parts(&answer), (200, &*silent));
    });
}

#[test]
fn a_connection_that_says_close_is_closed_after_the_answer() {
    on_a_server(|_, client| {
        let close = [("Connection", "close")];
        let mut pending = client.open("/semaphore/observe?name=x", &close);
        let begun = Instant::now();
        succeeds(&mut pending);
        wait_until("it is closed", || !pending.is_open());
        assert!(begun.elapsed() < AT_ONCE);
    });
}

#[test]
fn a_double_of_the_original_has_its_weak_points() {
    let mut server = CloudServer::like_node();
    let client = Client::new(server.port(), KEY);
    assert_eq!(server.url(), format!("http://127.0.0.1:{}", client.port));
    let null = r#"{"server":null}"#;
    let blows: [&dyn Fn() -> Pending; 3] =
        [&|| client.monitor("x", UNKNOWN), &|| client.open(&path("wait", "x"), &[]), &|| {
            client.send("PATCH", "/logconfig", &[JSON], null)
        }];
    for (blow, crashes) in blows.into_iter().zip(1..) {
        let mut holder = client.wait_on_semaphore("x");
        assert!(blow().try_answer().is_err() && holder.monitor.try_answer().is_err());
        wait_until("it has ended", || !server.is_running());
        assert_eq!(server.log().matches("crashed: ").count(), crashes);
        server.start_again();
        assert_eq!(client.observe("x"), Value::Null, "all is forgotten");
    }
    let mut holder = client.wait_on_semaphore("x");
    server.kill();
    assert!(holder.monitor.try_answer().is_err());
    server.start_again();
    // A waiter that signals is granted the permit nonetheless, and is not told.
    let holder = client.wait_on_semaphore("x");
    let mut hasty = waiter(&client, "x");
    assert_eq!(client.signal("x", &hasty.id).status, 422);
    is_refused(&mut hasty.wait);
    holder.signal();
    assert_eq!(client.observe("x")["running"], hasty.id);
    server.signal(Signal::TERM);
    wait_until("it has ended", || !server.is_running());
}

#[test]
fn an_end_without_a_request_is_just_an_end() {
    on_a_server(|_, client| {
        let stream = client.connect();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        (&stream).read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
        client.wait_on_semaphore("x").signal();
    });
}

#[test]
fn a_holder_that_goes_is_noticed_whatever_it_sent_before() {
    on_ours(&[], |_, client| {
        let more: [&[u8]; 3] = [b"\r\n", b"GET /semaphore/observe?name=x HTTP/1.1\r\n\r\n", b"x"];
        for more in more {
            for half in [true, false] {
                let id = client.register("x");
                let mut stream = client.connect();
                let head = format!(
                    "GET /semaphore/monitor?name=x HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n\
                     x-client-uuid: {id}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).unwrap();
                let mut wait = client.wait("x", &id);
                succeeds(&mut wait);
                stream.write_all(more).unwrap();
                let mut next = waiter(client, "x");
                if half {
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                } else {
                    drop(stream);
                }
                succeeds(&mut next.wait);
                assert_eq!(client.signal("x", &next.id).status, 200);
            }
        }
    });
}

#[test]
fn who_asks_and_closes_its_end_is_answered() {
    on_ours(&[], |_, client| {
        client.register("x");
        for _ in 0..100 {
            let mut stream = client.connect();
            let head = format!(
                "GET /semaphore/observe?name=x HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(Pending::on(stream).answer().status, 200);
        }
    });
}
