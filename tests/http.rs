//! The smallest client that HTTP/1.1 needs: one question, one answer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Status and body of an answer; `None` where nobody answers.
pub fn get(address: &str, path: &str, token: Option<&str>) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect(address).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let token = token.map_or(String::new(), |t| format!("Authorization: Bearer {t}\r\n"));
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{token}Connection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    // Prometheus answers long pages in chunks: a size in hexadecimal before each.
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return Some((status, body.into()));
    }
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).ok().filter(|n| *n > 0 && *n <= after.len());
        let Some(size) = size else { break };
        whole += &after[..size];
        rest = after[size..].trim_start_matches("\r\n");
    }
    Some((status, whole))
}
