//! The JSON documents match their schemas in `docs/schema/`, in every state.

use std::fs;

use serde_json::{Value, json};

use super::cloud_server::CloudServer;
use super::support::{Running, World, wait_until};

fn schema(file: &str) -> Value {
    let path = format!("{}/docs/schema/{file}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// What is wrong with a value: nothing, or each place with what it should be. The part of JSON Schema
/// that the schemas use; a word that is not known here would check nothing, so it is an error.
fn faults(schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (keyword, wanted) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$schema" | "title" | "description" => {}
            "type" => {
                let types = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
                if !types.iter().any(|name| is_a(value, name.as_str().unwrap())) {
                    faults.push(format!("{place} is no {wanted}: {value}"));
                }
            }
            "const" | "enum" => {
                let all = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
                if !all.contains(value) {
                    faults.push(format!("{place} is not {wanted}: {value}"));
                }
            }
            "required" => {
                let missing = wanted.as_array().unwrap().iter();
                let missing = missing.filter(|name| value.get(name.as_str().unwrap()).is_none());
                faults.extend(missing.map(|name| format!("{place} has no {name}: {value}")));
            }
            "properties" => {
                for (name, schema) in wanted.as_object().unwrap() {
                    let there = value.get(name).into_iter();
                    faults.extend(
                        there.flat_map(|one| self::faults(schema, one, &format!("{place}.{name}"))),
                    );
                }
            }
            "items" => {
                for (index, one) in value.as_array().into_iter().flatten().enumerate() {
                    faults.extend(self::faults(wanted, one, &format!("{place}[{index}]")));
                }
            }
            other => {
                faults.push(format!("{place}: the schema has {other}, which is not known here"));
            }
        }
    }
    faults
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        _ => panic!("a type that is not known here: {name}"),
    }
}

#[track_caller]
fn conforms(file: &str, document: &Value) {
    let faults = faults(&schema(file), document, file);
    assert!(faults.is_empty(), "{faults:#?}");
    let names = undescribed(&schema(file), document);
    assert!(names.is_empty(), "the schema does not describe {names:?}");
}

/// Fields that the schema says nothing of. Readers have to bear them, but ours are all described.
fn undescribed(schema: &Value, value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let of = |(name, one): (&String, &Value)| match schema["properties"].get(name) {
                Some(schema) => undescribed(schema, one),
                None => vec![name.clone()],
            };
            fields.iter().flat_map(of).collect()
        }
        Value::Array(all) => {
            all.iter().flat_map(|one| undescribed(&schema["items"], one)).collect()
        }
        _ => Vec::new(),
    }
}

/// The document that a command prints.
fn document(world: &World, arguments: &[&str]) -> Value {
    let output = world.semrun(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

/// The holders of `x`, of a document that is as its schema says.
fn holders(world: &World) -> Vec<Value> {
    let status = document(world, &["status", "--json", "x"]);
    conforms("status", &status);
    status["semaphores"][0]["holders"].as_array().unwrap().clone()
}

fn worlds() -> [World; 3] {
    [World::on_this_machine(), World::in_redis(), World::in_cloud(CloudServer::ours())]
}

#[test]
fn status_is_as_its_schema_says_in_every_state_everywhere() {
    for world in worlds() {
        conforms("status", &document(&world, &["status", "--json"]));
        assert!(holders(&world).is_empty(), "idle");

        let acquired = document(&world, &["acquire", "--name", "x", "-l", "2", "--json"]);
        conforms("acquire", &acquired);
        let _holder = world.holder(&["-l", "2"]);
        let _waiter = world.waiter(&["-l", "2"], "");
        let found = holders(&world);
        let detached: Vec<_> = found.iter().map(|one| one["detached"] == true).collect();
        assert_eq!(detached, [true, false], "{found:?}");
        assert!(found.iter().all(|one| one["state"] == "holding"), "{found:?}");

        world.semrun(["limit", "x", "1"]).output().unwrap();
        let status = document(&world, &["status", "--json", "x"]);
        conforms("status", &status);
        assert_eq!(status["semaphores"][0]["pinned"], true);
        assert_eq!(status["semaphores"][0]["waiters"][0]["place"], 1);
    }
}

#[test]
fn so_it_is_for_what_is_kept_and_what_was_taken_away() {
    for world in worlds() {
        let kept = world.run(["-l", "2", "--min-hold", "60", "true"]).output().unwrap();
        assert_eq!(kept.status.code(), Some(0), "{kept:?}");
        assert_eq!(holders(&world)[0]["state"], "min_hold");

        // It takes its time to end.
        let script = "trap '' TERM; echo > running; exec sleep 1000";
        let stubborn = Running::start(&mut world.script(&["-l", "2", "-k", "5"], script));
        wait_until("it runs", || world.path("running").exists());
        let permit = holders(&world)[1]["permit"].as_str().unwrap().to_owned();
        let release = world.semrun(["release", "--force", "--permit", &permit]).output().unwrap();
        assert_eq!(release.status.code(), Some(0), "{release:?}");
        assert_eq!(holders(&world)[1]["state"], "revoking");
        drop(stubborn);
    }
}

#[test]
fn so_it_is_for_other_programs_and_a_pause() {
    let world = World::in_redis();
    let foreign = "33333333-3333-4333-8333-333333333333";
    let _: i64 = world.server().ask(&["ZADD", "semrun-x", "9999999999999", foreign]);
    assert_eq!(holders(&world)[0]["foreign"], true);

    let world = World::in_redis();
    let mut waiter = world.run(["-q", "true"]);
    let _waiter = Running::start(waiter.env("SEMRUN_QUARANTINE", "1h"));
    wait_until("it waits", || world.waiters().len() == 1);
    let status = document(&world, &["status", "--json", "x", "--quarantine", "1h"]);
    conforms("status", &status);
    assert!(status["semaphores"][0]["paused_ms"].is_u64(), "{status}");
}

#[test]
fn acquire_and_doctor_are_as_their_schemas_say_also_where_something_is_bad() {
    for world in worlds() {
        let doctor = document(&world, &["doctor", "--json"]);
        conforms("doctor", &doctor);
        assert_ne!(doctor["grade"], "error", "{doctor:#}");
        let doctor = document(&world, &["doctor", "--json", "--backend", "nonsense"]);
        conforms("doctor", &doctor);
        assert_eq!(doctor["grade"], "error");
    }
}

#[test]
fn a_validator_that_finds_nothing_proves_nothing() {
    let good = json!({"version": 1, "permit": "p", "name": "x", "fencing_token": null, "ttl_ms": 5, "backend": "b"});
    assert_eq!(faults(&schema("acquire"), &good, ""), [""; 0]);
    for (field, bad) in [("version", json!(2)), ("permit", json!(1)), ("ttl_ms", json!("5"))] {
        let mut document = good.clone();
        document[field] = bad;
        assert_eq!(faults(&schema("acquire"), &document, "").len(), 1, "{field}");
    }
    let mut document = good.clone();
    document.as_object_mut().unwrap().remove("backend");
    assert_eq!(faults(&schema("acquire"), &document, "").len(), 1);
    assert_eq!(faults(&json!({"pattern": "x"}), &good, "").len(), 1, "an unknown keyword");
    assert_eq!(undescribed(&schema("acquire"), &json!({"more": 1})), ["more"]);
}
