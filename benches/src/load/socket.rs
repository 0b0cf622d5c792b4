//! A UDP socket with a large receive buffer, connected to Kamailio.

use crate::Fallible;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What the receive buffer is asked to be. The system halves or limits it
/// (`net.core.rmem_max`) unless this runs as root.
static RECEIVE_BUFFER: libc::c_int = 64 * 1024 * 1024;

/// A non-blocking socket.
pub struct Socket {
    socket: UdpSocket,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Socket {
    /// Binds to a free port of 127.0.0.1.
    pub fn bind() -> Fallible<Self> {
        let failed = |error| format!("cannot open a UDP socket on 127.0.0.1: {error}");
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        for option in [libc::SO_RCVBUF, libc::SO_RCVBUFFORCE] {
            // SAFETY: an open descriptor; the value is an int that lives
            // through the call. A refusal leaves the buffer as it was.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const RECEIVE_BUFFER).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
        }
        Ok(Self { socket, port })
    }

    /// Sends to and receives from `server` only.
    pub fn connect(&self, server: SocketAddr) -> Fallible<()> {
        self.socket.connect(server).map_err(|error| format!("cannot connect to {server}: {error}"))
    }

    /// Sends a datagram. A full buffer or a server that is gone is loss, which
    /// retransmission mends or the counts show.
    pub fn send(&self, bytes: &[u8]) {
        let _ = self.socket.send(bytes);
    }

    /// The next datagram, if one is there.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match self.socket.recv(buffer) {
                Ok(length) => return Some(length),
                // ECONNREFUSED of an earlier send.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until a datagram is there, at most `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut poll =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let nanos = timeout.subsec_nanos().into();
        let time = libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: nanos };
        // SAFETY: one pollfd and one timespec, both alive through the call.
        unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, std::ptr::null()) };
    }
}
