//! What answers at an agent's address and is none: each is told apart, with what to do.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use vsgpu_wire::client::{CallError, Connection, Connector, Target, Trouble};

const WITHIN: Duration = Duration::from_secs(5);

async fn answer(connector: &Connector, address: &str) -> Trouble {
    let target = Target { address: address.into(), node: "esx-01".into(), role: "host" };
    match Connection::open(connector, &target, WITHIN).await.err() {
        Some(CallError::Unreachable(what) | CallError::Refused(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_is_told_apart() {
    let folder = std::env::temp_dir().join(format!("vsgpu-strangers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    vsgpu_wire::pki::init(&folder, SystemTime::now()).unwrap();
    let connector = Connector::load(&folder).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();

    let what = answer(&connector, "esx-01.nowhere.invalid:7443").await;
    assert!(
        what.why.contains("cannot be resolved") && what.hint.contains("getent hosts esx-01.nowhere.invalid"),
        "{what:?}"
    );
    assert_eq!(what.who, "esx-01 at esx-01.nowhere.invalid:7443");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let what = answer(&connector, &address).await;
    assert!(
        what.why.contains("connection refused") && what.hint.contains("/etc/init.d/vsgpu-host-agent restart"),
        "{what:?}"
    );

    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = plain.accept().await {
            let _ = caller.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let what = answer(&connector, &address).await;
    assert!(what.why.contains("does not speak its TLS") && what.hint.contains("9743"), "{what:?}");

    // Another TLS service: whose certificate it was is said.
    let made = rcgen::generate_simple_self_signed(vec!["proxy.example".to_string()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((caller, _)) = other.accept().await {
            let _ = acceptor.accept(caller).await;
        }
    });
    let what = answer(&connector, &address).await;
    assert!(
        what.why.contains("no agent: its certificate is for CN=") && what.why.contains("SHA-256 "),
        "{what:?}"
    );
}
