//! Credentials, certificates, access rules, and that no secret is ever shown.

use super::{config, echo};
use crate::{
    BoxFuture, ErrorKind, Result,
    config::{CredentialSource, Credentials, Secret, Tls},
    redis::Connection,
};
use coordinator_harness::{CertFiles, RedisServer, TlsFiles, eventually};
use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};
use tracing_subscriber::fmt::MakeWriter;

const SECRET: &str = "correct-horse-battery";

/// The rules of least privilege that every part must work under.
const LEAST: &str = "resetkeys ~app:* resetchannels &app:* -@all +@read +@write +@pubsub \
    +@connection +eval +evalsha +script|load +script|exists +time -@dangerous";
/// What Redis 6.2 wants besides: there SELECT is no command of a connection, and CLIENT is
/// dangerous as a whole.
const LEAST_6_2: &str = "+select +client|tracking +client|trackinginfo";

async fn guarded() -> RedisServer {
    RedisServer::builder().config("requirepass", SECRET).start().await.expect("a server")
}

fn with_login(server: &RedisServer, login: &str) -> String {
    let port = server.port();
    format!("redis://{login}@127.0.0.1:{port}")
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_rejected() {
    let server = guarded().await;
    for url in [server.url(), with_login(&server, ":wrong"), with_login(&server, "nobody:wrong")] {
        let error = Connection::connect(config(&url)).await.expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    }
    let url = with_login(&server, &format!(":{SECRET}"));
    Connection::connect(config(&url)).await.expect("the right one");
}

#[tokio::test]
async fn everything_works_under_least_privilege() {
    let server = RedisServer::start().await.expect("a server");
    let mut rules = vec!["ACL", "SETUSER", "app", "on", ">pw"];
    rules.extend(LEAST.split_whitespace());
    if server.version() < (7, 0, 0) {
        rules.extend(LEAST_6_2.split_whitespace());
    }
    server.command(&rules).await.expect("an answer").ok().expect("a user");
    let config = config(&with_login(&server, "app:pw")).with_prefix("app").expect("a prefix");
    let connection = Connection::connect(config).await.expect("a connection");
    echo(&connection, "x").await;
    connection.set("app:k", "\u{1}x".into(), Duration::from_secs(9)).await.expect("a set");
    assert!(connection.delete("app:k").await.expect("a delete"));
    connection.subscribe("app:c").await.expect("a subscription");
    let tracking = connection.track("app:").await.expect("tracking");
    tracking.prober().probe(&["app:k".to_owned()]).await.expect("it is heard");
    connection.read_stream("app:s", "0", 1, Duration::from_millis(5)).await.expect("a read");
    let health = connection.health().await;
    assert_eq!(health.findings[0].code, "info-denied");
    let error = connection.get("other").await.expect_err("is not ours");
    assert_eq!(error.kind(), ErrorKind::Rejected);
    let numbered = connection.config().clone().with_database(1);
    let numbered = Connection::connect(numbered).await.expect("a connection");
    assert_eq!(numbered.get("app:k").await.expect("an answer"), None);
}

#[derive(Debug)]
struct Rotating(Arc<Mutex<String>>);

impl CredentialSource for Rotating {
    fn fetch(&self) -> BoxFuture<'_, Result<(Option<String>, Secret)>> {
        let password = self.0.lock().expect("unpoisoned").clone();
        Box::pin(async move { Ok((Some("app".to_owned()), Secret::new(password))) })
    }

    fn refresh_interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(50))
    }
}

#[tokio::test]
async fn a_rotated_password_is_taken_up_while_running() {
    let server = RedisServer::start().await.expect("a server");
    let set = async |password: &str| {
        let word = format!(">{password}");
        let rules = ["ACL", "SETUSER", "app", "on", "resetpass", &word, "~*", "&*", "+@all"];
        server.command(&rules).await.expect("an answer").ok().expect("a user");
    };
    set("first").await;
    let password = Arc::new(Mutex::new("first".to_owned()));
    let source = Credentials::source(Rotating(password.clone()));
    let config = config(&server.url()).with_credentials(source);
    let connection = Connection::connect(config).await.expect("a connection");
    set("second").await;
    "second".clone_into(&mut password.lock().expect("unpoisoned"));
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.expect("an answer");
    eventually(Duration::from_secs(10), "the new password works", async || {
        connection.ping().await.is_ok()
    })
    .await;
}

