//! A host with a main vhost and nothing in front of it.

use std::io::{Read, Write};
use std::net::TcpListener;

/// Inside a namespace: writes the configuration into a new directory. The main vhost answers 200 to everything.
pub fn make_single_host() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let yaml = "service: shop\nroll: {min_up: 0}\nhealth: {interval: 10ms}\n";
    std::fs::write(dir.path().join("switchman.yaml"), yaml).unwrap();
    let main = TcpListener::bind("127.0.0.1:8080").unwrap();
    std::thread::spawn(move || answer_every_request(&main));
    dir
}

/// Answers 200 to everything, for as long as the process lives.
pub fn answer_every_request(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
}
