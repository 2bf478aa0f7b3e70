//! The values of `--cors-allow-origin`. Pure. Called by [`super::read`].

use crate::limits::CORS_ORIGINS;

/// One origin as browsers send it, or `*`: what they would send otherwise would never match.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let rule = "an origin is SCHEME://HOST or SCHEME://HOST:PORT in lower case, as browsers send it, like \
        https://app.example.com, or * for everyone";
    if text == "*" {
        return Ok(text.to_owned());
    }
    let (scheme, authority) = text.split_once("://").ok_or(rule)?;
    let (host, port) = match authority.rsplit_once(':') {
        // The last colon of an IPv6 address without a port is within its brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.to_string() == address),
        None => !host.is_empty() && host.bytes().all(|b| is_lower(b) || b"-._".contains(&b)),
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| is_lower(b) || b"+-.".contains(&b));
    if !is_host || !is_scheme {
        return Err(rule.to_owned());
    }
    if let Some(port) = port {
        let is_port = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
        let number = port.parse::<u16>().ok().filter(|_| is_port).ok_or(rule)?;
        if matches!((scheme, number), ("http", 80) | ("https", 443)) {
            return Err(format!(
                "browsers leave out :{number} here, the port of {scheme}: leave it out, too"
            ));
        }
    }
    Ok(text.to_owned())
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// What is wrong with them together, if something is.
pub(super) fn together(origins: &[String]) -> Result<(), String> {
    if origins.len() > CORS_ORIGINS {
        return Err(format!(
            "--cors-allow-origin: there are {}, and {CORS_ORIGINS} is the most",
            origins.len()
        ));
    }
    if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
        return Err("--cors-allow-origin: * is everyone; it stands alone".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for good in [
            "*",
            "https://app.example.com",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]",
            "http://[::1]:3000",
            "chrome-extension://abcdefgh",
            "http://a:443",
            "https://a:80",
        ] {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "null",
            "example.com",
            "https://",
            "://a",
            "https://a/",
            "https://a/b",
            "https://a?b",
            "https://u@a",
            "https://A.example",
            "HTTPS://a",
            "https://*.a",
            "https://a b",
            "https://a\r\nX: y",
            "https://a:",
            "https://a:0",
            "https://a:080",
            "https://a:65536",
            "http://a:80",
            "https://a:443",
            "http://[::1",
            "http://[0:0::1]",
            "http://\u{e4}.example",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn everyone_stands_alone_and_there_are_not_too_many() {
        let all = |n: usize| (0..n).map(|i| format!("https://a{i}")).collect::<Vec<_>>();
        assert_eq!(together(&all(CORS_ORIGINS)), Ok(()));
        assert!(together(&all(CORS_ORIGINS + 1)).is_err());
        assert_eq!(together(&["*".to_owned()]), Ok(()));
        assert!(together(&["*".to_owned(), "https://a".to_owned()]).is_err());
    }
}
