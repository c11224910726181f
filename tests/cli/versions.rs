//! Semruns of two versions: neither takes the other for a server or client of the original.

use std::io::{Read, Write};
use std::net::TcpStream;

use semrun_testkit::cloud_server::{CloudServer, KEY};

use super::http::{Client, path};
use super::strange::answering;
use super::support::{World, fails};

/// Our server as an older one is: it does not know the version that our client speaks, and takes it
/// for a client of the original.
fn older(port: u16) -> u16 {
    answering(move |client| {
        let mut server = TcpStream::connect(("127.0.0.1", port))?;
        let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
        let mut bytes = [0; 4096];
        loop {
            let count = client.read(&mut bytes)?;
            if count == 0 {
                return server.shutdown(std::net::Shutdown::Write);
            }
            let text =
                String::from_utf8_lossy(&bytes[..count]).replace("x-semrun: 3", "x-other: 3");
            server.write_all(text.as_bytes())?;
        }
    })
}

#[test]
fn a_client_tells_an_older_server_from_the_original_and_says_what_to_do() {
    let world = World::in_cloud(CloudServer::ours());
    let port = older(world.cloud.as_ref().unwrap().port());
    let backend = format!("http://127.0.0.1:{port}");
    let permit = "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x";
    let words = ["an older version of the protocol", "install the same semrun on both sides"];
    for line in [
        &["--name", "x", "--", "touch", "started"][..],
        &["--name", "x", "-n", "--", "touch", "started"],
        &["acquire", "--name", "x"],
        &["status", "x"],
        &["status"],
        &["renew", "--permit", permit],
        &["release", "--permit", permit],
        &["limit", "x"],
        &["limit", "x", "3"],
    ] {
        let output = world.semrun(line).env("SEMRUN_BACKEND", &backend).output().unwrap();
        fails(&output, 69, &words);
    }
    let doctor = world.semrun(["doctor"]).env("SEMRUN_BACKEND", &backend).output().unwrap();
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.status.code() == Some(1) && text.contains(words[0]), "{text}");
    assert!(!world.path("started").exists(), "the command started");
}

#[test]
fn a_server_tells_an_older_client_so_in_an_answer_that_it_shows() {
    let server = CloudServer::ours();
    let client = Client::new(server.port(), KEY);
    let (observe, register) = (path("observe", "x"), path("register", "x"));
    for (method, path) in [
        ("GET", &*register),
        ("GET", &*observe),
        ("POST", "/semrun/execute"),
        ("GET", "/semrun/about"),
    ] {
        let answer = client.request(method, path, &[("x-semrun", "1")], "");
        // With the version that it understands, or it would not read on.
        assert_eq!((answer.status, answer.header("x-semrun")), (403, Some("1")), "{path}");
        let text = "the client speaks version 1 of the protocol between semrun and semrun serve, and \
                    this server version 3; install the same semrun on both sides";
        assert_eq!(answer.body, text, "{path}");
    }
}
