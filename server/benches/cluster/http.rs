//! A client that costs little: what it spends, the nodes do not have.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that stays open.
pub(crate) struct Connection {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(url: &str) -> Self {
        let host = url.strip_prefix("http://").unwrap().to_owned();
        let stream = TcpStream::connect(&host).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, host, buffer: Vec::new() }
    }

    pub(crate) async fn get(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    pub(crate) async fn push(&mut self, body: &str) {
        let head = format!(
            "POST /api/sync/push HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        self.stream.write_all((head + body).as_bytes()).await.unwrap();
    }

    /// The body of the next answer, which must be a success.
    pub(crate) async fn answer(&mut self) -> &str {
        self.buffer.clear();
        let (head, end) = loop {
            self.receive().await;
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..at]).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.expect("a length").parse().unwrap();
                break (at, at + 4 + length);
            }
        };
        while self.buffer.len() < end {
            self.receive().await;
        }
        assert_eq!(self.buffer.len(), end);
        let text = std::str::from_utf8(&self.buffer).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        &text[head + 4..]
    }

    async fn receive(&mut self) {
        let count = self.stream.read_buf(&mut self.buffer).await.unwrap();
        assert_ne!(count, 0, "the server has closed the connection");
    }
}
