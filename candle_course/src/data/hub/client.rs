//! Speaks to the hub, within limits: a server that is slow, broken or hostile costs so much time and no
//! more, and the reason is said.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::{Agent, Body};

use super::cache::{blob_name, plain};
use crate::data::source::Patience;
use crate::error::Error;

/// In all, for one question: relative or absolute, here or there.
const REDIRECTS: usize = 10;
const RETRIES: u32 = 2;
/// Fewer bytes per second than this, for as long as a silence may last, are a stall too.
const SLOWEST: f64 = 1024.0;

/// Why there is no answer, in words that follow "because".
#[derive(Debug)]
pub(super) enum Failure {
    /// May pass; after the time that the server asks for, if it does.
    Passing(Option<Duration>, String),
    /// Stays as it is, or has taken long enough.
    Lasting(String),
    /// Nobody answers at this address.
    Unreachable(String),
    /// The file does not have the bytes that were asked for.
    NoSuchRange(String),
    /// What only damage or an attack explains: the user must know.
    Refused(Error),
}

impl From<std::io::Error> for Failure {
    /// Of the local disk.
    fn from(error: std::io::Error) -> Self {
        Failure::Lasting(error.to_string())
    }
}

/// The head of an answer, and what the redirects to it told about the file.
pub(super) struct Answer {
    response: Response<Body>,
    host: String,
    pub commit: Option<String>,
    pub etag: Option<String>,
}

pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    patience: Patience,
}

