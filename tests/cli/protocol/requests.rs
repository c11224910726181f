//! Each request by itself: routes, keys, names, documents.

use super::*;

#[test]
fn registering_yields_a_fresh_uuid_and_queues_no_client() {
    on_a_server(|_, client| {
        let answer = client.get("/semaphore/register?name=x", &[]);
        assert_eq!((answer.status, &*answer.reason), (200, "OK"));
        assert_eq!(answer.header("Content-Type"), HTML);
        let id = Uuid::parse_str(&answer.body).unwrap();
        assert_eq!((id.get_version_num(), id.to_string()), (4, answer.body));
        let other = client.register("x");
        assert_ne!(id.to_string(), other);
        let document = client.observe("x");
        let nodes = document["nodes"].as_object().unwrap();
        let known = json!({"id": other, "monitor": false, "waiter": false, "error": null,
                           "refCount": 0});
        assert_eq!((nodes.len(), &nodes[&other]), (2, &known));
        assert_eq!((&document["waiting"], &document["running"]), (&json!([]), &Value::Null));
    });
}

#[test]
fn every_route_wants_a_key() {
    on_a_server(|server, _| {
        for wrong in ["a-key-for-test", "a-key-for-tests-", "A-KEY-FOR-TESTS", "first", ""] {
            let stranger = Client::new(server.port(), wrong);
            for (method, route) in ROUTES {
                let answer = stranger.request(method, route, &[JSON], "");
                assert_eq!(parts(&answer), (401, ""), "{method} {route} with {wrong:?}");
                assert_eq!(answer.reason, "Unauthorized");
            }
        }
        for (method, route) in ROUTES {
            let stranger = Client::new(server.port(), KEY);
            let mut pending = Pending::on(stranger.connect());
            pending.send(method, route, &[], "");
            assert_eq!(parts(&pending.answer()), (401, ""), "{method} {route}");
        }
        let client = Client::new(server.port(), KEY);
        assert_eq!(client.observe("x"), Value::Null, "no stranger has registered");
    });
}

