//! HTTP over TLS, with clients of three makes: rustls, OpenSSL and curl; and with what is no TLS, or not whole. Here is
//! the client on rustls.

mod certificates;
mod handshakes;
mod others;
mod records;

use crate::support::DEADLINE;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// A client on TLS.
struct Session {
    stream: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn client_side(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

impl Session {
    fn open(config: &Arc<ClientConfig>, address: SocketAddr) -> Session {
        Session { stream: StreamOwned::new(client_side(config), tcp(address)), received: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let n = self.stream.read(&mut buffer)?;
        self.received.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Status, head and body of the next answer that has a length.
    fn response(&mut self) -> (u16, String, Vec<u8>) {
        let end = loop {
            match self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => assert!(self.receive().unwrap() > 0, "the end instead of an answer"),
            }
        };
        let head = String::from_utf8(self.received[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while self.received.len() < end + length {
            assert!(self.receive().unwrap() > 0, "the end instead of a body");
        }
        let body = self.received[end..end + length].to_vec();
        self.received.drain(..end + length);
        (status, head, body)
    }

    fn request(&mut self, method: &str, target: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        self.send(&crate::support::client::request(method, target, "", body));
        self.response()
    }

    /// The end, in good order: with a farewell of TLS, not with the end of the stream alone.
    fn expect_farewell(&mut self) {
        assert!(self.received.is_empty());
        assert_eq!(self.receive().expect("a farewell"), 0);
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}
