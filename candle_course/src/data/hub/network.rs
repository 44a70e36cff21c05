//! Whether the hub can be reached, without waiting long for the answer.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Whether a TCP connection to the endpoint (or to the proxy on the way) opens in time. Names are
/// resolved in the same thread, because a resolver without network may block for many seconds.
pub(super) fn reachable(endpoint: &str, patience: Duration) -> bool {
    let secure = endpoint.starts_with("https");
    let proxy = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"]
        .iter()
        .filter(|name| secure || **name != "HTTPS_PROXY")
        .flat_map(|name| [(*name).to_owned(), name.to_lowercase()])
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let Some((host, port)) = host_and_port(endpoint) else { return false };
    let exempt = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")).unwrap_or_default();
    let direct = exempt.split(',').map(str::trim).any(|name| {
        name == "*"
            || (!name.is_empty() && (host == name || host.ends_with(&format!(".{}", name.trim_start_matches('.')))))
    });
    let target = match proxy.filter(|_| !direct).and_then(|proxy| host_and_port(&proxy)) {
        Some(proxy) => proxy,
        None => (host, port),
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let open = target.to_socket_addrs().is_ok_and(|addresses| {
            addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, patience).is_ok())
        });
        let _ = sender.send(open);
    });
    receiver.recv_timeout(patience).unwrap_or(false)
}

/// Host and port of a URL.
pub(super) fn host_and_port(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?']).next()?;
    let authority = authority.rsplit('@').next()?;
    let default = if scheme == "https" {
        443
    } else if scheme.starts_with("socks") {
        1080
    } else {
        80
    };
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
        }
        _ if authority.is_empty() => None,
        _ => Some((authority.trim_matches(['[', ']']).to_owned(), default)),
    }
}
