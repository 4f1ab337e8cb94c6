//! A tower stack under axum that refuses with a true `Retry-After`. Where a limit is used up, the
//! server's or every key's, it answers 429; where no key is in service, 503. It calls itself; asserts that a client that waits as long as told is served.

use axum::error_handling::HandleErrorLayer;
use axum::extract::Request as HttpRequest;
use axum::http::{StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use core::{convert::Infallible, error::Error, future::ready, net::SocketAddr, time::Duration};
use leasehold_tokio::limit::{LimitSpec, LimitSpecs};
use leasehold_tokio::{AcquireError, LeaseError, LeaseLayer, Leased, Member, Policy};
use leasehold_tokio::{PoolConfig, RateLimitError, RateLimitLayer, Request, TokioPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{BoxError, ServiceBuilder};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const BUSY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
const DOWN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
const SOON: Duration = Duration::from_millis(300);
type Refused = RateLimitError<LeaseError<Infallible>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    let limits: LimitSpecs = "2/3s".parse()?;
    let key = Member::new("sk-1").limits(limits.limits());
    pool.blocking().add(key)?;
    let clock = pool.blocking().clone();
    let leases = LeaseLayer::new(pool, move |_: &HttpRequest| {
        Request::new().deadline(clock.now().saturating_add(SOON))
    });
    let rate = RateLimitLayer::new("4/3s".parse::<LimitSpec>()?.limiter()?);
    let limited = rate.clone();
    let errors = HandleErrorLayer::new(move |error| ready(refuse(error, &rate)));
    let stack = ServiceBuilder::new()
        .layer(errors)
        .load_shed()
        .layer(limited)
        .layer(leases)
        .service_fn(async |leased: Leased<_, _>| Ok::<&str, Infallible>(*leased.member));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let app = axum::Router::new().route_service("/", stack);
    tokio::spawn(axum::serve(listener, app).into_future());
    for expected in [200, 200, 429, 429, 429, 429] {
        let (status, retry_after) = call(address).await?;
        assert_eq!((status, retry_after.is_some()), (expected, expected != 200));
    }
    let wait = call(address).await?.1.ok_or("no Retry-After")?;
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(call(address).await?.0, 200);
    Ok(())
}

/// Answers with the seconds until a key or the server's limit can serve, rounded up.
fn refuse(error: BoxError, rate: &RateLimitLayer) -> Response {
    let (status, wait) = match error.downcast_ref() {
        Some(Refused::Inner(LeaseError::Refused(AcquireError::DeadlineTooSoon {
            wait,
            cause,
        }))) => (if cause.is_exhaustion() { BUSY } else { DOWN }, Some(*wait)),
        Some(_) => (DOWN, None),
        None => (BUSY, rate.retry_after()),
    };
    let header = wait.map(|wait| [(RETRY_AFTER, wait.as_secs_f64().ceil() as u64)]);
    (status, header, error.to_string()).into_response()
}

/// Calls the server, prints its answer, and returns the status and the seconds of `Retry-After`.
async fn call(address: SocketAddr) -> Result<(u16, Option<u64>), Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(GET).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).ok_or("no status")?.parse()?;
    let mut lines = answer.lines();
    let retry_after = lines.find_map(|line| line.strip_prefix("retry-after: "));
    println!("{status}, Retry-After: {}", retry_after.unwrap_or("none"));
    Ok((status, retry_after.map(str::parse).transpose()?))
}
