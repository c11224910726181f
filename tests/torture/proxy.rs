//! A network that can be spoilt: a TCP proxy on loopback between any number of clients and one
//! server, which may be dead for a while and come back.
//!
//! One thread does it all and never blocks but in `poll`, so orders take effect at once and in a
//! known place: whatever is read after [`Proxy::weather`] has returned meets the new weather.

// By its path: `tests/cli` has this file at another place.
#[path = "proxy/end.rs"]
mod end;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use self::end::{CHUNK, End, Over, Parcel, Then};

/// How many chunks may be under way in one direction before its sender has to wait.
const UNDER_WAY: usize = 1024;
/// How many requests are kept for another time.
const KEPT: usize = 64;
/// How long a request that is sent again waits, at each step.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a network does to its users.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Weather {
    /// Everything passes.
    Fair,
    /// What the server says comes so much later, in order; requests are not delayed.
    SlowReplies(Duration),
    /// Both directions.
    Slow(Duration),
    /// Nothing passes in either direction, and neither side is told: connections stay open, new
    /// ones are accepted and go nowhere. A connection that saw this never passes a byte again. A
    /// server learns that its client has closed when the weather is another.
    Lost,
    /// The next request of each connection reaches the server, and the connection is closed at
    /// once, both sides.
    CutAfterRequest,
    /// The server's next answer arrives here, goes no further, and the connection is closed, both
    /// sides.
    CutBeforeReply,
    /// After the server's next answer the client reads end of file, while its own direction stays
    /// open.
    HalfClosed,
    /// Connections that are there are reset, both sides, and new ones right after they were
    /// accepted.
    Reset,
}

impl Weather {
    fn request_delay(self) -> Duration {
        match self {
            Self::Slow(delay) => delay,
            _ => Duration::ZERO,
        }
    }

