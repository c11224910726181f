//! The order of waiters and holders, and how a permit passes on.

use std::collections::HashMap;

use super::*;

#[test]
fn a_permit_is_granted_and_released_without_a_trace() {
    on_a_server(|_, client| {
        let mut holder = client.attach("x");
        succeeds(&mut holder.wait);
        assert_eq!(client.observe("x")["running"], holder.id);
        assert!(stays_open(&holder.monitor));
        assert_eq!(client.signal("x", &holder.id).status, 200);
        let document = client.get(&path("observe", "x"), &[]).body;
        assert!(!document.contains(&holder.id), "{document}");
        assert_eq!(holder.monitor.answer().status, 200);
        is_free(client, "x");
    });
}

#[test]
fn clients_hold_in_the_order_they_came() {
    on_a_server(|_, client| {
        let first = client.wait_on_semaphore("x");
        let mut others: Vec<_> = (0..3).map(|_| waiter(client, "x")).collect();
        let ids: Vec<_> = others.iter().map(|other| other.id.clone()).collect();
        assert_eq!(waiting(client, "x"), ids);
        first.signal();
        for turn in 0..others.len() {
            assert_eq!(client.observe("x")["running"], ids[turn], "granted before the answer");
            succeeds(&mut others[turn].wait);
            assert!(others[turn + 1..].iter().all(|other| other.wait.is_open()));
            assert_eq!(client.signal("x", &ids[turn]).status, 200);
            assert_eq!(others[turn].monitor.answer().status, 200);
        }
        is_free(client, "x");
    });
}

#[test]
fn names_are_semaphores_of_their_own() {
    on_a_server(|_, client| {
        let [x, y] = ["x", "y"].map(|name| client.wait_on_semaphore(name));
        assert_eq!(client.signal("y", &x.id).status, 422);
        x.signal();
        y.signal();
    });
}

#[test]
fn a_client_is_queued_once_both_requests_have_arrived() {
    on_a_server(|_, client| {
        for wait_is_first in [false, true] {
            let late = client.register("x");
            let early = client.register("x");
            let first = if wait_is_first { Client::wait } else { Client::monitor };
            let second = if wait_is_first { Client::monitor } else { Client::wait };
            let mut late_first = first(client, "x", &late);
            assert!(stays_open(&late_first));
            let document = client.observe("x");
            assert_eq!((&document["waiting"], &document["running"]), (&json!([]), &Value::Null));
            assert_eq!(document["nodes"][&late]["refCount"], 1);
            let mut early_requests = (first(client, "x", &early), second(client, "x", &early));
            wait_until("it holds", || client.observe("x")["running"] == early);
            let mut late_second = second(client, "x", &late);
            wait_until("it waits", || waiting(client, "x") == [&*late]);
            for (id, requests) in [
                (early, (&mut early_requests.0, &mut early_requests.1)),
                (late, (&mut late_first, &mut late_second)),
            ] {
                let (monitor, wait) =
                    if wait_is_first { (requests.1, requests.0) } else { requests };
                succeeds(wait);
                assert_eq!(client.signal("x", &id).status, 200);
                assert_eq!(monitor.answer().status, 200);
            }
            is_free(client, "x");
        }
    });
}

#[test]
fn the_permit_of_a_holder_that_dies_passes_on_at_once() {
    on_a_server(|_, client| {
        let mut holder = client.wait_on_semaphore("x").monitor;
        // With and without an end of the other direction.
        for half in [true, false, true] {
            let mut next = waiter(client, "x");
            let died = Instant::now();
            if half {
                holder.close_write();
            } else {
                drop(holder);
            }
            succeeds(&mut next.wait);
            assert!(died.elapsed() < AT_ONCE);
            assert_eq!(client.observe("x")["nodes"].as_object().unwrap().len(), 1);
            holder = next.monitor;
        }
        drop(holder);
        wait_until("it is released", || client.observe("x")["nodes"] == json!({}));
        is_free(client, "x");
    });
}

