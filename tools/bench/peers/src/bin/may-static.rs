//! The fastest plain HTTP server in Rust, with one answer to everything: what reading and writing HTTP costs where
//! there is nothing to look up. Arguments: the port, the bytes of the value.

use may_minihttp::{HttpServer, HttpService, Request, Response};
use std::io;

#[derive(Clone)]
struct Static {
    value: &'static str,
}

impl HttpService for Static {
    fn call(&mut self, _request: Request, response: &mut Response) -> io::Result<()> {
        // The fields of hotrow's hit; Date and Content-Length come from may_minihttp itself.
        response.header("Content-Type: text/plain; charset=utf-8");
        response.header("Cache-Status: static; hit");
        response.header("ETag: \"1234\"");
        response.body(self.value);
        Ok(())
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let (Some(Ok(port)), Some(Ok(bytes))) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: may-static PORT BYTES");
        std::process::exit(2);
    };
    // One worker, as every server has one thread where reads are measured.
    may::config().set_workers(1);
    let value: &'static str = "v".repeat(bytes).leak();
    let server = HttpServer(Static { value }).start(format!("127.0.0.1:{port}"));
    server.expect("the port was free a moment ago").join().expect("it ends only with the process");
}
