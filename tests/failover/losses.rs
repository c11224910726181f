//! Servers that are lost without a failover: replicas, and a primary that comes back at its place.

use std::time::Duration;

use super::scene::{Scene, watch};
use crate::support::address::Old;
use crate::support::farm::{Peers, Shape};
use crate::support::wait_until;

#[test]
fn one_of_two_replicas_is_not_missed() {
    let mut scene = Scene::without_sentinels(0);
    // Once by the option, which the variable does not contradict.
    let options = ["--replicas", "1", "--ttl", "15s"];
    let holder = scene.holder("x", "holder", &options);
    let mut waiter = scene.run("x", "waiter", &options);
    scene.farm.node_mut(2).kill();
    scene.is_renewed(0, "x");
    scene.is_renewed(0, "x");
    assert!(!waiter.has_begun());
    holder.ends_well();
    waiter.begins();
    assert!(!waiter.said().contains("replica"), "{}", waiter.said());
    waiter.ends_well();
    scene.judge();
}

#[test]
fn a_primary_that_comes_back_empty_before_it_is_missed_overlaps_no_one() {
    let down_after = Duration::from_secs(20);
    let mut scene = Scene::new(&Shape { down_after, ..Shape::default() }, 1);
    let holder = scene.holder("x", "holder", &[]);
    scene.farm.node_mut(0).kill();
    scene.farm.node_mut(0).restart_empty();
    scene.farm.replicas_in_step(0, 2);
    let newcomers = vec![scene.run("x", "newcomer", &[])];
    watch(&newcomers);
    assert_eq!(scene.farm.primary(), Some(0), "the sentinels did not notice");
    scene.ends(vec![holder], newcomers);
}

#[test]
fn with_too_few_replicas_nothing_is_granted_or_renewed_and_everyone_hears_why() {
    let mut scene = Scene::without_sentinels(1);
    let mut holder = scene.holder("x", "holder", &[]);
    let mut waiter = scene.run("x", "waiter", &[]);
    scene.is_queued(0, "x");
    for number in [1, 2] {
        scene.farm.node_mut(number).kill();
    }
    waiter.tells("replica");
    let (code, said) = scene.answer(&["--name", "x", "-n", "--", "true"]);
    assert!(code == Some(69) && said.contains("replica"), "{code:?}: {said}");
    let (code, said) = scene.answer(&["status", "x"]);
    assert!(code == Some(75) && said.contains("replica"), "{code:?}: {said}");
    wait_until("the deadline of the holder", || holder.has_ended());
    let (code, said) = holder.finish();
    assert!(code == Some(76) && said.contains("replica"), "{code:?}: {said}");
    assert!(!waiter.has_begun());
    scene.farm.node_mut(2).restart();
    waiter.begins();
    waiter.ends_well();
    scene.judge();
}

#[test]
fn a_primary_that_was_cut_from_all_replicas_for_a_while_goes_on() {
    let scene = Scene::without_sentinels(1);
    let holder = scene.holder("x", "holder", &["--ttl", "30s"]);
    scene.farm.cut(0, Peers::Replicas);
    let (code, said) = scene.answer(&["--name", "y", "-n", "--", "true"]);
    assert!(code == Some(69) && said.contains("replica"), "{code:?}: {said}");
    scene.farm.heal(0, Peers::Replicas);
    scene.farm.replicas_in_step(0, 2);
    scene.is_renewed(0, "x");
    scene.move_to(0, Old::Cut);
    let (code, said) = scene.answer(&["--name", "y", "-n", "--", "true"]);
    assert_eq!(code, Some(0), "{said}");
    holder.ends_well();
}