impl Client {
    pub fn new(endpoint: String, token: Option<String>, patience: Patience) -> Self {
        let agent = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("candle_course/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_per_write(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .build()
            .into();
        Self { agent, endpoint, token, patience }
    }

    /// Asks for `path` of the endpoint, for the bytes of `range` if there is one, and follows redirects.
    /// `within`: for everything, the body too.
    pub fn get(&self, path: &str, range: Option<&str>, within: Option<Duration>) -> Result<Answer, Failure> {
        let start = Instant::now();
        let mut url = format!("{}{path}", self.endpoint);
        let (mut commit, mut etag) = (None, None);
        for _ in 0..=REDIRECTS {
            let host = origin(&url).to_owned();
            let left = |limit: Duration| limit.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
            let mut request = self
                .agent
                .get(&url)
                .config()
                .timeout_recv_response(Some(left(self.patience.silence)))
                .timeout_global(within.map(left))
                .build();
            if let Some(range) = range {
                // Bytes of the file, not of a packed one.
                request = request.header("Range", range).header("Accept-Encoding", "identity");
            }
            // The token is the endpoint's, not of the storage that it redirects to.
            if let Some(token) = self.token.as_ref().filter(|_| host == origin(&self.endpoint)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.failure(&host, error, within))?;
            let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
            commit = commit.or_else(|| header("X-Repo-Commit"));
            etag = etag.or_else(|| header("X-Linked-ETag").or_else(|| header("ETag")));
            let status = response.status().as_u16();
            match status {
                200 | 206 => {
                    // The page on which a hotel or a company asks who one is.
                    if header("Content-Type").is_some_and(|kind| kind.trim_start().starts_with("text/html")) {
                        return Err(Failure::Lasting(format!("{host} answered with a web page")));
                    }
                    return Ok(Answer { response, host, commit, etag });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let lasting = |what: String| Failure::Lasting(format!("{host} {what}"));
                    let location =
                        header("Location").ok_or_else(|| lasting("redirects without saying where to".to_owned()))?;
                    let next = join(&url, &location)
                        .ok_or_else(|| lasting(format!("redirects to {location:?}, which is no address")))?;
                    if url.starts_with("https:") && !next.starts_with("https:") {
                        return Err(lasting(format!("redirects to {:?}, which is not encrypted", origin(&next))));
                    }
                    if next == url {
                        return Err(lasting("redirects to where it redirects from".to_owned()));
                    }
                    url = next;
                }
                408 | 429 | 500 | 502..=504 => {
                    let wait = header("Retry-After").and_then(|wait| wait.trim().parse().ok());
                    return Err(Failure::Passing(
                        wait.map(Duration::from_secs),
                        format!("{host} answered with status {status}"),
                    ));
                }
                416 => return Err(Failure::NoSuchRange(format!("{host} has no such bytes"))),
                _ => return Err(Failure::Lasting(format!("{host} answered with status {status}"))),
            }
        }
        Err(Failure::Lasting(format!("{} redirects more than {REDIRECTS} times", self.endpoint)))
    }

    /// Asks again where that can help, a few times.
    pub fn patiently<T>(&self, mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
        for retry in 0.. {
            match ask() {
                Err(Failure::Passing(wait, reason)) => {
                    if let Some(wait) = wait.filter(|&wait| wait > self.patience.wait) {
                        return Err(Failure::Lasting(format!("{reason} and asks to wait for {} s", wait.as_secs())));
                    }
                    if retry == RETRIES {
                        return Err(Failure::Lasting(format!("{reason}, {} times", RETRIES + 1)));
                    }
                    thread::sleep(wait.unwrap_or(Duration::from_millis(300 << retry)));
                }
                answer => return answer,
            }
        }
        unreachable!("the last retry returns")
    }

    fn failure(&self, host: &str, error: ureq::Error, within: Option<Duration>) -> Failure {
        use std::io::ErrorKind;
        let no_way = |error: &std::io::Error| {
            // A name that is not known has no kind of its own; 11001 is Windows' number for it.
            error.to_string().starts_with("failed to lookup address")
                || error.raw_os_error() == Some(11001)
                || matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused
                        | ErrorKind::HostUnreachable
                        | ErrorKind::NetworkUnreachable
                        | ErrorKind::NetworkDown
                )
        };
        match error {
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
                Failure::Unreachable(host.to_owned())
            }
            ureq::Error::Timeout(_) => Failure::Lasting(format!(
                "{host}: no answer within {} s",
                within.unwrap_or(self.patience.silence).as_secs_f32()
            )),
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => Failure::Unreachable(host.to_owned()),
            ureq::Error::Io(error) if no_way(&error) => Failure::Unreachable(host.to_owned()),
            ureq::Error::Io(error) => Failure::Passing(None, format!("{host}: {error}")),
            other => Failure::Lasting(format!("{host}: {other}")),
        }
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The first byte of the answer, and the size of the whole file.
    fn extent(&self) -> Option<(u64, u64)> {
        if self.response.status().as_u16() == 200 {
            return Some((0, self.header("Content-Length")?.trim().parse().ok()?));
        }
        let (range, size) = self.header("Content-Range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()?))
    }

    /// The size of the whole file: at most `limit`, and not empty unless that may be.
    pub fn size(&self, limit: u64, empty: bool) -> Result<u64, Failure> {
        match self.extent() {
            Some((_, 0)) if !empty => Err(Failure::Lasting(format!("{} has an empty file", self.host))),
            Some((_, size)) if size > limit => Err(Failure::Lasting(format!(
                "{} announces a file of {:.1} MB, more than it can have ({:.1} MB)",
                self.host,
                size as f64 / 1e6,
                limit as f64 / 1e6
            ))),
            Some((_, size)) => Ok(size),
            None => Err(Failure::Lasting(format!("{} does not say how large the file is", self.host))),
        }
    }

    /// The commit and the name for the content, if the server gives them and they are names.
    pub fn identity(&self) -> Result<(Option<String>, String), Failure> {
        let refuse = |what: &str, name: &str| {
            Failure::Refused(
                Error::data(format!("{} gives the {what} {name:?}, which is no plain name", self.host))
                    .hint("nothing was downloaded: a file of that name would lie outside the cache"),
            )
        };
        if let Some(commit) = self.commit.as_deref().filter(|commit| !plain(commit)) {
            return Err(refuse("commit", commit));
        }
        let etag = self
            .etag
            .as_deref()
            .ok_or_else(|| Failure::Lasting(format!("{} gives no ETag for the file", self.host)))?;
        let name = blob_name(etag).ok_or_else(|| refuse("ETag", etag))?;
        Ok((self.commit.clone(), name))
    }

    /// The whole body, up to `limit` bytes.
    pub fn text(mut self, limit: u64) -> Result<String, Failure> {
        self.response.body_mut().with_config().limit(limit).read_to_string().map_err(|error| match error {
            ureq::Error::Timeout(_) => Failure::Lasting(format!("{}: no whole answer in time", self.host)),
            ureq::Error::Io(error) => Failure::Passing(None, format!("{}: {error}", self.host)),
            other => Failure::Lasting(format!("{}: {other}", self.host)),
        })
    }

    /// Writes the body into `file`, which has the bytes before `start` already, until it has `size`.
    pub fn copy(
        self,
        file: &mut std::fs::File,
        start: u64,
        size: u64,
        silence: Duration,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let host = self.host.clone();
        let lasting = |what: String| Failure::Lasting(format!("{host} {what}"));
        let mut done = match self.extent() {
            Some((first, total)) if total == size && first == start => start,
            // A server that knows no ranges begins anew.
            Some((0, total)) if total == size => {
                file.set_len(0)?;
                0
            }
            Some((first, total)) => {
                return Err(lasting(format!(
                    "was asked for the bytes from {start} on of {size}, and answers with those from {first} on of {total}"
                )));
            }
            None => return Err(lasting("does not say which bytes it sends".to_owned())),
        };
        let mut reader = self.response.into_body().into_with_config().reader();
        let mut buffer = vec![0; 1 << 16];
        let (mut since, mut then) = (Instant::now(), done);
        progress(done);
        loop {
            let read = match reader.read(&mut buffer).map_err(ureq::Error::from) {
                Ok(read) => read as u64,
                Err(ureq::Error::Timeout(_)) => {
                    return Err(lasting(format!(
                        "sent no byte for {} s, after {done} of {size} bytes",
                        silence.as_secs_f32()
                    )));
                }
                Err(error) => {
                    return Err(Failure::Passing(
                        None,
                        format!("{host} broke off after {done} of {size} bytes ({error})"),
                    ));
                }
            };
            if read == 0 {
                break;
            }
            if done + read > size {
                return Err(lasting(format!("sends more than the {size} bytes that it announced")));
            }
            file.write_all(&buffer[..read as usize])?;
            done += read;
            progress(done);
            if since.elapsed() >= silence {
                let pace = (done - then) as f64 / since.elapsed().as_secs_f64();
                if pace < SLOWEST {
                    return Err(lasting(format!(
                        "sent {pace:.0} bytes a second for {} s, after {done} of {size} bytes",
                        silence.as_secs_f32()
                    )));
                }
                (since, then) = (Instant::now(), done);
            }
        }
        if done < size {
            return Err(Failure::Passing(None, format!("{host} broke off after {done} of {size} bytes")));
        }
        Ok(())
    }
}

/// Scheme, host and port: what a token is for.
fn origin(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
    &url[..end]
}

/// Where a redirect of `url` to `location` leads.
fn join(url: &str, location: &str) -> Option<String> {
    let location = location.trim().split('#').next().unwrap_or_default();
    if location.is_empty() || location.contains(|letter: char| letter.is_control() || letter == ' ') {
        return None;
    }
    let scheme = url.split_once("://")?.0;
    Some(match location.split_once("://") {
        Some(("http" | "https", _)) => location.to_owned(),
        // A `?` before it: an address within the query.
        Some((other, _)) if !other.contains(['/', '?']) => return None,
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{}{location}", origin(url)),
        _ => {
            let path = url.split('?').next().unwrap_or_default();
            match location.strip_prefix('?') {
                Some(query) => format!("{path}?{query}"),
                None => format!("{}/{location}", &path[..path.rfind('/').filter(|&at| at >= origin(url).len())?]),
            }
        }
    })
}

/// A path as it stands in a URL.
pub(super) fn escape(path: &str) -> String {
    let mut escaped = String::new();
    for &byte in path.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let from = "https://hub.example:8443/datasets/a/b?c=d";
        for (location, to) in [
            ("https://other.example/x?y=z", Some("https://other.example/x?y=z")),
            ("//other.example/x", Some("https://other.example/x")),
            ("/x", Some("https://hub.example:8443/x")),
            ("x", Some("https://hub.example:8443/datasets/a/x")),
            ("?e=http://f/", Some("https://hub.example:8443/datasets/a/b?e=http://f/")),
            ("/x?to=https://y/", Some("https://hub.example:8443/x?to=https://y/")),
            ("/x#part", Some("https://hub.example:8443/x")),
            ("", None),
            ("file:///etc/passwd", None),
            ("/a b", None),
            ("/a\r\nX: y", None),
        ] {
            assert_eq!(join(from, location).as_deref(), to, "{location:?}");
        }
        assert_eq!(join("http://a", "x"), None);
        assert_eq!(origin("http://a:1/b"), "http://a:1");
        assert_eq!(origin("http://a?b"), "http://a");
        assert_ne!(origin("http://a.evil/"), origin("http://a/"));
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escape("a-b_c.d/train é?#%.parquet"), "a-b_c.d/train%20%C3%A9%3F%23%25.parquet");
    }
}