    fn reply_delay(self) -> Duration {
        match self {
            Self::Slow(delay) | Self::SlowReplies(delay) => delay,
            _ => Duration::ZERO,
        }
    }
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    server: u16,
    passed: Arc<Mutex<Passed>>,
    orders: Sender<(Order, Sender<()>)>,
    bell: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// What went to the server.
#[derive(Default)]
struct Passed {
    last: VecDeque<Vec<u8>>,
}

enum Order {
    Weather(Weather),
    Cut,
    Stop,
}

impl Proxy {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind(loopback(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (bell, rung) = UnixStream::pair().unwrap();
        rung.set_nonblocking(true).unwrap();
        let (orders, received) = channel();
        let passed = Arc::default();
        let network = Network {
            server,
            listener,
            rung,
            orders: received,
            passed: Arc::clone(&passed),
            weather: Weather::Fair,
            connections: Vec::new(),
        };
        let thread = Some(std::thread::spawn(|| network.run()));
        Self { port, server, passed, orders, bell, thread }
    }

    pub(crate) fn weather(&self, weather: Weather) {
        self.order(Order::Weather(weather)).expect("the proxy is alive");
    }

    /// Closes every connection there is; new ones can be made.
    pub(crate) fn cut(&self) {
        self.order(Order::Cut).expect("the proxy is alive");
    }

    /// Sends one of the last requests again, whatever the weather, over a connection of its own,
    /// as a network does that delivers twice and late. How many bytes: zero where the server
    /// cannot be reached, none where nothing was recorded.
    pub(crate) fn replay(&self, pick: usize) -> Option<usize> {
        let request = {
            let passed = self.passed.lock().unwrap();
            let index = pick.checked_rem(passed.last.len())?;
            passed.last[index].clone()
        };
        Some(send_again(&request, self.server).map_or(0, |()| request.len()))
    }

    /// Returns when it has been carried out; none: the thread is dead.
    fn order(&self, order: Order) -> Option<()> {
        let (done, wait) = channel();
        self.orders.send((order, done)).ok()?;
        (&self.bell).write_all(&[0]).ok()?;
        wait.recv().ok()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send_again(request: &[u8], server: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&loopback(server), PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    // Whether and what it answers does not matter.
    let _ = stream.read(&mut [0; CHUNK]);
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The thread's own side of a proxy.
struct Network {
    server: u16,
    listener: TcpListener,
    rung: UnixStream,
    orders: Receiver<(Order, Sender<()>)>,
    passed: Arc<Mutex<Passed>>,
    weather: Weather,
    connections: Vec<Connection>,
}

impl Network {
    fn run(mut self) {
        loop {
            self.wait();
            // Who connected before an order was given is there when it is carried out.
            while let Ok((client, _)) = self.listener.accept() {
                self.accept(client);
            }
            // What was ordered holds for everything that is read from here on.
            let _ = self.rung.read(&mut [0; 64]);
            while let Ok((order, done)) = self.orders.try_recv() {
                let stop = matches!(order, Order::Stop);
                self.obey(&order);
                let _ = done.send(());
                if stop {
                    return;
                }
            }
            self.turn();
        }
    }

    /// Waits until something can be done, and notes in every end what it is ready for.
    fn wait(&mut self) {
        let now = Instant::now();
        let mut awaited = vec![
            PollFd::new(&self.rung, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        awaited.extend(self.connections.iter().flat_map(|connection| connection.awaited(now)));
        let next = self.connections.iter().filter_map(|connection| connection.next(now)).min();
        let next = next.map(|due| Timespec::try_from(due - now).unwrap());
        match poll(&mut awaited, next.as_ref()) {
            Ok(_) => {}
            // Nothing was noted in them then, and nothing is ready.
            Err(Errno::INTR) => awaited.iter_mut().for_each(PollFd::clear_revents),
            Err(error) => panic!("poll: {error}"),
        }
        let ready: Vec<_> = awaited.iter().skip(2).map(PollFd::revents).collect();
        let ends = self.connections.iter_mut().flat_map(Connection::ends);
        for (end, ready) in ends.filter(|end| end.socket.is_some()).zip(ready) {
            end.ready = ready;
        }
    }

    fn obey(&mut self, order: &Order) {
        match order {
            Order::Weather(weather) => self.change(*weather),
            Order::Cut | Order::Stop => self.connections.clear(),
        }
    }

    fn change(&mut self, weather: Weather) {
        self.weather = weather;
        match weather {
            Weather::Lost => self.connections.iter_mut().for_each(Connection::lose),
            Weather::Reset => {
                for connection in self.connections.drain(..) {
                    connection.reset();
                }
            }
            _ => {}
        }
    }

    fn turn(&mut self) {
        let now = Instant::now();
        let (weather, passed) = (self.weather, &self.passed);
        self.connections.retain_mut(|connection| connection.turn(weather, now, passed).is_ok());
    }

    fn accept(&mut self, client: TcpStream) {
        let lost = self.weather == Weather::Lost;
        let Ok(client) = End::new(client) else { return };
        if self.weather == Weather::Reset {
            return client.reset();
        }
        let server = if lost { Ok(End::with(None)) } else { dial(self.server).and_then(End::new) };
        // A server that cannot be reached: the client's connection is closed.
        let Ok(server) = server else { return };
        self.connections.push(Connection { client, server, lost });
    }
}

/// Begins to connect. A refusal may come to light only when the socket is used.
fn dial(server: u16) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // A stopped server with a full queue answers no client, and must not stop the others here.
    socket.set_nonblocking(true)?;
    match socket.connect(&loopback(server).into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}

struct Connection {
    client: End,
    server: End,
    /// It saw a loss, and stays silent.
    lost: bool,
}

impl Connection {
    fn ends(&mut self) -> [&mut End; 2] {
        [&mut self.client, &mut self.server]
    }

    fn awaited(&self, now: Instant) -> impl Iterator<Item = PollFd<'_>> {
        let pairs = [(&self.client, &self.server), (&self.server, &self.client)];
        pairs.into_iter().filter_map(move |(end, other)| {
            let room = other.queue.len() < UNDER_WAY;
            Some(PollFd::new(end.socket.as_ref()?, end.interest(room, now)))
        })
    }

    /// When something will be due that is not yet.
    fn next(&self, now: Instant) -> Option<Instant> {
        let fronts = [self.client.queue.front(), self.server.queue.front()];
        fronts.into_iter().flatten().map(|parcel| parcel.due).filter(|due| *due > now).min()
    }

    fn lose(&mut self) {
        self.lost = true;
        self.client.queue.clear();
        self.server.queue.clear();
    }

    fn reset(self) {
        self.client.reset();
        self.server.reset();
    }

    fn turn(&mut self, weather: Weather, now: Instant, passed: &Mutex<Passed>) -> Result<(), Over> {
        if self.lost {
            return self.ignore(weather);
        }
        if let Some(bytes) = self.client.hear()? {
            let then = after_request(&bytes, weather);
            self.server.queue.push_back(Parcel::new(bytes, now + weather.request_delay(), then));
        }
        if let Some(bytes) = self.server.hear()? {
            let then = after_reply(&bytes, weather)?;
            self.client.queue.push_back(Parcel::new(bytes, now + weather.reply_delay(), then));
        }
        self.server.say(now, |request| passed.lock().unwrap().add(request))?;
        self.client.say(now, drop)?;
        let [client, server] = self.ends().map(End::done);
        if client && server { Err(Over) } else { Ok(()) }
    }

    /// Takes what comes, and passes on nothing.
    fn ignore(&mut self, weather: Weather) -> Result<(), Over> {
        for end in self.ends() {
            if end.hear().is_err() {
                // Left here, it would wake us for ever.
                end.socket = None;
            }
            end.done();
        }
        // That a client has closed gets through in the end, but not now.
        let closed = self.client.socket.is_none() || self.client.heard_all;
        if closed && weather != Weather::Lost { Err(Over) } else { Ok(()) }
    }
}

fn after_request(bytes: &[u8], weather: Weather) -> Then {
    match weather {
        _ if bytes.is_empty() => Then::End,
        Weather::CutAfterRequest => Then::Cut,
        _ => Then::GoOn,
    }
}

fn after_reply(bytes: &[u8], weather: Weather) -> Result<Then, Over> {
    match weather {
        _ if bytes.is_empty() => Ok(Then::End),
        Weather::CutBeforeReply => Err(Over),
        Weather::HalfClosed => Ok(Then::End),
        _ => Ok(Then::GoOn),
    }
}

impl Passed {
    fn add(&mut self, request: Vec<u8>) {
        if request.is_empty() {
            return;
        }
        self.last.push_back(request);
        if self.last.len() > KEPT {
            self.last.pop_front();
        }
    }
}