#[test]
fn a_waiter_that_dies_leaves_the_queue() {
    on_a_server(|_, client| {
        let holder = client.wait_on_semaphore("x");
        for half in [true, false] {
            let Attached { id, monitor, mut wait } = waiter(client, "x");
            if half {
                monitor.close_write();
            } else {
                drop(monitor);
            }
            is_refused(&mut wait);
            let document = client.get(&path("observe", "x"), &[]).body;
            assert!(!document.contains(&id), "{document}");
        }
        holder.signal();
        is_free(client, "x");
    });
}

#[test]
fn a_client_that_dies_before_it_waits_is_gone() {
    on_a_server(|_, client| {
        let id = client.register("x");
        let monitor = client.monitor("x", &id);
        wait_until("it is attached", || client.observe("x")["nodes"][&id]["monitor"] == true);
        drop(monitor);
        wait_until("it is gone", || client.observe("x")["nodes"] == json!({}));
        assert_eq!(client.signal("x", &id).status, 422);
        is_free(client, "x");
    });
}

#[test]
fn closing_the_wait_alone_changes_nothing() {
    on_a_server(|_, client| {
        let holder = client.wait_on_semaphore("x");
        let Attached { id, mut monitor, wait } = waiter(client, "x");
        drop(wait);
        assert!(stays_open(&monitor));
        assert_eq!(waiting(client, "x"), [&*id]);
        let mut last = waiter(client, "x");
        holder.signal();
        assert_eq!(client.observe("x")["running"], id);
        assert!(stays_open(&last.wait));
        assert_eq!(client.signal("x", &id).status, 200);
        assert_eq!(monitor.answer().status, 200);
        succeeds(&mut last.wait);
    });
}

#[test]
fn a_client_that_has_a_key_may_release_for_another() {
    on_a_server(|server, client| {
        let mut holder = client.wait_on_semaphore("x");
        let other = Client::new(server.port(), OTHER_KEY);
        assert_eq!(other.signal("x", &holder.id).status, 200);
        assert_eq!(holder.monitor.answer().status, 200);
        assert_eq!(client.signal("x", &holder.id).status, 422);
        other.wait_on_semaphore("x").signal();
    });
}

#[test]
fn who_does_not_hold_cannot_signal() {
    on_a_server(|_, client| {
        assert_eq!(client.signal("x", UNKNOWN).status, 404);
        let registered = client.register("x");
        let holder = client.wait_on_semaphore("x");
        for id in [UNKNOWN, "", "no-uuid", &registered] {
            assert_eq!(client.signal("x", id).status, 422, "{id:?}");
        }
        assert_eq!(client.get(&path("signal", "x"), &[]).status, 422);
        assert!(stays_open(&holder.monitor));
        holder.signal();
    });
}

#[test]
fn no_client_attaches_to_a_semaphore_that_is_unknown() {
    on_a_server(|_, client| {
        for action in ["monitor", "wait", "signal"] {
            assert_eq!(client.get(&path(action, "x"), &[]).status, 404);
            let id = ("x-client-uuid", UNKNOWN);
            assert_eq!(client.get(&path(action, "x"), &[id]).status, 404);
        }
        assert_eq!(client.observe("x"), Value::Null);
    });
}

#[test]
fn an_id_that_is_unknown_is_refused_and_the_server_lives() {
    on_ours(&[], |server, client| {
        let holder = client.wait_on_semaphore("x");
        let gone = client.register("y");
        for action in ["monitor", "wait"] {
            for id in [UNKNOWN, "", "no-uuid", "__proto__", "constructor", &gone] {
                let answer = client.get(&path(action, "x"), &[("x-client-uuid", id)]);
                assert_eq!(answer.status, 404, "{action} of {id:?}");
            }
            assert_eq!(client.get(&path(action, "x"), &[]).status, 404, "{action} of no client");
        }
        let Semaphore { id, monitor, .. } = client.wait_on_semaphore("y");
        drop(monitor);
        wait_until("it is gone", || client.observe("y")["running"] == Value::Null);
        assert_eq!(client.wait("y", &id).answer().status, 404);
        holder.signal();
        assert!(server.is_running());
    });
}

