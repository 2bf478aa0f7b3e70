//! HTTP/1.1 without sockets: bytes in, requests out; answers in, bytes out. Knows no key and no value.
//! Used by [`crate::api`] and [`crate::connection`].

pub mod conditional;
pub mod content;
pub mod cors;
pub mod date;
pub mod problem;
pub mod request;
pub mod response;
pub mod scan;
