//! Servers that are not etcd, or etcd at its worst: whatever they say, the answer is "unknown", in bounded time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::*;
use crate::arbitration::{Epoch, NodeSet};
use crate::units::NodeId;

fn record() -> Record {
    Record { epoch: Epoch(1), primary: Some(NodeId(0)), in_sync: NodeSet::BOTH, nonce: 1 }
}

/// A server that does `act` with every connection, until the test program ends.
fn server(act: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || listener.incoming().flatten().for_each(act));
    address
}

/// A server that reads a request and writes these bytes.
fn saying(bytes: Vec<u8>) -> SocketAddr {
    server(move |mut stream| {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(&bytes);
    })
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}

fn ask(addresses: &[SocketAddr]) -> (Trouble, Duration) {
    let mut arbiter = EtcdArbiter::open(&EtcdConfig {
        endpoints: addresses.iter().map(|address| format!("http://{address}")).collect(),
        cluster: "c".into(),
        volume: "v".into(),
        pair: PairId([1; 16]),
        tls: TlsFiles::default(),
        login: None,
    })
    .expect("it starts");
    let began = Instant::now();
    match arbiter.compare_and_swap(None, record()) {
        Swap::Unknown(ArbiterError::Etcd(error)) => {
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
            (error.trouble, began.elapsed())
        }
        other => panic!("a definite answer from nobody: {other:?}"),
    }
}

#[test]
fn whatever_answers_is_not_believed_before_it_is_etcd() {
    let endless = || {
        server(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while stream.write_all(b"1000\r\n").and_then(|()| stream.write_all(&[b' '; 4096])).is_ok()
                && stream.write_all(b"\r\n").is_ok()
            {}
        })
    };
    let cases = [
        saying(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n".to_vec()),
        saying(http("200 OK", "<html>welcome</html>")),
        saying(http("200 OK", "{}")),
        saying(http("200 OK", r#"{"succeeded":true}"#)),
        saying(http("502 Bad Gateway", "<html>no</html>")),
        saying(http("302 Found\r\nLocation: http://127.0.0.1:1/", "")),
        saying(http("204 No Content", "")),
        saying([b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 100_000]].concat()),
        endless(),
    ];
    for address in cases {
        let (trouble, took) = ask(&[address]);
        assert!(matches!(trouble, Trouble::NotEtcd(_) | Trouble::Connection(_)), "{trouble:?}");
        assert!(took < TRY_MAX, "{trouble:?} took {took:?}");
    }
}

#[test]
fn silence_and_slowness_end_with_the_try() {
    let (hold, held) = std::sync::mpsc::channel();
    let silent = server(move |stream| hold.send(stream).unwrap_or(()));
    let dribbling = server(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    for address in [silent, dribbling] {
        let (trouble, took) = ask(&[address]);
        assert!(matches!(trouble, Trouble::NoAnswer), "{trouble:?}");
        assert!(took < TRY * 3, "{took:?}");
    }
    drop(held);
}

#[test]
fn the_trouble_that_says_most_is_told() {
    let refused = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
    let full = r#"{"message":"etcdserver: mvcc: database space exceeded","code":8}"#;
    let header = r#"{"header":{"cluster_id":"5"}}"#;
    // Reads are answered, changes are not: what a full etcd does.
    let full = server(move |mut stream| {
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap_or(0);
        let asked = String::from_utf8_lossy(&request[..length]);
        let answer = if asked.contains("range") && !asked.contains("txn") {
            http("200 OK", header)
        } else {
            http("429 Too Many Requests", full)
        };
        let _ = stream.write_all(&answer);
    });
    assert_eq!(ask(&[refused, full]).0, Trouble::NoSpace);
    assert_eq!(ask(&[full, refused]).0, Trouble::NoSpace);
    assert!(matches!(ask(&[refused]).0, Trouble::Connection(_)));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("ca.pem");
    let mut config = EtcdConfig {
        endpoints: vec!["https://127.0.0.1:1".into()],
        cluster: "c".into(),
        volume: "v".into(),
        pair: PairId([1; 16]),
        tls: TlsFiles { ca: Some(file.clone()), identity: None },
        login: None,
    };
    let mut why = |text: Option<&str>| {
        if let Some(text) = text {
            std::fs::write(&file, text).expect("written");
        }
        config.tls.ca = Some(file.clone());
        EtcdArbiter::open(&config).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(why(None).contains("ca.pem: No such file"), "{}", why(None));
    assert!(why(Some("hello")).contains("no certificate in PEM form"));
}
