//! A SIP endpoint on UDP, TCP or WebSocket: sends bytes, records what arrives, answers requests.

use crate::limit;
use crate::sip::{Message, find, unique};
use crate::trace::Trace;
use crate::websocket;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a reply may take before a test gives up.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// What an endpoint does with a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Reply with this code.
    Code(u16),
    /// Never answer.
    Silence,
    /// Reply with this code after a while.
    Delayed(Duration, u16),
    /// Reply with this code and one more header (name, value).
    With(u16, &'static str, &'static str),
}

/// The reason phrase of some codes.
fn phrase(code: u16) -> &'static str {
    match code {
        200 => "OK",
        202 => "Accepted",
        404 => "Not Found",
        408 => "Request Timeout",
        481 => "Subscription does not exist",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        _ => "Answer",
    }
}

/// A message that arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// Position in the arrival order at this endpoint.
    pub order: usize,
    /// When it arrived.
    pub at: Instant,
    /// The address that sent it.
    pub from: SocketAddr,
    /// A request seen before (same method, Call-ID, CSeq and branch).
    pub retransmission: bool,
}

type Policy = Box<dyn FnMut(&Message) -> Answer + Send>;

struct State {
    received: Vec<Received>,
    seen: HashMap<String, usize>,
    policy: Policy,
    stop: bool,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    trace: Trace,
    name: String,
    local: SocketAddr,
    transport: Transport,
}

enum Transport {
    Udp { socket: UdpSocket, server: Mutex<SocketAddr> },
    Tcp { stream: TcpStream },
    WebSocket { stream: TcpStream },
}

impl Transport {
    fn stream(&self) -> Option<&TcpStream> {
        match self {
            Transport::Udp { .. } => None,
            Transport::Tcp { stream } | Transport::WebSocket { stream } => Some(stream),
        }
    }
}

/// A socket with a thread that reads it. Requests are answered by a policy
/// (200 unless set otherwise); everything is recorded.
pub struct Endpoint {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// A UDP socket on a free port of 127.0.0.1 that speaks to `server`.
    pub fn udp(server: SocketAddr, trace: Trace, name: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0")
            .unwrap_or_else(|error| panic!("cannot bind a UDP socket: {error}"));
        let local = socket.local_addr().unwrap_or_else(|error| panic!("local address: {error}"));
        let _ = socket.set_read_timeout(Some(Duration::from_millis(50)));
        let size: libc::c_int = 8 << 20;
        for option in [libc::SO_RCVBUF, libc::SO_RCVBUFFORCE] {
            // SAFETY: an open descriptor and a c_int that lives during the call;
            // a refusal (FORCE needs root) leaves the buffer as it is.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const size).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
        }
        Self::run(Transport::Udp { socket, server: Mutex::new(server) }, local, trace, name)
    }

    /// A TCP connection to `server`.
    pub fn tcp(server: SocketAddr, trace: Trace, name: &str) -> Self {
        let (stream, local) = Self::connect(server);
        Self::run(Transport::Tcp { stream }, local, trace, name)
    }