fn tls(files: &TlsFiles, client: Option<&CertFiles>) -> Tls {
    Tls {
        ca: Some(files.ca.clone()),
        cert: client.map(|client| client.cert.clone()),
        key: client.map(|client| client.key.clone()),
        sni: None,
    }
}

async fn try_tls(server: &RedisServer, tls: Tls) -> Result<Connection> {
    let url = format!("rediss://localhost:{}", server.port());
    let connection = Connection::connect(config(&url).with_tls(tls)).await?;
    connection.ping().await?;
    Ok(connection)
}

#[tokio::test]
async fn tls_accepts_the_right_certificates_and_refuses_the_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = TlsFiles::generate(folder.path()).expect("certificates");
    let server = RedisServer::builder().with_tls(&files).start().await.expect("a server");
    let ours = tls(&files, Some(&files.client));
    try_tls(&server, ours.clone()).await.expect("the right certificates");

    let wrong_ca = Tls { ca: Some(files.other_ca.clone()), ..ours.clone() };
    let error = try_tls(&server, wrong_ca).await.expect_err("an unknown authority");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    let wrong_name = Tls { sni: Some("redis.internal".to_owned()), ..ours.clone() };
    let error = try_tls(&server, wrong_name).await.expect_err("a wrong name");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    try_tls(&server, tls(&files, None)).await.expect_err("no client certificate");
    let stranger = tls(&files, Some(&files.stranger_client));
    try_tls(&server, stranger).await.expect_err("a stranger's certificate");
    let plain = format!("redis://localhost:{}", server.port());
    Connection::connect(config(&plain)).await.expect_err("plain text is no way in");

    for bad in [&files.expired, &files.wrong_name] {
        let path = |path: &std::path::Path| path.display().to_string();
        let server = RedisServer::builder()
            .with_tls(&files)
            .config("tls-cert-file", &path(&bad.cert))
            .config("tls-key-file", &path(&bad.key))
            .start()
            .await
            .expect("a server");
        let error = try_tls(&server, ours.clone()).await.expect_err("a bad certificate");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    }
    // The name that the certificate bears may be expected on purpose.
    let named = Tls { sni: Some("elsewhere.invalid".to_owned()), ..ours };
    let server = RedisServer::builder()
        .with_tls(&files)
        .config("tls-cert-file", &files.wrong_name.cert.display().to_string())
        .config("tls-key-file", &files.wrong_name.key.display().to_string());
    let server = server.start().await.expect("a server");
    try_tls(&server, named).await.expect("the name it was told to expect");
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_secret_is_shown_or_logged_at_any_level() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = guarded().await;
    let config = config(&with_login(&server, &format!(":{SECRET}")));
    let mut shown = format!("{config:?}");
    let connection = Connection::connect(config).await.expect("a connection");
    shown += &format!("{connection:?}{:#?}{:?}", connection.config(), connection.health().await);
    shown += &format!("{:?}", connection.subscribe("c").await);
    let command = ["CONFIG", "SET", "requirepass", "changed"];
    let login = ["AUTH", SECRET];
    let mut operator = server.connect().await.expect("a connection");
    let _ = operator.command(&login).await;
    operator.command(&command).await.expect("an answer");
    operator.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.expect("an answer");
    eventually(Duration::from_secs(5), "the change is felt", async || {
        match connection.ping().await {
            Ok(_) => false,
            Err(error) => {
                shown += &format!("{error:?} {error} {}", error.chain());
                true
            }
        }
    })
    .await;
    connection.close().await;
    shown += &String::from_utf8_lossy(&log.0.lock().expect("unpoisoned"));
    assert!(shown.contains("Connection"));
    assert!(!shown.contains(SECRET), "{shown}");
}