#[test]
fn a_stranger_changes_no_logging() {
    on_a_server(|server, client| {
        let stranger = Client::new(server.port(), "another-key");
        let answer = stranger.patch(r#"{"server":{"info":false}}"#);
        assert_eq!(parts(&answer), (401, ""));
        assert_eq!(client.patch("{}").body, LOG_CONFIGURATION);
    });
}

#[test]
fn malformed_json_is_noticed_before_all_else() {
    on_a_server(|server, client| {
        let stranger = Client::new(server.port(), "another-key");
        for sender in [client, &stranger] {
            for (method, route) in
                ROUTES.into_iter().chain([("POST", "/nowhere"), ("PUT", "/logconfig")])
            {
                for body in ["{", "{\"server\":", "nonsense", "{'server':{}}"] {
                    let answer = sender.request(method, route, &[JSON], body);
                    assert_eq!(answer.status, 400, "{method} {route} with {body}");
                }
            }
        }
        assert_eq!(client.observe("x"), Value::Null, "no client has registered");
    });
}

#[test]
fn what_is_not_there_is_noticed_before_the_key() {
    on_a_server(|server, client| {
        let stranger = Client::new(server.port(), "another-key");
        for (method, route) in [
            ("GET", "/"),
            ("GET", "/semaphore"),
            ("GET", "/semaphore/"),
            ("GET", "/semaphore/nothing?name=x"),
            ("GET", "/semaphore/register/x"),
            ("GET", "/nowhere/semaphore/register?name=x"),
            ("GET", "/logconfig"),
            ("HEAD", "/logconfig"),
            ("POST", "/semaphore/register?name=x"),
            ("PUT", "/logconfig"),
            ("PATCH", "/semaphore/register?name=x"),
            ("DELETE", "/semaphore/signal?name=x"),
        ] {
            for sender in [client, &stranger] {
                let answer = sender.request(method, route, &[], "");
                assert_eq!(answer.status, 404, "{method} {route}");
            }
        }
    });
}

#[test]
fn paths_match_in_any_case_and_with_a_trailing_slash() {
    on_a_server(|_, client| {
        for spelling in ["/SEMAPHORE/Register?name=x", "/semaphore/register/?name=x"] {
            assert_eq!(client.get(spelling, &[]).body.len(), 36, "{spelling}");
        }
        let id = client.register("x");
        let headers = [("X-Client-UUID", &*id)];
        let mut monitor = client.open("/Semaphore/MONITOR/?name=x", &headers);
        succeeds(&mut client.open("/semaphore/Wait/?name=x", &headers));
        assert_eq!(client.get("/semaphore/signal/?name=x", &headers).status, 200);
        assert_eq!(monitor.answer().status, 200);
        assert!(client.get("/semaphorE/observe/?name=x", &[]).body.contains("\"running\": null"));
        let answer = client.request("PATCH", "/LogConfig/", &[JSON], "{}");
        assert_eq!(answer.body, LOG_CONFIGURATION);
    });
}

#[test]
fn head_does_what_get_does() {
    on_a_server(|server, client| {
        let answer = client.request("HEAD", "/semaphore/register?name=x", &[], "");
        assert_eq!(parts(&answer), (200, ""));
        assert_eq!(answer.header("Content-Type"), HTML);
        let nodes = client.observe("x")["nodes"].as_object().unwrap().clone();
        assert_eq!(nodes.len(), 1, "it has registered");
        let id = ("x-client-uuid", &**nodes.keys().next().unwrap());
        let mut monitor = client.send("HEAD", "/semaphore/monitor?name=x", &[id], "");
        let mut wait = client.send("HEAD", "/semaphore/wait?name=x", &[id], "");
        assert_eq!(wait.answer().status, 200);
        assert!(stays_open(&monitor));
        assert_eq!(client.request("HEAD", "/semaphore/signal?name=x", &[id], "").status, 200);
        assert_eq!(monitor.answer().status, 200);
        let stranger = Client::new(server.port(), "another-key");
        assert_eq!(stranger.request("HEAD", "/semaphore/register?name=x", &[], "").status, 401);
        // What follows an answer that has no body is the next answer.
        let mut twice = client.send("HEAD", "/semaphore/observe?name=x", &[], "");
        assert_eq!(twice.answer().status, 200);
        twice.send("GET", "/semaphore/observe?name=y", &[("x-api-key", KEY)], "");
        succeeds(&mut twice);
    });
}

#[test]
fn names_are_decoded() {
    on_a_server(|_, client| {
        for (query, name) in [
            ("name=a%41b", "aAb"),
            ("name=a+b", "a b"),
            ("name=c%20d", "c d"),
            ("name=a%2Bb", "a+b"),
            ("name=a%26b%23c%3D%2F%3F%25", "a&b#c=/?%"),
            ("name=%E6%97%A5%E6%9C%AC", "日本"),
            ("name=p&other=q", "p"),
            ("name=q=r", "q=r"),
            ("other=q&name=s", "s"),
            ("n%61me=t", "t"),
            ("name=", ""),
            ("name=a%22%5C", "a\"\\"),
            ("name=.%2F..%2F..%2Fetc", "./../../etc"),
        ] {
            let id = client.get(&format!("/semaphore/register?{query}"), &[]).body;
            let document = client.observe(name);
            assert_eq!(document["name"], name, "{query}");
            let nodes = document["nodes"].as_object().unwrap();
            assert!(nodes.len() == 1 && nodes.contains_key(&id), "{query}: {document}");
        }
    });
}

#[test]
fn a_name_that_is_missing_is_one_and_one_that_is_repeated_is_another() {
    on_a_server(|_, client| {
        let id = client.get("/semaphore/register", &[]).body;
        assert_eq!(client.observe(""), Value::Null);
        let header = ("x-client-uuid", &*id);
        let mut monitor = client.open("/semaphore/monitor?other=x", &[header]);
        succeeds(&mut client.open("/semaphore/wait?", &[header]));
        let document = client.get("/semaphore/observe", &[]).body;
        assert!(document.contains(&format!("\"running\": \"{id}\"")), "{document}");
        assert_eq!(client.get("/semaphore/signal", &[header]).status, 200);
        assert_eq!(monitor.answer().status, 200);
        let id = client.get("/semaphore/register?name=x&name=y", &[]).body;
        assert!(client.observe("x,y")["nodes"].as_object().unwrap().contains_key(&id));
        assert_eq!(client.observe("x"), Value::Null);
        assert_eq!(client.observe("y"), Value::Null);
    });
}

#[test]
fn names_that_mean_something_elsewhere_are_just_names() {
    on_a_server(|_, client| {
        for name in
            ["__proto__", "constructor", "toString", "hasOwnProperty", "null", "0", "..", "/"]
        {
            assert_eq!(client.observe(name), Value::Null, "{name}");
            assert_eq!(client.signal(name, UNKNOWN).status, 404, "{name}");
            let holder = client.wait_on_semaphore(name);
            let mut next = waiter(client, name);
            holder.signal();
            succeeds(&mut next.wait);
            assert_eq!(client.signal(name, "constructor").status, 422, "{name}");
            assert_eq!(client.signal(name, &next.id).status, 200, "{name}");
            is_free(client, name);
        }
    });
}

#[test]
fn an_observer_sees_a_document_of_a_certain_form() {
    on_a_server(|_, client| {
        let empty = client.get("/semaphore/observe?name=deploy", &[]);
        assert_eq!(parts(&empty), (200, ""));
        let holder = client.wait_on_semaphore("deploy");
        let waiter = waiter(client, "deploy");
        let attached = |document: &Value| document["nodes"][&holder.id]["refCount"] == 1;
        wait_until("the holder's wait has ended", || attached(&client.observe("deploy")));
        let answer = client.get("/semaphore/observe?name=deploy", &[]);
        assert_eq!(answer.header("Content-Type"), HTML);
        let expected = r#"{
    "nodes": {
        "HOLDER": {
            "id": "HOLDER",
            "monitor": true,
            "waiter": true,
            "error": null,
            "refCount": 1
        },
        "WAITER": {
            "id": "WAITER",
            "monitor": true,
            "waiter": true,
            "error": null,
            "refCount": 2
        }
    },
    "waiting": [
        "WAITER"
    ],
    "running": "HOLDER",
    "name": "deploy"
}"#;
        let expected = expected.replace("HOLDER", &holder.id).replace("WAITER", &waiter.id);
        assert_eq!(answer.body, expected);
        drop(waiter);
        wait_until("the waiter is gone", || waiting(client, "deploy").is_empty());
        holder.signal();
        let expected = r#"{
    "nodes": {},
    "waiting": [],
    "running": null,
    "name": "deploy"
}"#;
        assert_eq!(client.get("/semaphore/observe?name=deploy", &[]).body, expected);
    });
}

