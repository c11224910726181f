//! A replica takes the primary's place. The replica may not know the primary's last grants and
//! renewals; and the old primary may not know that it was replaced.

use std::time::Duration;

use super::scene::{Run, Scene, watch, watch_for};
use crate::support::address::{Address, Old};
use crate::support::farm::{Peers, Shape};

/// Ten runs, each for a permit of a name of its own.
fn ten(scene: &Scene, who: &str, options: &[&str]) -> Vec<Run> {
    let run = |number| scene.run(&format!("x{number}"), &format!("{who}-{number}"), options);
    (0..10).map(run).collect()
}

/// Holders of names that were never used before, on a primary that is lost with all that it knows of
/// them. One replica, or two of which one is in step to the end.
fn fresh_names(replicas: u32, ttl: &str, old: Old) {
    let scene = Scene::without_sentinels(replicas);
    scene.farm.strand(1);
    let mut holders = ten(&scene, "holder", &["--ttl", ttl]);
    holders.iter_mut().for_each(Run::begins);
    scene.farm.promote(1);
    scene.move_to(1, old);
    let newcomers = ten(&scene, "newcomer", &["--ttl", ttl]);
    watch(&newcomers);
    scene.ends(holders, newcomers);
}

#[test]
fn fresh_names_are_not_granted_again_when_the_address_moves() {
    fresh_names(0, "10s", Old::Silent);
}

#[test]
fn fresh_names_are_not_granted_again_when_one_replica_in_step_is_asked_for() {
    fresh_names(1, "10s", Old::Silent);
}

#[test]
fn fresh_names_are_not_granted_again_after_a_crash() {
    let mut scene = Scene::without_sentinels(0);
    scene.farm.strand(1);
    let mut holders = ten(&scene, "holder", &[]);
    holders.iter_mut().for_each(Run::begins);
    scene.farm.node_mut(0).kill();
    // By now the holders wait a moment between their attempts.
    std::thread::sleep(Duration::from_millis(500));
    scene.farm.promote(1);
    scene.move_to(1, Old::Cut);
    let newcomers = ten(&scene, "newcomer", &[]);
    watch(&newcomers);
    scene.ends(holders, newcomers);
}

#[test]
fn a_planned_failover_leaves_no_holder_behind_on_the_old_primary() {
    let scene = Scene::new(&Shape::default(), 1);
    let holder = scene.holder("x", "holder", &[]);
    let promoted = scene.farm.fail_over();
    scene.move_to(promoted, Old::Kept);
    let newcomers = vec![scene.run("x", "newcomer", &[])];
    watch(&newcomers);
    scene.ends(vec![holder], newcomers);
}

#[test]
fn a_primary_that_was_frozen_renews_nothing_once_it_is_replaced() {
    const OPTIONS: [&str; 2] = ["--ttl", "8s"];
    let down_after = Duration::from_secs(1);
    let scene = Scene::new(&Shape { down_after, ..Shape::default() }, 1);
    let holder = scene.holder("x", "holder", &OPTIONS);
    // The next renewal is due in 2.7 s, when another one is the primary.
    scene.is_renewed(0, "x");
    scene.farm.node(0).freeze();
    let promoted = scene.farm.primary_after(0);
    scene.move_to(promoted, Old::Kept);
    let newcomers = vec![scene.run("x", "newcomer", &OPTIONS)];
    scene.farm.node(0).thaw();
    watch(&newcomers);
    scene.ends(vec![holder], newcomers);
}

#[test]
fn a_primary_that_is_cut_off_with_a_client_ends_what_that_holds() {
    let scene = Scene::new(&Shape::default(), 1);
    let beside = Address::of(scene.farm.node(0).port());
    let mut holder = scene.run_at(beside.port(), "x", "holder");
    holder.begins();
    scene.farm.cut(0, Peers::Replicas);
    scene.farm.cut(0, Peers::Sentinels);
    let promoted = scene.farm.primary_after(0);
    scene.move_to(promoted, Old::Cut);
    let mut newcomer = scene.run("x", "newcomer", &[]);
    newcomer.begins();
    scene.judge();
    let (code, said) = holder.finish();
    assert_eq!(code, Some(76), "{said}");
    newcomer.ends_well();
    scene.judge();
}

#[test]
fn a_primary_that_returns_to_its_place_does_not_trust_what_it_knew() {
    let scene = Scene::without_sentinels(1);
    scene.holder("x", "first", &[]).ends_well();
    scene.farm.replicas_in_step(0, 2);
    scene.farm.promote(1);
    scene.farm.follow(0, 1);
    scene.move_to(1, Old::Cut);
    // It still knows that it was the last to decide.
    scene.farm.strand(0);
    let holder = scene.holder("x", "holder", &[]);
    scene.farm.promote(0);
    scene.move_to(0, Old::Silent);
    let newcomers = vec![scene.run("x", "newcomer", &[])];
    watch(&newcomers);
    scene.ends(vec![holder], newcomers);
}

#[test]
fn haproxy_leads_a_holder_to_the_new_primary_and_no_one_overlaps_it() {
    use crate::support::haproxy::Haproxy;

    const OPTIONS: [&str; 4] = ["--ttl", "20s", "--quarantine", "20s"];
    let mut scene = Scene::new(&Shape::default(), 1);
    let haproxy = Haproxy::before(scene.farm.nodes());
    scene.address.move_to(haproxy.port(), Old::Cut);
    // From now on the servers know the name, and grant it before they have been up for 20 s.
    scene.holder("x", "first", &[]).ends_well();
    let holder = scene.holder("x", "holder", &OPTIONS);
    scene.farm.node_mut(0).kill();
    let newcomers = vec![scene.run("x", "newcomer", &OPTIONS)];
    watch_for(Duration::from_secs(27), &newcomers);
    scene.judge();
    holder.ends_well();
    scene.ends(Vec::new(), newcomers);
}
