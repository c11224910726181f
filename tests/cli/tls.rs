use std::path::Path;
use std::process::{Command, Stdio};

use super::redis_server::RedisServer;
use super::support::{World, fails, shows};

/// Makes an authority, and certificates that it signed: of a server called localhost, and of a
/// client.
pub(crate) fn certificates(directory: &Path) {
    let script = r#"
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
            -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem
        for who in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$who \
                -keyout $who.key -out $who.csr
            echo "subjectAltName=DNS:localhost" > $who.ext
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile $who.ext -out $who.pem
        done
        chmod 600 client.key"#;
    let mut openssl = Command::new("sh");
    openssl.args(["-c", script]).current_dir(directory).stderr(Stdio::null());
    assert!(openssl.status().unwrap().success(), "openssl makes certificates");
}

#[test]
fn tls_with_a_private_authority_and_certificates_on_both_sides() {
    let directory = tempfile::TempDir::new().unwrap();
    certificates(directory.path());
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = free.to_string();
    let server = RedisServer::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
    ]);
    let world = World::in_server(server);
    let at = |host: &str| format!("rediss://{host}:{port}");
    let run = |url: &str, options: &[&str]| {
        let mut run = world.run(["--backend", url, "-n"]);
        run.args(options).args(["--", "echo", "ran"]).output().unwrap()
    };
    let (authority, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let known = ["--ca-file", &authority];
    let ours = ["--client-cert", &cert, "--client-key", &key];
    let both = [known, [ours[0], ours[1]], [ours[2], ours[3]]].concat();

    shows(&run(&at("localhost"), &both), 0, "ran\n", "");
    // An unknown authority signed it; it is another host's; the server asks for ours.
    fails(&run(&at("localhost"), &ours), 69, &["TLS", "--ca-file"]);
    fails(&run(&at("127.0.0.1"), &both), 69, &["TLS", "certificate"]);
    fails(&run(&at("localhost"), &known), 69, &["rediss://localhost", "asks for", "--client-cert"]);
    // A server that speaks no TLS, and one that speaks nothing else.
    let plain = format!("rediss://127.0.0.1:{}", world.server().port());
    fails(&run(&plain, &both), 69, &["rediss://127.0.0.1", "is it redis:// ?"]);
    let encrypted = format!("redis://localhost:{port}");
    fails(&run(&encrypted, &both), 69, &["redis://localhost", "is it rediss:// ?"]);
    // Files that are not what they should be.
    let junk = world.path("junk");
    std::fs::write(&junk, "junk").unwrap();
    let junk = junk.to_str().unwrap();
    let wrong = ["--ca-file", &authority, "--client-cert", junk, "--client-key", &key];
    fails(&run(&at("localhost"), &wrong), 78, &["certificate"]);
    fails(&run(&at("localhost"), &["--ca-file", junk]), 78, &["certificate"]);
}