#[test]
fn the_log_configuration_is_answered_and_changed() {
    on_a_server(|_, client| {
        for body in ["{}", "", r#"{"server":{}}"#, r#"{"server":{"info":true},"test":{}}"#] {
            let answer = client.patch(body);
            assert_eq!(parts(&answer), (200, LOG_CONFIGURATION), "{body}");
            let kind = answer.header("Content-Type");
            assert_eq!(kind, Some("application/json; charset=utf-8"));
        }
        let silent = LOG_CONFIGURATION.replacen("\"info\": true", "\"info\": false", 1);
        let charset = ("Content-Type", "application/json; charset=UTF-8");
        let body = r#"{"server":{"info":false}}"#;
        assert_eq!(client.request("PATCH", "/logconfig", &[charset], body).body, silent);
        assert_eq!(client.patch("{}").body, silent);
        let more = silent
            .replace("\"network_status\": false", "\"network_status\": true")
            .replace("\"flaw\": true", "\"flaw\": false");
        let body = r#"{"client":{"network_status":true},"test":{"flaw":false}}"#;
        assert_eq!(client.patch(body).body, more);
        let body =
            r#"{"client":{"network_status":false},"test":{"flaw":true},"server":{"info":true}}"#;
        assert_eq!(client.patch(body).body, LOG_CONFIGURATION);
    });
}

#[test]
fn what_the_log_configuration_does_not_have_is_answered_with_nothing() {
    on_a_server(|_, client| {
        for body in [r#"{"nothing":{"info":false}}"#, r#"{"server":{"nothing":false}}"#] {
            assert_eq!(parts(&client.patch(body)), (200, ""), "{body}");
        }
        let body = r#"{"server":{"info":false}}"#;
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
            for body in [body, "{"] {
                let kind = [("Content-Type", kind)];
                let answer = client.request("PATCH", "/logconfig", &kind, body);
                assert_eq!(parts(&answer), (200, LOG_CONFIGURATION), "{kind:?} {body}");
            }
        }
    });
}

#[test]
fn the_log_configuration_changes_as_a_whole_and_to_booleans_only() {
    on_ours(&[], |_, client| {
        for body in [
            r#"{"server":{"info":false,"nothing":true}}"#,
            r#"{"server":{"info":false},"nothing":{"info":true}}"#,
            r#"{"server":{"info":false},"client":{"info":true}}"#,
            r#"{"server":{"info":false},"__proto__":{"info":true}}"#,
            r#"{"server":{"info":false},"constructor":{}}"#,
            r#"{"server":{"info":false,"alert":"no"}}"#,
            r#"{"server":{"info":false,"alert":0}}"#,
            r#"{"server":{"info":false,"alert":null}}"#,
            r#"{"server":{"info":false,"alert":{}}}"#,
            r#"{"server":{"info":[false]}}"#,
        ] {
            assert_eq!(parts(&client.patch(body)), (200, ""), "{body}");
            assert_eq!(client.patch("{}").body, LOG_CONFIGURATION, "{body}");
        }
    });
}

#[test]
fn a_component_that_is_null_is_refused_and_the_server_lives() {
    on_ours(&[], |_, client| {
        let holder = client.wait_on_semaphore("x");
        for body in [r#"{"server":null}"#, r#"{"client":{"usage_errors":true},"server":null}"#] {
            assert_eq!(client.patch(body).status, 404, "{body}");
            assert_eq!(client.patch("{}").body, LOG_CONFIGURATION, "{body}");
        }
        holder.signal();
    });
}
