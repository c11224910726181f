//! Asks twice over a connection of its own, as semrun does: who it is goes with the first question,
//! which is sent before there is a runtime.

use std::io::Write;
use std::net::TcpStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut s = TcpStream::connect(("127.0.0.1", port)).unwrap();
    s.set_nodelay(true).unwrap();
    s.write_all(b"*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$6\r\nsemrun\r\n*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$7\r\nLIB-VER\r\n$5\r\n0.1.0\r\n*1\r\n$4\r\nPING\r\n").unwrap();
    s.set_nonblocking(true).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let mut s = tokio::net::TcpStream::from_std(s).unwrap();
        let (want, mut buf) = (b"+OK\r\n+OK\r\n+PONG\r\n".len(), Vec::new());
        while buf.len() < want {
            s.read_buf(&mut buf).await.unwrap();
        }
        s.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        while buf.len() < want + 7 {
            s.read_buf(&mut buf).await.unwrap();
        }
    });
}
