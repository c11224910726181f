//! Tests of what the other cases rely on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use redis::RedisResult;

use crate::support::address::{Address, Old};
use crate::support::farm::{Farm, Peers, Shape};
use crate::support::haproxy::Haproxy;
use crate::support::node::{Node, Role};
use crate::support::wait_until;

fn replicas_of(node: &Node) -> Option<u64> {
    node.count("replication", "connected_slaves")
}

#[test]
fn a_server_can_be_cut_from_its_replicas_and_its_sentinels_and_keeps_its_clients() {
    let farm = Farm::start(&Shape::default());
    farm.cut(0, Peers::Replicas);
    assert_eq!(replicas_of(farm.node(0)), Some(0));
    assert_eq!(farm.primary(), Some(0), "the sentinels still reach it");
    farm.heal(0, Peers::Replicas);
    farm.replicas_in_step(0, 2);
    farm.cut(0, Peers::Sentinels);
    let promoted = farm.primary_after(0);
    farm.becomes(promoted, Role::Primary);
    assert_eq!(farm.node(0).role(), Some(Role::Primary));
    farm.heal(0, Peers::Sentinels);
    farm.becomes(0, Role::Replica);
    farm.replicas_in_step(promoted, 2);
}

#[test]
fn a_failover_can_be_asked_for_and_a_server_that_is_frozen_or_killed_is_replaced() {
    let mut farm = Farm::start(&Shape::default());
    let second = farm.fail_over();
    farm.becomes(second, Role::Primary);
    farm.replicas_in_step(second, 2);
    farm.node(second).freeze();
    let third = farm.primary_after(second);
    farm.becomes(third, Role::Primary);
    farm.node(second).thaw();
    farm.becomes(second, Role::Replica);
    farm.sentinel_mut(0).kill();
    assert_eq!(farm.primary(), Some(third), "another one says so");
    farm.node_mut(second).kill();
    assert_eq!(farm.node(second).role(), None);
    farm.node_mut(second).restart();
    farm.becomes(second, Role::Replica);
}

#[test]
fn a_server_can_forget_be_stranded_and_be_promoted_by_hand() {
    let mut farm = Farm::start(&Shape { sentinels: 0, ..Shape::default() });
    let set = |node: &Node, value: &str| node.ask::<()>(&["SET", "key", value]);
    let get = |node: &Node| node.ask::<Option<String>>(&["GET", "key"]);
    set(farm.node(0), "1");
    farm.replicas_in_step(0, 2);
    farm.strand(1);
    set(farm.node(0), "2");
    farm.replicas_in_step(0, 1);
    assert_eq!([1, 2].map(|one| get(farm.node(one)).unwrap()), ["1", "2"]);
    farm.promote(1);
    assert_eq!(farm.node(0).role(), Some(Role::Primary), "left as it was");
    assert_eq!(get(farm.node(2)).as_deref(), Some("1"));
    farm.node_mut(2).kill();
    farm.node_mut(2).restart_empty();
    farm.replicas_in_step(0, 1);
    farm.promote(2);
    farm.follow(1, 2);
    assert_eq!(get(farm.node(1)).as_deref(), Some("2"), "it first copied server 0 again");
    farm.follow(0, 2);
    assert_eq!(replicas_of(farm.node(2)), Some(2));
}

#[test]
fn an_address_moves_with_or_without_the_clients_that_are_there() {
    let farm = Farm::start(&Shape { replicas: 1, sentinels: 0, ..Shape::default() });
    let [first, second] = [0, 1].map(|number| farm.node(number).port());
    let address = Address::of(first);
    let speaks = |stream: &mut TcpStream| {
        let mut answer = [0; 64];
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let sent = stream.write_all(b"AUTH cli cp\r\n");
        let length = sent.and_then(|()| stream.read(&mut answer));
        length.map(|length| String::from_utf8_lossy(&answer[..length]).into_owned()).ok()
    };
    let dial = || TcpStream::connect(("127.0.0.1", address.port())).unwrap();
    let mut old = dial();
    assert_eq!(speaks(&mut old).as_deref(), Some("+OK\r\n"));
    address.move_to(second, Old::Kept);
    assert_eq!(speaks(&mut old).as_deref(), Some("+OK\r\n"));
    address.move_to(second, Old::Silent);
    assert_eq!(speaks(&mut old), None, "open, and without an answer");
    let mut new = dial();
    assert_eq!(speaks(&mut new).as_deref(), Some("+OK\r\n"));
    assert_eq!(address.connections(), 2);
    address.move_to(first, Old::Cut);
    assert!(matches!(speaks(&mut new).as_deref(), None | Some("")), "closed");
    wait_until("none is left", || address.connections() == 0);
}

#[test]
fn haproxy_follows_the_primary() {
    let mut farm = Farm::start(&Shape::default());
    let haproxy = Haproxy::before(farm.nodes());
    assert_eq!(haproxy.primaries(), [0]);
    let url = format!("redis://cli:cp@127.0.0.1:{}", haproxy.port());
    let role = || -> RedisResult<String> {
        let mut connection = redis::Client::open(url.as_str())?.get_connection()?;
        let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut connection)?;
        redis::from_redis_value(role[0].clone()).map_err(Into::into)
    };
    assert_eq!(role().unwrap(), "master");
    farm.node_mut(0).kill();
    let promoted = farm.primary_after(0);
    wait_until("haproxy has found it", || haproxy.primaries() == [promoted]);
    assert_eq!(role().unwrap(), "master");
}
