//! Clients from before servers were asked for their replicas, beside today's.

use super::former::Former;
use super::scene::{Scene, watch};
use crate::support::address::Old;

#[test]
fn former_and_present_clients_share_a_name() {
    let scene = Scene::without_sentinels(1);
    let former = Former::at(&scene, 0);
    let mut holder = former.run("x", "former-holder");
    holder.begins();
    let (code, said) = scene.answer(&["status", "--json", "x"]);
    assert_eq!(code, Some(75), "{said}");
    let mut waiter = scene.run("x", "waiter", &[]);
    scene.is_queued(0, "x");
    scene.is_renewed(0, "x");
    holder.ends_well();
    waiter.begins();

    let mut other = former.run("x", "former-waiter");
    scene.is_queued(0, "x");
    scene.is_renewed(0, "x");
    waiter.ends_well();
    other.begins();
    other.ends_well();
    scene.holder("x", "last", &[]).ends_well();
    scene.judge();
}

#[test]
fn a_former_client_that_is_first_on_a_new_primary_spares_a_present_one_no_pause() {
    let scene = Scene::without_sentinels(1);
    scene.holder("known", "first", &[]).ends_well();
    scene.farm.replicas_in_step(0, 2);
    scene.farm.strand(1);
    let holders = ["fresh", "known"]
        .map(|name| scene.holder(name, &format!("holder-of-{name}"), &["--ttl", "10s"]));
    scene.farm.promote(1);
    // It asks and gives back at once, so it overlaps no holder itself.
    let former = Former::at(&scene, 1);
    for name in ["fresh", "known"] {
        former.looks_in(name);
    }
    scene.move_to(1, Old::Silent);
    let newcomers = ["fresh", "known"]
        .map(|name| scene.run(name, &format!("newcomer-to-{name}"), &["--ttl", "10s"]));
    watch(&newcomers);
    scene.ends(holders.into(), newcomers.into());
}
