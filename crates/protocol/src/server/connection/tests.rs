//! The accept loop with answers and listeners that the tests choose.

use edgestore_engine::Engine;
use edgestore_engine::testing::LONG;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::*;
use crate::server::bodies::{Bodies, Form, Version};
use crate::server::routes;

/// So patient that nothing but what a test is about closes a connection.
fn patient() -> ServerLimits {
    ServerLimits {
        header_timeout: 2 * LONG,
        stall_timeout: 2 * LONG,
        shutdown_grace: Duration::ZERO,
        ..ServerLimits::default()
    }
}

fn shared(app: Router, limits: ServerLimits) -> Shared {
    let table = Table::new(&limits, Arc::default());
    Shared { app, feed: None, limits, table, uptime: Uptime::start() }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Serves while `clients` runs.
async fn serve_while(listener: impl Accept, shared: Shared, clients: impl Future<Output = ()>) {
    let (stop, stopped) = oneshot::channel();
    let clients = async {
        timeout(LONG, clients).await.expect("the clients are done in time");
        stop.send(()).unwrap();
    };
    tokio::join!(serve(listener, shared, stopped), clients);
}

async fn ask(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /segments HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream
}

/// The first bytes of an answer.
async fn status(stream: &mut TcpStream) -> String {
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    String::from_utf8(head.to_vec()).unwrap()
}

async fn read_to_hang_up(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 20];
    while matches!(stream.read(&mut buffer).await, Ok(bytes) if bytes > 0) {}
}

#[tokio::test]
async fn accepted_sockets_send_answers_without_delay() {
    let (listener, addr) = listen().await;
    let _client = TcpStream::connect(addr).await.unwrap();
    let (accepted, _) = Accept::accept(&listener).await.unwrap();
    assert!(accepted.nodelay().unwrap());
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_way_for_another() {
    let endless =
        || async { Body::from_stream(ReaderStream::with_capacity(tokio::io::repeat(0), BUFFER)) };
    let limits =
        ServerLimits { max_connections: 1, slow_grace: Duration::from_millis(50), ..patient() };
    let (listener, addr) = listen().await;
    serve_while(listener, shared(Router::new().fallback(endless), limits), async {
        let mut slow = ask(addr).await;
        assert_eq!(status(&mut slow).await, "HTTP/1.1 200");
        assert_eq!(status(&mut ask(addr).await).await, "HTTP/1.1 200");
        read_to_hang_up(slow).await;
    })
    .await;
}

#[tokio::test]
async fn more_connections_than_may_wait_are_closed_after_a_while() {
    let hanging = || async {
        std::future::pending::<()>().await;
    };
    let limits = ServerLimits { max_connections: 1, ..patient() };
    let (listener, addr) = listen().await;
    serve_while(listener, shared(Router::new().fallback(hanging), limits), async {
        let _busy = ask(addr).await;
        let waiting = ask(addr).await;
        let _next = ask(addr).await;
        read_to_hang_up(waiting).await;
    })
    .await;
}

/// Only Linux has more than one loopback address.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_known_peer_waits_for_no_stranger() {
    let some_hang = |request: axum::extract::Request| async move {
        if request.uri().path() == "/hang" {
            std::future::pending::<()>().await;
        }
    };
    // Two of the places are kept, and two connections may wait.
    let limits = ServerLimits { max_connections: 16, ..patient() };
    let known = Arc::new(crate::KnownAddresses::default());
    known.note([[127, 0, 0, 2].into()].into_iter());
    let table = Table::new(&limits, known);
    let app = Router::new().fallback(some_hang);
    let shared = Shared { app, feed: None, limits, table, uptime: Uptime::start() };
    let (listener, addr) = listen().await;
    serve_while(listener, shared, async {
        let mut busy = Vec::new();
        for _ in 0..15 {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            busy.push(stream);
        }
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        let mut peer = socket.connect(addr).await.unwrap();
        peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(status(&mut peer).await, "HTTP/1.1 200");
    })
    .await;
}

/// A system that has descriptors for so many connections.
struct Short {
    listener: TcpListener,
    table: Arc<Table>,
    descriptors: usize,
}

impl Accept for Short {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        if self.table.open() < self.descriptors {
            return Accept::accept(&self.listener).await;
        }
        const EMFILE: i32 = 24;
        Err(io::Error::from_raw_os_error(EMFILE))
    }
}

#[tokio::test]
async fn idle_connections_are_closed_where_there_are_no_more_descriptors() {
    let (listener, addr) = listen().await;
    let shared = shared(Router::new().fallback(|| async { "answer" }), patient());
    let listener = Short { listener, table: Arc::clone(&shared.table), descriptors: 1 };
    serve_while(listener, shared, async {
        let idle = TcpStream::connect(addr).await.unwrap();
        assert_eq!(status(&mut ask(addr).await).await, "HTTP/1.1 200");
        read_to_hang_up(idle).await;
    })
    .await;
}

#[tokio::test]
async fn a_manifest_for_which_there_is_no_memory_is_asked_for_later() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(Engine::open(dir.path()).unwrap());
    let bodies = Bodies::new(1, || {});
    let form = Form { version: Version::V1, json: false };
    let held = bodies.get(&engine, form).await.unwrap();
    engine.put(b"ns", b"key", b"value").unwrap();
    engine.flush().unwrap();
    let (listener, addr) = listen().await;
    let feed = Feed::new(Arc::clone(&engine));
    let app = routes::app(engine, bodies, feed);
    serve_while(listener, shared(app, patient()), async {
        let mut client = ask(addr).await;
        let mut head = vec![0; 1024];
        let bytes = client.read(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head[..bytes]);
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert!(head.contains("retry-after: 5\r\n"), "{head}");
        drop(held);
        assert_eq!(status(&mut ask(addr).await).await, "HTTP/1.1 200");
    })
    .await;
}