    /// A WebSocket connection to `server`.
    pub fn websocket(server: SocketAddr, trace: Trace, name: &str) -> Self {
        let (mut stream, local) = Self::connect(server);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(3)));
        websocket::handshake(&mut stream, server);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
        Self::run(Transport::WebSocket { stream }, local, trace, name)
    }

    fn connect(server: SocketAddr) -> (TcpStream, SocketAddr) {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(3))
            .unwrap_or_else(|error| panic!("cannot connect to tcp {server}: {error}"));
        let local = stream.local_addr().unwrap_or_else(|error| panic!("local address: {error}"));
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
        (stream, local)
    }

    fn run(transport: Transport, local: SocketAddr, trace: Trace, name: &str) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                received: Vec::new(),
                seen: HashMap::new(),
                policy: Box::new(|_| Answer::Code(200)),
                stop: false,
                closed: false,
            }),
            changed: Condvar::new(),
            trace,
            name: format!("{name}({})", local.port()),
            local,
            transport,
        });
        let reader = Arc::clone(&shared);
        let thread = std::thread::spawn(move || reader.read());
        Self { shared, thread: Some(thread) }
    }

    /// Our address.
    pub fn local(&self) -> SocketAddr {
        self.shared.local
    }

    /// `udp`, `tcp` or `ws`.
    pub fn transport(&self) -> &'static str {
        match self.shared.transport {
            Transport::Udp { .. } => "udp",
            Transport::Tcp { .. } => "tcp",
            Transport::WebSocket { .. } => "ws",
        }
    }

    /// A new Via value for a request from here.
    pub fn via(&self) -> String {
        format!(
            "SIP/2.0/{} {};branch={};rport",
            self.transport().to_uppercase(),
            self.local(),
            unique("z9hG4bK")
        )
    }

    /// A Contact value that leads here.
    pub fn contact(&self, user: &str) -> String {
        match self.shared.transport {
            Transport::Udp { .. } => format!("<sip:{user}@{}>", self.local()),
            Transport::Tcp { .. } => format!("<sip:{user}@{};transport=tcp>", self.local()),
            // As nathelper's set_contact_alias() leaves it.
            Transport::WebSocket { .. } => {
                format!("<sip:{user}@web.invalid;transport=ws;{}>", self.alias())
            }
        }
    }

    /// The parameter with our address, as nathelper writes it.
    pub fn alias(&self) -> String {
        let number = match self.shared.transport {
            Transport::Udp { .. } => 1,
            Transport::Tcp { .. } => 2,
            Transport::WebSocket { .. } => 5,
        };
        format!("alias={}~{}~{number}", self.local().ip(), self.local().port())
    }

    /// Speaks to another server from now on (UDP).
    pub fn turn_to(&self, address: SocketAddr) {
        match &self.shared.transport {
            Transport::Udp { server, .. } => {
                *server.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = address;
            }
            _ => panic!("a connection leads to one server"),
        }
    }

    /// Sets the policy for requests that arrive.
    pub fn answer_with(&self, policy: impl FnMut(&Message) -> Answer + Send + 'static) {
        self.shared.lock().policy = Box::new(policy);
    }

    /// Sends bytes as they are.
    pub fn send(&self, bytes: &[u8]) {
        if let Err(error) = self.shared.send(bytes) {
            panic!("{} cannot send: {error}\n{}", self.shared.name, self.shared.trace.tail());
        }
    }

    /// A copy of everything received so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.lock().received.clone()
    }

    /// Waits until `look` finds something in what was received.
    pub fn wait<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut(&[Received]) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            limit::check();
            if let Some(found) = look(&state.received) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .0;
        }
    }

    /// Sends a request and waits for its final reply, if one comes.
    pub fn try_request(&self, request: &Message, timeout: Duration) -> Option<Message> {
        let seen = self.shared.lock().received.len();
        self.send(&request.to_bytes());
        let branch = request.branch().map(str::to_owned);
        self.wait(timeout, |received| {
            received[seen..].iter().map(|entry| &entry.message).find_map(|message| {
                let code = message.status()?;
                let ours = code >= 200
                    && message.branch().map(str::to_owned) == branch
                    && message.header("CSeq") == request.header("CSeq");
                ours.then(|| message.clone())
            })
        })
    }

    /// Sends a request and waits for its final reply; panics when none comes.
    pub fn request(&self, request: &Message) -> Message {
        self.try_request(request, REPLY_TIMEOUT).unwrap_or_else(|| {
            panic!(
                "{}: no final reply within {REPLY_TIMEOUT:?} to\n{}\n---- SIP trace ----\n{}",
                self.shared.name,
                String::from_utf8_lossy(&request.to_bytes()),
                self.shared.trace.tail()
            )
        })
    }

    /// Sends bytes and gives every *reply* that arrives up to the answer to an
    /// OPTIONS sent after them (and, with `quiet`, for that long afterwards).
    /// With one worker process that answer comes after everything that the
    /// bytes cause in the worker.
    pub fn exchange(&self, bytes: &[u8], quiet: Duration) -> Vec<Message> {
        let start = self.shared.lock().received.len();
        self.send(bytes);
        let barrier = self.barrier();
        if !quiet.is_zero() {
            std::thread::sleep(quiet);
        }
        let all = self.received();
        all[start..]
            .iter()
            .map(|entry| &entry.message)
            .filter(|message| message.status().is_some() && message.call_id() != barrier)
            .cloned()
            .collect()
    }

    /// Sends an OPTIONS and waits for the answer: with one worker process
    /// everything sent before has been handled by it. Gives its Call-ID.
    pub fn barrier(&self) -> String {
        let call_id = unique("barrier");
        let mut request = Message::new("OPTIONS sip:barrier@127.0.0.1 SIP/2.0");
        request
            .push("Via", self.via())
            .push("From", format!("<sip:barrier@127.0.0.1>;tag={call_id}"))
            .push("To", "<sip:barrier@127.0.0.1>")
            .push("Call-ID", call_id.as_str())
            .push("CSeq", "1 OPTIONS")
            .push("Max-Forwards", "70")
            .push("Content-Length", "0");
        let reply = self.request(&request);
        assert_eq!(reply.status(), Some(200), "the barrier is answered with 200");
        call_id
    }

    /// True when the peer closed the TCP connection.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }

    /// The record of the test.
    pub fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    /// The name in the trace.
    pub fn name(&self) -> &str {
        &self.shared.name
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        // Wakes the reader.
        match &self.shared.transport {
            Transport::Udp { socket, .. } => {
                let _ = socket.send_to(&[], self.shared.local);
            }
            Transport::Tcp { stream } | Transport::WebSocket { stream } => {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Replies that are to be sent later, and where to.
type Delayed = Vec<(Instant, Message, SocketAddr)>;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        let server = match &self.transport {
            Transport::Udp { server, .. } => {
                *server.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
            }
            _ => self.local,
        };
        self.send_to(bytes, server)
    }

    /// Sends to `address` (UDP); a TCP connection leads where it leads.
    fn send_to(&self, bytes: &[u8], address: SocketAddr) -> std::io::Result<()> {
        self.trace.sent(&self.name, bytes);
        match &self.transport {
            Transport::Udp { socket, .. } => socket.send_to(bytes, address).map(|_| ()),
            Transport::Tcp { stream } => (&mut &*stream).write_all(bytes),
            Transport::WebSocket { stream } => {
                (&mut &*stream).write_all(&websocket::frame(websocket::TEXT, bytes))
            }
        }
    }

    fn read(self: Arc<Self>) {
        let mut buffer = vec![0; 65536];
        let mut pending = Vec::new();
        let mut delayed: Delayed = Vec::new();
        loop {
            let now = Instant::now();
            delayed.retain(|(at, reply, to)| {
                let due = *at <= now;
                if due {
                    let _ = self.send_to(&reply.to_bytes(), *to);
                }
                !due
            });
            let result = match &self.transport {
                Transport::Udp { socket, .. } => socket.recv_from(&mut buffer),
                Transport::Tcp { stream } | Transport::WebSocket { stream } => (&mut &*stream)
                    .read(&mut buffer)
                    .and_then(|count| Ok((count, stream.peer_addr()?))),
            };
            let (count, from) = match result {
                Ok((0, _)) if self.transport.stream().is_some() => {
                    self.lock().closed = true;
                    self.changed.notify_all();
                    return;
                }
                Ok(arrived) => arrived,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    (0, self.local)
                }
                // An ICMP error on UDP: the server is gone or not there yet.
                Err(_) => (0, self.local),
            };
            if let (Transport::WebSocket { stream }, 1..) = (&self.transport, count) {
                pending.extend_from_slice(&buffer[..count]);
                while let Some((opcode, payload)) = websocket::take_frame(&mut pending) {
                    match opcode {
                        websocket::PING => {
                            let pong = websocket::frame(websocket::PONG, &payload);
                            let _ = (&mut &*stream).write_all(&pong);
                        }
                        websocket::CLOSE => self.lock().closed = true,
                        _ => self.take(&payload, from, &mut delayed),
                    }
                }
            } else if count > 0 && self.transport.stream().is_some() {
                pending.extend_from_slice(&buffer[..count]);
                while let Some(length) = framed(&pending) {
                    let bytes: Vec<u8> = pending.drain(..length).collect();
                    self.take(&bytes, from, &mut delayed);
                }
            } else if count > 0 {
                self.take(&buffer[..count], from, &mut delayed);
            }
            if self.lock().stop {
                return;
            }
        }
    }

    fn take(&self, bytes: &[u8], from: SocketAddr, delayed: &mut Delayed) {
        self.trace.received(&self.name, bytes);
        let Some(message) = Message::parse(bytes) else { return };
        let mut state = self.lock();
        let mut retransmission = false;
        let mut reply = None;
        if !message.method().is_empty() {
            let key = format!(
                "{} {} {} {}",
                message.method(),
                message.call_id(),
                message.cseq(),
                message.branch().unwrap_or("")
            );
            let seen = state.seen.entry(key).or_insert(0);
            retransmission = *seen > 0;
            *seen += 1;
            reply = match (state.policy)(&message) {
                Answer::Code(code) => Some((None, message.reply(code, phrase(code)))),
                Answer::Delayed(after, code) => {
                    Some((Some(after), message.reply(code, phrase(code))))
                }
                Answer::With(code, name, value) => {
                    let mut reply = message.reply(code, phrase(code));
                    reply.push(name, value);
                    Some((None, reply))
                }
                Answer::Silence => None,
            };
        }
        let order = state.received.len();
        let at = Instant::now();
        state.received.push(Received { message, order, at, from, retransmission });
        drop(state);
        match reply {
            Some((None, reply)) => {
                let _ = self.send_to(&reply.to_bytes(), from);
            }
            Some((Some(after), reply)) => delayed.push((Instant::now() + after, reply, from)),
            None => {}
        }
        self.changed.notify_all();
    }
}

/// The length of the first complete message in a TCP stream.
fn framed(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let message = Message::parse(&bytes[..head])?;
    let body = message.number("Content-Length").unwrap_or(0).max(0) as usize;
    (bytes.len() >= head + body).then_some(head + body)
}