#[test]
fn a_waiter_that_attaches_once_more_is_removed() {
    on_ours(&[], |_, client| {
        let holder = client.wait_on_semaphore("x");
        let mut twice = waiter(client, "x");
        let mut last = waiter(client, "x");
        assert_eq!(client.monitor("x", &twice.id).answer().status, 404);
        is_refused(&mut twice.wait);
        is_refused(&mut twice.monitor);
        assert_eq!(waiting(client, "x"), [&*last.id]);
        holder.signal();
        succeeds(&mut last.wait);
        drop(last);
        wait_until("it is released", || client.observe("x")["nodes"] == json!({}));
        is_free(client, "x");
    });
}

#[test]
fn a_waiter_that_signals_is_removed() {
    on_ours(&[], |_, client| {
        let holder = client.wait_on_semaphore("x");
        let mut hasty = waiter(client, "x");
        let mut last = waiter(client, "x");
        assert_eq!(client.signal("x", &hasty.id).status, 422);
        is_refused(&mut hasty.wait);
        is_refused(&mut hasty.monitor);
        assert_eq!(waiting(client, "x"), [&*last.id]);
        holder.signal();
        succeeds(&mut last.wait);
        assert_eq!(client.signal("x", &last.id).status, 200);
        is_free(client, "x");
    });
}

#[test]
fn a_holder_that_attaches_once_more_keeps_its_permit() {
    on_a_server(|_, client| {
        let holder = client.wait_on_semaphore("x");
        let mut next = waiter(client, "x");
        assert_eq!(client.monitor("x", &holder.id).answer().status, 404);
        assert!(stays_open(&holder.monitor) && next.wait.is_open());
        assert_eq!(client.observe("x")["running"], holder.id);
        holder.signal();
        succeeds(&mut next.wait);
    });
}

#[test]
fn five_hundred_clients_hold_one_by_one_in_order() {
    const CLIENTS: usize = 500;
    raise_descriptors();
    on_a_server(|_, client| {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| client.attach("x")).collect();
        wait_until("all are queued", || waiting(client, "x").len() == CLIENTS - 1);
        let running = client.observe("x")["running"].as_str().unwrap().to_owned();
        for id in [vec![running], waiting(client, "x")].concat() {
            let at = clients.iter().position(|one| one.id == id).unwrap();
            let mut one = clients.swap_remove(at);
            succeeds(&mut one.wait);
            assert!(clients.iter().all(|other| other.wait.is_open()), "no other client holds");
            assert_eq!(client.signal("x", &id).status, 200);
            assert_eq!(one.monitor.answer().status, 200);
        }
        is_free(client, "x");
    });
}

#[test]
fn five_thousand_wait_in_little_memory_and_are_served_in_order() {
    const CLIENTS: usize = 5000;
    raise_descriptors();
    on_ours(&[], |server, client| {
        let clients = (0..CLIENTS).map(|_| client.attach("x"));
        let mut clients: HashMap<_, _> = clients.map(|one| (one.id.clone(), one)).collect();
        wait_until("all are queued", || waiting(client, "x").len() == CLIENTS - 1);
        let pid = server.pid().as_raw_nonzero();
        let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let pss = memory.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let kilobytes: u64 = pss.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kilobytes < 200 * 1024, "{kilobytes} KiB");
        let running = client.observe("x")["running"].as_str().unwrap().to_owned();
        for id in [vec![running], waiting(client, "x")].concat() {
            let mut one = clients.remove(&id).unwrap();
            succeeds(&mut one.wait);
            assert!(clients.values().take(9).all(|other| other.wait.is_open()));
            assert_eq!(client.signal("x", &id).status, 200);
            succeeds(&mut one.monitor);
        }
        is_free(client, "x");
    });
}

/// Each client needs two.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}
