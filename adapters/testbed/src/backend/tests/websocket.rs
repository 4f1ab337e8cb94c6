//! Websockets, with the client of the same library.

use super::*;
use futures_util::{SinkExt, StreamExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

type Socket = WebSocketStream<TcpStream>;

async fn open(backend: &Backend, path: &str, offered: &str) -> Result<(Socket, Response), Error> {
    let stream = TcpStream::connect(backend.address()).await?;
    let mut request = format!("ws://{}{path}", backend.address()).into_client_request()?;
    if !offered.is_empty() {
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", offered.parse().unwrap());
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .max_frame_size(None);
    client_async_with_config(request, stream, Some(config)).await
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

#[test]
fn messages_of_every_kind_and_size_come_back() {
    let backend = start();
    block_on(async {
        let (mut socket, response) = open(&backend, "/ws", "").await.unwrap();
        assert!(!response.headers().contains_key("sec-websocket-protocol"));
        assert_eq!(response.headers()["x-backend"], backend.id());
        let sizes = [0, 1, 125, 126, 65_535, 65_536, 16 << 20];
        for size in sizes {
            for message in [
                Message::binary(vec![7; size]),
                Message::text("x".repeat(size)),
            ] {
                socket.send(message.clone()).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), message);
            }
        }
        socket.send(Message::Ping("p".into())).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::Pong("p".into())
        );
        socket.close(None).await.unwrap();
        assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
        assert!(socket.next().await.is_none());
    });
    wait_until(&backend, |now| {
        now.websockets_open == 0 && now.connections_open == 0
    });
    let report = backend.stop();
    assert_eq!(
        (report.websockets_opened, report.websocket_messages),
        (1, 14)
    );
    assert_eq!((report.answered, report.hung_up), (1, 0));
    assert_eq!(report.by_status, [(101, 1)].into());
    assert!(report.bytes_read > 2 * (16 << 20) && report.bytes_written > 2 * (16 << 20));
}

#[test]
fn a_subprotocol_is_chosen_and_a_close_may_come_from_the_server() {
    let backend = start();
    block_on(async {
        let chosen = |response: &Response| {
            let chosen = response.headers().get("sec-websocket-protocol");
            chosen.map(|name| name.to_str().unwrap().to_owned())
        };
        let (_, response) = open(&backend, "/ws", "a, b").await.unwrap();
        assert_eq!(chosen(&response).as_deref(), Some("a"));
        let (_, response) = open(&backend, "/ws?protocol=b", "a, b").await.unwrap();
        assert_eq!(chosen(&response).as_deref(), Some("b"));
        // The client refuses an answer without a subprotocol that it offered.
        assert!(open(&backend, "/ws?protocol=d", "a").await.is_err());

        let (mut socket, _) = open(&backend, "/ws?close_after=2", "").await.unwrap();
        for _ in 0..2 {
            socket.send(Message::text("x")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("x"));
        }
        let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else {
            panic!("no close");
        };
        assert_eq!(frame.code, CloseCode::Away);
        assert!(socket.next().await.is_none());

        let (mut socket, _) = open(&backend, "/ws", "").await.unwrap();
        let long = Message::binary(vec![0; (16 << 20) + 1]);
        // The server may close before it has read it all.
        let _ = socket.send(long).await;
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Size),
            Some(Err(_)) => {}
            other => panic!("{other:?}"),
        }
    });
    wait_until(&backend, |now| now.websockets_open == 0);
}

#[test]
fn a_request_that_is_no_handshake_gets_400() {
    let backend = start();
    let mut client = Client::to(&backend);
    assert_eq!(client.get("/ws").status, 400);
    client.request(
        "GET",
        "/ws",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 12\r\n",
        "",
    );
    let reply = client.receive().unwrap();
    assert_eq!(reply.status, 400);
    assert!(
        reply.json()["error"]
            .as_str()
            .unwrap()
            .contains("Sec-WebSocket-Version")
    );
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_thousand_websockets_are_open_at_once_and_no_more() {
    const COUNT: u64 = 1_000;
    // The usual limit of 1,024 open files is too low for both ends in one process.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let config = BackendConfig {
        max_websockets: COUNT,
        ..BackendConfig::default()
    };
    let mut backend = Backend::start(config).unwrap();
    block_on(async {
        let mut sockets = Vec::new();
        for _ in 0..COUNT {
            sockets.push(open(&backend, "/ws", "").await.unwrap().0);
        }
        match open(&backend, "/ws", "").await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 503),
            other => panic!("{other:?}"),
        }
        for (index, socket) in sockets.iter_mut().enumerate() {
            socket.send(Message::text(index.to_string())).await.unwrap();
        }
        for (index, socket) in sockets.iter_mut().enumerate() {
            let message = socket.next().await.unwrap().unwrap();
            assert_eq!(message, Message::text(index.to_string()));
        }
        wait_until(&backend, |now| now.websocket_messages == COUNT);
        let report = backend.report();
        assert_eq!(
            (report.websockets_open, report.max_websockets),
            (COUNT, COUNT)
        );
        assert_eq!(report.refused_503, 1);
        sockets.truncate(600);
        wait_until(&backend, |now| now.websockets_open == 600);
        backend.kill().unwrap();
        for socket in &mut sockets {
            assert!(matches!(socket.next().await, Some(Err(_)) | None));
        }
    });
    let report = backend.stop();
    assert_eq!((report.websockets_open, report.connections_open), (0, 0));
}
