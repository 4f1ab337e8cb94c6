//! Leases over bodies on real connections: streams from upstreams, and readers that hang up.

use super::*;
use ::core::net::SocketAddr;
use ::core::pin::Pin;
use ::core::task::ready;
use axum::extract::State;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Interval, interval};

type Counts = Arc<(AtomicU32, AtomicU32)>;

/// A time that no passing test takes.
const LONG: Duration = Duration::from_secs(60);

/// A body of three frames, a millisecond apart, which counts itself as being served.
struct Paced {
    left: u32,
    pace: Interval,
    _busy: Busy,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.pace.poll_tick(context));
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        Poll::Ready(left.map(|_| Ok(Frame::data(Bytes::from_static(b"data")))))
    }
}

/// A server that streams its answers, and counts how many it serves at once.
async fn upstream(counts: Counts) -> SocketAddr {
    async fn stream(State(counts): State<Counts>) -> axum::body::Body {
        axum::body::Body::new(Paced {
            left: 3,
            pace: interval(Duration::from_millis(1)),
            _busy: Busy::new(&counts),
        })
    }
    let router = axum::Router::new().fallback(stream).with_state(counts);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

/// An upstream and the connections to it that are kept.
struct Upstream {
    address: SocketAddr,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    connected: AtomicU32,
}

impl Upstream {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            idle: Mutex::default(),
            connected: AtomicU32::new(0),
        }
    }

    async fn connection(&self) -> SendRequest<Empty<Bytes>> {
        let idle = {
            let mut idle = self.idle.lock().unwrap();
            let ready = idle.iter().position(SendRequest::is_ready);
            ready.map(|ready| idle.swap_remove(ready))
        };
        if let Some(idle) = idle {
            return idle;
        }
        self.connected.fetch_add(1, Ordering::SeqCst);
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn get(self: Arc<Self>) -> Result<Response<Incoming>, hyper::Error> {
        let mut connection = self.connection().await;
        let request = http::Request::get("/").header("host", "x");
        let request = request.body(Empty::new()).unwrap();
        let response = connection.send_request(request).await?;
        self.idle.lock().unwrap().push(connection);
        Ok(response)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_streams_never_exceed_the_leases_as_the_upstreams_count_them() {
    const LEASES: u32 = 8;
    let pool = TokioPool::new(PoolConfig::new(Policy::LeastConnections));
    let mut counts = Vec::new();
    for _ in 0..3 {
        let count = Counts::default();
        let member = Member::new(Upstream::new(upstream(Arc::clone(&count)).await));
        let member = member.max_leases(NonZeroU32::new(LEASES).unwrap());
        pool.blocking().add(member).unwrap();
        counts.push(count);
    }
    let service = LeaseLayer::new(pool.clone(), any)
        .hold_body()
        .layer(service_fn(|leased: Leased<Upstream, ()>| {
            leased.member.get()
        }));
    let mut tasks = JoinSet::new();
    for _ in 0..1000 {
        let service = service.clone();
        tasks.spawn(async move {
            let body = service.oneshot(()).await.unwrap().into_body();
            body.collect().await.unwrap().to_bytes().len()
        });
    }
    let read = timeout(LONG, tasks.join_all()).await.unwrap();
    assert_eq!(read, vec![12; 1000]);
    for count in counts {
        let most = count.1.load(Ordering::SeqCst);
        assert!((2..=LEASES).contains(&most), "{most} at once");
    }
    let stats = pool.blocking().stats();
    assert_eq!((stats.total.ok, stats.total.granted), (1000, 1000));
    let members = pool.blocking().members();
    let connected = members
        .iter()
        .map(|(_, upstream)| upstream.connected.load(Ordering::SeqCst));
    let connected: u32 = connected.sum();
    println!("{connected} connections");
    assert!(connected < 500, "{connected} connections were not kept");
}

/// A body without an end, which sends whenever its reader has room.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 4096])))))
    }
}

/// A server under a lease layer, whose handler's answer depends on the path.
async fn server(pool: &TokioPool<u32>) -> SocketAddr {
    let stack = LeaseLayer::new(pool.clone(), any)
        .hold_body()
        .layer(service_fn(
            |leased: Leased<u32, http::Request<axum::body::Body>>| async move {
                let body = match leased.request.uri().path() {
                    "/endless" => axum::body::Body::new(Endless),
                    "/broken" => axum::body::Body::new(Script::new([Step::Data, Step::Fail])),
                    _ => axum::body::Body::new(Script::new([Step::Data, Step::Pend, Step::Data])),
                };
                Ok::<_, Infallible>(Response::new(body))
            },
        ));
    let stack = stack.map_err(|refused| -> Infallible { panic!("{refused}") });
    let router = axum::Router::new().fallback_service(stack);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

async fn send(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    request(&mut stream, path).await;
    stream
}

async fn request(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Reads an answer up to its last chunk, which keeps the connection open.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n0\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_reader_that_hangs_up_gives_its_lease_back() {
    let pool = pool(1);
    let address = server(&pool).await;
    let mut stream = send(address, "/endless").await;
    for _ in 0..20_000 {
        stream.read_u8().await.unwrap();
    }
    assert!(is_leased(&pool));
    assert_eq!(total(&pool).granted, 1);
    drop(stream);
    drop(timeout(LONG, pool.acquire()).await.unwrap().unwrap());
    assert_eq!(total(&pool).unknown, 2, "the reader's lease and ours");
}

#[tokio::test]
async fn a_lease_ends_with_its_body_and_not_with_the_connection() {
    let pool = pool(1);
    let address = server(&pool).await;
    let mut stream = send(address, "/").await;
    for served in 1..=3 {
        let answer = timeout(LONG, read_answer(&mut stream)).await.unwrap();
        assert_eq!(answer.matches("data").count(), 2);
        assert_eq!((is_leased(&pool), total(&pool).ok), (false, served));
        request(&mut stream, "/").await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_fails_its_lease() {
    let pool = pool(1);
    let address = server(&pool).await;
    let mut stream = send(address, "/broken").await;
    let mut answer = Vec::new();
    // The server closes the connection in the middle of the answer, perhaps with a reset.
    let _ = timeout(LONG, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(!answer.ends_with(b"\r\n0\r\n\r\n"));
    drop(timeout(LONG, pool.acquire()).await.unwrap().unwrap());
    assert_eq!((total(&pool).failed, total(&pool).ok), (1, 0));
}
