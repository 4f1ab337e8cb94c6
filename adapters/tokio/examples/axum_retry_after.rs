//! A tower stack under axum that refuses with a true `Retry-After`. Where a limit is used up, the server's or
//! every key's, it answers 429; where no key is in service, 503. Each answer tells the server's limit. It calls
//! itself, and asserts that a client that waits for as long as told is served.

use axum::error_handling::HandleErrorLayer;
use axum::extract::Request as HttpRequest;
use axum::response::{IntoResponse, Response};
use core::{convert::Infallible, error::Error, future::ready, net::SocketAddr, time::Duration};
use leasehold_tokio::limit::{LimitSpec, LimitSpecs};
use leasehold_tokio::{LeaseError, LeaseLayer, Leased, Member, Policy, PoolConfig};
use leasehold_tokio::{RateLimitLayer, Request, TokioPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceBuilder;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const SOON: Duration = Duration::from_millis(300);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    let limits: LimitSpecs = "2/3s".parse()?;
    let key = Member::new("sk-1").limits(limits.limits());
    pool.blocking().add(key)?;
    let clock = pool.blocking().clone();
    let leases = LeaseLayer::new(pool.clone(), move |_: &HttpRequest| {
        Request::new().deadline(clock.now().saturating_add(SOON))
    });
    let limit: LimitSpec = "4/3s from grant".parse()?;
    let rate = RateLimitLayer::from_spec(&limit)?.refuse();
    let stack = ServiceBuilder::new()
        .layer(rate.with_headers())
        .layer(HandleErrorLayer::new(move |error| {
            ready(refuse(&pool, &error))
        }))
        .layer(leases.hold_body())
        .service_fn(answer);
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

async fn answer(leased: Leased<&'static str, HttpRequest>) -> Result<Response, Infallible> {
    Ok(leased.member.into_response())
}

/// Answers with the seconds until a key can serve, rounded up.
fn refuse(pool: &TokioPool<&str>, error: &LeaseError<Infallible>) -> Response {
    match error {
        LeaseError::Refused(refused) => pool.refusal_response(refused),
        LeaseError::Inner(never) => match *never {},
    }
}

/// Calls the server, prints its answer, and returns the status and the seconds of `Retry-After`.
async fn call(address: SocketAddr) -> Result<(u16, Option<u64>), Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(GET).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).ok_or("no status")?.parse()?;
    let header = |name| answer.lines().find_map(|line| line.strip_prefix(name));
    let (limit, retry_after) = (header("ratelimit: "), header("retry-after: "));
    println!("{status}, RateLimit: {limit:?}, Retry-After: {retry_after:?}");
    Ok((status, retry_after.map(str::parse).transpose()?))
}
