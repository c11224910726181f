//! The queue of `semrun serve`: can a client take a place that another client has?

use semrun_testkit::cloud_server::{CloudServer, OTHER_KEY};
use serde_json::{Value, json};
use uuid::Uuid;

use super::http::{Client, acquire, with};
use super::leases::{client, server};
use super::restarts::remembering;
use super::support::World;

/// What a server answers to one of ours that asks.
struct Asked {
    told: Value,
}

impl Asked {
    fn place(&self) -> (u64, &str) {
        (self.told["ticket"].as_u64().unwrap(), self.told["seal"].as_str().unwrap())
    }

    /// How many are before it.
    fn ahead(&self) -> u64 {
        self.told.get("ahead").map_or(0, |ahead| ahead.as_u64().unwrap())
    }
}

/// Says what it likes of its place. `ticket` and `seal` are left out where there is nothing to say.
fn ask(client: &Client, name: &str, id: &str, ticket: Option<u64>, seal: Option<&str>) -> Asked {
    // Listening is not needed: a client that has just asked is there.
    let ticket = ticket.map(|ticket| ("ticket", ticket.into()));
    let seal = seal.map(|seal| ("seal", seal.into()));
    let more: Vec<_> = ticket.into_iter().chain(seal).collect();
    let mut answer = client.ask(name, with(acquire(id), &more));
    Asked { told: answer["reply"].take() }
}

fn new() -> String {
    Uuid::new_v4().to_string()
}

#[test]
fn a_place_in_the_queue_is_not_had_by_its_number() {
    let mut world = remembering();
    let [holder, elsewhere, first, second] = [(); 4].map(|()| new());
    let before = client(&world);
    let held = ["x", "y"].map(|name| {
        let holder = if name == "x" { &holder } else { &elsewhere };
        ask(&before, name, holder, None, None)
    });
    let queued = [&first, &second].map(|id| ask(&before, "x", id, None, None));
    let other = ask(&before, "y", &first, None, None);
    assert!(held.iter().all(|asked| asked.told["outcome"] == "holding"));
    server(&mut world).kill();
    server(&mut world).start_again();

    let after = client(&world);
    let (ticket, seal) = queued[0].place();
    let (_, of_second) = queued[1].place();
    let (_, of_other_name) = other.place();
    for seal in [None, Some(""), Some("ü"), Some(seal), Some(of_second), Some(of_other_name)] {
        // Each lie is one's who is not known there.
        let liar = ask(&after, "x", &second, Some(ticket), seal);
        assert_eq!(liar.told["outcome"], "waiting", "{seal:?}: it is no error");
        assert!(liar.place().0 > queued[1].place().0, "{seal:?}: {}", liar.told);
        after.signal("x", &second);
    }
    let liar = ask(&after, "x", &second, Some(ticket), Some(of_second));
    assert_eq!(liar.ahead(), 0, "it is the first that comes");
    let honest = ask(&after, "x", &first, Some(ticket), Some(seal));
    assert_eq!((honest.ahead(), honest.place().0), (0, ticket), "{}", honest.told);
    assert_eq!(ask(&after, "x", &second, None, None).ahead(), 1, "it is behind");
}

#[test]
fn an_identity_is_of_no_use_to_a_client_with_another_key() {
    let world = World::in_cloud(CloudServer::ours());
    let honest = client(&world);
    let thief = Client::new(honest.port, OTHER_KEY);
    let [holder, first] = [(); 2].map(|()| new());
    let _held = ask(&honest, "x", &holder, None, None);
    let place = ask(&honest, "x", &first, None, None);
    let (ticket, seal) = place.place();
    // All who have a key are told identities.
    let listed = thief.observe("x")["waiting"].clone();
    assert_eq!(listed, json!([first]));
    for id in [&holder, &first] {
        for seal in [None, Some(&*"0".repeat(64))] {
            let told = ask(&thief, "x", id, Some(ticket), seal).told;
            assert_eq!((&told["outcome"], told.get("token")), (&json!("lost"), None), "{told}");
        }
    }
    let again = ask(&honest, "x", &first, Some(ticket), Some(seal));
    assert_eq!((again.ahead(), again.place().0), (0, ticket));
    assert_eq!(ask(&honest, "x", &holder, None, None).told["outcome"], "holding");
}
