//! What `semrun serve` can do, with clients of the original as its load, from a process of their
//! own: wait-and-signal cycles per second, the time of a hand-over, and what waiting costs.
//!
//! ```text
//! cargo bench --bench serve
//! ```

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const KEY: &str = "a-key-for-measuring";

/// A connection that is used again and again.
struct Connection(TcpStream);

impl Connection {
    async fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    async fn send(&mut self, action: &str, name: &str, id: &str) -> Result<()> {
        let request = format!(
            "GET /semaphore/{action}?name={name} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n\
             x-client-uuid: {id}\r\n\r\n"
        );
        Ok(self.0.write_all(request.as_bytes()).await?)
    }

    /// The body of an answer, which has to be 200.
    async fn answer(&mut self) -> Result<String> {
        let mut read = Vec::with_capacity(512);
        loop {
            if self.0.read_buf(&mut read).await? == 0 {
                return Err("the connection ended".into());
            }
            let text = std::str::from_utf8(&read)?;
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            if !head.starts_with("HTTP/1.1 200 ") {
                return Err(head.to_owned().into());
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.unwrap_or("0").parse()? {
                return Ok(body.to_owned());
            }
        }
    }
}

/// A client of the original, with the connections that it needs.
struct Client {
    name: String,
    short: Connection,
    monitor: Connection,
    wait: Connection,
    id: String,
}

impl Client {
    async fn open(port: u16, name: String) -> Result<Self> {
        let open = || Connection::open(port);
        let (short, monitor, wait) = (open().await?, open().await?, open().await?);
        Ok(Self { name, short, monitor, wait, id: String::new() })
    }

    async fn queue(&mut self) -> Result<()> {
        self.short.send("register", &self.name, "").await?;
        self.id = self.short.answer().await?;
        self.monitor.send("monitor", &self.name, &self.id).await?;
        self.wait.send("wait", &self.name, &self.id).await
    }

    async fn signal(&mut self) -> Result<()> {
        self.short.send("signal", &self.name, &self.id).await?;
        self.short.answer().await?;
        self.monitor.answer().await.map(drop)
    }

    async fn cycle(&mut self) -> Result<()> {
        self.queue().await?;
        self.wait.answer().await?;
        self.signal().await
    }
}

/// Many clients, each as fast as it can.
async fn cycles(port: u16, clients: usize, rounds: usize, one_name: bool) -> Result<f64> {
    let mut all = Vec::new();
    for number in 0..clients {
        let name = if one_name { "one".into() } else { format!("name-{number}") };
        all.push(Client::open(port, name).await?);
    }
    let started = Instant::now();
    let mut running = JoinSet::new();
    for mut client in all {
        running.spawn(async move {
            for _ in 0..rounds {
                client.cycle().await?;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok((clients * rounds) as f64 / started.elapsed().as_secs_f64())
}

/// From the moment before one client signals until the next one has its permit.
async fn hand_overs(port: u16, rounds: usize) -> Result<Vec<Duration>> {
    let open = || Client::open(port, "hand-over".into());
    let (mut holder, mut next) = (open().await?, open().await?);
    holder.queue().await?;
    holder.wait.answer().await?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        next.queue().await?;
        // In the queue by now.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let started = Instant::now();
        holder.short.send("signal", &holder.name, &holder.id).await?;
        next.wait.answer().await?;
        times.push(started.elapsed());
        holder.short.answer().await?;
        holder.monitor.answer().await?;
        std::mem::swap(&mut holder, &mut next);
    }
    holder.signal().await?;
    times.sort_unstable();
    Ok(times)
}

/// How much memory each of many waiting clients takes, and how fast they are served one by one.
async fn waiting(server: &Child, port: u16, clients: usize) -> Result<(u64, Duration)> {
    let before = memory(server)?;
    let mut all = Vec::new();
    let mut short = Connection::open(port).await?;
    for _ in 0..clients {
        short.send("register", "many", "").await?;
        let id = short.answer().await?;
        let (mut monitor, mut wait) =
            (Connection::open(port).await?, Connection::open(port).await?);
        monitor.send("monitor", "many", &id).await?;
        wait.send("wait", "many", &id).await?;
        all.push((id, monitor, wait));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let each = (memory(server)? - before) / clients as u64;
    let started = Instant::now();
    for (id, monitor, wait) in &mut all {
        wait.answer().await?;
        short.send("signal", "many", id).await?;
        short.answer().await?;
        monitor.answer().await?;
    }
    Ok((each, started.elapsed()))
}

/// The proportional set size of a process, in bytes.
fn memory(process: &Child) -> Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", process.id()))?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
    Ok(pss.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

async fn measure(server: &Child, port: u16) -> Result<()> {
    for _ in 0..3 {
        let one = cycles(port, 32, 500, true).await?;
        let many = cycles(port, 32, 500, false).await?;
        println!("cycles per second, 32 clients: one name {one:.0}, a name each {many:.0}");
    }
    let times = hand_overs(port, 1000).await?;
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("hand-over, from before the signal to the grant: median {median:.1?}, p99 {p99:.1?}");
    let (each, drained) = waiting(server, port, 5000).await?;
    println!("5000 waiting: {each} bytes each, served one by one in {drained:.2?}");
    Ok(())
}

fn main() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let directory = tempfile::TempDir::new()?;
    let keys = directory.path().join("keys");
    let mut private = std::fs::OpenOptions::new();
    let file = private.write(true).create_new(true).mode(0o600).open(&keys)?;
    std::io::Write::write_all(&mut &file, KEY.as_bytes())?;
    let mut server = Command::new(env!("CARGO_BIN_EXE_semrun"))
        .args(["serve", "--listen", "127.0.0.1:0", "--api-key-file"])
        .arg(&keys)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let port = line.trim().rsplit(' ').next().unwrap_or_default().parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(measure(&server, port));
    server.kill()?;
    server.wait()?;
    measured
}
