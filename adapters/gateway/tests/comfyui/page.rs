//! The servers' web page in a real browser, through the gateway.

use crate::http::LONG;
use crate::support::{QUICK, block_on, servers, start, taking};
use core::time::Duration;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// A browser without a window, told what to do by its debugging protocol.
struct Browser {
    process: Child,
    _profile: tempfile::TempDir,
    page: WebSocketStream<TcpStream>,
    calls: u64,
}

impl Browser {
    /// Opens an address; `None` without Chromium, which only a machine of CI must have.
    async fn open(url: &str) -> Option<Self> {
        let profile = tempfile::tempdir().expect("a directory");
        let started = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
            ])
            .args([
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(!must, "chromium: {error}");
                eprintln!("skipped: chromium: {error}");
                return None;
            }
        };
        let told = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut lines = told.lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let rest = line.strip_prefix("DevTools listening on ws://")?;
            Some(rest.split('/').next()?.to_owned())
        });
        let address = address.expect("it tells its port");
        // It would stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let target = page_of(&address);
        let stream = TcpStream::connect(&address).await.expect("it listens");
        let (page, _) = client_async(target, stream).await.expect("a websocket");
        Some(Self {
            process,
            _profile: profile,
            page,
            calls: 0,
        })
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let call = json!({"id": self.calls, "method": method, "params": parameters});
        self.page
            .send(Message::text(call.to_string()))
            .await
            .expect("it is open");
        loop {
            let told = timeout(LONG, self.page.next())
                .await
                .expect("an answer in time");
            let told = told.expect("it is open").expect("a frame");
            let Message::Text(text) = told else {
                continue;
            };
            let told: Value = serde_json::from_str(&text).expect("JSON");
            if told["id"] == self.calls {
                return told["result"].clone();
            }
        }
    }

    /// Evaluates an expression in the page.
    async fn eval(&mut self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        self.call("Runtime.evaluate", parameters).await["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    async fn until(&mut self, expression: &str) {
        for _ in 0..400 {
            if self.eval(expression).await == true {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let page = self.eval("document.body.innerText").await;
        panic!("{expression} is not true in 20 s: {page}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address of the page's debugging socket.
fn page_of(address: &str) -> String {
    for _ in 0..200 {
        let mut stream = std::net::TcpStream::connect(address).expect("it listens");
        let request =
            format!("GET /json/list HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let list = read_list(&mut stream).unwrap_or_default();
        let pages = list.as_array().into_iter().flatten();
        let page = pages
            .filter(|page| page["type"] == "page")
            .find_map(|page| page["webSocketDebuggerUrl"].as_str());
        if let Some(page) = page {
            return page.to_owned();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the browser has no page");
}

/// Reads a list in JSON; the browser leaves the connection open.
fn read_list(stream: &mut std::net::TcpStream) -> Option<Value> {
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    let (mut answer, mut part) = (Vec::new(), [0; 4_096]);
    loop {
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        answer.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&answer);
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
        if let Some(list) = body.and_then(|body| serde_json::from_str(body).ok()) {
            return Some(list);
        }
    }
}

#[test]
fn the_page_works_in_a_browser_and_over_ten_reloads() {
    let mut configs = [taking(100), taking(100)];
    configs.iter_mut().for_each(|config| config.previews = 5);
    let world = start(servers(configs), QUICK(), "");
    block_on(async {
        let Some(mut browser) = Browser::open(&format!("http://{}/", world.address)).await else {
            return;
        };
        let text = |id: &str| format!("document.getElementById('{id}')?.textContent");
        browser
            .until(&format!("{} === 'connected'", text("status")))
            .await;
        browser.eval("document.getElementById('seconds').value = '0.5'; document.getElementById('queue-prompt').click()").await;
        browser.until(&format!("{} === '1'", text("done"))).await;
        browser
            .until("document.getElementById('result').naturalWidth > 0")
            .await;
        assert_eq!(browser.eval(&text("error")).await, "");
        assert!(
            browser
                .eval(&format!("Number({}) > 0", text("previews")))
                .await
                == true
        );
        // A job goes on while its page is loaded anew.
        browser.eval("document.getElementById('seconds').value = '3'; document.getElementById('queue-prompt').click()").await;
        browser
            .until(&format!("{} !== ''", text("executing")))
            .await;
        for _ in 0..10 {
            browser.call("Page.reload", json!({})).await;
            browser
                .until(&format!(
                    "{} === 'connected' && {} === '1'",
                    text("status"),
                    text("queue")
                ))
                .await;
        }
        browser
            .until(&format!(
                "{} === '0' && {} === ''",
                text("queue"),
                text("executing")
            ))
            .await;
        browser
            .until("document.getElementById('result').naturalWidth > 0")
            .await;
        browser
            .eval("document.getElementById('interrupt').click()")
            .await;
        assert_eq!(browser.eval(&text("error")).await, "");
    });
    let starts = world.starts();
    assert_eq!(starts.len(), 2);
    assert!(starts.values().all(|starts| *starts == 1));
}
