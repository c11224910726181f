use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;

/// Connections without a socket: their tasks live until they are told to end.
struct TestConnections {
    door: Rc<Connections>,
    tasks: JoinSet<()>,
    guests: Vec<Weak<ClientConnection>>,
}

impl TestConnections {
    fn new(strangers: usize, of_one_address: usize, known: usize) -> Self {
        let door = Connections::new(ConnectionLimits { strangers, of_one_address, known });
        Self { door, tasks: JoinSet::new(), guests: Vec::new() }
    }

    async fn comes(&mut self, address: &str) -> Rc<ClientConnection> {
        let address = address.parse().unwrap();
        let guest = self.door.enter(address);
        self.guests.push(Rc::downgrade(&guest));
        let theirs = Rc::clone(&guest);
        let ends = self.tasks.spawn_local(async move {
            // A connection's state changes only while it is polled.
            let talk = async {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            theirs.unless_slow(talk).await;
        });
        self.door.watch(&guest, ends, Weak::new());
        self.door.make_room(address).await;
        guest
    }

    /// Those that are there, in order of arrival.
    fn present(&self) -> Vec<usize> {
        let there = |number: &usize| self.guests[*number].strong_count() > 0;
        (0..self.guests.len()).filter(there).collect()
    }
}

fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn the_first_stranger_makes_room_for_the_next_and_those_of_an_address_for_each_other() {
    run(async {
        let mut crowd = TestConnections::new(5, 2, 5);
        for address in ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"] {
            drop(crowd.comes(address).await);
        }
        assert_eq!(crowd.present(), [1, 2, 3], "two of one address, however it is written");
        for address in ["2001:db8::1", "2001:db8::2:0:0:0:1", "2001:db8::ffff", "2001:db8::5"] {
            drop(crowd.comes(address).await);
        }
        assert_eq!(crowd.present(), [2, 3, 5, 6, 7], "two of a network of IPv6, and five of all");
        let mut crowd = TestConnections::new(3, 3, 5);
        for last in 1..=9 {
            drop(crowd.comes(&format!("192.0.2.{last}")).await);
        }
        assert_eq!(crowd.present(), [6, 7, 8]);
    });
}

#[test]
fn who_has_shown_a_key_stays_while_strangers_come() {
    run(async {
        let mut crowd = TestConnections::new(3, 2, 2);
        for _ in 0..2 {
            let known = crowd.comes("192.0.2.1").await;
            let asking = known.open_request();
            known.shows_key();
            assert!(known.is_known());
            drop(asking);
        }
        for _ in 0..10 {
            drop(crowd.comes("192.0.2.1").await);
        }
        assert_eq!(crowd.present(), [0, 1, 10, 11]);
        // An idle one makes room for another, the one that has been idle for longest first.
        let again = crowd.guests[0].upgrade().unwrap();
        let asking = again.open_request();
        let third = crowd.comes("192.0.2.1").await;
        third.shows_key();
        tokio::task::yield_now().await;
        assert!(third.is_known());
        assert_eq!(crowd.present(), [0, 11, 12]);
        // Where none is idle, one more is served as long as no other comes.
        let _also = third.open_request();
        let fourth = crowd.comes("192.0.2.1").await;
        fourth.shows_key();
        assert!(!fourth.is_known());
        drop((asking, again));
        fourth.shows_key();
        assert!(fourth.is_known(), "there is room now");
    });
}

#[test]
fn half_heads_have_room_in_all() {
    run(async {
        let mut crowd = TestConnections::new(1024, 1024, 1024);
        let each = 32 * 1024;
        let many = 2 * HALF_HEADS / each;
        for _ in 0..many {
            let guest = crowd.comes("192.0.2.1").await;
            for _ in 0..each / 4096 {
                guest.has_sent(4096);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let present = crowd.present();
        let counted = present.len() * (each - SMALL_HEAD);
        assert!((HALF_HEADS / 2..=HALF_HEADS).contains(&counted), "{counted}");
        assert_eq!(present.last(), Some(&(many - 1)), "the first ones went");
        for number in present {
            drop(crowd.guests[number].upgrade().unwrap().open_request());
        }
        assert_eq!(crowd.door.inside.borrow().half_bytes, 0, "they are whole");
    });
}

#[test]
fn a_connection_is_given_the_time_that_it_needs_and_no_more() {
    run(async {
        let seconds = |began: Instant| began.elapsed().as_secs();
        let lasts = async |crowd: &mut TestConnections| {
            let began = Instant::now();
            crowd.tasks.join_next().await;
            seconds(began)
        };
        let mut crowd = TestConnections::new(9, 9, 9);
        drop(crowd.comes("192.0.2.1").await);
        assert_eq!(lasts(&mut crowd).await, 6, "a stranger that says nothing");
        let guest = crowd.comes("192.0.2.1").await;
        let asking = guest.open_request();
        guest.shows_key();
        tokio::time::sleep(Duration::from_hours(1)).await;
        drop(asking);
        assert_eq!(lasts(&mut crowd).await, 6, "one that has no lease");
        let guest = crowd.comes("192.0.2.1").await;
        let asking = guest.open_request();
        guest.shows_key();
        guest.renews_within(Duration::from_mins(3));
        drop(asking);
        assert_eq!(lasts(&mut crowd).await, 96, "one that renews after a minute");
        let guest = crowd.comes("192.0.2.1").await;
        let _asking = guest.open_request();
        guest.shows_key();
        guest.is_stuck();
        tokio::time::sleep(Duration::from_secs(20)).await;
        guest.takes(640 * 1024);
        assert_eq!(lasts(&mut crowd).await, 20, "one that takes its answer slowly");
    });
}

#[test]
fn the_room_is_what_the_descriptors_allow() {
    let room = |descriptors, strangers| ConnectionLimits::within(descriptors, strangers, None);
    let is =
        |strangers, of_one_address, known| ConnectionLimits { strangers, of_one_address, known };
    assert_eq!(room(20_000, None), is(1024, 256, 18_944));
    assert_eq!(room(1024, None), is(248, 62, 744));
    assert_eq!(room(120, None), is(22, 5, 68));
    assert_eq!(room(120, Some(4)), is(4, 1, 86));
    assert_eq!(room(120, Some(1000)), is(45, 11, 45), "no more than half");
    assert_eq!(room(1, None), is(1, 1, 1));
    assert_eq!(ConnectionLimits::within(1024, Some(10), Some(20)).of_one_address, 10);
}
